/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec-nbd.h"
#include "engine/channel/nbd-handshake.h"
#include "engine/host/disks.h"
#include "engine/image/delta-send.h"
#include "engine/live/source-private.h"
#include "engine/live/mirror-pace.h"

/* What the files of the source's half of '--disks mirror' share. */

/* One disk's. */
typedef struct {
    const DrvDisk *disk;
    char *id;            /* of the node, the job and the export */
    DrvNbdExport export; /* as the destination's QEMU serves it */
    gint64 done;         /* as QEMU counts */
    gint64 total;
    gboolean ready;
    gboolean writing; /* the last error was at the destination's end */
    gboolean stopped; /* by an error */
    gboolean completed;

    DrvMirrorPace pace;
    char *doubt;       /* why it is not expected to become level; NULL: it is */
    gboolean judged;   /* what is to be done about that was decided */
    gboolean blocking; /* the guest's writes wait for the destination */
    gboolean again;    /* it is being ended, to begin anew so */

    DrvDeltaKnown *known; /* what the destination's disk holds; NULL: that is of no use */
    gint64 hashed;        /* bytes of that which it has hashed */
} LiveMirror;

struct _LiveDisks {
    GPtrArray *all;     /* of DrvDisk */
    GPtrArray *mirrors; /* of LiveMirror: of those that the guest can write to */
    DrvListener *listener;
    DrvChannelSet *channels; /* NULL: not yet, or hung up */
    DrvNbdTally *tally;      /* of what is written */
    GQueue arrived;          /* connections that wait to be greeted, one after the other, ... */
    guint greeted;           /* ... so many have been, ... */
    gboolean greeting;       /* ... one is being, ... */
    LiveOffers offers;       /* ... and those wait for their channel */
    guint at;                /* the node that is being added, or the mirror that is being begun */
    gboolean connecting;     /* the step at hand is that for all nodes to have their channels */
    gboolean pausing; /* ... or that for all mirrors, and the one at hand is to pause first */
    gboolean waiting; /* the step at hand is that for all to be level */
    gboolean completing;
    GSource *poll;
    guint unanswered;  /* times in a row that QEMU was asked how far it is ... */
    guint64 moved;     /* ... what had gone to the destination and come from it by then ... */
    guint still;       /* ... and times in a row that this was no more */
    DrvClass class;    /* how urgent what is sent is by itself */
    gboolean pressing; /* ... but QEMU, with its guest, stands still until it is sent */

    gboolean hashing; /* the step at hand is that for the leaves of the destination's disks ... */
    guint fetching;   /* ... for which so many calls are under way ... */
    guint fetch_disk; /* ... and the next one is for these */
    guint64 fetch_block;
};

/* Leaves in an answer to job.leaves, unless fewer are left. */
#define LIVE_LEAVES G_GUINT64_CONSTANT(1024)

LiveMirror *live_mirror_at(LiveSource *self, guint i);
/* NULL: it is none of ours. */
LiveMirror *live_find_mirror(LiveSource *self, const char *id);
/* Whether QEMU, and so its guest, waits for what is under way to the destination. */
void live_disks_press(LiveSource *self, gboolean pressing);
/* source-disks-begin.c: one more disk has its channel. */
void live_disks_opened(LiveSource *self);
/* source-disks-begin.c: how the mirror's block job is, by an event or when asked. */
void live_mirror_status(LiveSource *self, const LiveMirror *mirror, const char *status);
/* source-disks-level.c: the first mirror has begun; from now on QEMU is asked how they are. */
void live_disks_watch(LiveSource *self);
/* For blockdev-mirror. */
JsonNode *live_mirror_args(LiveSource *self, const LiveMirror *mirror);
/* The mirror has ended, as it was told to, so that it can begin anew. */
void live_mirror_again(LiveSource *self, LiveMirror *mirror);
