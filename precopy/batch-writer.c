/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A batch takes its number when the first record is certain to go in, so no number is missing. What
 * is not a page of 4096 bytes, zero or plain, goes as opaque bytes. In a job with placeable blocks
 * nothing that QEMU would place may be among those, as it would not be in order with what is placed
 * beside QEMU: the first such event makes the table 'lost', and everything from there on is opaque
 * and waits for all that was placed before.
 */
#include "precopy/batch-writer-private.h"

DrvBatchWriter *
drv_batch_writer_new(DrvPageTable *table)
{
    DrvBatchWriter *writer = g_new0(DrvBatchWriter, 1);
    writer->table = table;
    writer->last_block = writer->qemu_block = -1;
    return writer;
}

void
drv_batch_writer_free(DrvBatchWriter *writer)
{
    g_free(writer);
}

void
drv_batch_writer_use_kept(DrvBatchWriter *writer, DrvKeptUser *user)
{
    writer->kept = user;
}

gboolean
drv_batch_writer_waits(const DrvBatchWriter *writer)
{
    return writer->waits;
}

void
drv_batch_writer_begin(DrvBatchWriter *writer, guint8 *out, gsize size)
{
    g_return_if_fail(size >= DRV_BATCH_MIN && size <= DRV_BATCH_MAX);
    g_return_if_fail(drv_batch_writer_is_empty(writer));
    writer->out = out;
    writer->size = size;
    writer->head = (DrvBatchHead){0};
    writer->room = (DrvBatchRoom){.used = DRV_BATCH_HEAD};
    writer->has_blocks = FALSE;
    writer->counts = (DrvPageCounts){0};
    writer->raw = 0;
    writer->waits = FALSE;
}

gboolean
drv_batch_writer_is_empty(const DrvBatchWriter *writer)
{
    return writer->head.number == 0;
}

guint32
drv_batch_writer_literal(const DrvBatchWriter *writer)
{
    return (guint32)writer->counts.literal;
}

gsize
drv_batch_writer_finish(DrvBatchWriter *writer)
{
    if (drv_batch_writer_is_empty(writer))
        return 0;
    DrvCursor out = drv_cursor_writer(writer->out, DRV_BATCH_HEAD);
    drv_cursor_put_u64(&out, writer->head.number);
    drv_cursor_put_u64(&out, writer->head.after);
    drv_cursor_put_u64(&out, writer->head.digest);
    gsize used = writer->room.used;
    writer->counts.saved_bytes = writer->raw > used ? writer->raw - used : 0;
    drv_page_table_lock(writer->table);
    drv_page_table_count(writer->table, &writer->counts);
    drv_page_table_unlock(writer->table);
    writer->head.number = 0;
    return writer->room.used;
}

/* ---- opaque bytes, blocks ---- */

static gboolean
number(DrvBatchWriter *writer, DrvBatchWait wait)
{
    /* Most often it has one, and nothing to wait for. */
    if (wait == DRV_BATCH_WAIT_NONE && writer->head.number != 0)
        return TRUE;
    drv_page_table_lock(writer->table);
    gboolean given = drv_batch_number(writer, wait);
    drv_page_table_unlock(writer->table);
    return given;
}

/* Opaque bytes may be of devices, which look at the guest's RAM when they are loaded, or may be
 * pages. */
static DrvBatchWait
opaque_waits(const DrvBatchWriter *writer, const DrvStream *stream)
{
    if (writer->lost)
        return DRV_BATCH_WAIT_LOST;
    return drv_page_table_has_placeable(writer->table) && drv_stream_ram_ended(stream)
               ? DRV_BATCH_WAIT_ALL
               : DRV_BATCH_WAIT_NONE;
}

/* For a record's head and bytes. */
static gsize
opaque_room(const DrvBatchWriter *writer)
{
    return MIN(writer->size - writer->room.used, writer->size - writer->room.emitted);
}

