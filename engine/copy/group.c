/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/group.h"

#include "engine/copy/spec.h"

/*
 *   copying -> held --(all others are held, too)--> naming -> named: has left
 *      ^         |                                    |
 *      '---------'------------------------------------'  the session died: it is copied anew, and
 *                                                        little is sent
 *
 * That all are to be named is remembered nowhere. A daemon that is started in the middle of it
 * finds in the journal which of them were, and the others become complete once more.
 *
 * What only one of a group can do at a time goes by turns. One that has had fewer of them comes
 * first, and a second turn is to be had only when all of the group are there: then each has had its
 * first, or waits for it and comes first.
 */
typedef enum { NO_TURN, WAITS, HAS_TURN } Turn;

typedef struct {
    DrvJob *job;
    const char *group;
    guint of;
    const DrvCopyGroupOps *ops;
    gboolean held, naming;
    Turn turn;
    guint turns; /* that it has had, or has */
} Member;

struct _DrvCopyGroups {
    DrvJournal *journal;
    GPtrArray *members;
};

/* What the journal knows of those that have left. Only a restart in the middle has to ask. */
typedef struct {
    guint named, failed;
} Past;

DrvCopyGroups *
drv_copy_groups_new(DrvJournal *journal)
{
    DrvCopyGroups *groups = g_new0(DrvCopyGroups, 1);
    groups->journal = journal;
    groups->members = g_ptr_array_new_with_free_func(g_free);
    return groups;
}

void
drv_copy_groups_free(DrvCopyGroups *groups)
{
    if (groups == NULL)
        return;
    g_ptr_array_unref(groups->members);
    g_free(groups);
}

static Member *
find(DrvCopyGroups *groups, const DrvJob *job)
{
    for (guint i = 0; i < groups->members->len; i++) {
        Member *member = groups->members->pdata[i];
        if (member->job == job)
            return member;
    }
    return NULL;
}

/* Takes those that are not being named off the list; the caller owns them. */
static GPtrArray *
take_idle(DrvCopyGroups *groups, const char *group)
{
    GPtrArray *taken = g_ptr_array_new_with_free_func(g_free);
    for (guint i = groups->members->len; i > 0; i--) {
        Member *member = groups->members->pdata[i - 1];
        if (!member->naming && g_str_equal(member->group, group))
            g_ptr_array_add(taken, g_ptr_array_steal_index(groups->members, i - 1));
    }
    return taken;
}

static void
call_off(DrvCopyGroups *groups, const char *group, gboolean keep)
{
    g_autofree char *name = g_strdup(group); /* it may be a job's that ends */
    g_autoptr(GPtrArray) idle = take_idle(groups, name);
    for (guint i = 0; i < idle->len; i++) {
        const Member *member = idle->pdata[i];
        g_autoptr(DrvJob) job = drv_job_ref(member->job);
        member->ops->call_off(job, keep);
    }
}

static void
name_all(DrvCopyGroups *groups, const char *group)
{
    g_autoptr(GPtrArray) held = take_idle(groups, group);
    g_ptr_array_set_free_func(held, NULL);
    for (guint i = 0; i < held->len; i++) {
        Member *member = held->pdata[i];
        member->naming = TRUE;
        g_ptr_array_add(groups->members, member);
    }
    for (guint i = 0; i < held->len; i++) {
        const Member *member = held->pdata[i];
        member->ops->name(member->job); /* tells the other end, and does not end it */
    }
}

static Past
look_back(DrvCopyGroups *groups, const char *group)
{
    Past past = {0};
    g_autoptr(GPtrArray) records = drv_journal_list(groups->journal, 0, FALSE, NULL);
    for (guint i = 0; records != NULL && i < records->len; i++) {
        const DrvJobRecord *rec = records->pdata[i];
        g_autofree char *other =
            rec->role == DRV_ROLE_SOURCE ? drv_copy_spec_group(rec->spec) : NULL;
        if (g_strcmp0(other, group) != 0)
            continue;
        past.named += rec->state >= DRV_STATE_SWITCHOVER && rec->state <= DRV_STATE_DONE;
        past.failed += rec->state >= DRV_STATE_ROLLING_BACK;
    }
    return past;
}

/* One has become complete: they may be named when nobody copies any more, and none is missing. */
static void
settle(DrvCopyGroups *groups, const Member *last)
{
    guint here = 0;
    for (guint i = 0; i < groups->members->len; i++) {
        const Member *member = groups->members->pdata[i];
        if (!g_str_equal(member->group, last->group))
            continue;
        here++;
        if (!member->held && !member->naming)
            return;
    }
    Past past = here < last->of ? look_back(groups, last->group) : (Past){0};
    if (past.failed > 0)
        call_off(groups, last->group, TRUE);
    else if (here + past.named >= last->of)
        name_all(groups, last->group);
}

void
drv_copy_group_join(DrvCopyGroups *groups, DrvJob *job, const char *group, guint of,
                    const DrvCopyGroupOps *ops)
{
    Member *member = g_new(Member, 1);
    *member = (Member){.job = job, .group = group, .of = of, .ops = ops};
    g_ptr_array_add(groups->members, member);
}

void
drv_copy_group_held(DrvCopyGroups *groups, DrvJob *job, gboolean held)
{
    Member *member = find(groups, job);
    if (member == NULL)
        return;
    member->held = held;
    member->naming = FALSE;
    if (held)
        settle(groups, member);
}

/* --- turns --- */

static void
give_turn(DrvCopyGroups *groups, const char *group)
{
    Member *next = NULL;
    guint here = 0;
    for (guint i = 0; i < groups->members->len; i++) {
        Member *member = groups->members->pdata[i];
        if (!g_str_equal(member->group, group))
            continue;
        here++;
        if (member->turn == HAS_TURN)
            return;
        if (member->turn == WAITS && (next == NULL || member->turns < next->turns))
            next = member;
    }
    if (next == NULL)
        return;
    if (next->turns > 0 && here < next->of) {
        if (look_back(groups, group).failed > 0) /* those that are not here will not come */
            call_off(groups, group, TRUE);
        return;
    }
    next->turn = HAS_TURN;
    next->turns++;
    next->ops->turn(next->job);
}

static void
set_turn(DrvCopyGroups *groups, const DrvJob *job, Turn turn)
{
    Member *member = find(groups, job);
    if (member == NULL)
        return;
    member->turn = turn;
    give_turn(groups, member->group);
}

void
drv_copy_group_wait_turn(DrvCopyGroups *groups, DrvJob *job)
{
    set_turn(groups, job, WAITS);
}

void
drv_copy_group_end_turn(DrvCopyGroups *groups, DrvJob *job)
{
    set_turn(groups, job, NO_TURN);
}

/* --- leaving --- */

void
drv_copy_group_leave(DrvCopyGroups *groups, DrvJob *job)
{
    Member *member = find(groups, job);
    if (member != NULL)
        g_ptr_array_remove(groups->members, member);
}

void
drv_copy_group_break(DrvCopyGroups *groups, DrvJob *job, gboolean keep)
{
    const Member *member = find(groups, job);
    if (member == NULL)
        return;
    g_autofree char *group = g_strdup(member->group);
    drv_copy_group_leave(groups, job);
    call_off(groups, group, keep);
}
