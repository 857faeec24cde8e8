/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/world.h"

#include <string.h>

/* The source's daemon: engine/live/source*.c and aborts.c, a step at a time. */

/* Of the way back (engine/live/source-rollback.c), and of leaving. */
enum { BACK_CANCEL, BACK_RESUME, BACK_ABORT, BACK_WAIT, BACK_END };
enum { LEAVE_QUIT, LEAVE_END };

static gboolean
move(World *w, Step *step, DrvJobState to)
{
    return world_move(w, step, DRV_ROLE_SOURCE, to, FALSE);
}

static void
move_anyway(World *w, Step *step, DrvJobState to)
{
    world_move(w, step, DRV_ROLE_SOURCE, to, TRUE);
}

static gboolean
is_given(const World *w)
{
    return w->s_state == DRV_STATE_COMMITTED || w->s_state == DRV_STATE_IN_DOUBT;
}

static gboolean
is_before(const World *w)
{
    return w->s_state < DRV_STATE_COMMITTED;
}

static void
call(World *w, Call what)
{
    if (w->near != END_ALIVE) {
        w->near = END_ALIVE;
        w->lost = FALSE;
    }
    w->s_calls |= (guint8)(1 << what);
    /* A third COMMIT in one queue does what two do, and a second abort what one does. */
    if ((what == CALL_COMMIT && w->out[1] != CALL_NONE) ||
        (what == CALL_ASK && memchr(w->out, CALL_ASK, QUEUE) != NULL))
        return;
    world_push(w->out, (guint8)what);
}

/* --- the way back --- */

static void
fail(World *w, Step *step)
{
    move_anyway(w, step, DRV_STATE_ROLLING_BACK);
    w->s_step = BACK_CANCEL;
}

/* Where that cannot be written, COMMIT goes out again: somebody must go on asking. */
static gboolean
doubt(World *w, Step *step)
{
    gboolean good = w->s_state != DRV_STATE_COMMITTED || move(w, step, DRV_STATE_IN_DOUBT);
    w->s_commit_due |= !good && step->mutant != MUTANT_COMMITTED_RESTS;
    return good;
}

static void
take_back(World *w, Step *step)
{
    if ((w->s_state == DRV_STATE_COMMITTED && !move(w, step, DRV_STATE_IN_DOUBT)) ||
        !move(w, step, DRV_STATE_ROLLING_BACK)) {
        doubt(w, step);
        return;
    }
    w->s_commit_due = FALSE;
    w->s_step = BACK_CANCEL;
    if (!world_connected(w) && w->near == END_ALIVE) { /* COMMIT is called back */
        world_leave_session(w);
        w->s_calls = 0;
    }
}

static gboolean
cancel_migration(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_ROLLING_BACK || w->s_step != BACK_CANCEL)
        return FALSE;
    w->stream = FALSE;
    if (w->s_qemu == QEMU_COPIES)
        w->s_qemu = QEMU_RUNS;
    if (w->s_qemu == QEMU_STOPPED)
        w->s_qemu = QEMU_HALTED;
    w->s_step = BACK_RESUME;
    return TRUE;
}

static gboolean
resume_guest(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_ROLLING_BACK || w->s_step != BACK_RESUME)
        return FALSE;
    if (w->s_qemu == QEMU_HALTED || w->s_qemu == QEMU_COMPLETED)
        w->s_qemu = QEMU_RUNS;
    w->s_step = BACK_ABORT;
    return TRUE;
}

static gboolean
send_abort(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_ROLLING_BACK || w->s_step != BACK_ABORT)
        return FALSE;
    if (!w->s_prepared) {
        w->s_step = BACK_END;
    } else if (!world_connected(w)) {
        w->s_late = TRUE;
        w->s_step = BACK_END;
    } else if (!world_full(w->out)) {
        call(w, CALL_BACK);
        w->s_step = BACK_WAIT;
    } else {
        return FALSE;
    }
    return TRUE;
}

static gboolean
abort_is_overdue(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_ROLLING_BACK || w->s_step != BACK_WAIT)
        return FALSE;
    w->s_late = TRUE;
    w->s_step = BACK_END;
    return TRUE;
}

static void
finish(World *w, Step *step, DrvJobState state)
{
    if (w->near == END_ALIVE)
        world_leave_session(w);
    w->s_calls = w->s_step = 0;
    w->s_completed = w->s_loaded = w->s_prepared = w->s_commit_due = 0;
    move_anyway(w, step, state);
}

static gboolean
end_back(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_ROLLING_BACK || w->s_step != BACK_END)
        return FALSE;
    if (step->mutant == MUTANT_ABORT_FORGOTTEN)
        w->s_late = FALSE;
    finish(w, step, DRV_STATE_FAILED);
    return TRUE;
}

