/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/emit.h"

#include "precopy/stream-private.h"

#include <string.h>

static void
put_id(DrvCursor *out, const char *id)
{
    gsize len = strnlen(id, 255);
    drv_cursor_put_u8(out, (guint8)len);
    drv_cursor_put_bytes(out, id, len);
}

void
drv_emit_event(DrvEmit *emit, DrvCursor *out, const DrvStreamEvent *event)
{
    drv_cursor_put_bytes(out, event->piece.bytes, event->piece.len);
    if (event->kind == DRV_STREAM_RAM_PAGES)
        emit->block = (gint)event->pages.block;
}

static guint64
flags_of_kind(DrvPagesKind kind)
{
    switch (kind) {
    case DRV_PAGES_ZERO:
        return RAM_ZERO;
    case DRV_PAGES_NORMAL:
        return RAM_PAGE;
    case DRV_PAGES_XBZRLE:
        return RAM_XBZRLE;
    case DRV_PAGES_COMPRESSED:
        return RAM_COMPRESS_PAGE;
    }
    g_assert_not_reached();
}

void
drv_emit_page(DrvEmit *emit, DrvCursor *out, const DrvRamBlock *block, guint number,
              DrvPagesKind kind, guint64 offset, const void *payload, gsize len)
{
    gboolean same = emit->block == (gint)number;
    drv_cursor_put_u64(out, offset | flags_of_kind(kind) | (same ? RAM_CONTINUE : 0));
    if (!same)
        put_id(out, block->id);
    drv_cursor_put_bytes(out, payload, len);
    emit->block = (gint)number;
}

void
drv_emit_pages(DrvEmit *emit, DrvCursor *out, const DrvStream *stream, const DrvStreamEvent *event,
               guint32 first, guint32 count)
{
    g_return_if_fail(event->kind == DRV_STREAM_RAM_PAGES && first <= event->pages.count &&
                     count <= event->pages.count - first);
    const DrvRamBlock *block = drv_stream_block(stream, event->pages.block);
    for (guint32 i = first; i < first + count; i++)
        drv_emit_page(emit, out, block, event->pages.block, event->pages.kind,
                      event->pages.offset + (guint64)i * event->pages.page_len,
                      drv_stream_payload(event, i), event->pages.payload);
}

void
drv_emit_header(DrvCursor *out)
{
    drv_cursor_put_u32(out, QEMU_MAGIC);
    drv_cursor_put_u32(out, QEMU_VERSION);
}

void
drv_emit_section(DrvCursor *out, DrvSectionType type, guint32 id, const char *name, guint32 version)
{
    drv_cursor_put_u8(out, (guint8)type);
    drv_cursor_put_u32(out, id);
    if (type == DRV_SECTION_PART || type == DRV_SECTION_END)
        return;
    put_id(out, name);
    drv_cursor_put_u32(out, 0);
    drv_cursor_put_u32(out, version);
}

void
drv_emit_footer(DrvCursor *out, guint32 id)
{
    drv_cursor_put_u8(out, QEMU_SECTION_FOOTER);
    drv_cursor_put_u32(out, id);
}

void
drv_emit_blocks(DrvCursor *out, const DrvRamBlock *blocks, guint n)
{
    guint64 total = 0;
    for (guint i = 0; i < n; i++)
        total += blocks[i].size;
    drv_cursor_put_u64(out, total | RAM_MEM_SIZE);
    for (guint i = 0; i < n; i++) {
        put_id(out, blocks[i].id);
        drv_cursor_put_u64(out, blocks[i].size);
    }
}

void
drv_emit_flush_word(DrvCursor *out)
{
    drv_cursor_put_u64(out, RAM_MULTIFD_FLUSH);
}

void
drv_emit_eos(DrvCursor *out)
{
    drv_cursor_put_u64(out, RAM_EOS);
}
