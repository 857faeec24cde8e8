/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/world.h"

#include <string.h>

/* The destination's daemon: engine/live/dest*.c and jobs.c, a step at a time. */

enum { IDLE, LOOK, CONT_SENT };
enum { BACK_QUIT, BACK_END };

static gboolean
move(World *w, Step *step, DrvJobState to)
{
    return world_move(w, step, DRV_ROLE_DEST, to, FALSE);
}

static void
move_anyway(World *w, Step *step, DrvJobState to)
{
    world_move(w, step, DRV_ROLE_DEST, to, TRUE);
}

/* --- what it says --- */

/* Into an old session it is said to nobody. */
static void
say(World *w, guint8 message)
{
    if (w->d_peer == PEER_NEW && w->far == END_ALIVE)
        world_push(w->in, message);
}

/* Over the session that asked: calls of an old one are not even kept here. */
static void
answer(World *w, guint8 *what, guint8 result)
{
    if (*what != CALL_NONE)
        world_push(w->in, REPLY(*what, result));
    *what = CALL_NONE;
}

/* Nobody has asked: it may be a person's word that is being done, and the source stand in doubt. */
static void
tell_news(World *w)
{
    if (w->d_prepare == CALL_NONE && w->d_commit == CALL_NONE && w->d_abort == CALL_NONE)
        say(w, TELL_NEWS);
}

static void
take_call(guint8 *what, Call call, DestPeer peer)
{
    if (peer == PEER_NEW)
        *what = (guint8)call;
}

static gboolean
has_room(const World *w)
{
    return w->in[QUEUE - 2] == 0; /* the most that one step says is two things */
}

/* --- the way back --- */

static void
fail(World *w, Step *step)
{
    if (w->d_prepare == CALL_NONE && w->d_abort == CALL_NONE)
        say(w, TELL_FAILED);
    move_anyway(w, step, DRV_STATE_ROLLING_BACK);
    w->d_step = BACK_QUIT;
}

static gboolean
end_qemu(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_ROLLING_BACK || w->d_step != BACK_QUIT)
        return FALSE;
    if (w->d_qemu == QEMU_RUNS_THERE)
        step->wrong = "the destination ends a QEMU whose guest runs";
    if (w->d_qemu != QEMU_WAITS)
        w->d_qemu = QEMU_DEAD;
    w->cont = w->stream = FALSE;
    w->d_step = BACK_END;
    return TRUE;
}

static gboolean
end_back(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_ROLLING_BACK || w->d_step != BACK_END || !has_room(w))
        return FALSE;
    move_anyway(w, step, DRV_STATE_FAILED);
    w->d_step = IDLE;
    tell_news(w);
    answer(w, &w->d_prepare, REFUSED);
    answer(w, &w->d_abort, DRV_STATE_FAILED);
    return TRUE;
}

/* --- COMMIT --- */

static void
run_guest(World *w, Step *step)
{
    if (w->d_step != IDLE)
        return;
    if (step->mutant == MUTANT_CONT_BEFORE_JOURNAL && w->d_state != DRV_STATE_COMMITTED) {
        w->cont = w->d_qemu == QEMU_LOADED;
        w->d_step = CONT_SENT;
        return;
    }
    w->d_note = TRUE;
    if (w->d_state != DRV_STATE_COMMITTED && !move(w, step, DRV_STATE_COMMITTED)) {
        answer(w, &w->d_commit, REFUSED);
        return;
    }
    w->d_step = LOOK;
}

static void
commit_failed(World *w, Step *step)
{
    w->d_step = IDLE;
    w->d_note = w->d_may;
    if (w->d_state == DRV_STATE_COMMITTED && move(w, step, DRV_STATE_IN_DOUBT))
        tell_news(w);
    answer(w, &w->d_commit, REFUSED);
}

static void
commit_done(World *w, Step *step)
{
    w->d_step = IDLE;
    if (w->d_state != DRV_STATE_COMMITTED && !move(w, step, DRV_STATE_COMMITTED))
        return; /* only a mutant gets here */
    move_anyway(w, step, DRV_STATE_RUNNING);
    answer(w, &w->d_commit, DRV_STATE_RUNNING);
}

