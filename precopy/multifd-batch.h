/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/batch-writer.h"
#include "precopy/multifd.h"

/*
 * Puts the packets of a multifd channel into batches: pages of placeable blocks as such, the rest
 * as bytes for QEMU, whose channel then looks as if these pages had not been sent. One a channel,
 * beside its writer.
 */
typedef struct _DrvMultifdBatch DrvMultifdBatch;

/* All three must outlive it. */
DrvMultifdBatch *drv_multifd_batch_new(DrvPageTable *table, DrvBatchWriter *writer,
                                       const DrvMultifd *multifd);
void drv_multifd_batch_free(DrvMultifdBatch *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvMultifdBatch, drv_multifd_batch_free)

/* TRUE when all of the event is in; FALSE: finish the batch, begin another and go on with the same
 * event. */
gboolean drv_multifd_batch_add(DrvMultifdBatch *self, const DrvMultifdEvent *event);

/* The event that went in last has completed a SYNC packet. */
gboolean drv_multifd_batch_synced(const DrvMultifdBatch *self);
