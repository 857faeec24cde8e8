/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The content of the section 'ram': 64-bit words, a page's address in the high bits and flags in
 * the low ones, each followed by what its flags say.
 *
 * Every word is held against the list of RAM blocks that comes first: a block that is not in it, a
 * page outside of its block or flags that do not belong together mean that this is not what it
 * looks like.
 */
#include "precopy/stream-private.h"

#include <string.h>

#define MAX_EXTRAS 2 /* a page size and an address */

static guint64
address_of(const DrvStream *stream, guint64 word)
{
    return word & ~(guint64)(stream->page_len - 1);
}

static guint
flags_of(const DrvStream *stream, guint64 word)
{
    return (guint)(word & (stream->page_len - 1));
}

/* ---- the list of blocks ---- */

/*
 * With some capabilities a block is followed by a word or two: its page size (postcopy, where it
 * has huge pages), its address (x-ignore-shared). The capabilities are not in the stream, but
 * either is a multiple of the page size below 2^56: neither the length of the next id nor flags.
 */
static gsize
parse_extra(DrvStream *stream, const guint8 *p, DrvStreamEvent *event)
{
    if (++stream->extras > MAX_EXTRAS || flags_of(stream, drv_be64(p)) != 0)
        return drv_stream_lose(stream);
    event->kind = DRV_STREAM_RAM_EXTRA;
    return DRV_STREAM_WORD;
}

static gsize
parse_block(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    gsize unit = 1 + (gsize)p[0] + 8;
    if (len < unit)
        return drv_stream_needs(stream, unit);

    DrvRamBlock block = {.size = drv_be64(p + 1 + p[0])};
    memcpy(block.id, p + 1, p[0]);
    if (block.size > stream->blocks_left || flags_of(stream, block.size) != 0 ||
        stream->blocks->len == DRV_STREAM_MAX_BLOCKS)
        return drv_stream_lose(stream);

    stream->blocks_left -= block.size;
    stream->extras = 0;
    event->kind = DRV_STREAM_RAM_BLOCK;
    event->block = stream->blocks->len;
    g_array_append_val(stream->blocks, block);
    return unit;
}

gsize
drv_stream_parse_blocks(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (stream->blocks_left > 0 && p[0] != 0)
        return parse_block(stream, p, len, event);
    if (len < DRV_STREAM_WORD)
        return drv_stream_needs(stream, DRV_STREAM_WORD);
    if (stream->blocks_left == 0 && flags_of(stream, drv_be64(p)) != 0) {
        stream->state = IN_RAM;
        return 0;
    }
    return parse_extra(stream, p, event);
}

static gsize
begin_blocks(DrvStream *stream, guint64 total, DrvStreamEvent *event)
{
    if (stream->blocks->len > 0 || total == 0)
        return drv_stream_lose(stream);
    stream->blocks_left = total;
    stream->extras = MAX_EXTRAS; /* none before the first block */
    stream->state = IN_BLOCKS;
    event->kind = DRV_STREAM_RAM_SIZE;
    event->ram_bytes = total;
    return DRV_STREAM_WORD;
}

/* ---- pages ---- */

static gboolean
pages_kind(guint flags, DrvPagesKind *kind)
{
    switch (flags & ~RAM_CONTINUE) {
    case RAM_ZERO:
        *kind = DRV_PAGES_ZERO;
        return TRUE;
    case RAM_PAGE:
        *kind = DRV_PAGES_NORMAL;
        return TRUE;
    case RAM_XBZRLE:
        *kind = DRV_PAGES_XBZRLE;
        return TRUE;
    case RAM_COMPRESS_PAGE:
        *kind = DRV_PAGES_COMPRESSED;
        return TRUE;
    default:
        return FALSE;
    }
}

static gboolean
page_in_block(const DrvStream *stream, guint64 offset, guint number)
{
    guint64 size = drv_stream_block(stream, number)->size;
    return size >= stream->page_len && offset <= size - stream->page_len;
}

static gint
find_block(const DrvStream *stream, const guint8 *id, gsize len)
{
    for (guint i = 0; i < stream->blocks->len; i++) {
        const DrvRamBlock *block = drv_stream_block(stream, i);
        if (memcmp(block->id, id, len) == 0 && block->id[len] == '\0')
            return (gint)i;
    }
    return -1;
}

gboolean
drv_stream_ram_word_fits(const DrvStream *stream, guint64 word)
{
    DrvPagesKind kind;
    guint flags = flags_of(stream, word);
    if (word == RAM_EOS || word == RAM_MULTIFD_FLUSH)
        return TRUE;
    if (!pages_kind(flags, &kind))
        return FALSE;
    if (flags & RAM_CONTINUE)
        return stream->block >= 0 &&
               page_in_block(stream, address_of(stream, word), (guint)stream->block);
    for (guint i = 0; i < stream->blocks->len; i++)
        if (page_in_block(stream, address_of(stream, word), i))
            return TRUE;
    return FALSE;
}

