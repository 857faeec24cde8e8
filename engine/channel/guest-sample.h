/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"
#include "engine/transfer/frame.h"

/*
 * What a guest's memory is like, from a sample of it: how much is in use, how well that packs, and
 * how fast. While the guest runs, too: an estimate does not mind.
 */
typedef struct {
    guint64 pages;                 /* looked at */
    guint64 nonzero;               /* of them */
    guint64 bytes;                 /* of these: packed, to see how well that goes */
    double ratio[DRV_CODEC_COUNT]; /* 1 and above; 0: not tried */
    double speed[DRV_CODEC_COUNT]; /* bytes a second that one thread packs */
} DrvGuestSample;

/* Looks at about 'pages' pages of all blocks that are reachable, and not at those that were never
 * touched. DRV_ERROR_NOT_FOUND when none is reachable; errors of drv_guest_ram_read(). */
gboolean drv_guest_ram_sample(DrvGuestRam *ram, guint pages, DrvGuestSample *sample,
                              GError **error);

/* The same on a thread of its own, which takes the handle. */
void drv_guest_ram_sample_async(DrvGuestRam *ram, guint pages, GCancellable *cancellable,
                                GAsyncReadyCallback callback, gpointer user_data);
gboolean drv_guest_ram_sample_finish(GAsyncResult *result, DrvGuestSample *sample, GError **error);