/* Adds what fits of the bytes, where at least one does; returns how many. */
static gsize
put_opaque(DrvBatchWriter *writer, const guint8 *bytes, gsize len)
{
    DrvBatchRoom *room = &writer->room;
    gboolean more = room->open.kind == DRV_RECORD_OPAQUE;
    gsize head = more ? 0 : DRV_OPAQUE_HEAD;
    len = MIN(len, opaque_room(writer) - head);
    DrvCursor out = drv_batch_cursor_at(writer, room->used);
    if (!more) {
        drv_batch_put_head(&out, DRV_RECORD_OPAQUE, 0, 0);
        room->open = (DrvBatchOpen){.kind = DRV_RECORD_OPAQUE, .count_at = out.pos};
        drv_cursor_put_u32(&out, 0);
    }
    drv_cursor_put_bytes(&out, bytes, len);
    drv_batch_add_to_count(writer, len);
    room->used += head + len;
    room->emitted += len;
    writer->raw += len;
    writer->counts.opaque_bytes += len;
    return len;
}

static gboolean
add_bytes(DrvBatchWriter *writer, DrvBatchWait wait, const guint8 *bytes, gsize len, guint32 *done)
{
    while (*done < len) {
        if (opaque_room(writer) <= DRV_OPAQUE_HEAD || !number(writer, wait))
            return FALSE;
        *done += (guint32)put_opaque(writer, bytes + *done, len - *done);
    }
    return TRUE;
}

static gboolean
add_opaque(DrvBatchWriter *writer, const DrvStream *stream, const DrvPiece *piece, guint32 *done)
{
    return add_bytes(writer, opaque_waits(writer, stream), piece->bytes, piece->len, done);
}

gboolean
drv_batch_writer_add_bytes(DrvBatchWriter *writer, const guint8 *bytes, gsize len, guint32 *done)
{
    /* Nothing in such a channel refers to pages before: no block has to be named. */
    writer->lost = writer->lost || drv_page_table_lost(writer->table);
    return add_bytes(writer, writer->lost ? DRV_BATCH_WAIT_LOST : DRV_BATCH_WAIT_NONE, bytes, len,
                     done);
}

static gboolean
add_block(DrvBatchWriter *writer, const DrvStream *stream, const DrvStreamEvent *event,
          guint32 *done)
{
    const guint8 *unit = event->piece.unit;
    gsize id_len = unit[0];
    gboolean is_out = event->piece.len != event->piece.unit_len;
    gsize emitted = is_out ? 0 : event->piece.unit_len;
    DrvTableBlock *block = drv_page_table_block(writer->table, event->block);

    /* There are no pages in the batch: the stream has none before the end of its only list. */
    if (is_out && !add_opaque(writer, stream, &event->piece, done))
        return FALSE;
    gsize at = writer->room.used;
    if (!drv_batch_take_bytes(&writer->room, writer->size, DRV_BLOCK_HEAD + id_len, emitted, 0))
        return FALSE;
    drv_page_table_lock(writer->table);
    drv_batch_number(writer, DRV_BATCH_WAIT_NONE);
    if (block != NULL)
        drv_page_table_list(block, writer->head.number);
    drv_page_table_unlock(writer->table);

    DrvCursor out = drv_batch_cursor_at(writer, at);
    drv_batch_put_head(&out, DRV_RECORD_BLOCK, is_out ? DRV_RECORD_IS_OUT : 0, event->block);
    drv_cursor_put_bytes(&out, unit + 1 + id_len, sizeof(guint64));
    drv_cursor_put_u8(&out, (guint8)id_len);
    drv_cursor_put_bytes(&out, unit + 1, id_len);
    writer->room.open = (DrvBatchOpen){0};
    writer->has_blocks = TRUE;
    writer->raw += emitted;
    return TRUE;
}

/* ---- losing the way ---- */

/*
 * QEMU's CONTINUE refers to the last page that was in the stream, and where that was placed beside
 * QEMU, this must be told the block before it reads pages again. It must be told within a section
 * of the RAM, so it is at the end of each, and where the way is lost in the middle of one.
 */
