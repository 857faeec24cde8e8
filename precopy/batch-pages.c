/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A run of pages goes into a batch in steps of at most 32 pages, each in three stages:
 *
 *     look    without the lock: zero? hashes
 *     decide  under the table's lock: what each page becomes, as far as there is room; remembered
 *     put     without the lock: the records, and the payloads that they carry
 *
 * Room is reckoned twice, when deciding and when putting, by the same function on two copies of
 * DrvBatchRoom: what was decided fits.
 */
#include "precopy/batch-writer-private.h"

#define STEP 32u
#define MAX_PAGE ((guint64)1 << 32)

static gboolean
is_zero(const guint8 *page)
{
    return page[0] == 0 && memcmp(page, page + 1, DRV_PAGE_LEN - 1) == 0;
}

/* A page as it was looked at. */
typedef struct {
    const guint8 *content;
    gboolean zero;
    DrvPageHash hash; /* of a placeable block's page that is not zero */
    DrvBatchPages pages;
} Look;

/* Pages that follow each other, wherever they came from. */
typedef struct {
    DrvTableBlock *block;
    guint number; /* of the block */
    gboolean placeable;
    gsize id_len;
    guint64 first; /* page */
    guint32 count;
    gboolean has_id;
    gboolean zero;
    guint8 fill;           /* of zero pages */
    const guint8 *content; /* of all others: the first ... */
    gsize stride;          /* ... and bytes to the next */
    gsize raw;             /* bytes that each takes in QEMU's stream */
} Run;

static Run
run_of(DrvBatchWriter *writer, const DrvStream *stream, const DrvStreamEvent *event)
{
    const DrvRamBlock *block = drv_stream_block(stream, event->pages.block);
    DrvTableBlock *known = drv_page_table_block(writer->table, event->pages.block);
    gboolean zero = event->pages.kind == DRV_PAGES_ZERO;
    gsize stride = DRV_STREAM_WORD + event->pages.payload;
    return (Run){.block = known,
                 .number = event->pages.block,
                 .placeable = drv_table_block_placeable(known),
                 .id_len = strnlen(block->id, sizeof block->id),
                 .first = event->pages.offset / DRV_PAGE_LEN,
                 .count = event->pages.count,
                 .has_id = event->pages.head > DRV_STREAM_WORD,
                 .zero = zero,
                 .fill = zero ? event->pages.fill : 0,
                 .content = drv_stream_payload(event, 0),
                 .stride = stride,
                 .raw = stride};
}

/* The pages from 'done' on, to be sent as they are in the stream. */
static DrvBatchPages
pages_of(const Run *run, guint32 done, guint32 count)
{
    return (DrvBatchPages){.verdict.kind = run->zero ? DRV_RECORD_ZERO : DRV_RECORD_LITERAL,
                           .block = run->number,
                           .placeable = run->placeable,
                           .has_id = done == 0 && run->has_id,
                           .fill = run->fill,
                           .id_len = run->id_len,
                           .first = run->first + done,
                           .count = count};
}

static void
look(const DrvPageTable *table, const Run *run, guint32 i, Look *seen)
{
    seen->content = run->content + i * run->stride;
    seen->zero = is_zero(seen->content);
    seen->pages = pages_of(run, i, 1);
    if (seen->zero) {
        seen->pages.verdict.kind = DRV_RECORD_ZERO;
        seen->pages.as_page = !run->placeable;
    } else if (run->placeable) {
        drv_page_table_hash(table, seen->content, &seen->hash);
    }
    if (run->placeable) /* nobody re-emits it: what QEMU's head said does not matter */
        seen->pages.has_id = FALSE;
}

/* How many pages to look at: those that fit when none is of any use. */
static guint32
step(const DrvBatchWriter *writer, guint32 left)
{
    gsize literal = (writer->size - writer->room.used) / (DRV_STREAM_WORD + DRV_PAGE_LEN);
    return (guint32)CLAMP(literal, 1, MIN(left, STEP));
}

/* Whether the batch may hold pages of the block; then 'number' is what it has or would get. */
static gboolean
may_enter(DrvBatchWriter *writer, const Run *run, guint64 *number)
{
    DrvPageTable *table = writer->table;
    if (run->placeable && drv_page_table_is_lost(table))
        return FALSE;
    *number = writer->head.number != 0 ? writer->head.number : drv_page_table_next(table);
    return drv_batch_enter(writer, run->block);
}

/*
 * Whether the receiver keeps the content, or is to. Only a page that comes for the first time is
 * worth keeping, or waiting for: of such the clones are full. FALSE: it is to be waited for.
 */
