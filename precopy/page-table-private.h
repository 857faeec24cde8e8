/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/batch.h"
#include "precopy/page-table.h"

/* What the batch writers do with the table. */

typedef struct _DrvTableBlock DrvTableBlock;

/* What a page is to be sent as. */
typedef struct {
    DrvRecordKind kind; /* ZERO, LITERAL, DELTA, DUP or KEPT */
    guint8 mask;
    gboolean fresh; /* no content of the page was sent before, unless zero */
    gboolean keep;  /* LITERAL: the receiver is to keep it, in 'slot' */
    guint from_block;
    guint32 from;
    guint32 slot; /* KEPT too */
} DrvVerdict;

/* Without the lock. A block that was never added: NULL. */
DrvTableBlock *drv_page_table_block(DrvPageTable *table, guint number);
gboolean drv_table_block_placeable(const DrvTableBlock *block); /* FALSE for NULL */
guint64 drv_table_block_pages(const DrvTableBlock *block);
gboolean drv_page_table_has_placeable(DrvPageTable *table);
const guint8 *drv_page_table_digest_secret(const DrvPageTable *table);

/* Hashes a page, and fetches what a verdict on it takes. */
void drv_page_table_hash(const DrvPageTable *table, const guint8 *content, DrvPageHash *hash);
void drv_page_table_prefetch(DrvPageTable *table, const DrvTableBlock *block, guint64 page,
                             guint64 key);

/*
 * All below: under the lock. 'number' is the batch's. A batch that has none yet is given the next
 * number by drv_page_table_number(), when something really goes into it; until then ask with
 * drv_page_table_next().
 */
void drv_page_table_lock(DrvPageTable *table);
void drv_page_table_unlock(DrvPageTable *table);

guint64 drv_page_table_next(const DrvPageTable *table);
guint64 drv_page_table_number(DrvPageTable *table);
gboolean drv_page_table_is_lost(const DrvPageTable *table);
/* No batch with pages for the receiver to place has a higher number. Once lost only. */
guint64 drv_page_table_lost_at(const DrvPageTable *table);
/* Whether no other batch has a higher number. */
gboolean drv_page_table_is_newest(const DrvPageTable *table, guint64 number);

/* The batch has the block's BLOCK record. */
void drv_page_table_list(DrvTableBlock *block, guint64 number);
/* Whether the batch may hold any page of the block; raises 'after' to what it must wait for. */
gboolean drv_page_table_enter(const DrvTableBlock *block, guint64 number, guint64 *after);

/* What a page of a placeable block is to be sent as; 'hash' NULL: it is zero. FALSE: this batch may
 * not write it, as one with a higher number has to do with it, or this one has read it. Another
 * batch may: one that has no number yet always does. */
gboolean drv_page_table_judge(DrvPageTable *table, guint64 number, const DrvTableBlock *block,
                              guint64 page, const DrvPageHash *hash, DrvVerdict *verdict);

/* Remembers what was judged as sent with that batch, and raises 'after' to what it must wait for.
 */
void drv_page_table_settle(DrvPageTable *table, guint64 number, DrvTableBlock *block, guint64 page,
                           const DrvPageHash *hash, const DrvVerdict *verdict, guint64 *after);

void drv_page_table_count(DrvPageTable *table, const DrvPageCounts *counts);

/* For tests: from this number on batches are not told apart, but wait for all before them. */
void drv_page_table_set_last_stamp(DrvPageTable *table, guint32 last);
