/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/batch-private.h"
#include "precopy/batch-writer.h"
#include "precopy/kept-pages-private.h"
#include "precopy/page-table-private.h"

/* The record that more pages, or bytes, may be added to. */
typedef struct {
    DrvRecordKind kind; /* ZERO, LITERAL or OPAQUE; 0: none */
    guint block;
    guint64 next; /* page */
    gboolean as_page;
    guint8 fill;
    gboolean keep;
    guint32 next_slot; /* 'keep' */
    gsize count_at;    /* where its count is in the batch */
} DrvBatchOpen;

/* What has been taken of a batch. */
typedef struct {
    gsize used;      /* bytes */
    guint64 emitted; /* bytes that it makes re-emitted, at most */
    guint32 placed;  /* pages for the receiver to place */
    DrvBatchOpen open;
} DrvBatchRoom;

/* Pages that are to become one record, or a part of one. */
typedef struct {
    DrvVerdict verdict;
    guint block;
    gboolean placeable;
    gboolean has_id;
    gboolean as_page;
    guint8 fill;
    gsize id_len;
    guint64 first;
    guint32 count;
} DrvBatchPages;

struct _DrvBatchWriter {
    DrvPageTable *table;
    DrvKeptUser *kept; /* borrowed; may be NULL */
    gboolean waits;    /* for a page that another job has on its way */
    guint8 *out;
    gsize size;
    DrvBatchHead head;
    DrvBatchRoom room;
    gboolean has_blocks;
    gsize raw; /* bytes of the stream */
    DrvPageCounts counts;

    /* Over all batches */
    gboolean as_bytes; /* of the event being added: 'done' counts bytes */
    gboolean lost;     /* the table is, and this stream's QEMU knows what CONTINUE refers to */
    gint last_block;   /* of the last page added; -1: none */
    guint64 last_page;
    gint qemu_block; /* of the last page added that QEMU is given */
};

/* What a batch has to be after. */
typedef enum {
    DRV_BATCH_WAIT_NONE,
    DRV_BATCH_WAIT_LOST, /* all that was placed before the way was lost */
    DRV_BATCH_WAIT_ALL,  /* all batches begun so far */
} DrvBatchWait;

/* ---- batch-room.c: room in the batch, and records ---- */

/* Takes what the bytes, what they make re-emitted, and so many pages to be placed need; FALSE and
 * nothing taken when there is not as much. */
gboolean drv_batch_take_bytes(DrvBatchRoom *room, gsize size, gsize bytes, guint64 emitted,
                              guint32 placed);
/* The same for pages, as a new record or a part of the open one. */
gboolean drv_batch_take_room(DrvBatchRoom *room, gsize size, const DrvBatchPages *pages);

DrvCursor drv_batch_cursor_at(const DrvBatchWriter *writer, gsize at);
void drv_batch_put_head(DrvCursor *out, DrvRecordKind kind, guint8 flags, guint block);
void drv_batch_add_to_count(DrvBatchWriter *writer, gsize n);

/* Puts pages for which there is room; 'content' is of one page that is not zero. 'raw': bytes that
 * they took in the stream. */
void drv_batch_put_pages(DrvBatchWriter *writer, const DrvBatchPages *pages, const guint8 *content,
                         gsize raw);

/* Under the table's lock: gives the batch a number if it has none. FALSE: another batch that this
 * one must come after has a higher number already. */
gboolean drv_batch_number(DrvBatchWriter *writer, DrvBatchWait wait);

/* Under the table's lock: whether the batch may hold pages of the block, and what it has to wait
 * for then. 'block' may be NULL. */
gboolean drv_batch_enter(DrvBatchWriter *writer, const DrvTableBlock *block);

/* ---- batch-pages.c: runs of pages ---- */

/* Whether the run can be put together again from what a record says. */
gboolean drv_batch_is_regular(const DrvBatchWriter *writer, const DrvStream *stream,
                              const DrvStreamEvent *event);

/* Adds pages of a regular run; FALSE when there is no room for the next, or this batch may not have
 * it. */
gboolean drv_batch_add_run(DrvBatchWriter *writer, const DrvStream *stream,
                           const DrvStreamEvent *event, guint32 *done);
