/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/decide.h"

/*
 * Who may act on what (docs/job-states.md has it in words):
 *
 * - Before COMMITTED the source takes the guest back whenever it likes. A restart does the same.
 * - From COMMITTED on it repeats COMMIT. Only the destination's word that it is FAILED or
 * CANCELLED, from where no COMMIT moves it any more, a fence or a person lets the source have the
 * guest back. A refused COMMIT is not that word: another one may be under way.
 * - The destination ends a QEMU that may have run the guest for nobody but a person.
 */

/* --- source --- */

static gboolean
is_given(DrvJobState state)
{
    return state == DRV_STATE_COMMITTED || state == DRV_STATE_IN_DOUBT;
}

gboolean
drv_source_may_commit(DrvJobState state, gboolean completed, gboolean loaded, gboolean verified)
{
    return (state == DRV_STATE_COPYING || state == DRV_STATE_SWITCHOVER) && completed && loaded &&
           verified;
}

DrvAct
drv_source_on_commit_reply(DrvJobState state, DrvHeard heard)
{
    if (!is_given(state) || heard == DRV_HEARD_NOTHING) /* then it is sent again */
        return DRV_ACT_NOTHING;
    return heard == DRV_HEARD_OK ? DRV_ACT_LEAVE : DRV_ACT_ASK_ABORT;
}

DrvAct
drv_source_on_abort_reply(DrvJobState state, DrvHeard heard, DrvJobState there)
{
    if (!is_given(state) || heard == DRV_HEARD_NOTHING)
        return DRV_ACT_NOTHING;
    if (heard == DRV_HEARD_OK && (there == DRV_STATE_FAILED || there == DRV_STATE_CANCELLED))
        return DRV_ACT_TAKE_BACK;
    if (heard == DRV_HEARD_OK && (there == DRV_STATE_RUNNING || there == DRV_STATE_DONE))
        return DRV_ACT_LEAVE;
    return DRV_ACT_DOUBT;
}

DrvAct
drv_source_on_silence(DrvJobState state)
{
    switch (state) {
    case DRV_STATE_IN_DOUBT:
        return DRV_ACT_FENCE; /* once more, after a restart or another cut */
    case DRV_STATE_COMMITTED:
        return DRV_ACT_DOUBT;
    case DRV_STATE_RUNNING:
    case DRV_STATE_ROLLING_BACK:
        return DRV_ACT_NOTHING;
    default:
        return drv_state_is_final(state) ? DRV_ACT_NOTHING : DRV_ACT_ROLL_BACK;
    }
}

DrvAct
drv_source_on_restart(DrvJobState state)
{
    switch (state) {
    case DRV_STATE_QUEUED:
        return DRV_ACT_START;
    case DRV_STATE_COMMITTED:
    case DRV_STATE_IN_DOUBT:
        return DRV_ACT_COMMIT;
    case DRV_STATE_RUNNING:
        return DRV_ACT_LEAVE;
    default:
        return drv_state_is_final(state) ? DRV_ACT_NOTHING : DRV_ACT_ROLL_BACK;
    }
}

DrvAct
drv_source_on_news(DrvJobState state)
{
    /* COMMIT is asked once more: the answer says how it stands there. */
    return state == DRV_STATE_IN_DOUBT ? DRV_ACT_COMMIT : DRV_ACT_NOTHING;
}

/* --- destination --- */

DrvAct
drv_dest_on_commit(DrvJobState state)
{
    switch (state) {
    case DRV_STATE_LOADED:
    case DRV_STATE_IN_DOUBT:
    case DRV_STATE_COMMITTED:
        return DRV_ACT_RUN_GUEST;
    case DRV_STATE_RUNNING:
    case DRV_STATE_DONE:
        return DRV_ACT_ANSWER;
    default:
        return DRV_ACT_REFUSE;
    }
}

DrvAct
drv_dest_on_abort(DrvJobState state, gboolean may_have_run)
{
    if (drv_state_is_final(state))
        return DRV_ACT_ANSWER;
    if (state == DRV_STATE_COMMITTED || state == DRV_STATE_RUNNING || may_have_run)
        return DRV_ACT_REFUSE;
    return DRV_ACT_UNDO;
}

DrvAct
drv_dest_on_silence(DrvJobState state)
{
    if (state == DRV_STATE_LOADED)
        return DRV_ACT_DOUBT;
    return state < DRV_STATE_LOADED ? DRV_ACT_ROLL_BACK : DRV_ACT_NOTHING;
}

DrvAct
drv_dest_on_session_end(DrvJobState state)
{
    /* The source may come back over another session, but its stream cannot. */
    return state < DRV_STATE_LOADED ? DRV_ACT_ROLL_BACK : DRV_ACT_WAIT;
}

DrvAct
drv_dest_on_restart(DrvJobState state)
{
    switch (state) {
    case DRV_STATE_LOADED:
        return DRV_ACT_WAIT;
    case DRV_STATE_COMMITTED:
        return DRV_ACT_RUN_GUEST;
    case DRV_STATE_RUNNING:
        return DRV_ACT_FINISH;
    case DRV_STATE_IN_DOUBT:
        return DRV_ACT_NOTHING;
    default:
        return drv_state_is_final(state) ? DRV_ACT_NOTHING : DRV_ACT_ROLL_BACK;
    }
}
