/* SPDX-License-Identifier: Apache-2.0 */

/* How much more goes into a batch, and the records themselves. */
#include "precopy/batch-writer-private.h"

gboolean
drv_batch_number(DrvBatchWriter *writer, DrvBatchWait wait)
{
    DrvPageTable *table = writer->table;
    guint64 number = writer->head.number != 0 ? writer->head.number : drv_page_table_next(table);
    guint64 after = 0;
    if (wait == DRV_BATCH_WAIT_ALL) {
        if (!drv_page_table_is_newest(table, number))
            return FALSE;
        after = number - 1;
    } else if (wait == DRV_BATCH_WAIT_LOST) {
        after = drv_page_table_lost_at(table);
        if (number <= after)
            return FALSE;
    }
    if (writer->head.number == 0)
        writer->head.number = drv_page_table_number(table);
    writer->head.after = MAX(writer->head.after, after);
    return TRUE;
}

gboolean
drv_batch_enter(DrvBatchWriter *writer, const DrvTableBlock *block)
{
    guint64 number =
        writer->head.number != 0 ? writer->head.number : drv_page_table_next(writer->table);
    return block == NULL || drv_page_table_enter(block, number, &writer->head.after);
}

gboolean
drv_batch_take_bytes(DrvBatchRoom *room, gsize size, gsize bytes, guint64 emitted, guint32 placed)
{
    if (bytes > size - room->used || emitted > size - room->emitted ||
        placed > DRV_BATCH_MAX_PLACED - room->placed)
        return FALSE;
    room->used += bytes;
    room->emitted += emitted;
    room->placed += placed;
    return TRUE;
}

static gboolean
continues(const DrvBatchOpen *open, const DrvBatchPages *pages)
{
    DrvRecordKind kind = pages->verdict.kind;
    if (open->kind != kind || open->block != pages->block || open->next != pages->first ||
        pages->has_id)
        return FALSE;
    if (kind == DRV_RECORD_LITERAL)
        return open->keep == pages->verdict.keep &&
               (!open->keep || open->next_slot == pages->verdict.slot);
    return kind == DRV_RECORD_ZERO && open->fill == pages->fill && open->as_page == pages->as_page;
}

static gsize
record_head(const DrvVerdict *verdict)
{
    switch (verdict->kind) {
    case DRV_RECORD_OPAQUE:
        return DRV_OPAQUE_HEAD;
    case DRV_RECORD_BLOCK:
        return DRV_BLOCK_HEAD;
    case DRV_RECORD_ZERO:
        return DRV_ZERO_HEAD;
    case DRV_RECORD_LITERAL:
        return DRV_LITERAL_HEAD + (verdict->keep ? sizeof verdict->slot : 0);
    case DRV_RECORD_DELTA:
        return DRV_DELTA_HEAD;
    case DRV_RECORD_DUP:
        return DRV_DUP_HEAD;
    case DRV_RECORD_NAME:
        return DRV_NAME_HEAD;
    case DRV_RECORD_KEPT:
        return DRV_KEPT_HEAD;
    }
    g_assert_not_reached();
}

static gsize
payload_len(const DrvBatchPages *pages)
{
    switch (pages->verdict.kind) {
    case DRV_RECORD_LITERAL:
        return (gsize)pages->count * DRV_PAGE_LEN;
    case DRV_RECORD_DELTA:
        return (gsize)__builtin_popcount(pages->verdict.mask) * DRV_PIECE_LEN;
    default:
        return 0;
    }
}

/* Takes the room for pages; FALSE and nothing taken when there is not as much. */
gboolean
drv_batch_take_room(DrvBatchRoom *room, gsize size, const DrvBatchPages *pages)
{
    DrvRecordKind kind = pages->verdict.kind;
    gboolean more = continues(&room->open, pages);
    gsize bytes = payload_len(pages) + (more ? 0 : record_head(&pages->verdict));
    guint64 emitted = 0;
    if (!pages->placeable)
        emitted = drv_pages_emitted(kind, pages->as_page, pages->count, pages->id_len) -
                  (more ? drv_pages_emitted(kind, pages->as_page, 0, pages->id_len) : 0);
    gsize count_at = room->used + DRV_RECORD_HEAD + sizeof(guint32);
    if (!drv_batch_take_bytes(room, size, bytes, emitted, pages->placeable ? pages->count : 0))
        return FALSE;
    if (!more) {
        gboolean opens = kind == DRV_RECORD_LITERAL || kind == DRV_RECORD_ZERO;
        room->open = (DrvBatchOpen){.kind = opens ? kind : 0,
                                    .block = pages->block,
                                    .as_page = pages->as_page,
                                    .fill = pages->fill,
                                    .keep = pages->verdict.keep,
                                    .count_at = count_at};
    }
    room->open.next = pages->first + pages->count;
    room->open.next_slot = pages->verdict.slot + pages->count;
    return TRUE;
}

