/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/flow.h"
#include "engine/transfer/shaper.h"

/*
 * What a lane with room sends next. Classes are served in strict order; within one, channels share
 * by deficit round robin on raw bytes, in proportion to their weights. Lanes pull, so a frame is
 * bound to a lane at the last moment and a slow lane holds up only what it has already taken.
 *
 * Not thread-safe: a session's lock guards its scheduler.
 */
typedef enum {
    DRV_CLASS_CONTROL, /* the jobs' messages and return paths */
    DRV_CLASS_STOPPED, /* device state and final round: a guest is stopped */
    DRV_CLASS_RAM,     /* pre-copy rounds */
    DRV_CLASS_BULK,    /* disks, tunnels */
    DRV_CLASSES
} DrvClass;

/* A channel's place in the scheduler, embedded in it. */
typedef struct {
    GQueue frames; /* of DrvFrame by seq; the scheduler holds a reference to each */
    DrvClass class;
    guint weight;      /* 1 to 100 */
    DrvShaper *shaper; /* the job's limit; borrowed; NULL for none */
    gint64 deficit;
    GList link; /* in the ring of its class while it has frames */
    gboolean linked;
} DrvSendQueue;

typedef struct {
    GQueue rings[DRV_CLASSES]; /* of DrvSendQueue that have frames */
    DrvShaper *host;           /* the daemon's limit; borrowed; NULL for none */
} DrvScheduler;

void drv_scheduler_init(DrvScheduler *scheduler, DrvShaper *host);
/* Drops all frames queued. */
void drv_scheduler_clear(DrvScheduler *scheduler);

void drv_send_queue_init(DrvSendQueue *queue, DrvClass class, guint weight, DrvShaper *shaper);
/* Queues a frame (takes a reference), before those of its channel with higher numbers: what is sent
 * again after a cut is what the receiver is waiting for. */
void drv_scheduler_push(DrvScheduler *scheduler, DrvSendQueue *queue, DrvFrame *frame);
/* Drops the queue's frames and takes it out of its ring. */
void drv_scheduler_remove(DrvScheduler *scheduler, DrvSendQueue *queue);
void drv_scheduler_set_class(DrvScheduler *scheduler, DrvSendQueue *queue, DrvClass class);

/* The next frame to send (the reference passes), or NULL; then *retry_at is when to ask again
 * because a shaper will have let go, or G_MAXINT64. */
DrvFrame *drv_scheduler_next(DrvScheduler *scheduler, gint64 now_us, gint64 *retry_at);
/* The frame took 'bytes' on the wire. */
void drv_scheduler_charge(DrvScheduler *scheduler, DrvSendQueue *queue, gsize bytes, gint64 now_us);
