/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/batch.h"

/*
 * Takes a batch apart. All of it is checked before the first record is given out: lengths, kinds
 * and flags, pages against their blocks' sizes, DELTA, DUP and KEPT for placeable blocks only, and
 * what it makes re-emitted against DRV_BATCH_MAX. Not slots: the store has their number.
 *
 * Blocks are known from BLOCK records, which come in a batch that every batch with pages of theirs
 * has to wait for: initialise the reader when all of drv_batch_head()'s 'after' was placed, not
 * earlier.
 */
typedef struct {
    DrvBatchHead head;
    gboolean has_blocks; /* BLOCK records, and no pages */
    gboolean has_placed; /* records of which drv_batch_is_placed() */
    gboolean has_kept;   /* pages to be kept */
    gsize emitted;       /* bytes it makes re-emitted, at most */
    /* private */
    DrvCursor in;
    const DrvBatchBlock *blocks;
    guint n_blocks;
} DrvBatchReader;

/* 'data' and 'blocks' are borrowed until the last record was used. FALSE with
 * DRV_ERROR_PROTOCOL. */
gboolean drv_batch_reader_init(DrvBatchReader *reader, const guint8 *data, gsize len,
                               const DrvBatchBlock *blocks, guint n_blocks, GError **error);

/* The next record in the order in which they are to be applied; FALSE after the last. */
gboolean drv_batch_reader_next(DrvBatchReader *reader, DrvRecord *record);
