/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Where a content was sent before: a bounded table from the hash of a page's content to pages that
 * may have it. It forgets, and what it finds may be stale or wrong: whoever asks compares. Not
 * thread-safe, and it allocates nothing.
 */
typedef struct {
    guint64 *entries; /* borrowed */
    gsize n_buckets;
    guint victim;
} DrvDupIndex;

#define DRV_DUP_BUCKET 8 /* entries, a cache line */
#define DRV_DUP_BUCKET_BYTES (DRV_DUP_BUCKET * sizeof(guint64))

typedef struct {
    guint block; /* below 1024 */
    guint32 page;
} DrvDupPlace;

/* 'entries' is zeroed memory for at least one bucket; 'bytes' beyond the last whole one are left
 * alone. */
void drv_dup_index_init(DrvDupIndex *index, guint64 *entries, gsize bytes);

/* Pages that may have the content; returns how many. */
guint drv_dup_index_find(const DrvDupIndex *index, guint64 key, DrvDupPlace found[DRV_DUP_BUCKET]);

/* The page has the content now; something else is forgotten for it when there is no room. */
void drv_dup_index_put(DrvDupIndex *index, guint64 key, DrvDupPlace place);

/* Fetches what find and put will look at. */
void drv_dup_index_prefetch(const DrvDupIndex *index, guint64 key);