static gboolean
send_late_abort(World *w, Step *step)
{
    if (!w->s_up || !drv_state_is_final(w->s_state) || !w->s_late || w->s_calls != 0)
        return FALSE;
    call(w, CALL_LATE);
    return TRUE;
}

/* --- up to the decision --- */

static gboolean
start(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_QUEUED)
        return FALSE;
    if (!move(w, step, DRV_STATE_PREPARING))
        fail(w, step);
    return TRUE;
}

static gboolean
prepare(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_PREPARING || w->s_prepared)
        return FALSE;
    w->s_prepared = TRUE;
    call(w, CALL_PREPARE);
    return TRUE;
}

static void
prepared(World *w, Step *step, gboolean good)
{
    if (w->s_state != DRV_STATE_PREPARING)
        return;
    if (!good || w->s_qemu == QEMU_DEAD || !move(w, step, DRV_STATE_COPYING)) {
        fail(w, step);
        return;
    }
    w->s_qemu = QEMU_COPIES;
    w->stream = w->d_state == DRV_STATE_COPYING && w->d_up;
}

static gboolean
see_stop(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_COPYING ||
        (w->s_qemu != QEMU_STOPPED && w->s_qemu != QEMU_COMPLETED))
        return FALSE;
    if (!move(w, step, DRV_STATE_SWITCHOVER))
        fail(w, step);
    return TRUE;
}

static gboolean
see_completed(World *w, Step *step)
{
    if (!w->s_up || w->s_completed || w->s_qemu != QEMU_COMPLETED ||
        (w->s_state != DRV_STATE_COPYING && w->s_state != DRV_STATE_SWITCHOVER))
        return FALSE;
    w->s_completed = TRUE;
    return TRUE;
}

static gboolean
see_failure(World *w, Step *step)
{
    gboolean idle = w->s_qemu == QEMU_RUNS || w->s_qemu == QEMU_HALTED || w->s_qemu == QEMU_DEAD;
    if (!w->s_up || w->s_completed || !idle ||
        (w->s_state != DRV_STATE_COPYING && w->s_state != DRV_STATE_SWITCHOVER))
        return FALSE;
    fail(w, step);
    return TRUE;
}

/* QEMU has completed, and nothing follows. */
static gboolean
miss_loaded(World *w, Step *step)
{
    if (!w->s_up || !w->s_completed || w->s_loaded || w->s_state > DRV_STATE_SWITCHOVER)
        return FALSE;
    fail(w, step);
    return TRUE;
}

/* It is cancelled, takes too long, or a settings call fails. */
static gboolean
give_up(World *w, Step *step)
{
    if (!w->s_up || !is_before(w) || w->s_state == DRV_STATE_QUEUED)
        return FALSE;
    fail(w, step);
    return TRUE;
}

static gboolean
accept_loaded(World *w, Step *step)
{
    if (!w->s_up || !drv_source_may_commit(w->s_state, w->s_completed, w->s_loaded, TRUE))
        return FALSE;
    if ((w->s_state == DRV_STATE_COPYING && !move(w, step, DRV_STATE_SWITCHOVER)) ||
        !move(w, step, DRV_STATE_LOADED))
        fail(w, step);
    return TRUE;
}

static gboolean
commit(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_LOADED)
        return FALSE;
    if (step->mutant == MUTANT_COMMIT_BEFORE_JOURNAL && !(w->s_calls & 1 << CALL_COMMIT)) {
        call(w, CALL_COMMIT);
        return TRUE;
    }
    if (!move(w, step, DRV_STATE_COMMITTED)) {
        fail(w, step);
        return TRUE;
    }
    w->s_commit_due = !(w->s_calls & 1 << CALL_COMMIT);
    if (step->mutant == MUTANT_QUIT_ON_COMMIT)
        w->s_qemu = QEMU_DEAD;
    return TRUE;
}

static gboolean
send_commit(World *w, Step *step)
{
    if (!w->s_up || !is_given(w) || !w->s_commit_due)
        return FALSE;
    w->s_commit_due = FALSE;
    call(w, CALL_COMMIT);
    return TRUE;
}

/* --- leaving --- */

static void
leave(World *w, Step *step)
{
    move_anyway(w, step, DRV_STATE_RUNNING);
    w->s_step = LEAVE_QUIT;
}

static gboolean
quit(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_RUNNING || w->s_step != LEAVE_QUIT)
        return FALSE;
    if (w->s_qemu != QEMU_DEAD && w->d_qemu <= QEMU_LOADED)
        step->wrong = "the source's QEMU quits, and the guest has not run at the destination";
    w->s_qemu = QEMU_DEAD;
    w->s_step = LEAVE_END;
    return TRUE;
}

