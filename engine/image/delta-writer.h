/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/delta.h"

/*
 * The source's side of a disk's delta, without I/O: reads along what QEMU's NBD client says, and
 * writes it down as records (delta.h), with names instead of blocks that the destination has.
 */

/* What the destination's disk holds. Made on one thread, then given to a writer, from when on it is
 * that one's. */
typedef struct _DrvDeltaKnown DrvDeltaKnown;

DrvDeltaKnown *drv_delta_known_new(guint64 size, guint32 block, GError **error);
DrvDeltaKnown *drv_delta_known_ref(DrvDeltaKnown *known);
void drv_delta_known_unref(DrvDeltaKnown *known);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDeltaKnown, drv_delta_known_unref)
guint64 drv_delta_known_blocks(const DrvDeltaKnown *known);
/* 'count' leaves from block 'first' on; DRV_ERROR_PROTOCOL where there are not as many blocks. */
gboolean drv_delta_known_take(DrvDeltaKnown *known, guint64 first, const guint8 *leaves,
                              gsize count, GError **error);
/* Bytes that were named and not sent; any thread. */
guint64 drv_delta_known_reused(DrvDeltaKnown *known);

typedef struct _DrvDeltaWriter DrvDeltaWriter;

/* Takes a reference. */
DrvDeltaWriter *drv_delta_writer_new(DrvDeltaKnown *known);
void drv_delta_writer_free(DrvDeltaWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDeltaWriter, drv_delta_writer_free)

/* What is written from now on goes into 'frame'. */
void drv_delta_writer_begin(DrvDeltaWriter *writer, guint8 *frame, gsize size);
/* Bytes to be dealt with, when those before were; borrowed until then. */
void drv_delta_writer_push(DrvDeltaWriter *writer, const guint8 *bytes, gsize len);
/* Deals with them. FALSE: the frame is full, and there is more to write: begin another one. */
gboolean drv_delta_writer_run(DrvDeltaWriter *writer);
/* How long the frame has become; 0: nothing is in it. */
gsize drv_delta_writer_len(const DrvDeltaWriter *writer);
/* What was written to the disk since the call before, with data (whether or not it was sent) and as
 * zeros. */
void drv_delta_writer_count(DrvDeltaWriter *writer, guint64 *data, guint64 *zero);
