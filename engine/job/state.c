/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/state.h"

/*
 * The source decides. It goes straight through to LOADED, which says that the destination holds a
 * whole, verified guest, and then writes COMMITTED into its journal. That write is the decision:
 * before it the source may take the guest back whatever has happened elsewhere, after it the source
 * repeats COMMIT until the destination says RUNNING.
 *
 *   QUEUED -> PREPARING -> COPYING -> SWITCHOVER -> LOADED -> COMMITTED -> RUNNING -> DONE
 *      any of the first five -> ROLLING_BACK -> FAILED | CANCELLED
 *      COMMITTED -> IN_DOUBT -> RUNNING (confirmed after all) | DONE (resolved: it runs there)
 *                            | ROLLING_BACK (it is certain that it does not and will not run there)
 *
 * The destination obeys. It has no SWITCHOVER: it cannot tell the last round from the others.
 * Until it is LOADED it may give up alone, since a source without LOADED cannot have committed.
 * From LOADED on, silence means nothing: COMMIT may be on its way, so it keeps the paused guest and
 * waits IN_DOUBT for COMMIT, for an abort, or for a person. It also goes there when it cannot carry
 * out a COMMIT (`cont` fails, QEMU is gone). Its word that it cannot is no ground for the source to
 * go back: a repeated COMMIT may find a QEMU that can. The source asks for an abort, and goes back,
 * through IN_DOUBT, when the destination is FAILED, where no COMMIT moves it any more.
 *
 *   QUEUED -> PREPARING -> COPYING -> LOADED -> COMMITTED -> RUNNING -> DONE
 *      any of the first four -> ROLLING_BACK -> FAILED | CANCELLED
 *      LOADED | COMMITTED -> IN_DOUBT -> COMMITTED | ROLLING_BACK
 *
 * FAILED and CANCELLED are entered from ROLLING_BACK only, from QUEUED too: one way out for all.
 */

#define TO(state) (guint16)(1u << DRV_STATE_##state)
#define END(state)                                                                                 \
    {                                                                                              \
        .deadline_to = DRV_STATE_##state, .restart_to = DRV_STATE_##state, .waits_for = "nothing", \
        .undo = "none",                                                                            \
    }

static const DrvStateRule source_rules[DRV_STATE_LAST] = {
    [DRV_STATE_QUEUED] = {TO(PREPARING) | TO(ROLLING_BACK), DRV_DEADLINE_NONE, DRV_STATE_QUEUED,
                          DRV_STATE_QUEUED, "a free slot", "none: nothing was touched"},
    [DRV_STATE_PREPARING] = {TO(COPYING) | TO(ROLLING_BACK), DRV_DEADLINE_STEP,
                             DRV_STATE_ROLLING_BACK, DRV_STATE_ROLLING_BACK,
                             "both QEMUs to be found fit and set up",
                             "put QEMU's migration settings back, have the destination drop its "
                             "half"},
    [DRV_STATE_COPYING] = {TO(SWITCHOVER) | TO(ROLLING_BACK), DRV_DEADLINE_JOB,
                           DRV_STATE_ROLLING_BACK, DRV_STATE_ROLLING_BACK,
                           "QEMU to stop the guest for the last round",
                           "migrate_cancel; the guest never stopped"},
    [DRV_STATE_SWITCHOVER] = {TO(LOADED) | TO(ROLLING_BACK), DRV_DEADLINE_DROP,
                              DRV_STATE_ROLLING_BACK, DRV_STATE_ROLLING_BACK,
                              "the destination to say LOADED and the digests to match",
                              "migrate_cancel, cont"},
    [DRV_STATE_LOADED] = {TO(COMMITTED) | TO(ROLLING_BACK), DRV_DEADLINE_STEP,
                          DRV_STATE_ROLLING_BACK, DRV_STATE_ROLLING_BACK,
                          "its own journal to hold COMMITTED",
                          "cont here, an abort to the destination"},
    [DRV_STATE_COMMITTED] = {TO(RUNNING) | TO(IN_DOUBT), DRV_DEADLINE_DROP, DRV_STATE_IN_DOUBT,
                             DRV_STATE_COMMITTED,
                             "the destination to say RUNNING; COMMIT is repeated", "none"},
    [DRV_STATE_RUNNING] = {TO(DONE), DRV_DEADLINE_STEP, DRV_STATE_DONE, DRV_STATE_RUNNING,
                           "the source's QEMU to quit, unless it is kept", "none"},
    [DRV_STATE_DONE] = END(DONE),
    [DRV_STATE_ROLLING_BACK] = {TO(FAILED) | TO(CANCELLED), DRV_DEADLINE_STEP, DRV_STATE_FAILED,
                                DRV_STATE_ROLLING_BACK, "the guest to run at the source again",
                                "it is the undo; every step of it may be done twice"},
    [DRV_STATE_FAILED] = END(FAILED),
    [DRV_STATE_CANCELLED] = END(CANCELLED),
    [DRV_STATE_IN_DOUBT] = {TO(RUNNING) | TO(DONE) | TO(ROLLING_BACK), DRV_DEADLINE_NONE,
                            DRV_STATE_IN_DOUBT, DRV_STATE_IN_DOUBT,
                            "the destination to answer, 'drover resolve' or the fence command",
                            "cont here, once it is certain that the destination will not run it"},
};

