/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/ram-apply.h"

#include "common/error.h"

#include <string.h>

/*
 * Records are put off, so that the kernel is asked once for many pages: it takes as long to find a
 * page as to copy it. What is put off is applied in two steps, all that is to be read, and then all
 * that is to be written. keep_order() sees to it that this comes to the same as one record after
 * the other.
 */

/* Runs that are written together, and pages of them that are made up here. */
#define WRITES 256
#define PAGES 64

typedef struct {
    DrvGuestRam *ram;
    DrvPageStore *store; /* may be NULL */
    const DrvRamBlocks *blocks;
    const guint8 *secret;
    guint64 digest;

    DrvGuestRun writes[WRITES];
    guint n_writes;
    /* Pages that are made of others. Those from 'n_made' on are still to be. */
    DrvRecord changes[PAGES];
    guint8 *pages; /* made when needed */
    guint n_pages, n_made;

    /* Pages that may have something pending, all of one block and in ascending order. */
    guint block;
    guint64 low, high; /* high is the first after them */
} Apply;

gboolean
drv_ram_blocks_add(DrvRamBlocks *blocks, DrvGuestRam *ram, const DrvRecord *record, GError **error)
{
    if (record->block != blocks->n || blocks->n == DRV_STREAM_MAX_BLOCKS) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the peer names RAM block %u where number %u is to come", record->block,
                    blocks->n);
        return FALSE;
    }
    DrvBatchBlock *block = &blocks->blocks[blocks->n];
    drv_batch_block(record, FALSE, block);
    gint found = drv_guest_ram_find(ram, block->ram.id, strlen(block->ram.id), block->ram.size);
    block->placeable = found >= 0;
    blocks->reach[blocks->n++] = found >= 0 ? (guint)found : 0;
    return TRUE;
}

static DrvGuestRun
run_at(const Apply *self, guint block, guint64 page, const void *data, gsize len)
{
    return (DrvGuestRun){
        .block = self->blocks->reach[block],
        .offset = page * DRV_PAGE_LEN,
        .data = data,
        .len = len,
    };
}

static gboolean
put_writes(Apply *self, GError **error)
{
    guint n = self->n_writes;
    self->n_writes = 0;
    return n == 0 || drv_guest_ram_write(self->ram, self->writes, n, error);
}

static gboolean
write_run(Apply *self, DrvGuestRun run, GError **error)
{
    if (self->n_writes == WRITES && !put_writes(self, error))
        return FALSE;
    self->writes[self->n_writes++] = run;
    return TRUE;
}

