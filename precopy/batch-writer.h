/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/batch.h"
#include "precopy/page-table.h"

/*
 * Makes batches of a main stream's events: one writer a channel, used by one thread at a time; all
 * writers of a job share the table.
 *
 *     drv_batch_writer_begin(writer, room, sizeof room);
 *     while (drv_stream_next(stream, &event)) {
 *         guint32 done = 0;
 *         while (!drv_batch_writer_add(writer, stream, &event, &done)) {
 *             send(room, drv_batch_writer_finish(writer));
 *             drv_batch_writer_begin(writer, room, sizeof room);
 *         }
 *     }
 *
 * A batch that has something in it has its number, and batches of other channels may have to wait
 * for it: finish it and send it when no more comes at once, and do not drop it.
 *
 * With placeable blocks: do not drv_stream_flush() as long as drv_stream_exact() and not
 * drv_stream_ram_ended(). QEMU never waits in the middle of a unit there, and half a page is one
 * that QEMU places itself, so that everything after it has to go the same way.
 */
typedef struct _DrvBatchWriter DrvBatchWriter;

/* 'table' must outlive the writer. */
DrvBatchWriter *drv_batch_writer_new(DrvPageTable *table);
void drv_batch_writer_free(DrvBatchWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvBatchWriter, drv_batch_writer_free)

/*
 * Before the first batch, with a table that uses the same pages: refers to pages that the
 * destination keeps, and has it keep others. 'user' is borrowed; each batch that is finished must
 * be told to drv_kept_user_sent(). Then adding may also be FALSE, even with an empty batch, as
 * drv_batch_writer_waits(): send what there is, and wait with drv_kept_user_wait().
 */
void drv_batch_writer_use_kept(DrvBatchWriter *writer, DrvKeptUser *user);
gboolean drv_batch_writer_waits(const DrvBatchWriter *writer);

/* 'size', DRV_BATCH_MIN to DRV_BATCH_MAX, bounds the batch and what it makes re-emitted. 'out' is
 * borrowed until the batch is finished. */
void drv_batch_writer_begin(DrvBatchWriter *writer, guint8 *out, gsize size);

/*
 * Adds the event, or as much as there is room for: from '*done' on, which is 0 for a new event and
 * counts pages of a run, bytes of anything else. TRUE when all is in; FALSE: finish, begin another
 * batch and go on. An empty batch always takes something.
 */
gboolean drv_batch_writer_add(DrvBatchWriter *writer, const DrvStream *stream,
                              const DrvStreamEvent *event, guint32 *done);

/*
 * The same for a channel that is no main stream (multifd-batch.h); a writer is used for one or the
 * other. Pages of a placeable block that lie side by side, 'content' NULL: that are zero. FALSE
 * also when the table is lost, and then no batch takes them.
 */
gboolean drv_batch_writer_add_pages(DrvBatchWriter *writer, guint block, guint64 first,
                                    guint32 count, const guint8 *content, guint32 *done);
/* Bytes for QEMU. Once the table is lost they come after all that was placed. */
gboolean drv_batch_writer_add_bytes(DrvBatchWriter *writer, const guint8 *bytes, gsize len,
                                    guint32 *done);

gboolean drv_batch_writer_is_empty(const DrvBatchWriter *writer);

/* Pages that went in whole, so far or until it was finished. */
guint32 drv_batch_writer_literal(const DrvBatchWriter *writer);

/* The length of the batch; 0 when nothing was added, and nothing is to be sent then. */
gsize drv_batch_writer_finish(DrvBatchWriter *writer);