static gboolean
look(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_COMMITTED || w->d_step != LOOK || !has_room(w))
        return FALSE;
    if (w->d_qemu == QEMU_DEAD) {
        commit_failed(w, step);
    } else if (w->d_may && w->d_qemu == QEMU_RUNS_THERE) {
        commit_done(w, step);
    } else {
        w->d_ran_before = w->d_may;
        w->d_may = w->d_note = TRUE;
        w->cont = w->d_qemu == QEMU_LOADED;
        w->d_step = CONT_SENT;
    }
    return TRUE;
}

static gboolean
see_running(World *w, Step *step)
{
    if (!w->d_up || w->d_step != CONT_SENT || w->d_state == DRV_STATE_ROLLING_BACK || w->cont ||
        w->d_qemu != QEMU_RUNS_THERE || !has_room(w))
        return FALSE;
    commit_done(w, step);
    return TRUE;
}

static gboolean
cont_refused(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_COMMITTED || w->d_step != CONT_SENT || !w->cont ||
        !has_room(w))
        return FALSE;
    w->cont = FALSE;
    w->d_may = w->d_ran_before;
    w->disobeyed = TRUE;
    commit_failed(w, step);
    return TRUE;
}

/* QEMU has died over it; or it does not answer in time, and may do it later. */
static gboolean
cont_fails(World *w, Step *step, gboolean dead)
{
    if (!w->d_up || w->d_state != DRV_STATE_COMMITTED || w->d_step != CONT_SENT || !has_room(w) ||
        dead != (w->d_qemu == QEMU_DEAD))
        return FALSE;
    commit_failed(w, step);
    return TRUE;
}

static gboolean
cont_dies(World *w, Step *step)
{
    return cont_fails(w, step, TRUE);
}

static gboolean
cont_is_silent(World *w, Step *step)
{
    w->disobeyed = TRUE;
    return cont_fails(w, step, FALSE);
}

/* IN_DOUBT could not be written. */
static gboolean
try_again(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_COMMITTED || w->d_step != IDLE ||
        step->mutant == MUTANT_COMMITTED_RESTS)
        return FALSE;
    run_guest(w, step);
    return TRUE;
}

static gboolean
finish(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_RUNNING || !has_room(w))
        return FALSE;
    move_anyway(w, step, DRV_STATE_DONE);
    tell_news(w);
    answer(w, &w->d_commit, DRV_STATE_DONE);
    return TRUE;
}

/* --- preparing and loading --- */

static gboolean
prepare(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_QUEUED || !has_room(w))
        return FALSE;
    if (!move(w, step, DRV_STATE_PREPARING))
        fail(w, step);
    return TRUE;
}

static gboolean
listen_for_guest(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_PREPARING || !has_room(w))
        return FALSE;
    if (w->d_qemu != QEMU_WAITS || !move(w, step, DRV_STATE_COPYING)) {
        fail(w, step);
        return TRUE;
    }
    w->d_qemu = QEMU_INCOMING;
    answer(w, &w->d_prepare, DRV_STATE_COPYING);
    return TRUE;
}

static gboolean
see_loaded(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_COPYING || w->d_qemu != QEMU_LOADED || !has_room(w))
        return FALSE;
    if (!move(w, step, DRV_STATE_LOADED)) {
        fail(w, step);
        return TRUE;
    }
    say(w, TELL_LOADED);
    if (step->mutant == MUTANT_LOADED_RUNS)
        run_guest(w, step);
    return TRUE;
}

static gboolean
see_failure(World *w, Step *step)
{
    if (!w->d_up || w->d_state != DRV_STATE_COPYING || w->d_qemu != QEMU_DEAD || !has_room(w))
        return FALSE;
    fail(w, step);
    return TRUE;
}

/* --- what it hears --- */

static void
use_peer(World *w, Step *step, DestPeer peer)
{
    if (w->d_peer == peer)
        return;
    if (step->mutant == MUTANT_NEWER_CALL_DROPPED)
        w->d_prepare = w->d_commit = w->d_abort = CALL_NONE;
    w->d_peer = (guint8)peer;
}

