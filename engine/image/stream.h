/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/digest.h"

/*
 * What a copy says over its channel (docs/peer-protocol.md). From the source, records with a header
 * of 16 bytes, in the order of their blocks:
 *
 *   DATA  first block, bytes that follow      ZERO  first block, number of blocks
 *   END   number of blocks, 64: the digest follows in hexadecimal digits
 *
 * From the destination, if it has something to begin with: its leaves, 32 bytes each, in order. The
 * source sends nothing of a block before it has the leaf, and leaves out what is the same.
 */
typedef enum { DRV_RECORD_DATA = 1, DRV_RECORD_ZERO, DRV_RECORD_END } DrvRecordType;

typedef struct {
    DrvRecordType type;
    guint64 first;
    guint32 count; /* bytes (DATA, END) or blocks (ZERO) */
} DrvRecord;

#define DRV_RECORD_LEN 16
#define DRV_RECORD_DATA_MAX DRV_IMAGE_BLOCK_MAX
#define DRV_RECORD_ROOT_LEN 64

void drv_record_put(const DrvRecord *record, guint8 bytes[DRV_RECORD_LEN]);
/* Checks all that can be checked against the image's layout, and that it begins at block 'from' or
 * behind. 'blocks' receives how many blocks it covers. DRV_ERROR_PROTOCOL. */
gboolean drv_record_get(const guint8 bytes[DRV_RECORD_LEN], const DrvImageDigest *layout,
                        guint64 from, DrvRecord *record, guint64 *blocks, GError **error);

/* All of it, over a blocking socket. DRV_ERROR_UNREACHABLE when that ends before. */
gboolean drv_stream_read(int fd, void *bytes, gsize len, GError **error);
gboolean drv_stream_write(int fd, const void *bytes, gsize len, GError **error);