/* The pieces of a page that a delta has changed, those that touch each other as one. */
static gboolean
write_delta(Apply *self, const DrvRecord *record, const guint8 *page, GError **error)
{
    for (guint i = 0; i < DRV_PAGE_PIECES; i++) {
        guint first = i;
        while (i < DRV_PAGE_PIECES && record->mask & 1u << i)
            i++;
        if (i == first)
            continue;
        DrvGuestRun run = run_at(self, record->block, record->first, page + first * DRV_PIECE_LEN,
                                 (i - first) * DRV_PIECE_LEN);
        run.offset += first * DRV_PIECE_LEN;
        if (!write_run(self, run, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
none_agreed(GError **error)
{
    g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                        "the peer speaks of kept pages, but none were to be kept");
    return FALSE;
}

gboolean
drv_ram_keep(DrvPageStore *store, const DrvBatchReader *reader, GError **error)
{
    DrvBatchReader records = *reader;
    DrvRecord record;
    if (store == NULL)
        return none_agreed(error);
    while (drv_batch_reader_next(&records, &record))
        if (record.keep &&
            !drv_page_store_put(store, record.slot, record.count, record.bytes, error))
            return FALSE;
    return TRUE;
}

static guint8 *
page_of(const Apply *self, guint change)
{
    return self->pages + (gsize)change * DRV_PAGE_LEN;
}

/* What the pages are made of. */
static gboolean
read_bases(Apply *self, GError **error)
{
    DrvGuestRoom rooms[PAGES];
    guint n = 0;
    for (guint i = self->n_made; i < self->n_pages; i++) {
        const DrvRecord *r = &self->changes[i];
        if (r->kind == DRV_RECORD_KEPT) {
            if (self->store == NULL)
                return none_agreed(error);
            if (!drv_page_store_get(self->store, r->slot, page_of(self, i), error))
                return FALSE;
            continue;
        }
        gboolean dup = r->kind == DRV_RECORD_DUP;
        rooms[n++] = (DrvGuestRoom){
            .block = self->blocks->reach[dup ? r->from_block : r->block],
            .offset = (dup ? r->from : r->first) * DRV_PAGE_LEN,
            .data = page_of(self, i),
            .len = DRV_PAGE_LEN,
        };
    }
    return n == 0 || drv_guest_ram_read_all(self->ram, rooms, n, error);
}

static gboolean
make_page(Apply *self, const DrvRecord *record, guint8 *page, GError **error)
{
    gboolean delta = record->kind == DRV_RECORD_DELTA;
    if (delta)
        drv_batch_patch(record, page);
    self->digest += drv_batch_digest(self->secret, record->block, record->first, page);
    return delta ? write_delta(self, record, page, error)
                 : write_run(self, run_at(self, record->block, record->first, page, DRV_PAGE_LEN),
                             error);
}

/* All that is to be read is read, and what it makes is looked at and queued to be written. */
static gboolean
make_pages(Apply *self, GError **error)
{
    if (!read_bases(self, error))
        return FALSE;
    for (; self->n_made < self->n_pages; self->n_made++)
        if (!make_page(self, &self->changes[self->n_made], page_of(self, self->n_made), error))
            return FALSE;
    return TRUE;
}

/* Nothing is put off any more. */
static gboolean
settle(Apply *self, GError **error)
{
    if (!make_pages(self, error) || !put_writes(self, error))
        return FALSE;
    self->n_pages = self->n_made = 0;
    return TRUE;
}

/* A page that is made of one that is there. */
static gboolean
change(Apply *self, const DrvRecord *record, GError **error)
{
    if (self->n_pages == PAGES && !settle(self, error))
        return FALSE;
    if (self->pages == NULL)
        self->pages = g_malloc(PAGES * DRV_PAGE_LEN);
    self->changes[self->n_pages++] = *record;
    return TRUE;
}

/* Pages that came as they are. Their place may be what one before was to be read from. */
static gboolean
literal(Apply *self, const DrvRecord *record, GError **error)
{
    if (self->n_writes == WRITES && !settle(self, error))
        return FALSE;
    return write_run(self,
                     run_at(self, record->block, record->first, record->bytes,
                            (gsize)record->count * DRV_PAGE_LEN),
                     error);
}

static gboolean
fill(Apply *self, const DrvRecord *record, GError **error)
{
    /* Done at once, so what is still to be read from there is read before. */
    if (!make_pages(self, error))
        return FALSE;
    if (record->fill == 0)
        return drv_guest_ram_zero(self->ram, self->blocks->reach[record->block],
                                  record->first * DRV_PAGE_LEN,
                                  (guint64)record->count * DRV_PAGE_LEN, NULL, error);
    guint8 page[DRV_PAGE_LEN];
    memset(page, record->fill, sizeof page);
    for (guint i = 0; i < record->count; i++) {
        DrvGuestRun run = run_at(self, record->block, record->first + i, page, DRV_PAGE_LEN);
        if (!drv_guest_ram_write(self->ram, &run, 1, error))
            return FALSE;
    }
    return TRUE;
}

/*
 * Records are to be applied in their order, and a page may come twice or be the source of a
 * duplicate. What is put off goes out first where that could matter, which is where a page that is
 * to be written comes again or is read. (A page that is to be read, and is written by a later
 * record, needs no care: reading comes first.) Within a round QEMU's pages ascend, so it seldom
 * matters.
 */
static gboolean
keep_order(Apply *self, const DrvRecord *record, GError **error)
{
    gboolean touched = self->high > 0;
    gboolean ascends = record->block == self->block && record->first >= self->high;
    gboolean reads = record->kind == DRV_RECORD_DUP && record->from_block == self->block &&
                     record->from >= self->low && record->from < self->high;
    if (touched && (!ascends || reads)) {
        if (!settle(self, error))
            return FALSE;
        self->high = 0;
    }
    if (self->high == 0)
        self->low = record->first;
    self->block = record->block;
    self->high = record->first + record->count;
    return TRUE;
}

static gboolean
apply(Apply *self, const DrvRecord *record, GError **error)
{
    if (!drv_batch_is_placed(self->blocks->blocks, record))
        return TRUE;
    if (!keep_order(self, record, error))
        return FALSE;
    switch (record->kind) {
    case DRV_RECORD_ZERO:
        return fill(self, record, error);
    case DRV_RECORD_LITERAL:
        return literal(self, record, error);
    case DRV_RECORD_DELTA:
    case DRV_RECORD_DUP:
    case DRV_RECORD_KEPT:
        return change(self, record, error);
    default:
        return TRUE;
    }
}

gboolean
drv_ram_apply(DrvGuestRam *ram, DrvPageStore *store, const DrvRamBlocks *blocks,
              DrvBatchReader *reader, const guint8 digest[DRV_PAGE_SECRET], GError **error)
{
    Apply self = {.ram = ram, .store = store, .blocks = blocks, .secret = digest};
    DrvRecord record;
    gboolean good = TRUE;
    while (good && drv_batch_reader_next(reader, &record))
        good = apply(&self, &record, error);
    good = good && settle(&self, error) && drv_batch_check(&reader->head, self.digest, error);
    g_free(self.pages);
    return good;
}
