/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"
#include "precopy/batch-reader.h"
#include "precopy/page-store.h"

/* A job's blocks as its batches number them, and where they are. */
typedef struct {
    DrvBatchBlock blocks[DRV_STREAM_MAX_BLOCKS];
    guint reach[DRV_STREAM_MAX_BLOCKS]; /* of placeable ones: their number in the guest's RAM */
    guint n;
} DrvRamBlocks;

/* Takes a BLOCK record in. FALSE with DRV_ERROR_PROTOCOL when its number is out of turn. */
gboolean drv_ram_blocks_add(DrvRamBlocks *blocks, DrvGuestRam *ram, const DrvRecord *record,
                            GError **error);

/* Keeps the pages that are to be kept; 'store' may be NULL, then there must be none. Only looks at
 * the reader's records. DRV_ERROR_PROTOCOL. */
gboolean drv_ram_keep(DrvPageStore *store, const DrvBatchReader *reader, GError **error);

/*
 * Writes all pages of a batch that are to be placed. Every page of a DELTA, DUP or KEPT record is
 * read back and summed up: DRV_ERROR_MISMATCH when the sum is not the sender's. On any error some
 * of the pages may have been written.
 */
gboolean drv_ram_apply(DrvGuestRam *ram, DrvPageStore *store, const DrvRamBlocks *blocks,
                       DrvBatchReader *reader, const guint8 digest[DRV_PAGE_SECRET],
                       GError **error);
