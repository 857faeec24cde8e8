/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/channel-set.h"
#include "engine/copy/group.h"
#include "engine/copy/spec.h"
#include "engine/copy/view.h"
#include "engine/image/scan.h"
#include "engine/job/job.h"

/* The source's half of a copy, for the files that it is made of: source.c tells how it goes. */
typedef struct {
    DrvJob base;
    DrvCopySpec *spec;
    DrvCopyGroups *groups; /* borrowed */

    DrvDiskView *view; /* NULL: an image is copied */
    DrvStore *store;   /* the view's, if there is one */
    char *format;      /* the source's */
    GThread *thread;   /* the one that runs, or NULL */
    GError *failure;   /* the thread's */
    DrvCopyCount count;
    char *digest;
    int fd; /* our end of the pair while an attempt lasts; -1 */

    DrvPeer *peer;
    gboolean offered; /* this attempt has begun */
    gboolean older;   /* the destination has something to begin with */
    gboolean held;    /* the destination has all of it, and gives it no name yet */
    gboolean naming;  /* ... and was told to */
    gboolean whole;   /* the destination has the image: there is no way back */
    gboolean again;   /* the attempt is over: another one when its thread has ended */
    DrvShaper *shaper;
    DrvChannelSet *channel;
    guint64 wire; /* of attempts before */
    guint attempts, reconnects, lanes;
    gint64 lost_us; /* since when the other end is away; 0: it is not */
    guint retry, tick;
} DrvCopy;

/* The report of one that is complete, and the API's "progress". */
JsonObject *drv_copy_result(DrvCopy *self);
JsonObject *drv_copy_progress(DrvJob *job);
