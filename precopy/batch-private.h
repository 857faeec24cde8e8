/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/batch.h"

/* The bytes of a batch, for writer and reader; docs/pages.md has the tables. */

/* Every record begins with kind, flags, and a block's number or 0; then comes */
enum {
    DRV_RECORD_HEAD = 4,
    DRV_OPAQUE_HEAD = DRV_RECORD_HEAD + 4,       /* len32 */
    DRV_BLOCK_HEAD = DRV_RECORD_HEAD + 8 + 1,    /* size64 id_len8 */
    DRV_ZERO_HEAD = DRV_RECORD_HEAD + 4 + 4 + 1, /* first32 count32 fill8 */
    DRV_LITERAL_HEAD = DRV_RECORD_HEAD + 4 + 4,  /* first32 count32, slot32 if to be kept */
    DRV_DELTA_HEAD = DRV_RECORD_HEAD + 4 + 1,    /* page32 mask8 */
    DRV_DUP_HEAD = DRV_RECORD_HEAD + 4 + 2 + 4,  /* page32 from_block16 from32 */
    DRV_NAME_HEAD = DRV_RECORD_HEAD + 4,         /* page32 */
    DRV_KEPT_HEAD = DRV_RECORD_HEAD + 4 + 4,     /* page32 slot32 */
};

enum {
    DRV_RECORD_HAS_ID = 0x01,  /* ZERO, LITERAL */
    DRV_RECORD_AS_PAGE = 0x02, /* ZERO, with fill 0 */
    DRV_RECORD_IS_OUT = 0x04,  /* BLOCK */
    DRV_RECORD_KEEP = 0x08,    /* LITERAL */
};

#define DRV_NAME_PAYLOAD 3 /* a delta's head: 1, and its length, 0, in 16 bits */

/* Pages that one batch has placed, at most: it bounds what a few bytes can make a receiver do. */
#define DRV_BATCH_MAX_PLACED 16384u

/* Bytes that a record of pages makes re-emitted, at most; 'id_len' is of its block's id. It is more
 * than relay writes when that leaves out the id: direct may have to put it in. */
static inline guint64
drv_pages_emitted(DrvRecordKind kind, gboolean as_page, guint32 count, gsize id_len)
{
    gsize payload = DRV_PAGE_LEN;
    if (kind == DRV_RECORD_NAME)
        payload = DRV_NAME_PAYLOAD;
    else if (kind == DRV_RECORD_ZERO && !as_page)
        payload = 1;
    return 1 + id_len + count * (guint64)(DRV_STREAM_WORD + payload);
}