static const DrvStateRule dest_rules[DRV_STATE_LAST] = {
    [DRV_STATE_QUEUED] = {TO(PREPARING) | TO(ROLLING_BACK), DRV_DEADLINE_DROP,
                          DRV_STATE_ROLLING_BACK, DRV_STATE_ROLLING_BACK, "a free slot",
                          "none: nothing was touched"},
    [DRV_STATE_PREPARING] = {TO(COPYING) | TO(ROLLING_BACK), DRV_DEADLINE_STEP,
                             DRV_STATE_ROLLING_BACK, DRV_STATE_ROLLING_BACK,
                             "the waiting QEMU to be found fit and to listen", "let QEMU go"},
    [DRV_STATE_COPYING] = {TO(LOADED) | TO(ROLLING_BACK), DRV_DEADLINE_DROP, DRV_STATE_ROLLING_BACK,
                           DRV_STATE_ROLLING_BACK, "QEMU to have loaded everything",
                           "end the QEMU that waits for the guest"},
    [DRV_STATE_SWITCHOVER] = END(SWITCHOVER), /* never entered */
    [DRV_STATE_LOADED] = {TO(COMMITTED) | TO(ROLLING_BACK) | TO(IN_DOUBT), DRV_DEADLINE_DROP,
                          DRV_STATE_IN_DOUBT, DRV_STATE_LOADED, "COMMIT from the source",
                          "end the QEMU that holds the paused guest"},
    [DRV_STATE_COMMITTED] = {TO(RUNNING) | TO(IN_DOUBT), DRV_DEADLINE_STEP, DRV_STATE_IN_DOUBT,
                             DRV_STATE_COMMITTED, "QEMU to run the guest (cont)", "none"},
    [DRV_STATE_RUNNING] = {TO(DONE), DRV_DEADLINE_DROP, DRV_STATE_DONE, DRV_STATE_RUNNING,
                           "the source to acknowledge RUNNING, which is repeated", "none"},
    [DRV_STATE_DONE] = END(DONE),
    [DRV_STATE_ROLLING_BACK] = {TO(FAILED) | TO(CANCELLED), DRV_DEADLINE_STEP, DRV_STATE_FAILED,
                                DRV_STATE_ROLLING_BACK, "the destination's QEMU to be gone",
                                "it is the undo; every step of it may be done twice"},
    [DRV_STATE_FAILED] = END(FAILED),
    [DRV_STATE_CANCELLED] = END(CANCELLED),
    [DRV_STATE_IN_DOUBT] = {TO(COMMITTED) | TO(ROLLING_BACK), DRV_DEADLINE_NONE, DRV_STATE_IN_DOUBT,
                            DRV_STATE_IN_DOUBT,
                            "COMMIT or an abort from the source, or 'drover resolve'",
                            "end the QEMU that holds the paused guest"},
};

