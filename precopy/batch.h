/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/emit.h"
#include "precopy/page.h"

/*
 * A batch: a piece of QEMU's main stream as records, the content of one frame. docs/pages.md has
 * the bytes and the rules. Here is what both ends share; batch-writer.h makes batches,
 * batch-reader.h takes them apart.
 */

#define DRV_BATCH_MAX ((gsize)128 << 10) /* bytes of a batch, and of what it makes re-emitted */
#define DRV_BATCH_MIN ((gsize)8 << 10)   /* shortest room that a writer may be given */
#define DRV_BATCH_HEAD 24

typedef struct {
    guint64 number; /* 1, 2, 3 ... over all channels of a job, without a gap */
    guint64 after;  /* all batches up to this one must have been placed before; < number */
    guint64 digest; /* sum of drv_batch_digest() over the pages of DELTA, DUP and KEPT records,
                     * each as it is when its record has been applied */
} DrvBatchHead;

/* Only the head is looked at; FALSE with DRV_ERROR_PROTOCOL. */
gboolean drv_batch_head(const guint8 *data, gsize len, DrvBatchHead *head, GError **error);

typedef enum {
    DRV_RECORD_OPAQUE = 1, /* bytes, len: for QEMU */
    DRV_RECORD_BLOCK,      /* block: its number; id, id_len, size. Never together with pages */
    DRV_RECORD_ZERO,       /* block, first, count, fill */
    DRV_RECORD_LITERAL,    /* block, first, count, bytes: the pages, one after the other; slot */
    DRV_RECORD_DELTA,      /* block, first, mask, bytes: the pieces, one for each bit */
    DRV_RECORD_DUP,        /* block, first, from_block, from */
    /*
     * block, first: QEMU's CONTINUE is to refer to this block from here on, as the last page in the
     * stream was this one, and QEMU did not see it. Changes nothing in the page.
     */
    DRV_RECORD_NAME,
    DRV_RECORD_KEPT, /* block, first, slot: a page that the receiver keeps */
} DrvRecordKind;

typedef struct {
    DrvRecordKind kind;
    gboolean has_id;  /* ZERO, LITERAL: QEMU's head of the first page named the block */
    gboolean as_page; /* ZERO: they came as whole pages */
    gboolean is_out;  /* BLOCK: its bytes came before, as opaque ones */
    gboolean keep;    /* LITERAL: the receiver is to keep the pages, in slots from 'slot' on */
    guint block;
    guint64 first; /* page of the block */
    guint32 count; /* pages; 1 for DELTA, DUP, NAME, KEPT */
    guint8 fill;
    guint8 mask; /* bit i: piece i, from byte i * DRV_PIECE_LEN on */
    guint from_block;
    guint64 from;        /* page */
    guint32 slot;        /* of the receiver's store; whoever has that knows how many there are */
    const guint8 *bytes; /* in the batch */
    gsize len;
    const char *id; /* in the batch, not terminated */
    gsize id_len;
    guint64 size;
} DrvRecord;

/* A block as the receiver knows it. */
typedef struct {
    DrvRamBlock ram;
    gboolean placeable;
} DrvBatchBlock;

/* The block that a BLOCK record describes. */
void drv_batch_block(const DrvRecord *record, gboolean placeable, DrvBatchBlock *block);

/* Relay: writes what the record was in QEMU's stream, byte for byte. At most DRV_BATCH_MAX bytes
 * for a whole batch. */
void drv_batch_relay(DrvCursor *out, const DrvBatchBlock *blocks, const DrvRecord *record);

/* Direct: writes what QEMU has to be given of the record, which is nothing for pages of placeable
 * blocks. At most DRV_BATCH_MAX bytes for a whole batch. */
void drv_batch_direct(DrvEmit *emit, DrvCursor *out, const DrvBatchBlock *blocks,
                      const DrvRecord *record);

/* The record's pages are for whom writes to the guest's RAM: ZERO, LITERAL, DELTA, DUP and KEPT of
 * placeable blocks. */
gboolean drv_batch_is_placed(const DrvBatchBlock *blocks, const DrvRecord *record);

/* Puts a DELTA record's pieces into a page. */
void drv_batch_patch(const DrvRecord *record, guint8 page[DRV_PAGE_LEN]);

/* What a page adds to a batch's digest. */
guint64 drv_batch_digest(const guint8 secret[DRV_PAGE_SECRET], guint block, guint64 page,
                         const guint8 content[DRV_PAGE_LEN]);

/* Whether the pages' digest, summed up by who placed them, is the head's; FALSE with
 * DRV_ERROR_MISMATCH. */
gboolean drv_batch_check(const DrvBatchHead *head, guint64 digest, GError **error);
