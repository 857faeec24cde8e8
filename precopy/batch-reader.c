/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/batch-reader.h"

#include "common/error.h"
#include "precopy/batch-private.h"

static guint8
flags_allowed(DrvRecordKind kind)
{
    switch (kind) {
    case DRV_RECORD_ZERO:
        return DRV_RECORD_HAS_ID | DRV_RECORD_AS_PAGE;
    case DRV_RECORD_LITERAL:
        return DRV_RECORD_HAS_ID | DRV_RECORD_KEEP;
    case DRV_RECORD_BLOCK:
        return DRV_RECORD_IS_OUT;
    case DRV_RECORD_OPAQUE:
    case DRV_RECORD_DELTA:
    case DRV_RECORD_DUP:
    case DRV_RECORD_NAME:
    case DRV_RECORD_KEPT:
        return 0;
    }
    return 0;
}

static void
parse_bytes(DrvCursor *in, DrvRecord *record, guint64 len)
{
    record->len = len;
    record->bytes = drv_cursor_take(in, len);
}

/* What follows the first four bytes; FALSE for a kind that does not exist. Too few bytes show in
 * the cursor. */
static gboolean
parse_content(DrvCursor *in, DrvRecord *record)
{
    switch (record->kind) {
    case DRV_RECORD_OPAQUE:
        parse_bytes(in, record, drv_cursor_get_u32(in));
        return TRUE;
    case DRV_RECORD_BLOCK:
        record->size = drv_cursor_get_u64(in);
        record->id_len = drv_cursor_get_u8(in);
        record->id = (const char *)drv_cursor_take(in, record->id_len);
        return TRUE;
    case DRV_RECORD_ZERO:
        record->first = drv_cursor_get_u32(in);
        record->count = drv_cursor_get_u32(in);
        record->fill = drv_cursor_get_u8(in);
        return TRUE;
    case DRV_RECORD_LITERAL:
        record->first = drv_cursor_get_u32(in);
        record->count = drv_cursor_get_u32(in);
        record->slot = record->keep ? drv_cursor_get_u32(in) : 0;
        parse_bytes(in, record, (guint64)record->count * DRV_PAGE_LEN);
        return TRUE;
    case DRV_RECORD_DELTA:
        record->first = drv_cursor_get_u32(in);
        record->mask = drv_cursor_get_u8(in);
        parse_bytes(in, record, (guint64)__builtin_popcount(record->mask) * DRV_PIECE_LEN);
        return TRUE;
    case DRV_RECORD_DUP:
        record->first = drv_cursor_get_u32(in);
        record->from_block = drv_cursor_get_u16(in);
        record->from = drv_cursor_get_u32(in);
        return TRUE;
    case DRV_RECORD_NAME:
        record->first = drv_cursor_get_u32(in);
        return TRUE;
    case DRV_RECORD_KEPT:
        record->first = drv_cursor_get_u32(in);
        record->slot = drv_cursor_get_u32(in);
        return TRUE;
    }
    return FALSE;
}

static gboolean
parse_record(DrvCursor *in, DrvRecord *record)
{
    *record = (DrvRecord){.kind = drv_cursor_get_u8(in), .count = 1};
    guint8 flags = drv_cursor_get_u8(in);
    record->block = drv_cursor_get_u16(in);
    record->has_id = (flags & DRV_RECORD_HAS_ID) != 0;
    record->as_page = (flags & DRV_RECORD_AS_PAGE) != 0;
    record->is_out = (flags & DRV_RECORD_IS_OUT) != 0;
    record->keep = (flags & DRV_RECORD_KEEP) != 0;
    return (flags & ~flags_allowed(record->kind)) == 0 && parse_content(in, record) &&
           drv_cursor_ok(in);
}

/* ---- what is checked before any record is given out ---- */

typedef struct {
    DrvBatchReader *reader;
    guint64 emitted; /* cannot wrap: a record adds less than 2^45, and there are less than 2^15 */
    guint64 placed;
    gboolean has_pages;
} Check;

static gboolean
pages_exist(const DrvBatchReader *reader, guint block, guint64 first, guint32 count)
{
    if (block >= reader->n_blocks)
        return FALSE;
    guint64 pages = reader->blocks[block].ram.size / DRV_PAGE_LEN;
    return count > 0 && first < pages && count <= pages - first;
}

