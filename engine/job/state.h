/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The states of a job and the moves between them, as data. Both ends keep a record of the same job,
 * each in its own role; docs/job-states.md shows the two tables as a reader wants them.
 *
 * The rule that everything here serves: the guest may run at the destination only when the source's
 * journal says COMMITTED, and nobody resumes it at the source by guess after that.
 */
typedef enum { DRV_ROLE_SOURCE, DRV_ROLE_DEST, DRV_ROLE_LAST } DrvJobRole;

typedef enum {
    DRV_STATE_QUEUED,       /* recorded, nothing touched */
    DRV_STATE_PREPARING,    /* both QEMUs are looked at and set up */
    DRV_STATE_COPYING,      /* the guest runs at the source while its memory travels */
    DRV_STATE_SWITCHOVER,   /* source only: the guest is stopped, the rest travels */
    DRV_STATE_LOADED,       /* the destination's QEMU has everything and is paused */
    DRV_STATE_COMMITTED,    /* decided: the guest belongs to the destination */
    DRV_STATE_RUNNING,      /* the destination has confirmed that the guest runs */
    DRV_STATE_DONE,         /* final: the guest runs at the destination */
    DRV_STATE_ROLLING_BACK, /* what was done is being undone, the guest goes on at the source */
    DRV_STATE_FAILED,       /* final: the guest stays at the source */
    DRV_STATE_CANCELLED,    /* final: as FAILED, but a user asked for it */
    DRV_STATE_IN_DOUBT,     /* the other end must be heard, or a person must decide */
    DRV_STATE_LAST
} DrvJobState;

/* How long a state may last. The job's spec has the numbers. */
typedef enum {
    DRV_DEADLINE_NONE, /* as long as it takes: a free slot, a person or the other end ends it */
    DRV_DEADLINE_STEP, /* every answer that is awaited (QMP, the other daemon) has its own limit */
    DRV_DEADLINE_DROP, /* drop_timeout_s without a sign of progress from the other end */
    DRV_DEADLINE_JOB,  /* as DROP, and timeout_s (if any) since the job was started */
} DrvDeadline;

/* All that is fixed about one state at one end. A state with no moves is final, or is never entered
 * in that role. */
typedef struct {
    guint16 moves;           /* bit n set: may move to the state n */
    DrvDeadline deadline;    /* how long it may last ... */
    DrvJobState deadline_to; /* ... and where it then goes (with DEADLINE_NONE: itself) */
    DrvJobState restart_to;  /* where a restarted daemon takes it; itself: it goes on from there */
    const char *waits_for;   /* what ends the state when all goes well */
    const char *undo;        /* what ROLLING_BACK has to do after it */
} DrvStateRule;

/* The rule of a state in a role. Static storage, never NULL. */
const DrvStateRule *drv_state_rule(DrvJobRole role, DrvJobState state);

/* Whether a job in that role may go from one state to the other. FALSE for values out of range and
 * for staying where it is. */
gboolean drv_state_may_move(DrvJobRole role, DrvJobState from, DrvJobState to);

/* DONE, FAILED or CANCELLED: nothing follows. */
gboolean drv_state_is_final(DrvJobState state);

/* What an end must believe by its own record. At the source, TRUE says that the destination may
 * have been told to run the guest, so it must not be resumed here. At the destination, TRUE says
 * that it may be sent `cont` (or has been); IN_DOUBT is not enough there. */
gboolean drv_state_guest_may_run_at_dest(DrvJobRole role, DrvJobState state);

/* The names in JSON, in the journal and in messages: "queued" ... "rolling-back", "in-doubt", and
 * "source", "dest". Static storage. */
const char *drv_state_name(DrvJobState state);
const char *drv_role_name(DrvJobRole role);
/* The contract's word for a final state: "completed", "failed", "cancelled"; "in-doubt" or
 * "running". */
const char *drv_state_outcome(DrvJobState state);

/* The way back; exact names only. FALSE, and the result untouched, for any other text and NULL. */
gboolean drv_state_parse(const char *name, DrvJobState *state);
gboolean drv_role_parse(const char *name, DrvJobRole *role);
