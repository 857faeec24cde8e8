/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"
#include "qmp/qmp.h"

/*
 * A job that looks at a guest and leaves no trace: a sequence of steps that ends by itself, is in
 * no journal, and has what it found as its result. Kinds (a prediction, a look at NUMA nodes or at
 * disks) embed it first, and bring the steps. Control thread only.
 */
typedef struct _DrvLook DrvLook;

typedef struct {
    DrvJobOps job; /* DRV_LOOK_JOB */
    const DrvStep *steps;
    /* What was found, once all steps are done; owned by the caller. */
    JsonObject *(*result)(DrvLook *look);
    /* Ends what the kind has under way, when the job ends; may be called again. NULL: nothing. */
    void (*drop)(DrvLook *look);
    /* Frees what the kind has of its own, but not the job. */
    void (*clear)(DrvLook *look);
    /* The link is gone for now; the session goes on trying. NULL: that is waited for. */
    void (*lost)(DrvLook *look, const GError *why);
} DrvLookOps;

#define DRV_LOOK_JOB(name)                                                                         \
    {                                                                                              \
        .kind = (name), .start = drv_look_start, .cancel = drv_look_cancel, .free = drv_look_free  \
    }

struct _DrvLook {
    DrvJob base;
    const DrvLookOps *ops; /* fixed */
    DrvSteps steps;
    QmpClient *qmp;      /* NULL unless connected */
    DrvPeer *peer;       /* NULL unless asked for */
    gboolean needs_peer; /* the step at hand does: it fails with the session */
    gboolean await_peer; /* ... and is over when that is connected */
};

/* For the constructors of kinds. Takes the record. */
void drv_look_init(DrvLook *look, const DrvLookOps *ops, DrvServices *services, DrvJobRecord *rec);

/* For DRV_LOOK_JOB. */
void drv_look_start(DrvJob *job);
gboolean drv_look_cancel(DrvJob *job, GError **error);
void drv_look_free(DrvJob *job);

/* For a step's callback data; see drv_job_redeem(). */
DrvTicket *drv_look_ticket(DrvLook *look);
/* The step at hand is over: goes on or, with an error (taken), fails. */
void drv_look_step_done(DrvLook *look, GError *error);

/* Bodies of steps: connect, and are over when that is done. */
void drv_look_connect_qmp(DrvLook *look, const char *path);
void drv_look_connect_peer(DrvLook *look, const char *host, guint16 port, guint lanes);
/* QEMU serves one client a socket: what is needed no more is given back. */
void drv_look_close_qmp(DrvLook *look);
