/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec.h"
#include "engine/image/delta.h"
#include "engine/transfer/transfer.h"

/*
 * The destination's side of a disk's delta: a disk that QEMU serves over NBD, hashed, and read
 * again where the source names a block instead of sending it.
 */
typedef struct _DrvDeltaDisk DrvDeltaDisk;

typedef struct {
    const char *socket; /* QEMU's */
    const char *name;   /* of the export */
    const char *shown;  /* in messages */
    guint64 size;
    guint32 block;
    /* Called once, on the control thread, when blocks cannot be put in their places: nothing more
     * is given to QEMU then. */
    void (*failed)(const GError *error, gpointer data);
    gpointer data;
} DrvDeltaDiskParams;

/* Connects to nothing yet. DRV_ERROR_LIMIT. */
DrvDeltaDisk *drv_delta_disk_new(DrvTransfer *transfer, const DrvDeltaDiskParams *params,
                                 GError **error);
DrvDeltaDisk *drv_delta_disk_ref(DrvDeltaDisk *disk);
void drv_delta_disk_unref(DrvDeltaDisk *disk);
/* Control thread: ends whatever goes on with it, and lets go of it; 'failed' is not called any
 * more. NULL is allowed. */
void drv_delta_disk_drop(DrvDeltaDisk *disk);

/* Hashes all of it, but what is known to be zeros. Blocks: for a thread of its own, with a
 * reference; once, before a codec. DRV_ERROR_QEMU, and whatever comes of it that the disk was
 * dropped. */
gboolean drv_delta_disk_hash(DrvDeltaDisk *disk, GError **error);
/* Any thread: bytes dealt with so far. */
guint64 drv_delta_disk_hashed(DrvDeltaDisk *disk);
/* Its leaves, once hashed. */
const DrvImageDigest *drv_delta_disk_digest(const DrvDeltaDisk *disk);

/* The codec of its channel: takes frames of records from the peer; what goes back passes as it is.
 */
DrvChannelCodec *drv_delta_receive_new(DrvDeltaDisk *disk);