static void
hear_prepare(World *w, Step *step, DestPeer peer)
{
    if (w->d_state != NO_JOB || w->d_full) {
        if (peer == PEER_NEW)
            world_push(w->in, REPLY(CALL_PREPARE, REFUSED));
        return;
    }
    use_peer(w, step, peer);
    take_call(&w->d_prepare, CALL_PREPARE, peer);
    w->d_state = w->d_disk = DRV_STATE_QUEUED;
}

static void
hear_commit(World *w, Step *step, DestPeer peer)
{
    DrvAct act = w->d_state == NO_JOB ? DRV_ACT_REFUSE : drv_dest_on_commit(w->d_state);
    if (step->mutant == MUTANT_FAILED_OBEYS_COMMIT && w->d_state == DRV_STATE_FAILED)
        act = DRV_ACT_ANSWER;
    use_peer(w, step, peer);
    take_call(&w->d_commit, CALL_COMMIT, peer);
    if (act == DRV_ACT_RUN_GUEST)
        run_guest(w, step);
    else if (act == DRV_ACT_ANSWER)
        answer(w, &w->d_commit, w->d_state);
    else
        answer(w, &w->d_commit, REFUSED);
}

static void
hear_abort(World *w, Step *step, DestPeer peer, Call tag)
{
    gboolean may = w->d_may && step->mutant != MUTANT_ABORT_ENDS_WHAT_MAY_RUN;
    DrvAct act = w->d_state == NO_JOB ? DRV_ACT_REFUSE : drv_dest_on_abort(w->d_state, may);
    use_peer(w, step, peer);
    take_call(&w->d_abort, tag, peer);
    if (act == DRV_ACT_REFUSE) {
        answer(w, &w->d_abort, REFUSED);
    } else if (act == DRV_ACT_ANSWER) {
        answer(w, &w->d_abort, w->d_state);
    } else {
        if (step->mutant == MUTANT_ABORT_BEFORE_UNDO) {
            answer(w, &w->d_abort, DRV_STATE_FAILED);
            return;
        }
        if (w->d_state != DRV_STATE_ROLLING_BACK)
            fail(w, step);
    }
}

static gboolean
hear(World *w, Step *step, guint8 *queue, DestPeer peer)
{
    if (!w->d_up || !w->link || queue[0] == 0 || !has_room(w))
        return FALSE;
    Call what = (Call)world_pop(queue);
    if (what == CALL_PREPARE)
        hear_prepare(w, step, peer);
    else if (what == CALL_COMMIT)
        hear_commit(w, step, peer);
    else
        hear_abort(w, step, peer, what);
    return TRUE;
}

static gboolean
hear_new(World *w, Step *step)
{
    return w->far == END_ALIVE && !w->lost && hear(w, step, w->out, PEER_NEW);
}

static gboolean
hear_old(World *w, Step *step)
{
    return w->old_far == END_ALIVE && hear(w, step, w->old_out, PEER_OLD);
}

/* --- its ends of the sessions --- */

static void
session_dies(World *w, Step *step)
{
    w->d_peer = PEER_NONE;
    if (w->d_state != NO_JOB && drv_dest_on_session_end(w->d_state) == DRV_ACT_ROLL_BACK)
        fail(w, step);
}

static gboolean
old_session_ends(World *w, Step *step)
{
    if (w->old_far != END_ALIVE)
        return FALSE;
    w->old_far = END_NONE;
    memset(w->old_out, 0, QUEUE);
    if (w->d_up && w->d_peer == PEER_OLD)
        session_dies(w, step);
    return TRUE;
}

static gboolean
drop_timeout(World *w, Step *step)
{
    gboolean silent = !w->link || w->lost || w->d_peer != PEER_NEW || w->far != END_ALIVE;
    if (!w->d_up || w->d_state == NO_JOB || !silent || !has_room(w))
        return FALSE;
    DrvAct act = drv_dest_on_silence(w->d_state);
    if (act == DRV_ACT_DOUBT)
        return move(w, step, DRV_STATE_IN_DOUBT);
    if (act != DRV_ACT_ROLL_BACK)
        return FALSE;
    fail(w, step);
    return TRUE;
}

/* --- crash and restart; the journal catches up --- */