static gboolean
name_block(DrvBatchWriter *writer, const DrvStream *stream)
{
    if (writer->last_block == writer->qemu_block)
        return TRUE;
    guint block = (guint)writer->last_block;
    DrvBatchPages pages = {.verdict.kind = DRV_RECORD_NAME,
                           .block = block,
                           .id_len = strlen(drv_stream_block(stream, block)->id),
                           .first = writer->last_page,
                           .count = 1};
    DrvBatchRoom trial = writer->room;
    if (writer->has_blocks || !drv_batch_take_room(&trial, writer->size, &pages))
        return FALSE;
    drv_page_table_lock(writer->table);
    gboolean entered = drv_batch_enter(writer, drv_page_table_block(writer->table, block));
    if (entered)
        drv_batch_number(writer, DRV_BATCH_WAIT_NONE);
    drv_page_table_unlock(writer->table);
    if (entered)
        drv_batch_put_pages(writer, &pages, NULL, 0);
    return entered;
}

/* Why QEMU has to place pages that the event holds, or may hold; NULL: it has not. */
static const char *
loses(const DrvBatchWriter *writer, const DrvStream *stream, const DrvStreamEvent *event)
{
    if (drv_stream_ram_ended(stream))
        return NULL;
    if (!drv_stream_exact(stream) || event->kind == DRV_STREAM_OPAQUE)
        return "between the pages QEMU's stream has something that is not understood, such as "
               "dirty bitmaps or the state of a VFIO device";
    if (event->kind != DRV_STREAM_RAM_PAGES || drv_batch_is_regular(writer, stream, event))
        return NULL;
    if (event->pages.kind == DRV_PAGES_XBZRLE || event->pages.kind == DRV_PAGES_COMPRESSED)
        return "QEMU itself has made deltas of pages, or compressed them";
    return "QEMU has sent a page that is not of 4096 bytes, or not where its list of RAM blocks "
           "has "
           "it";
}

/* TRUE unless the batch has to be finished first. */
static gboolean
keep_the_way(DrvBatchWriter *writer, const DrvStream *stream, const DrvStreamEvent *event)
{
    if (writer->lost)
        return TRUE;
    const char *why =
        drv_page_table_has_placeable(writer->table) ? loses(writer, stream, event) : NULL;
    if (why != NULL)
        drv_page_table_lose(writer->table, why);
    if (!drv_page_table_lost(writer->table))
        return TRUE;
    writer->lost = name_block(writer, stream);
    return writer->lost;
}

static guint32
bytes_before(const DrvStreamEvent *event, guint32 page)
{
    if (page == 0)
        return 0;
    return (guint32)(drv_stream_payload(event, page) - DRV_STREAM_WORD - event->piece.unit);
}

gboolean
drv_batch_writer_add(DrvBatchWriter *writer, const DrvStream *stream, const DrvStreamEvent *event,
                     guint32 *done)
{
    gboolean pages = event->kind == DRV_STREAM_RAM_PAGES;
    if (*done == 0)
        writer->as_bytes =
            !pages || !drv_batch_is_regular(writer, stream, event) || !drv_stream_exact(stream);
    for (;;) {
        if (!keep_the_way(writer, stream, event))
            return FALSE;
        if (writer->lost && !writer->as_bytes) {
            *done = bytes_before(event, *done);
            writer->as_bytes = TRUE;
        }
        if (event->kind == DRV_STREAM_RAM_EOS && !writer->lost && !name_block(writer, stream))
            return FALSE;
        if (event->kind == DRV_STREAM_RAM_BLOCK && !writer->lost)
            return add_block(writer, stream, event, done);
        if (writer->as_bytes)
            return add_opaque(writer, stream, &event->piece, done);
        if (!drv_batch_add_run(writer, stream, event, done)) {
            /* Another channel may have lost the way just now. */
            if (!drv_page_table_lost(writer->table) || writer->lost)
                return FALSE;
        } else if (*done == event->pages.count) {
            return TRUE;
        }
    }
}