static gboolean
end_leaving(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_RUNNING || w->s_step != LEAVE_END)
        return FALSE;
    finish(w, step, DRV_STATE_DONE);
    return TRUE;
}

/* --- what it hears --- */

static void
commit_reply(World *w, Step *step, DrvHeard heard)
{
    DrvAct act = drv_source_on_commit_reply(w->s_state, heard);
    if (act == DRV_ACT_LEAVE)
        leave(w, step);
    else if (act == DRV_ACT_ASK_ABORT && step->mutant == MUTANT_REFUSAL_TAKES_BACK)
        take_back(w, step);
    else if (act == DRV_ACT_ASK_ABORT)
        call(w, CALL_ASK);
}

static void
abort_reply(World *w, Step *step, DrvHeard heard, DrvJobState there)
{
    DrvAct act = drv_source_on_abort_reply(w->s_state, heard, there);
    if (act == DRV_ACT_LEAVE)
        leave(w, step);
    else if (act == DRV_ACT_TAKE_BACK)
        take_back(w, step);
    else if (act == DRV_ACT_DOUBT)
        doubt(w, step);
}

static void
late_abort_reply(World *w)
{
    w->s_late = FALSE;
    if (!w->s_full)
        w->s_disk_late = FALSE;
    w->s_calls = 0;
    world_leave_session(w);
}

static gboolean
hear(World *w, Step *step)
{
    if (!w->s_up || w->near != END_ALIVE || !w->link || w->lost || w->in[0] == 0)
        return FALSE;
    guint8 message = world_pop(w->in);
    guint8 result = message & 15;
    DrvHeard heard = result == REFUSED ? DRV_HEARD_REFUSAL : DRV_HEARD_OK;
    if (message == TELL_LOADED) {
        w->s_loaded = is_before(w);
        return TRUE;
    }
    if (message == TELL_FAILED) {
        if (is_before(w))
            fail(w, step);
        return TRUE;
    }
    if (message == TELL_NEWS) {
        w->s_commit_due |= drv_source_on_news(w->s_state) == DRV_ACT_COMMIT;
        return TRUE;
    }
    w->s_calls &= (guint8) ~(1 << (message >> 4));
    switch ((Call)(message >> 4)) {
    case CALL_PREPARE:
        prepared(w, step, heard == DRV_HEARD_OK);
        break;
    case CALL_COMMIT:
        commit_reply(w, step, heard);
        break;
    case CALL_ASK:
        abort_reply(w, step, heard, heard == DRV_HEARD_OK ? result : DRV_STATE_LAST);
        break;
    case CALL_BACK:
        if (w->s_state == DRV_STATE_ROLLING_BACK && w->s_step == BACK_WAIT)
            w->s_step = BACK_END;
        break;
    case CALL_LATE:
        late_abort_reply(w);
        break;
    default:
        g_assert_not_reached();
    }
    return TRUE;
}

/* --- its session --- */

static void
connected(World *w, Step *step)
{
    w->lost = FALSE;
    if (is_given(w) && !w->s_commit_due)
        call(w, CALL_COMMIT);
}

static gboolean
connect_session(World *w, Step *step)
{
    if (!w->s_up || !w->d_up || !w->link || w->near != END_ALIVE || w->far != END_NONE)
        return FALSE;
    w->far = END_ALIVE;
    connected(w, step);
    return TRUE;
}

static gboolean
reconnect(World *w, Step *step)
{
    if (!w->s_up || !w->d_up || !w->link || !w->lost || w->far != END_ALIVE)
        return FALSE;
    connected(w, step);
    return TRUE;
}

static void
session_dies(World *w, Step *step)
{
    gboolean waited = (w->s_calls & 1 << CALL_BACK) != 0;
    world_leave_session(w);
    w->lost = FALSE;
    w->s_calls = 0;
    if (is_given(w)) {
        w->s_commit_due = step->mutant != MUTANT_COMMIT_ONCE;
    } else if (w->s_state == DRV_STATE_ROLLING_BACK) {
        if (waited && w->s_step == BACK_WAIT) {
            w->s_late = TRUE;
            w->s_step = BACK_END;
        }
    } else if (is_before(w)) {
        fail(w, step);
    }
}

static gboolean
session_breaks(World *w, Step *step)
{
    if (!w->s_up || w->near != END_ALIVE || w->far == END_GONE)
        return FALSE;
    session_dies(w, step);
    return TRUE;
}

static gboolean
session_is_refused(World *w, Step *step)
{
    if (!w->s_up || w->near != END_ALIVE || w->far != END_GONE || !w->link)
        return FALSE;
    session_dies(w, step);
    return TRUE;
}