DrvCursor
drv_batch_cursor_at(const DrvBatchWriter *writer, gsize at)
{
    DrvCursor out = drv_cursor_writer(writer->out, writer->size);
    out.pos = at;
    return out;
}

void
drv_batch_add_to_count(DrvBatchWriter *writer, gsize n)
{
    DrvCursor in = drv_batch_cursor_at(writer, writer->room.open.count_at);
    guint32 before = drv_cursor_get_u32(&in);
    DrvCursor out = drv_batch_cursor_at(writer, writer->room.open.count_at);
    drv_cursor_put_u32(&out, before + (guint32)n);
}

void
drv_batch_put_head(DrvCursor *out, DrvRecordKind kind, guint8 flags, guint block)
{
    drv_cursor_put_u8(out, (guint8)kind);
    drv_cursor_put_u8(out, flags);
    drv_cursor_put_u16(out, (guint16)block);
}

static void
put_pieces(DrvCursor *out, guint8 mask, const guint8 *content)
{
    for (guint i = 0; i < DRV_PAGE_PIECES; i++)
        if (mask & 1u << i)
            drv_cursor_put_bytes(out, content + i * DRV_PIECE_LEN, DRV_PIECE_LEN);
}

static void
put_new_record(DrvCursor *out, const DrvBatchPages *pages)
{
    DrvRecordKind kind = pages->verdict.kind;
    guint8 flags = (pages->has_id ? DRV_RECORD_HAS_ID : 0) |
                   (pages->as_page ? DRV_RECORD_AS_PAGE : 0) |
                   (pages->verdict.keep ? DRV_RECORD_KEEP : 0);
    drv_batch_put_head(out, kind, flags, pages->block);
    drv_cursor_put_u32(out, (guint32)pages->first);
    switch (kind) {
    case DRV_RECORD_ZERO:
        drv_cursor_put_u32(out, pages->count);
        drv_cursor_put_u8(out, pages->fill);
        return;
    case DRV_RECORD_LITERAL:
        drv_cursor_put_u32(out, pages->count);
        if (pages->verdict.keep)
            drv_cursor_put_u32(out, pages->verdict.slot);
        return;
    case DRV_RECORD_KEPT:
        drv_cursor_put_u32(out, pages->verdict.slot);
        return;
    case DRV_RECORD_DELTA:
        drv_cursor_put_u8(out, pages->verdict.mask);
        return;
    case DRV_RECORD_DUP:
        drv_cursor_put_u16(out, (guint16)pages->verdict.from_block);
        drv_cursor_put_u32(out, pages->verdict.from);
        return;
    case DRV_RECORD_NAME:
        return;
    case DRV_RECORD_OPAQUE:
    case DRV_RECORD_BLOCK:
        break;
    }
    g_assert_not_reached();
}

static void
count_pages(DrvBatchWriter *writer, const DrvBatchPages *pages)
{
    DrvPageCounts *counts = &writer->counts;
    switch (pages->verdict.kind) {
    case DRV_RECORD_ZERO:
        counts->zero += pages->count;
        break;
    case DRV_RECORD_LITERAL:
        counts->literal += pages->count;
        break;
    case DRV_RECORD_DELTA:
        counts->delta++;
        counts->unchanged += pages->verdict.mask == 0;
        break;
    case DRV_RECORD_DUP:
        counts->dup++;
        break;
    case DRV_RECORD_KEPT:
        counts->dup++;
        counts->kept++;
        break;
    default:
        break;
    }
}

void
drv_batch_put_pages(DrvBatchWriter *writer, const DrvBatchPages *pages, const guint8 *content,
                    gsize raw)
{
    DrvRecordKind kind = pages->verdict.kind;
    gsize at = writer->room.used;
    gboolean more = continues(&writer->room.open, pages);
    gboolean taken = drv_batch_take_room(&writer->room, writer->size, pages);
    g_assert(taken);

    DrvCursor out = drv_batch_cursor_at(writer, at);
    if (more)
        drv_batch_add_to_count(writer, pages->count);
    else
        put_new_record(&out, pages);
    if (kind == DRV_RECORD_LITERAL)
        drv_cursor_put_bytes(&out, content, DRV_PAGE_LEN);
    if (kind == DRV_RECORD_DELTA)
        put_pieces(&out, pages->verdict.mask, content);
    if (kind == DRV_RECORD_DELTA || kind == DRV_RECORD_DUP || kind == DRV_RECORD_KEPT)
        writer->head.digest += drv_batch_digest(drv_page_table_digest_secret(writer->table),
                                                pages->block, pages->first, content);
    g_assert(out.pos == writer->room.used && drv_cursor_ok(&out));

    writer->last_block = (gint)pages->block;
    writer->last_page = pages->first + pages->count - 1;
    if (!pages->placeable)
        writer->qemu_block = writer->last_block;
    writer->raw += raw;
    count_pages(writer, pages);
}
