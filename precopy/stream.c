/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stream is a chain of units: a header, a section's header, a RAM word with its page, a footer.
 * Each parse function knows those of one state. It is only ever shown bytes that lie in one piece,
 * and says how many more it takes; DrvPieces provides them, in place where it can.
 *
 *     AT_HEADER ──> AT_SECTION <──────────────────────────────────────┐
 *         │            │ start of ram ──> IN_BLOCKS ──> IN_RAM ── EOS ─┤
 *         │            │ part or end of ram ──────────────┘ │          │
 *         │            │ command, description ──> IN_COUNTED ──────────┤
 *         │            │ another section            │ nonsense         │
 *         v            v                            v                  │
 *     IN_FOREIGN    IN_OPAQUE <─────────────────────┘ ── a footer and what follows it fit
 *
 * Sections other than 'ram' carry no length, so the parser is IN_OPAQUE often and finds its way
 * back by what a section's end looks like (opaque.c). It may be wrong in that; nothing depends on
 * it but how well the stream can be compressed, because every byte is passed on in its order either
 * way.
 */
#include "precopy/stream-private.h"

#include <string.h>

#define HEADER_LEN 8

/* The longest unit: a page with its word and block id, where a page that got longer by compression
 * counts double; but at least a configuration subsection. */
static gsize
longest_unit(guint32 page_len)
{
    return 1024 + MAX(2 * (gsize)page_len, 8192);
}

DrvStream *
drv_stream_new(void)
{
    DrvStream *stream = g_new0(DrvStream, 1);
    stream->page_len = 1u << DRV_STREAM_PAGE_BITS;
    stream->need = 1;
    stream->block = -1;
    stream->blocks = g_array_new(FALSE, FALSE, sizeof(DrvRamBlock));
    stream->started = g_array_new(FALSE, FALSE, sizeof(DrvSectionName));
    drv_pieces_init(&stream->in, longest_unit(stream->page_len));
    return stream;
}

void
drv_stream_free(DrvStream *stream)
{
    if (stream == NULL)
        return;
    drv_pieces_finish(&stream->in);
    g_array_unref(stream->blocks);
    g_array_unref(stream->started);
    g_free(stream);
}

void
drv_stream_push(DrvStream *stream, const void *data, gsize len)
{
    drv_pieces_push(&stream->in, data, len);
}

static gsize
parse_header(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (len < HEADER_LEN)
        return drv_stream_needs(stream, HEADER_LEN);
    if (drv_be32(p) != QEMU_MAGIC || drv_be32(p + 4) != QEMU_VERSION) {
        drv_stream_lose(stream);
        stream->state = IN_FOREIGN;
        return 0;
    }
    event->kind = DRV_STREAM_HEADER;
    stream->state = AT_SECTION;
    return HEADER_LEN;
}

static gsize
parse_counted(DrvStream *stream, gsize len)
{
    gsize n = MIN(len, stream->counted);
    stream->counted -= n;
    if (stream->counted == 0)
        stream->state = AT_SECTION;
    return n;
}

static gsize
parse(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    switch (stream->state) {
    case AT_HEADER:
        return parse_header(stream, p, len, event);
    case AT_SECTION:
        return drv_stream_parse_section(stream, p, len, event);
    case IN_BLOCKS:
        return drv_stream_parse_blocks(stream, p, len, event);
    case IN_RAM:
        return drv_stream_parse_ram(stream, p, len, event);
    case IN_COUNTED:
        return parse_counted(stream, len);
    case IN_OPAQUE:
        return drv_stream_parse_opaque(stream, p, len, event);
    case IN_FOREIGN:
        return len;
    }
    g_assert_not_reached();
}

gboolean
drv_stream_next(DrvStream *stream, DrvStreamEvent *event)
{
    while (drv_pieces_want(&stream->in, stream->need)) {
        gsize len;
        const guint8 *p = drv_pieces_peek(&stream->in, &len);
        stream->need = 1;
        *event = (DrvStreamEvent){.kind = DRV_STREAM_OPAQUE};
        gsize n = parse(stream, p, len, event);
        if (n > 0) {
            drv_pieces_take(&stream->in, n, &event->piece);
            return TRUE;
        }
        drv_pieces_grow(&stream->in, longest_unit(stream->page_len));
    }
    return FALSE;
}

gboolean
drv_stream_flush(DrvStream *stream, DrvStreamEvent *event)
{
    *event = (DrvStreamEvent){.kind = DRV_STREAM_OPAQUE};
    return drv_pieces_flush(&stream->in, &event->piece);
}

gboolean
drv_stream_exact(const DrvStream *stream)
{
    return !stream->guessed;
}

gboolean
drv_stream_ram_ended(const DrvStream *stream)
{
    return stream->ram_ended;
}

guint32
drv_stream_page_len(const DrvStream *stream)
{
    return stream->page_len;
}

guint
drv_stream_n_blocks(const DrvStream *stream)
{
    return stream->blocks->len;
}

const DrvRamBlock *
drv_stream_block(const DrvStream *stream, guint number)
{
    g_return_val_if_fail(number < stream->blocks->len, NULL);
    return &g_array_index(stream->blocks, DrvRamBlock, number);
}
