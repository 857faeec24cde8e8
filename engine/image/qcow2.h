/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* What a qcow2 begins with, and what its tables are made of; all of it big endian. */
typedef struct {
    guint32 magic, version;
    guint64 backing_offset;
    guint32 backing_len, cluster_bits;
    guint64 size;
    guint32 encryption, l1_size;
    guint64 l1_offset, refcount_table_offset;
    guint32 refcount_table_clusters, snapshots;
    guint64 snapshots_offset, incompatible, compatible, autoclear;
    guint32 refcount_order, header_len;
} DrvQcow2Header;
G_STATIC_ASSERT(sizeof(DrvQcow2Header) == 104);

#define DRV_QCOW2_MAGIC 0x514649fbu /* "QFI", 0xfb */
/* Of entries of the L1 and L2 tables. */
#define DRV_QCOW2_COPIED (G_GUINT64_CONSTANT(1) << 63) /* referred to once */
#define DRV_QCOW2_OFFSET G_GUINT64_CONSTANT(0x00fffffffffffe00)
#define DRV_QCOW2_ZERO G_GUINT64_CONSTANT(1) /* L2: reads as zeros, wherever it is */
/* log2 of a refcount's bits, as QEMU makes them and drover knows them: 16. */
#define DRV_QCOW2_REFCOUNT_ORDER 4

static inline guint64
drv_qcow2_clusters(guint64 bytes, guint64 cluster)
{
    return (bytes + cluster - 1) / cluster;
}