/* The bytes of a page that say how long its payload is, from 'at' on, and the payload with them. */
static gssize
payload_len(DrvStream *stream, DrvPagesKind kind, const guint8 *p, gsize at, gsize len)
{
    gsize need = at + (kind == DRV_PAGES_XBZRLE ? 3 : 4);
    gsize n;
    switch (kind) {
    case DRV_PAGES_ZERO:
        return 1;
    case DRV_PAGES_NORMAL:
        return stream->page_len;
    case DRV_PAGES_XBZRLE:
    case DRV_PAGES_COMPRESSED:
        break;
    }
    if (len < need)
        return (gssize)drv_stream_needs(stream, need);
    if (kind == DRV_PAGES_XBZRLE)
        n = (gsize)p[at + 1] << 8 | p[at + 2];
    else
        n = drv_be32(p + at);
    return n <= 2 * (gsize)stream->page_len ? (gssize)(need - at + n) : -1;
}

/* More pages of the same kind that follow each other, here and in the guest. */
static gsize
extend_run(const DrvStream *stream, const guint8 *p, gsize unit, gsize len, DrvStreamEvent *event)
{
    gsize step = DRV_STREAM_WORD + event->pages.payload;
    guint64 size = drv_stream_block(stream, event->pages.block)->size;
    guint64 offset = event->pages.offset + stream->page_len;
    guint64 flags = event->pages.kind == DRV_PAGES_ZERO ? RAM_ZERO : RAM_PAGE;

    /* offset is at most size, and size a multiple of the page's. */
    while (len - unit >= step && offset < size && event->pages.count < G_MAXUINT32) {
        if (drv_be64(p + unit) != (offset | flags | RAM_CONTINUE))
            break;
        if (event->pages.kind == DRV_PAGES_ZERO && p[unit + DRV_STREAM_WORD] != event->pages.fill)
            break;
        unit += step;
        offset += stream->page_len;
        event->pages.count++;
    }
    return unit;
}

static gsize
parse_pages(DrvStream *stream, guint64 word, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    DrvPagesKind kind;
    gsize head = DRV_STREAM_WORD;
    gint block = stream->block;

    if (!pages_kind(flags_of(stream, word), &kind))
        return drv_stream_lose(stream);
    if (!(word & RAM_CONTINUE)) {
        if (len < head + 1)
            return drv_stream_needs(stream, head + 1);
        head += 1 + (gsize)p[DRV_STREAM_WORD];
        if (len < head)
            return drv_stream_needs(stream, head);
        block = find_block(stream, p + DRV_STREAM_WORD + 1, p[DRV_STREAM_WORD]);
    }
    if (block < 0 || !page_in_block(stream, address_of(stream, word), (guint)block))
        return drv_stream_lose(stream);

    gssize payload = payload_len(stream, kind, p, head, len);
    if (payload < 0)
        return drv_stream_lose(stream);
    if (payload == 0)
        return 0;
    gsize unit = head + (gsize)payload;
    if (len < unit)
        return drv_stream_needs(stream, unit);

    stream->block = block;
    event->kind = DRV_STREAM_RAM_PAGES;
    event->pages.kind = kind;
    event->pages.block = (guint)block;
    event->pages.offset = address_of(stream, word);
    event->pages.count = 1;
    event->pages.page_len = stream->page_len;
    event->pages.head = (guint32)head;
    event->pages.payload = (guint32)payload;
    if (kind == DRV_PAGES_ZERO)
        event->pages.fill = p[head];
    if (kind == DRV_PAGES_ZERO || kind == DRV_PAGES_NORMAL)
        unit = extend_run(stream, p, unit, len, event);
    return unit;
}

gsize
drv_stream_parse_ram(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (len < DRV_STREAM_WORD)
        return drv_stream_needs(stream, DRV_STREAM_WORD);
    guint64 word = drv_be64(p);
    if (word == RAM_EOS) {
        event->kind = DRV_STREAM_RAM_EOS;
        stream->state = AT_SECTION;
        stream->ram_ended = stream->ram_ending;
        return DRV_STREAM_WORD;
    }
    if (word == RAM_MULTIFD_FLUSH) {
        event->kind = DRV_STREAM_RAM_FLUSH;
        return DRV_STREAM_WORD;
    }
    if (flags_of(stream, word) == RAM_MEM_SIZE)
        return begin_blocks(stream, address_of(stream, word), event);
    return parse_pages(stream, word, p, len, event);
}
