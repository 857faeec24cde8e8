/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Decides during a migration what is to be done so that it ends. No clock and no I/O: samples go
 * in, a decision comes out of each, and it is the caller's to carry it out. Not for several threads
 * at once.
 */
typedef struct _DrvConvergence DrvConvergence;

typedef enum {
    DRV_THROTTLE_NONE,
    DRV_THROTTLE_AUTO_CONVERGE, /* all CPUs get less time */
    DRV_THROTTLE_DIRTY_LIMIT,   /* those that write much wait (needs the dirty ring) */
} DrvThrottle;

/* What the user allows. */
typedef struct {
    guint downtime_ms;     /* the limit that QEMU was given */
    guint max_downtime_ms; /* the most that it may become; not above the other: it stays */
    DrvThrottle throttle;
    guint max_throttle_pct; /* 1 to 99; 0: 99 */
    gboolean give_up;       /* when nothing of this helps; FALSE: go on, there may be a timeout */
    guint patience_s;       /* waiting before the first measure, and before giving up */
} DrvConvergePolicy;

/* As things stand. Every quarter of a second is often enough. */
typedef struct {
    gint64 now_us;
    guint pass;           /* the round; 1 brings everything */
    guint64 remaining;    /* bytes of the guest that the round has still to bring */
    guint64 round_bytes;  /* that the round has to bring in all; 0: not known */
    double dirty_rate;    /* bytes a second; 0: not known yet */
    double delivery_rate; /* bytes of the guest a second that get across: before any codec */
    /* The same as QEMU counts it, by which it decides when to stop the guest: to it a page of zeros
     * is a few bytes. 0: the same */
    double switchover_rate;
    guint throttle_pct;
    gboolean stopped; /* the guest stands still for the switchover */
    gboolean stalled; /* no link, or it is somebody else's turn: nothing can be judged */
} DrvConvergeSample;

typedef enum {
    DRV_CONVERGE_CONTINUE,
    DRV_CONVERGE_DOWNTIME, /* set downtime-limit to 'downtime_ms' */
    DRV_CONVERGE_THROTTLE, /* throttle, so that the guest writes at most 'dirty_limit' */
    DRV_CONVERGE_GIVE_UP,
} DrvConvergeAction;

typedef struct {
    DrvConvergeAction action;
    guint downtime_ms;
    guint throttle_pct; /* THROTTLE: of CPU time to take away, to begin with */
    double dirty_limit; /* THROTTLE: bytes a second, of all CPUs together */
    const char *why;    /* one sentence without a full stop; NULL for CONTINUE. Borrowed, until the
                           next call */
} DrvConvergeDecision;

typedef enum {
    DRV_CONVERGE_UNKNOWN, /* too early */
    DRV_CONVERGE_EXPECTED,
    DRV_CONVERGE_DOUBTED, /* as things are it will not */
} DrvConvergeOutlook;

DrvConvergence *drv_convergence_new(const DrvConvergePolicy *policy);
void drv_convergence_free(DrvConvergence *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvConvergence, drv_convergence_free)

/* A decision is given once; carry it out or not, the next comes when this had time to show. */
DrvConvergeDecision drv_convergence_sample(DrvConvergence *self, const DrvConvergeSample *sample);

/* What the guest is really throttled by, when that was found out only by trying. */
void drv_convergence_throttled_by(DrvConvergence *self, DrvThrottle throttle);

/* What is expected now. 'why' (may be NULL) gets one sentence that explains a doubt, or NULL:
 * borrowed until the next sample. */
DrvConvergeOutlook drv_convergence_outlook(DrvConvergence *self, const char **why);

/* The downtime limit that is in force, by what was decided. */
guint drv_convergence_downtime_ms(DrvConvergence *self);
