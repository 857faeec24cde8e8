/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/kept-pages.h"

/*
 * What the source remembers of a job's pages (docs/pages.md): hashes of what was sent last, and
 * which batch wrote or read a page last. One table for all channels of a job; every function may be
 * called by any thread.
 */
typedef struct _DrvPageTable DrvPageTable;

#define DRV_DEDUP_MEMORY_DEFAULT ((gsize)16 << 20)

/* Pages by what they became, and bytes. */
typedef struct {
    guint64 zero, dup, delta, literal;
    guint64 unchanged;    /* of 'delta': pages without any changed piece */
    guint64 kept;         /* of 'dup': pages that the destination had kept, of any guest */
    guint64 opaque_bytes; /* of the stream that are no pages, or were not taken for any */
    guint64 saved_bytes;  /* of the stream that batches had no need to carry */
} DrvPageCounts;

/*
 * 'pieces' is the secret of the hashes that decide what a page is sent as, and never leaves the
 * source; 'digest' the one that the receiver knows as well. They must differ. At most
 * 'dedup_memory' bytes go to finding duplicates, 0: none are found.
 */
DrvPageTable *drv_page_table_new(const guint8 pieces[DRV_PAGE_SECRET],
                                 const guint8 digest[DRV_PAGE_SECRET], gsize dedup_memory);
/* Before the first block: pages may be found among those that the destination keeps, too. A
 * reference is taken. */
void drv_page_table_use_kept(DrvPageTable *table, DrvKeptPages *kept);
void drv_page_table_free(DrvPageTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvPageTable, drv_page_table_free)

/*
 * The next block of the RAM's list, 'number' from 0 on, before its RAM_BLOCK event goes into a
 * batch. 'placeable': the receiver writes its pages itself, so that what was sent last is what is
 * there. 'size' in bytes; takes address space for state of 1.8 % of it, memory for as much as is
 * sent. FALSE with DRV_ERROR_PROTOCOL for a number out of turn, DRV_ERROR_LIMIT when there is no
 * room: the table is as before.
 */
gboolean drv_page_table_add_block(DrvPageTable *table, guint number, const char *id, guint64 size,
                                  gboolean placeable, GError **error);

/* The number of a block by its id, or -1. */
gint drv_page_table_find_block(DrvPageTable *table, const char *id);

/* Bytes of memory in use now. */
guint64 drv_page_table_memory(DrvPageTable *table);

void drv_page_table_counts(DrvPageTable *table, DrvPageCounts *counts);

/* From now on QEMU places all pages itself: writers pass on everything as opaque bytes. Happens by
 * itself when a stream with placeable blocks is not understood any more. 'why' is a clause for
 * people, and static; the first one stays. */
void drv_page_table_lose(DrvPageTable *table, const char *why);
gboolean drv_page_table_lost(DrvPageTable *table);
/* Why; NULL if it has not. */
const char *drv_page_table_why_lost(DrvPageTable *table);
