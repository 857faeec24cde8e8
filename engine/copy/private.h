/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/channel-set.h"
#include "engine/copy/group.h"
#include "engine/copy/spec.h"
#include "engine/copy/view.h"
#include "engine/image/scan.h"
#include "engine/job/job.h"

/* The source's half of a copy, for the files that it is made of: source.c tells how it goes, and
 * source-view.c how it goes with a disk of a running guest. */
typedef struct {
    DrvJob base;
    DrvCopySpec *spec;
    DrvCopyGroups *groups; /* borrowed */

    DrvDiskView *view; /* NULL: an image is copied */
    gboolean looked;   /* the disk was looked at, before any of its group is read */
    gboolean checking; /* ... and the destination is asked whether it can take it */
    gboolean parting;  /* the view is taken back, as the destination has all of it */
    gboolean parted;   /* ... and was */
    char *left;        /* what was left in QEMU then; NULL: nothing */
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

/* --- source.c --- */

/* Takes the error. Those that have ended already do not mind. */
void copy_fail(DrvCopy *self, GError *error);
/* FAILED or CANCELLED, with all given back. */
void copy_end_as_failed(DrvCopy *self);
/* There is something to be sent. */
void copy_go_on(DrvCopy *self);
/* The destination has all of it, and others of the group may not be as far. */
void copy_hold(DrvCopy *self);
/* The session with the destination, which is told of by peer_ops; and back, with all that was begun
 * in it. The source stays; the thread, if it sends, will find its socket shut. */
void copy_connect(DrvCopy *self);
void copy_drop_attempt(DrvCopy *self);
/* What a call says of the image over there; 'format' if nobody said which. */
JsonObject *copy_target_args(DrvCopy *self, const char *format);
/* How many read at the same time. */
guint copy_users(void);

/* --- source-view.c --- */

extern const DrvDiskViewOps copy_view_ops;
void copy_view_begin(DrvCopy *self);
/* Its turn, for its group. */
void copy_view_turn(DrvJob *job);
/* The session is there for that. */
void copy_view_ask_check(DrvCopy *self);
/* The destination has all of the disk: nothing is to stay in QEMU until the others have, too. */
void copy_view_part(DrvCopy *self);
/* Nothing can be read any more. */
gboolean copy_view_is_gone(const DrvCopy *self);
/* The error then; 'why' is a clause. */
GError *copy_view_lost(const char *why);
/* After these the job ends, as DONE and as what copy_end_as_failed() says. */
void copy_view_end(DrvCopy *self);
void copy_view_take_back(DrvCopy *self);