static gboolean
judge_kept(DrvBatchWriter *writer, const DrvPageHash *hash, DrvVerdict *verdict)
{
    gboolean fresh_delta = verdict->kind == DRV_RECORD_DELTA && verdict->fresh;
    if (hash == NULL || (verdict->kind != DRV_RECORD_LITERAL && !fresh_delta))
        return TRUE;
    switch (drv_kept_find(writer->kept, hash, &verdict->slot)) {
    case DRV_KEPT_THERE:
        verdict->kind = DRV_RECORD_KEPT;
        break;
    case DRV_KEPT_WAIT:
        writer->waits = verdict->fresh;
        break;
    case DRV_KEPT_NONE:
        verdict->keep =
            verdict->fresh && !fresh_delta && drv_kept_room(writer->kept, &verdict->slot);
        break;
    case DRV_KEPT_COMING:
        break;
    }
    return !writer->waits;
}

static void
settle_kept(DrvBatchWriter *writer, const DrvPageHash *hash, const DrvVerdict *verdict)
{
    if (verdict->kind == DRV_RECORD_KEPT)
        drv_kept_refer(writer->kept, verdict->slot);
    else if (verdict->keep)
        drv_kept_bring(writer->kept, verdict->slot, hash);
}

/* Decides what a page becomes; FALSE when it does not go in. */
static gboolean
decide_one(DrvBatchWriter *writer, const Run *run, guint64 number, Look *seen, DrvBatchRoom *room)
{
    DrvBatchPages *pages = &seen->pages;
    DrvVerdict *verdict = &pages->verdict;
    const DrvPageHash *hash = seen->zero ? NULL : &seen->hash;
    if (run->placeable &&
        !drv_page_table_judge(writer->table, number, run->block, pages->first, hash, verdict))
        return FALSE;
    if (run->placeable && writer->kept != NULL && !judge_kept(writer, hash, verdict))
        return FALSE;
    if (!drv_batch_take_room(room, writer->size, pages))
        return FALSE;
    drv_batch_number(writer, DRV_BATCH_WAIT_NONE);
    if (!run->placeable)
        return TRUE;
    drv_page_table_settle(writer->table, number, run->block, pages->first, hash, verdict,
                          &writer->head.after);
    if (writer->kept != NULL)
        settle_kept(writer, hash, verdict);
    return TRUE;
}

/* Decides what 'n' pages become; returns how many of them go in. */
static guint32
decide(DrvBatchWriter *writer, const Run *run, Look *seen, guint32 n)
{
    DrvBatchRoom room = writer->room;
    guint64 number;
    guint32 i = 0;
    drv_page_table_lock(writer->table);
    if (may_enter(writer, run, &number)) {
        /* For all of them at once, so that pages side by side get slots side by side. */
        if (writer->kept != NULL)
            drv_kept_lock(writer->kept);
        while (i < n && decide_one(writer, run, number, &seen[i], &room))
            i++;
        if (writer->kept != NULL)
            drv_kept_unlock(writer->kept);
    }
    drv_page_table_unlock(writer->table);
    return i;
}

/* Plain pages from 'done' on, a step; returns how many went in. */
static guint32
add_plain(DrvBatchWriter *writer, const Run *run, guint32 done)
{
    Look seen[STEP];
    guint32 n = step(writer, run->count - done);
    for (guint32 i = 0; i < n; i++) {
        look(writer->table, run, done + i, &seen[i]);
        if (run->placeable)
            drv_page_table_prefetch(writer->table, run->block, run->first + done + i,
                                    seen[i].zero ? 0 : seen[i].hash.key);
        if (run->placeable && writer->kept != NULL && !seen[i].zero)
            drv_kept_prefetch(writer->kept, &seen[i].hash);
    }
    n = decide(writer, run, seen, n);
    for (guint32 i = 0; i < n; i++)
        drv_batch_put_pages(writer, &seen[i].pages, seen[i].content, run->raw);
    return n;
}

/* The most zero pages that there is room for. */
static guint32
zero_step(const DrvBatchWriter *writer, const Run *run, guint32 left)
{
    const DrvBatchRoom *room = &writer->room;
    if (run->placeable)
        return MIN(left, DRV_BATCH_MAX_PLACED - room->placed);
    gsize extra = 1 + run->id_len;
    gsize bytes = writer->size - room->emitted;
    return bytes > extra ? (guint32)MIN(left, (bytes - extra) / (DRV_STREAM_WORD + 1)) : 0;
}