static const char *const state_names[DRV_STATE_LAST] = {
    [DRV_STATE_QUEUED] = "queued",
    [DRV_STATE_PREPARING] = "preparing",
    [DRV_STATE_COPYING] = "copying",
    [DRV_STATE_SWITCHOVER] = "switchover",
    [DRV_STATE_LOADED] = "loaded",
    [DRV_STATE_COMMITTED] = "committed",
    [DRV_STATE_RUNNING] = "running",
    [DRV_STATE_DONE] = "done",
    [DRV_STATE_ROLLING_BACK] = "rolling-back",
    [DRV_STATE_FAILED] = "failed",
    [DRV_STATE_CANCELLED] = "cancelled",
    [DRV_STATE_IN_DOUBT] = "in-doubt",
};

static const char *const role_names[DRV_ROLE_LAST] = {
    [DRV_ROLE_SOURCE] = "source",
    [DRV_ROLE_DEST] = "dest",
};

static gboolean
in_range(DrvJobRole role, DrvJobState state)
{
    return (guint)role < DRV_ROLE_LAST && (guint)state < DRV_STATE_LAST;
}

const DrvStateRule *
drv_state_rule(DrvJobRole role, DrvJobState state)
{
    g_assert(in_range(role, state));
    return role == DRV_ROLE_SOURCE ? &source_rules[state] : &dest_rules[state];
}

gboolean
drv_state_may_move(DrvJobRole role, DrvJobState from, DrvJobState to)
{
    if (!in_range(role, from) || !in_range(role, to))
        return FALSE;
    return (drv_state_rule(role, from)->moves >> to & 1) != 0;
}

gboolean
drv_state_is_final(DrvJobState state)
{
    return state == DRV_STATE_DONE || state == DRV_STATE_FAILED || state == DRV_STATE_CANCELLED;
}

gboolean
drv_state_guest_may_run_at_dest(DrvJobRole role, DrvJobState state)
{
    switch (state) {
    case DRV_STATE_COMMITTED:
    case DRV_STATE_RUNNING:
    case DRV_STATE_DONE:
        return TRUE;
    case DRV_STATE_IN_DOUBT:
        return role == DRV_ROLE_SOURCE;
    default:
        return FALSE;
    }
}

const char *
drv_state_name(DrvJobState state)
{
    g_return_val_if_fail((guint)state < DRV_STATE_LAST, "unknown");
    return state_names[state];
}

const char *
drv_role_name(DrvJobRole role)
{
    g_return_val_if_fail((guint)role < DRV_ROLE_LAST, "unknown");
    return role_names[role];
}

static gboolean
find_name(const char *const *names, guint count, const char *name, guint *found)
{
    for (guint i = 0; name != NULL && i < count; i++) {
        if (g_str_equal(names[i], name)) {
            *found = i;
            return TRUE;
        }
    }
    return FALSE;
}

gboolean
drv_state_parse(const char *name, DrvJobState *state)
{
    guint found;
    if (!find_name(state_names, DRV_STATE_LAST, name, &found))
        return FALSE;
    *state = (DrvJobState)found;
    return TRUE;
}

gboolean
drv_role_parse(const char *name, DrvJobRole *role)
{
    guint found;
    if (!find_name(role_names, DRV_ROLE_LAST, name, &found))
        return FALSE;
    *role = (DrvJobRole)found;
    return TRUE;
}

const char *
drv_state_outcome(DrvJobState state)
{
    switch (state) {
    case DRV_STATE_DONE:
        return "completed";
    case DRV_STATE_FAILED:
        return "failed";
    case DRV_STATE_CANCELLED:
        return "cancelled";
    case DRV_STATE_IN_DOUBT:
        return "in-doubt";
    default:
        return "running";
    }
}
