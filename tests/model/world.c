/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/world.h"

#include <string.h>

/* --- queues --- */

gboolean
world_full(const guint8 *queue)
{
    return queue[QUEUE - 1] != 0;
}

void
world_push(guint8 *queue, guint8 message)
{
    for (guint i = 0; i < QUEUE; i++) {
        if (queue[i] == 0) {
            queue[i] = message;
            return;
        }
    }
    g_assert_not_reached();
}

guint8
world_pop(guint8 *queue)
{
    guint8 message = queue[0];
    memmove(queue, queue + 1, QUEUE - 1);
    queue[QUEUE - 1] = 0;
    return message;
}

/* --- moves --- */

/* As in job.c: by which a journal that stayed behind gets there. */
static DrvJobState
way_to(DrvJobRole role, DrvJobState recorded, DrvJobState to)
{
    if (drv_state_may_move(role, recorded, to))
        return to;
    return to == DRV_STATE_DONE ? DRV_STATE_RUNNING : DRV_STATE_ROLLING_BACK;
}

static void
check_move(Step *step, DrvJobRole role, DrvJobState from, DrvJobState recorded, DrvJobState to)
{
    DrvJobState via = way_to(role, recorded, to);
    if (!drv_state_may_move(role, from, to) || !drv_state_may_move(role, recorded, via) ||
        (via != to && !drv_state_may_move(role, via, to)))
        step->wrong = "a move that the table forbids";
}

gboolean
world_move(World *w, Step *step, DrvJobRole role, DrvJobState to, gboolean anyway)
{
    gboolean source = role == DRV_ROLE_SOURCE;
    guint8 *state = source ? &w->s_state : &w->d_state;
    guint8 *disk = source ? &w->s_disk : &w->d_disk;
    check_move(step, role, *state, *disk, to);
    if (source ? w->s_full : w->d_full) {
        if (anyway)
            *state = (guint8)to;
        return anyway;
    }
    *state = *disk = (guint8)to;
    if (source)
        w->s_disk_late = w->s_late;
    else
        w->d_disk_may = w->d_note;
    return TRUE;
}

/* --- the session --- */

gboolean
world_connected(const World *w)
{
    return w->near == END_ALIVE && w->far == END_ALIVE && !w->lost;
}

void
world_leave_session(World *w)
{
    if (w->far == END_ALIVE) {
        w->old_far = END_ALIVE;
        memcpy(w->old_out, w->out, QUEUE);
        w->d_prepare = w->d_commit = w->d_abort = CALL_NONE; /* nobody waits there any more */
        if (w->d_peer == PEER_NEW)
            w->d_peer = PEER_OLD;
    }
    w->near = w->far = END_NONE;
    w->stream = FALSE;
    memset(w->out, 0, QUEUE);
    memset(w->in, 0, QUEUE);
}

/* --- the two QEMUs, while memory is copied --- */

static gboolean
flows(const World *w)
{
    return w->stream && w->link && world_connected(w) && w->d_up;
}

static gboolean
stop_guest(World *w, Step *step)
{
    if (w->s_qemu != QEMU_COPIES || !flows(w))
        return FALSE;
    w->s_qemu = QEMU_STOPPED;
    return TRUE;
}

static gboolean
load_guest(World *w, Step *step)
{
    if (w->s_qemu != QEMU_STOPPED || w->d_qemu != QEMU_INCOMING || !flows(w))
        return FALSE;
    w->d_qemu = QEMU_LOADED;
    return TRUE;
}

static gboolean
complete(World *w, Step *step)
{
    if (w->s_qemu != QEMU_STOPPED || w->d_qemu != QEMU_LOADED || !flows(w))
        return FALSE;
    w->s_qemu = QEMU_COMPLETED;
    return TRUE;
}

/* Its socket has closed: QEMU lets the guest go on by itself. */
static gboolean
migration_fails(World *w, Step *step)
{
    if (w->stream || (w->s_qemu != QEMU_COPIES && w->s_qemu != QEMU_STOPPED))
        return FALSE;
    w->s_qemu = QEMU_RUNS;
    return TRUE;
}

/* ... or leaves it stopped. */
static gboolean
migration_fails_stopped(World *w, Step *step)
{
    if (w->stream || w->s_qemu != QEMU_STOPPED)
        return FALSE;
    w->s_qemu = QEMU_HALTED;
    return TRUE;
}

static gboolean
incoming_fails(World *w, Step *step)
{
    if (w->stream || w->d_qemu != QEMU_INCOMING)
        return FALSE;
    w->d_qemu = QEMU_DEAD;
    return TRUE;
}

static gboolean
run_there(World *w, Step *step)
{
    if (!w->cont || w->d_qemu != QEMU_LOADED)
        return FALSE;
    w->cont = FALSE;
    w->d_qemu = QEMU_RUNS_THERE;
    return TRUE;
}

/* A daemon that dies may take what it has just written to the socket with it. */
static gboolean
cont_is_lost(World *w, Step *step)
{
    if (!w->cont || w->d_up)
        return FALSE;
    w->cont = FALSE;
    return TRUE;
}

static gboolean
source_qemu_dies(World *w, Step *step)
{
    if (w->s_qemu == QEMU_DEAD)
        return FALSE;
    w->s_qemu = QEMU_DEAD;
    w->s_killed = TRUE;
    w->stream = FALSE;
    return TRUE;
}

