/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/host/vm.h"

/*
 * How much of its memory a guest writes to within a time, by QEMU's calc-dirty-rate.
 *
 * There are three ways, and none of them is good everywhere. QEMU says which its accelerator has by
 * refusing the others, but for one: QEMU 7.2 dies when it is asked for the dirty bitmap under TCG.
 */
typedef enum {
    DRV_DIRTY_RING,     /* KVM's dirty ring: exact */
    DRV_DIRTY_BITMAP,   /* KVM's dirty bitmaps: exact */
    DRV_DIRTY_SAMPLING, /* pages that look different afterwards, out of a sample: misses what is
                           written over with the same, and blocks below 128 MiB */
    DRV_DIRTY_MODES
} DrvDirtyMode;

/* "dirty-ring", "dirty-bitmap", "page-sampling": QEMU's words. Static storage. */
const char *drv_dirty_mode_name(DrvDirtyMode mode);

typedef struct {
    DrvDirtyMode mode;
    guint ms;      /* for so long; may be more than was asked for */
    guint64 bytes; /* distinct, to the MiB */
} DrvDirtyRate;

/* Measures for 'ms', 50 to 60000. QEMU 7.2 knows whole seconds only: it gets them rounded up. What
 * is begun and then cancelled ends in QEMU by itself, and leaves nothing behind.
 *
 * Errors: of libqmp (QEMU refuses while another measurement is under way); DRV_ERROR_TIMEOUT;
 * G_IO_ERROR_CANCELLED. */
void drv_dirty_rate_async(QmpClient *client, const DrvVm *vm, guint ms, GCancellable *cancellable,
                          GAsyncReadyCallback callback, gpointer user_data);
gboolean drv_dirty_rate_finish(GAsyncResult *result, DrvDirtyRate *rate, GError **error);
