/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Buckets of eight entries, each a cache line, so that looking and putting cost one miss together.
 * An entry is 64 bits:
 *
 *     1 | 21 bits of the key | block, 10 bits | page, 32 bits
 *
 * The key's high bits choose the bucket, its low ones are in the entry: few pages are compared in
 * vain. An empty entry is 0. A bucket that is full loses its entry with the same bits, or the next
 * in turn.
 */
#include "precopy/dup-index.h"

#include "precopy/stream.h"

#define VALID ((guint64)1 << 63)
#define TAG_SHIFT 42
#define TAG_MASK (((guint64)1 << 21) - 1)
#define BLOCK_SHIFT 32
#define BLOCK_MASK 0x3ffu

G_STATIC_ASSERT(DRV_STREAM_MAX_BLOCKS <= BLOCK_MASK + 1);

void
drv_dup_index_init(DrvDupIndex *index, guint64 *entries, gsize bytes)
{
    *index = (DrvDupIndex){.entries = entries, .n_buckets = bytes / DRV_DUP_BUCKET_BYTES};
}

static guint64 *
bucket_of(const DrvDupIndex *index, guint64 key)
{
    gsize number = (gsize)(((unsigned __int128)key * index->n_buckets) >> 64);
    return index->entries + number * DRV_DUP_BUCKET;
}

static guint64
tagged(guint64 key)
{
    return VALID | (key & TAG_MASK) << TAG_SHIFT;
}

static guint64
tag_of(guint64 entry)
{
    return entry & (VALID | TAG_MASK << TAG_SHIFT);
}

guint
drv_dup_index_find(const DrvDupIndex *index, guint64 key, DrvDupPlace found[DRV_DUP_BUCKET])
{
    const guint64 *bucket = bucket_of(index, key);
    guint n = 0;
    for (guint i = 0; i < DRV_DUP_BUCKET; i++)
        if (tag_of(bucket[i]) == tagged(key))
            found[n++] = (DrvDupPlace){.block = (guint)(bucket[i] >> BLOCK_SHIFT) & BLOCK_MASK,
                                       .page = (guint32)bucket[i]};
    return n;
}

void
drv_dup_index_put(DrvDupIndex *index, guint64 key, DrvDupPlace place)
{
    guint64 *bucket = bucket_of(index, key);
    guint64 *at = NULL;
    for (guint i = 0; i < DRV_DUP_BUCKET; i++) {
        if (tag_of(bucket[i]) == tagged(key)) {
            at = &bucket[i];
            break;
        }
        if (at == NULL && bucket[i] == 0)
            at = &bucket[i];
    }
    if (at == NULL)
        at = &bucket[index->victim++ % DRV_DUP_BUCKET];
    *at = tagged(key) | (guint64)place.block << BLOCK_SHIFT | place.page;
}

void
drv_dup_index_prefetch(const DrvDupIndex *index, guint64 key)
{
    __builtin_prefetch(bucket_of(index, key), 1);
}