/* How many of the placeable zero pages the table lets go into the batch. */
static guint32
settle_zeros(DrvBatchWriter *writer, const Run *run, guint64 number, const DrvBatchPages *pages)
{
    DrvPageTable *table = writer->table;
    DrvPageHash filled;
    const DrvPageHash *hash = NULL;
    if (pages->fill != 0) {
        guint8 content[DRV_PAGE_LEN];
        memset(content, pages->fill, sizeof content);
        drv_page_table_hash(table, content, &filled);
        hash = &filled;
    }
    for (guint32 i = 0; i < pages->count; i++) {
        DrvVerdict verdict;
        if (!drv_page_table_judge(table, number, run->block, pages->first + i, hash, &verdict))
            return i;
        drv_batch_number(writer, DRV_BATCH_WAIT_NONE);
        verdict = (DrvVerdict){.kind = DRV_RECORD_ZERO, .mask = 0xff};
        drv_page_table_settle(table, number, run->block, pages->first + i, hash, &verdict,
                              &writer->head.after);
    }
    return pages->count;
}

/* Zero pages from 'done' on; returns how many went in. */
static guint32
add_zeros(DrvBatchWriter *writer, const Run *run, guint32 done)
{
    DrvBatchPages pages = pages_of(run, done, zero_step(writer, run, run->count - done));
    DrvBatchRoom trial = writer->room;
    guint64 number;
    pages.has_id &= !run->placeable;
    if (pages.count == 0 || !drv_batch_take_room(&trial, writer->size, &pages))
        return 0;
    drv_page_table_lock(writer->table);
    if (!may_enter(writer, run, &number))
        pages.count = 0;
    else if (run->placeable)
        pages.count = settle_zeros(writer, run, number, &pages);
    else
        drv_batch_number(writer, DRV_BATCH_WAIT_NONE);
    drv_page_table_unlock(writer->table);
    if (pages.count > 0)
        drv_batch_put_pages(writer, &pages, NULL, (gsize)pages.count * run->raw);
    return pages.count;
}

gboolean
drv_batch_is_regular(const DrvBatchWriter *writer, const DrvStream *stream,
                     const DrvStreamEvent *event)
{
    const DrvTableBlock *known = drv_page_table_block(writer->table, event->pages.block);
    const DrvRamBlock *block = drv_stream_block(stream, event->pages.block);
    const guint8 *id = event->piece.unit + DRV_STREAM_WORD;
    gsize id_len = strnlen(block->id, sizeof block->id);
    guint64 last = event->pages.offset / DRV_PAGE_LEN + event->pages.count - 1;
    if (event->pages.kind != DRV_PAGES_ZERO && event->pages.kind != DRV_PAGES_NORMAL)
        return FALSE;
    if (event->pages.page_len != DRV_PAGE_LEN || event->piece.len != event->piece.unit_len ||
        last >= MAX_PAGE || (known != NULL && last >= drv_table_block_pages(known)))
        return FALSE;
    return event->pages.head == DRV_STREAM_WORD ||
           (id[0] == id_len && memcmp(id + 1, block->id, id_len) == 0);
}

static gboolean
add_run(DrvBatchWriter *writer, const Run *run, guint32 *done)
{
    writer->waits = FALSE;
    if (writer->has_blocks)
        return FALSE;
    guint32 n = run->zero ? add_zeros(writer, run, *done) : add_plain(writer, run, *done);
    *done += n;
    return n > 0;
}

gboolean
drv_batch_add_run(DrvBatchWriter *writer, const DrvStream *stream, const DrvStreamEvent *event,
                  guint32 *done)
{
    Run run = run_of(writer, stream, event);
    return add_run(writer, &run, done);
}

gboolean
drv_batch_writer_add_pages(DrvBatchWriter *writer, guint block, guint64 first, guint32 count,
                           const guint8 *content, guint32 *done)
{
    DrvTableBlock *known = drv_page_table_block(writer->table, block);
    g_return_val_if_fail(
        drv_table_block_placeable(known) && first + count <= drv_table_block_pages(known), FALSE);
    Run run = {.block = known,
               .number = block,
               .placeable = TRUE,
               .first = first,
               .count = count,
               .zero = content == NULL,
               .content = content,
               .stride = DRV_PAGE_LEN,
               .raw = sizeof(guint64) + (content != NULL ? DRV_PAGE_LEN : 0)};
    while (*done < count)
        if (!add_run(writer, &run, done))
            return FALSE;
    return TRUE;
}