static gboolean
dest_qemu_dies(World *w, Step *step)
{
    if (w->d_qemu == QEMU_DEAD)
        return FALSE;
    w->d_killed |= w->d_qemu == QEMU_RUNS_THERE;
    w->d_qemu = QEMU_DEAD;
    w->cont = w->stream = FALSE;
    return TRUE;
}

/* --- the link, and the disks --- */

static gboolean
cut(World *w, Step *step)
{
    if (!w->link)
        return FALSE;
    w->link = FALSE;
    w->lost = w->near == END_ALIVE && w->far == END_ALIVE;
    return TRUE;
}

static gboolean
mend(World *w, Step *step)
{
    if (w->link)
        return FALSE;
    w->link = TRUE;
    return TRUE;
}

static gboolean
fill_source(World *w, Step *step)
{
    return w->s_full ? FALSE : (w->s_full = TRUE);
}

static gboolean
fill_dest(World *w, Step *step)
{
    return w->d_full ? FALSE : (w->d_full = TRUE);
}

static gboolean
clear_source(World *w, Step *step)
{
    return w->s_full ? (w->s_full = FALSE, TRUE) : FALSE;
}

static gboolean
clear_dest(World *w, Step *step)
{
    return w->d_full ? (w->d_full = FALSE, TRUE) : FALSE;
}

const Action surroundings[] = {
    {"the source's QEMU stops the guest", FAIR, stop_guest},
    {"the destination's QEMU has loaded the guest", FAIR, load_guest},
    {"the source's QEMU has completed", FAIR, complete},
    {"the source's QEMU fails to migrate, its guest goes on", FAIR, migration_fails},
    {"the source's QEMU fails to migrate, its guest stays stopped", FAIR, migration_fails_stopped},
    {"the destination's QEMU fails to load", FAIR, incoming_fails},
    {"the destination's QEMU runs the guest", FAIR, run_there},
    {"'cont' is lost", FAULT, cont_is_lost},
    {"the source's QEMU dies", FAULT, source_qemu_dies},
    {"the destination's QEMU dies", FAULT, dest_qemu_dies},
    {"the link is cut", FAULT, cut},
    {"the link is mended", FAIR, mend},
    {"the source's disk is full", FAULT, fill_source},
    {"the destination's disk is full", FAULT, fill_dest},
    {"the source's disk has room", FAIR, clear_source},
    {"the destination's disk has room", FAIR, clear_dest},
    {NULL, FAIR, NULL},
};

/* --- what must hold --- */

void
world_begin(World *w, guint faults)
{
    memset(w, 0, sizeof *w);
    w->faults = (guint8)faults;
    w->s_up = w->d_up = w->link = TRUE;
    w->s_state = w->s_disk = DRV_STATE_QUEUED;
    w->d_state = w->d_disk = NO_JOB;
    w->s_qemu = QEMU_RUNS;
    w->d_qemu = QEMU_WAITS;
}

gboolean
world_runs_at_source(const World *w)
{
    return w->s_qemu == QEMU_RUNS || w->s_qemu == QEMU_COPIES;
}

const char *
world_wrong(const World *w)
{
    gboolean there = w->d_qemu == QEMU_RUNS_THERE;
    gboolean here = world_runs_at_source(w);
    if (here && there)
        return "the guest runs twice";
    if (there && !w->person && w->s_up &&
        (w->s_state == DRV_STATE_FAILED || w->s_state == DRV_STATE_CANCELLED))
        return "the source says that it failed, and the guest runs at the destination";
    if (here && w->s_up && w->s_state == DRV_STATE_DONE)
        return "the source says that it is done, and the guest runs there";
    return NULL;
}

gboolean
world_good(const World *w)
{
    gboolean over =
        w->s_up && drv_state_is_final(w->s_state) && w->s_disk == w->s_state && !w->s_late &&
        w->d_up &&
        (w->d_state == NO_JOB || (drv_state_is_final(w->d_state) && w->d_disk == w->d_state));
    gboolean there = w->d_qemu == QEMU_RUNS_THERE;
    gboolean one = world_runs_at_source(w) != there;
    gboolean left =
        w->d_state != NO_JOB && (w->d_qemu == QEMU_INCOMING || w->d_qemu == QEMU_LOADED);
    return over && !left && (one || w->s_killed || w->d_killed);
}

char *
world_describe(const World *w)
{
    static const char *const source_qemu[] = {"runs",   "copies", "stopped", "completed",
                                              "halted", "",       "",        "dead"};
    static const char *const dest_qemu[] = {"waits", "incoming", "loaded", "runs",
                                            "",      "",         "",       "dead"};
    const char *s_state = w->s_up ? drv_state_name(w->s_state) : "down";
    const char *d_disk = w->d_disk == NO_JOB ? "nothing" : drv_state_name(w->d_disk);
    const char *d_state = !w->d_up ? "down" : w->d_state == NO_JOB ? "no job" : d_disk;
    if (w->d_up && w->d_state != NO_JOB)
        d_state = drv_state_name(w->d_state);
    return g_strdup_printf("source %s (journal %s%s), its QEMU %s; destination %s (journal %s%s), "
                           "its QEMU %s; %s",
                           s_state, drv_state_name(w->s_disk), w->s_full ? ", disk full" : "",
                           source_qemu[w->s_qemu], d_state, d_disk, w->d_full ? ", disk full" : "",
                           dest_qemu[w->d_qemu],
                           world_connected(w) ? "connected" : "not connected");
}
