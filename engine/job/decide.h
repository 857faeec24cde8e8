/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/state.h"

/*
 * What an end does about what it hears, and about silence and restarts, once there are two QEMUs
 * that could run the guest: the commit protocol's decisions, as functions of the job's state alone.
 * The two halves of a migration act on them, and tests/model explores what comes of it when
 * anything fails at any time.
 */
typedef enum {
    DRV_ACT_NOTHING,
    DRV_ACT_START,     /* from the beginning */
    DRV_ACT_ROLL_BACK, /* undo everything */
    DRV_ACT_COMMIT,    /* source: send COMMIT, once more if need be */
    DRV_ACT_ASK_ABORT, /* source: ask the destination to give the guest up */
    DRV_ACT_TAKE_BACK, /* source: it certainly will not run there: back through IN_DOUBT */
    DRV_ACT_LEAVE,     /* source: it runs there: RUNNING, and the own QEMU quits */
    DRV_ACT_DOUBT,     /* to IN_DOUBT */
    DRV_ACT_FENCE,     /* source: ask the fence command */
    DRV_ACT_RUN_GUEST, /* destination: COMMITTED, cont */
    DRV_ACT_WAIT,      /* destination: for the source, no longer than the drop timeout */
    DRV_ACT_FINISH,    /* destination: RUNNING was all that was to be done: DONE */
    DRV_ACT_ANSWER,    /* destination: with its state */
    DRV_ACT_UNDO,      /* destination: roll back, if that is not being done, and answer then */
    DRV_ACT_REFUSE,    /* destination: the call */
} DrvAct;

/* What came of a call to the other end. */
typedef enum {
    DRV_HEARD_OK,
    DRV_HEARD_REFUSAL,
    DRV_HEARD_NOTHING, /* the session died: it may have been carried out or not */
} DrvHeard;

/* --- source --- */

/* Whether COMMITTED may be written: QEMU has completed, the destination has said LOADED and, where
 * it is checked, what came out is what went in. */
gboolean drv_source_may_commit(DrvJobState state, gboolean completed, gboolean loaded,
                               gboolean verified);
DrvAct drv_source_on_commit_reply(DrvJobState state, DrvHeard heard);
/* Of an abort that was asked for after COMMIT was refused. 'there' is the state that an OK names;
 * DRV_STATE_LAST for none that is known. */
DrvAct drv_source_on_abort_reply(DrvJobState state, DrvHeard heard, DrvJobState there);
/* The drop timeout is over. */
DrvAct drv_source_on_silence(DrvJobState state);
DrvAct drv_source_on_restart(DrvJobState state);
/* The destination says that its state has changed, without having been asked. */
DrvAct drv_source_on_news(DrvJobState state);

/* --- destination; of jobs that are over as well --- */

DrvAct drv_dest_on_commit(DrvJobState state);
/* may_have_run: 'cont' was sent, and not refused. */
DrvAct drv_dest_on_abort(DrvJobState state, gboolean may_have_run);
/* The drop timeout is over; or the session has died, over which the memory came. */
DrvAct drv_dest_on_silence(DrvJobState state);
DrvAct drv_dest_on_session_end(DrvJobState state);
DrvAct drv_dest_on_restart(DrvJobState state);