static gboolean
drop_timeout(World *w, Step *step)
{
    if (!w->s_up || w->near != END_ALIVE || world_connected(w))
        return FALSE;
    DrvAct act = drv_source_on_silence(w->s_state);
    if (act == DRV_ACT_DOUBT && step->mutant == MUTANT_SILENCE_TAKES_BACK)
        take_back(w, step);
    else if (act == DRV_ACT_DOUBT)
        doubt(w, step);
    else if (act == DRV_ACT_ROLL_BACK)
        fail(w, step);
    else
        return FALSE;
    return TRUE;
}

/* --- crash and restart; the journal catches up --- */

static gboolean
crash(World *w, Step *step)
{
    if (!w->s_up)
        return FALSE;
    if (w->near == END_ALIVE)
        world_leave_session(w);
    w->stream = FALSE;
    w->lost = FALSE;
    w->s_up = w->s_state = w->s_completed = w->s_loaded = w->s_prepared = w->s_commit_due = 0;
    w->s_calls = w->s_step = w->s_late = 0;
    return TRUE;
}

static gboolean
restart(World *w, Step *step)
{
    if (w->s_up)
        return FALSE;
    w->s_up = TRUE;
    w->s_state = w->s_disk;
    w->s_late = w->s_disk_late;
    w->s_prepared = !drv_state_is_final(w->s_state) && w->s_state != DRV_STATE_QUEUED;
    DrvAct act = drv_source_on_restart(w->s_state);
    if (act == DRV_ACT_COMMIT && step->mutant == MUTANT_RESTART_TAKES_BACK)
        take_back(w, step);
    else if (act == DRV_ACT_COMMIT)
        w->s_commit_due = w->s_completed = w->s_loaded = TRUE;
    else if (act == DRV_ACT_ROLL_BACK && w->s_state != DRV_STATE_ROLLING_BACK)
        fail(w, step);
    return TRUE;
}

static gboolean
record_end(World *w, Step *step)
{
    if (!w->s_up || w->s_full || !drv_state_is_final(w->s_state) || w->s_disk == w->s_state)
        return FALSE;
    w->s_disk = w->s_state;
    w->s_disk_late = w->s_late;
    return TRUE;
}

/* --- somebody resolves it, having looked at the other end --- */

static gboolean
resolve_here(World *w, Step *step)
{
    gboolean safe = w->d_qemu == QEMU_DEAD || w->d_disk == DRV_STATE_ROLLING_BACK ||
                    w->d_disk == DRV_STATE_FAILED;
    if (!w->s_up || w->s_state != DRV_STATE_IN_DOUBT || !safe)
        return FALSE;
    w->person = TRUE;
    take_back(w, step);
    return w->s_state == DRV_STATE_ROLLING_BACK;
}

static gboolean
resolve_there(World *w, Step *step)
{
    if (!w->s_up || w->s_state != DRV_STATE_IN_DOUBT || w->d_qemu != QEMU_RUNS_THERE)
        return FALSE;
    w->person = TRUE;
    finish(w, step, DRV_STATE_DONE);
    return TRUE;
}

const Action source_actions[] = {
    {"source: starts", FAIR, start},
    {"source: sends job.prepare", FAIR, prepare},
    {"source: sees the guest stop", FAIR, see_stop},
    {"source: sees QEMU complete", FAIR, see_completed},
    {"source: sees QEMU's migration fail", FAIR, see_failure},
    {"source: does not hear LOADED", FAIR, miss_loaded},
    {"source: gives up", FAULT, give_up},
    {"source: LOADED", FAIR, accept_loaded},
    {"source: COMMITTED", FAIR, commit},
    {"source: sends COMMIT", FAIR, send_commit},
    {"source: hears the destination", FAIR, hear},
    {"source: its QEMU quits", FAIR, quit},
    {"source: DONE", FAIR, end_leaving},
    {"source: cancels QEMU's migration", FAIR, cancel_migration},
    {"source: resumes the guest", FAIR, resume_guest},
    {"source: sends the abort, or notes it", FAIR, send_abort},
    {"source: waits no longer for the abort", FAIR, abort_is_overdue},
    {"source: FAILED", FAIR, end_back},
    {"source: sends the late abort", FAIR, send_late_abort},
    {"source: a session connects", FAIR, connect_session},
    {"source: the session reconnects", FAIR, reconnect},
    {"source: the session breaks", FAULT, session_breaks},
    {"source: the session is not known any more", FAIR, session_is_refused},
    {"source: the drop timeout", FAIR, drop_timeout},
    {"source: crashes", FAULT, crash},
    {"source: restarts", FAIR, restart},
    {"source: the journal catches up", FAIR, record_end},
    {"source: a person says --run-on source", PERSON, resolve_here},
    {"source: a person says --run-on dest", PERSON, resolve_there},
    {NULL, FAIR, NULL},
};
