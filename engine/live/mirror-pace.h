/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Whether a disk's mirror becomes level, from what QEMU says of its job. Pure: times and counts are
 * passed in.
 *
 * A round is as long as it takes to carry as much as was left when it began, and a second at least.
 * A guest that lets its mirror become level has written less meanwhile: then clearly less is left
 * than before. After two rounds in which that was not so it will not be in the next, either. Bytes
 * are what is counted, so a slow link, or one that others use, only makes rounds longer.
 */
typedef struct {
    gboolean begun;
    gint64 since_us; /* of the round under way: it began, ... */
    guint64 done;    /* ... so much had been carried, ... */
    guint64 left;    /* ... so much was left */
    guint vain;      /* rounds without progress */
    double carried;  /* bytes a second, in the last round */
    double written;  /* the same: of what the guest wrote to */
} DrvMirrorPace;

/* All is judged anew: the mirror has begun anew, or there was no link for a while. */
void drv_mirror_pace_reset(DrvMirrorPace *pace);
/* 'done' bytes were carried so far, and 'left' are to be. TRUE: it does not become level. */
gboolean drv_mirror_pace_sample(DrvMirrorPace *pace, gint64 now_us, guint64 done, guint64 left);

/* How many bytes a mirror may have on their way, where 'disks' of them share a link of so many
 * bytes a second (0: not known). 0: as many as QEMU likes, which is 16 MiB. */
gint64 drv_mirror_pace_buffer(gint64 rate, guint disks);