static const char *
check_pages(Check *check, const DrvRecord *record)
{
    DrvBatchReader *reader = check->reader;
    check->has_pages = TRUE;
    if (!pages_exist(reader, record->block, record->first, record->count))
        return "pages outside of every RAM block";
    const DrvBatchBlock *block = &reader->blocks[record->block];
    gboolean placed = drv_batch_is_placed(reader->blocks, record);
    gboolean plain = record->kind == DRV_RECORD_ZERO || record->kind == DRV_RECORD_LITERAL;
    if (!plain && !block->placeable)
        return "references into a RAM block that is not written to directly";
    if (record->kind == DRV_RECORD_DUP &&
        (!pages_exist(reader, record->from_block, record->from, 1) ||
         !reader->blocks[record->from_block].placeable))
        return "a duplicate of a page that cannot be read";
    if (record->keep && !block->placeable)
        return "pages to be kept that QEMU places itself";
    if (record->as_page && record->fill != 0)
        return "a page that is not what it is said to be";
    reader->has_kept |= record->keep;
    if (placed) {
        check->placed += record->count;
        reader->has_placed = TRUE;
    } else {
        check->emitted += drv_pages_emitted(record->kind, record->as_page, record->count,
                                            strnlen(block->ram.id, sizeof block->ram.id));
    }
    return NULL;
}

/* What is wrong with the record, or NULL. */
static const char *
check_record(Check *check, const DrvRecord *record)
{
    switch (record->kind) {
    case DRV_RECORD_OPAQUE:
        check->emitted += record->len;
        return record->block == 0 && record->len > 0 ? NULL : "opaque bytes that are none";
    case DRV_RECORD_BLOCK:
        check->reader->has_blocks = TRUE;
        check->emitted += record->is_out ? 0 : 1 + record->id_len + sizeof record->size;
        return record->id_len > 0 && record->block < DRV_STREAM_MAX_BLOCKS
                   ? NULL
                   : "a RAM block without a name or with too high a number";
    case DRV_RECORD_ZERO:
    case DRV_RECORD_LITERAL:
    case DRV_RECORD_DELTA:
    case DRV_RECORD_DUP:
    case DRV_RECORD_NAME:
    case DRV_RECORD_KEPT:
        return check_pages(check, record);
    }
    g_assert_not_reached();
}

static const char *
check_whole(const Check *check)
{
    if (check->reader->has_blocks && check->has_pages)
        return "RAM blocks and pages at once";
    if (check->emitted > DRV_BATCH_MAX)
        return "more than fits into a batch";
    return check->placed > DRV_BATCH_MAX_PLACED ? "more pages than a batch may place" : NULL;
}

static const char *
check_all(DrvBatchReader *reader)
{
    Check check = {.reader = reader};
    DrvCursor in = reader->in;
    if (drv_cursor_left(&in) == 0)
        return "nothing";
    while (drv_cursor_left(&in) > 0) {
        DrvRecord record;
        if (!parse_record(&in, &record))
            return "a record that is cut short or of an unknown kind";
        const char *wrong = check_record(&check, &record);
        if (wrong != NULL)
            return wrong;
    }
    reader->emitted = check.emitted;
    return check_whole(&check);
}

gboolean
drv_batch_reader_init(DrvBatchReader *reader, const guint8 *data, gsize len,
                      const DrvBatchBlock *blocks, guint n_blocks, GError **error)
{
    *reader = (DrvBatchReader){.blocks = blocks, .n_blocks = n_blocks};
    if (!drv_batch_head(data, len, &reader->head, error))
        return FALSE;
    reader->in = drv_cursor_reader(data, MIN(len, DRV_BATCH_MAX + 1));
    drv_cursor_take(&reader->in, DRV_BATCH_HEAD);
    const char *wrong = len > DRV_BATCH_MAX ? "more than fits into a batch" : check_all(reader);
    if (wrong == NULL)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "the peer sent a batch of pages, number %" G_GUINT64_FORMAT ", that holds %s",
                reader->head.number, wrong);
    return FALSE;
}

gboolean
drv_batch_reader_next(DrvBatchReader *reader, DrvRecord *record)
{
    return drv_cursor_left(&reader->in) > 0 && parse_record(&reader->in, record);
}
