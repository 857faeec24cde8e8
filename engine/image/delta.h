/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/digest.h"

/*
 * What a disk's channel carries where the destination's disk holds an older version
 * (docs/peer-protocol.md): each frame is a row of records, a header of 16 bytes each, that stand
 * for what QEMU's NBD client says.
 *
 *   BYTES    number of bytes, which follow
 *   BLOCKS   number of blocks, the first one: their bytes as the destination's disk has them
 */
typedef enum { DRV_DELTA_BYTES = 1, DRV_DELTA_BLOCKS } DrvDeltaKind;

typedef struct {
    DrvDeltaKind kind;
    guint32 count;
    guint64 first;       /* BLOCKS */
    const guint8 *bytes; /* BYTES; borrowed */
} DrvDeltaRecord;

#define DRV_DELTA_HEAD 16
/* Of a frame, what is taken from blocks. */
#define DRV_DELTA_BLOCKS_MAX (1u << 20)
/* Of a job's disks, all together: 64 MiB of leaves at either end. */
#define DRV_DELTA_LEAVES_MAX (1u << 21)
#define DRV_DELTA_BLOCK_MIN DRV_IMAGE_BLOCK_MIN
#define DRV_DELTA_BLOCK_MAX (1u << 20)

/* From 64 KiB to 1 MiB, as QEMU's mirror writes no more than that at once: for disks of so many
 * bytes together. 0: they are too big. */
guint32 drv_delta_block_size(guint64 bytes, guint disks);
gboolean drv_delta_block_is_valid(gint64 block);

void drv_delta_put(const DrvDeltaRecord *record, guint8 head[DRV_DELTA_HEAD]);
/* The record at '*pos' of a frame, which moves behind it. DRV_ERROR_PROTOCOL for one that does not
 * fit the frame, or the disk. */
gboolean drv_delta_get(const guint8 *frame, gsize len, gsize *pos, const DrvImageDigest *layout,
                       DrvDeltaRecord *record, GError **error);
/* Checks all of a frame; '*made' receives how many bytes it stands for. */
gboolean drv_delta_check(const guint8 *frame, gsize len, const DrvImageDigest *layout, gsize *made,
                         GError **error);