static gboolean
crash(World *w, Step *step)
{
    if (!w->d_up)
        return FALSE;
    w->stream = FALSE;
    if (w->far == END_ALIVE) {
        w->far = END_GONE;
        w->lost = FALSE;
        memset(w->out, 0, QUEUE);
    }
    w->old_far = END_NONE;
    memset(w->old_out, 0, QUEUE);
    w->d_up = w->d_state = w->d_may = w->d_note = w->d_ran_before = w->d_step = 0;
    w->d_peer = w->d_prepare = w->d_commit = w->d_abort = 0;
    return TRUE;
}

static gboolean
restart(World *w, Step *step)
{
    if (w->d_up)
        return FALSE;
    w->d_up = TRUE;
    w->d_state = w->d_disk;
    w->d_may = w->d_note = w->d_disk_may;
    if (w->d_state == NO_JOB)
        return TRUE;
    DrvAct act = drv_dest_on_restart(w->d_state);
    if (act == DRV_ACT_RUN_GUEST)
        run_guest(w, step);
    else if (act == DRV_ACT_ROLL_BACK && w->d_state != DRV_STATE_ROLLING_BACK)
        fail(w, step);
    return TRUE;
}

static gboolean
record_end(World *w, Step *step)
{
    if (!w->d_up || w->d_full || w->d_state == NO_JOB || !drv_state_is_final(w->d_state) ||
        w->d_disk == w->d_state)
        return FALSE;
    w->d_disk = w->d_state;
    w->d_disk_may = w->d_note;
    return TRUE;
}

/* --- somebody resolves it, having looked at the other end --- */

static gboolean
resolve_here(World *w, Step *step)
{
    gboolean safe = w->s_qemu == QEMU_DEAD || w->s_disk == DRV_STATE_COMMITTED ||
                    w->s_disk == DRV_STATE_IN_DOUBT || w->s_disk == DRV_STATE_RUNNING ||
                    w->s_disk == DRV_STATE_DONE;
    if (!w->d_up || w->d_state != DRV_STATE_IN_DOUBT || !safe || w->d_qemu == QEMU_DEAD ||
        w->d_step != IDLE)
        return FALSE;
    w->person = TRUE;
    run_guest(w, step);
    return w->d_state == DRV_STATE_COMMITTED;
}

static gboolean
resolve_there(World *w, Step *step)
{
    gboolean runs = w->d_qemu == QEMU_RUNS_THERE || w->cont;
    if (!w->d_up || w->d_state != DRV_STATE_IN_DOUBT || runs || !has_room(w) ||
        (w->s_qemu == QEMU_DEAD && w->d_qemu != QEMU_DEAD) ||
        !move(w, step, DRV_STATE_ROLLING_BACK))
        return FALSE;
    w->person = TRUE;
    w->d_step = BACK_QUIT;
    return TRUE;
}

const Action dest_actions[] = {
    {"dest: PREPARING", FAIR, prepare},
    {"dest: COPYING, its QEMU listens", FAIR, listen_for_guest},
    {"dest: LOADED", FAIR, see_loaded},
    {"dest: sees its QEMU end", FAIR, see_failure},
    {"dest: looks at its QEMU, sends 'cont'", FAIR, look},
    {"dest: RUNNING", FAIR, see_running},
    {"dest: QEMU refuses 'cont'", FAULT, cont_refused},
    {"dest: QEMU is gone, no answer to 'cont'", FAIR, cont_dies},
    {"dest: QEMU is slow, no answer to 'cont'", FAULT, cont_is_silent},
    {"dest: still COMMITTED, tries again", FAIR, try_again},
    {"dest: DONE", FAIR, finish},
    {"dest: ends its QEMU", FAIR, end_qemu},
    {"dest: FAILED", FAIR, end_back},
    {"dest: hears the source", FAIR, hear_new},
    {"dest: hears what an old session brings", FAIR, hear_old},
    {"dest: an old session is over", FAIR, old_session_ends},
    {"dest: the drop timeout", FAIR, drop_timeout},
    {"dest: crashes", FAULT, crash},
    {"dest: restarts", FAIR, restart},
    {"dest: the journal catches up", FAIR, record_end},
    {"dest: a person says --run-on dest", PERSON, resolve_here},
    {"dest: a person says --run-on source", PERSON, resolve_there},
    {NULL, FAIR, NULL},
};
