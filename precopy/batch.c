/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/batch-private.h"

#include "common/error.h"
#include "precopy/stream-private.h"

#include <xxhash.h>

static const guint8 zero_page[DRV_PAGE_LEN];

gboolean
drv_batch_head(const guint8 *data, gsize len, DrvBatchHead *head, GError **error)
{
    DrvCursor in = drv_cursor_reader(data, len);
    head->number = drv_cursor_get_u64(&in);
    head->after = drv_cursor_get_u64(&in);
    head->digest = drv_cursor_get_u64(&in);
    if (drv_cursor_ok(&in) && head->after < head->number)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "the peer sent a batch of pages of %" G_GSIZE_FORMAT
                " bytes whose head makes no sense",
                len);
    return FALSE;
}

void
drv_batch_block(const DrvRecord *record, gboolean placeable, DrvBatchBlock *block)
{
    g_return_if_fail(record->kind == DRV_RECORD_BLOCK && record->id_len < sizeof block->ram.id);
    *block = (DrvBatchBlock){.ram.size = record->size, .placeable = placeable};
    memcpy(block->ram.id, record->id, record->id_len);
}

gboolean
drv_batch_is_placed(const DrvBatchBlock *blocks, const DrvRecord *record)
{
    switch (record->kind) {
    case DRV_RECORD_ZERO:
    case DRV_RECORD_LITERAL:
    case DRV_RECORD_DELTA:
    case DRV_RECORD_DUP:
    case DRV_RECORD_KEPT:
        return blocks[record->block].placeable;
    case DRV_RECORD_OPAQUE:
    case DRV_RECORD_BLOCK:
    case DRV_RECORD_NAME:
        return FALSE;
    }
    g_assert_not_reached();
}

/* ---- back to QEMU's stream ---- */

static const guint8 *
payload_of(const DrvRecord *record, guint32 i, gsize *len)
{
    *len = DRV_PAGE_LEN;
    if (record->kind == DRV_RECORD_LITERAL)
        return record->bytes + (gsize)i * DRV_PAGE_LEN;
    if (record->as_page)
        return zero_page;
    *len = 1;
    return &record->fill;
}

static DrvPagesKind
pages_kind(const DrvRecord *record)
{
    gboolean zero = record->kind == DRV_RECORD_ZERO && !record->as_page;
    return zero ? DRV_PAGES_ZERO : DRV_PAGES_NORMAL;
}

/* 'emit' says which block QEMU takes CONTINUE for. */
static void
emit_pages(DrvEmit *emit, DrvCursor *out, const DrvBatchBlock *blocks, const DrvRecord *record)
{
    for (guint32 i = 0; i < record->count; i++) {
        gsize len;
        const guint8 *payload = payload_of(record, i, &len);
        drv_emit_page(emit, out, &blocks[record->block].ram, record->block, pages_kind(record),
                      (record->first + i) * DRV_PAGE_LEN, payload, len);
    }
}

/* A page's delta that has no changes, as XBZRLE says it: any QEMU reads it, whatever its
 * capabilities are. */
static void
emit_name(DrvEmit *emit, DrvCursor *out, const DrvBatchBlock *blocks, const DrvRecord *record)
{
    static const guint8 nothing[DRV_NAME_PAYLOAD] = {0x01, 0, 0};
    emit->block = -1;
    drv_emit_page(emit, out, &blocks[record->block].ram, record->block, DRV_PAGES_XBZRLE,
                  record->first * DRV_PAGE_LEN, nothing, sizeof nothing);
}

static void
emit_block(DrvCursor *out, const DrvRecord *record)
{
    if (record->is_out)
        return;
    drv_cursor_put_u8(out, (guint8)record->id_len);
    drv_cursor_put_bytes(out, record->id, record->id_len);
    drv_cursor_put_u64(out, record->size);
}

void
drv_batch_relay(DrvCursor *out, const DrvBatchBlock *blocks, const DrvRecord *record)
{
    DrvEmit emit = {.block = record->has_id ? -1 : (gint)record->block};
    switch (record->kind) {
    case DRV_RECORD_OPAQUE:
        drv_cursor_put_bytes(out, record->bytes, record->len);
        return;
    case DRV_RECORD_BLOCK:
        emit_block(out, record);
        return;
    case DRV_RECORD_ZERO:
    case DRV_RECORD_LITERAL:
        emit_pages(&emit, out, blocks, record);
        return;
    case DRV_RECORD_DELTA:
    case DRV_RECORD_DUP:
    case DRV_RECORD_NAME:
    case DRV_RECORD_KEPT:
        /* Of placeable blocks, and in relay there are none: the reader saw to it. */
        break;
    }
    g_return_if_reached();
}

void
drv_batch_direct(DrvEmit *emit, DrvCursor *out, const DrvBatchBlock *blocks,
                 const DrvRecord *record)
{
    if (drv_batch_is_placed(blocks, record))
        return;
    switch (record->kind) {
    case DRV_RECORD_OPAQUE:
        drv_cursor_put_bytes(out, record->bytes, record->len);
        return;
    case DRV_RECORD_BLOCK:
        emit_block(out, record);
        return;
    case DRV_RECORD_ZERO:
    case DRV_RECORD_LITERAL:
        emit_pages(emit, out, blocks, record);
        return;
    case DRV_RECORD_NAME:
        emit_name(emit, out, blocks, record);
        return;
    case DRV_RECORD_DELTA:
    case DRV_RECORD_DUP:
    case DRV_RECORD_KEPT:
        break;
    }
    g_return_if_reached();
}

/* ---- pages ---- */

void
drv_batch_patch(const DrvRecord *record, guint8 page[DRV_PAGE_LEN])
{
    const guint8 *piece = record->bytes;
    for (guint i = 0; i < DRV_PAGE_PIECES; i++) {
        if (!(record->mask & 1u << i))
            continue;
        memcpy(page + i * DRV_PIECE_LEN, piece, DRV_PIECE_LEN);
        piece += DRV_PIECE_LEN;
    }
}

guint64
drv_batch_digest(const guint8 secret[DRV_PAGE_SECRET], guint block, guint64 page,
                 const guint8 content[DRV_PAGE_LEN])
{
    const guint64 all[] = {
        GUINT64_TO_LE(block), GUINT64_TO_LE(page),
        GUINT64_TO_LE(XXH3_64bits_withSecret(content, DRV_PAGE_LEN, secret, DRV_PAGE_SECRET))};
    return XXH3_64bits_withSecret(all, sizeof all, secret, DRV_PAGE_SECRET);
}

gboolean
drv_batch_check(const DrvBatchHead *head, guint64 digest, GError **error)
{
    if (head->digest == digest)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                "pages of batch %" G_GUINT64_FORMAT
                " are not at the destination what they are at the source: migrate again, with "
                "'--mode relay' if it happens again",
                head->number);
    return FALSE;
}
