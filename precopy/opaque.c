/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Opaque content and how its end is found.
 *
 * A device's section has no length. Its end is a footer with the section's id, but those five bytes
 * may occur in its content. So a footer only counts together with what follows it:
 *
 *     7e ID   02|03 id-of-ram word     a RAM section, with a first word that fits the RAM blocks
 *     7e ID   02|03 id                 a part of another section that was started before
 *     7e ID   01|04 id name ...        a section's header with a name that can be read
 *     7e ID   08 command               one of the commands that follow sections, with its length
 *     7e ID   00 06 length '{'         the end, and a description in JSON
 *
 * A RAM section is taken up after any footer: should the parser have been led astray, by content
 * that looked like another section's header, it is back with the next part of the RAM. After the
 * RAM's END section no RAM is looked for.
 */
#include "precopy/stream-private.h"

#include <string.h>

#define NEXT QEMU_FOOTER_LEN /* where the next section's type is */

typedef enum {
    FITS,
    FITS_NOT,
    NEEDS, /* more bytes, as many as stream->need says, to tell */
} Verdict;

static Verdict
needs(DrvStream *stream, gsize need)
{
    drv_stream_needs(stream, need);
    return NEEDS;
}

static Verdict
part_fits(DrvStream *stream, const guint8 *p, gsize len, gboolean own_footer)
{
    if (len < NEXT + 5)
        return needs(stream, NEXT + 5);
    guint32 id = drv_be32(p + NEXT + 1);
    if (!stream->ram_known || id != stream->ram_id)
        return own_footer && drv_stream_started(stream, id) != NULL ? FITS : FITS_NOT;
    if (stream->ram_ended)
        return FITS_NOT;
    if (len < NEXT + 5 + 8)
        return needs(stream, NEXT + 5 + 8);
    return drv_stream_ram_word_fits(stream, drv_be64(p + NEXT + 5)) ? FITS : FITS_NOT;
}

static Verdict
start_fits(DrvStream *stream, const guint8 *p, gsize len)
{
    gssize header = drv_stream_section_header(stream, p + NEXT, len - NEXT);
    if (header == 0)
        return needs(stream, stream->need + NEXT);
    return header > 0 ? FITS : FITS_NOT;
}

static Verdict
command_fits(DrvStream *stream, const guint8 *p, gsize len)
{
    if (len < NEXT + 5)
        return needs(stream, NEXT + 5);
    guint command = (guint)p[NEXT + 1] << 8 | p[NEXT + 2];
    guint data = (guint)p[NEXT + 3] << 8 | p[NEXT + 4];
    switch (command) {
    case DRV_COMMAND_POSTCOPY_LISTEN:
    case DRV_COMMAND_POSTCOPY_RUN:
    case DRV_COMMAND_SWITCHOVER_START:
        return data == 0 ? FITS : FITS_NOT;
    case DRV_COMMAND_PING:
    case DRV_COMMAND_PACKAGED:
        return data == 4 ? FITS : FITS_NOT;
    default:
        return FITS_NOT;
    }
}

static Verdict
end_fits(DrvStream *stream, const guint8 *p, gsize len)
{
    if (len < NEXT + 2)
        return needs(stream, NEXT + 2);
    if (p[NEXT + 1] != QEMU_VMDESCRIPTION)
        return FITS_NOT;
    if (len < NEXT + 7)
        return needs(stream, NEXT + 7);
    return p[NEXT + 6] == '{' ? FITS : FITS_NOT;
}

/* Whether the 'len' bytes, at least one, begin with a footer and the section after it. */
static Verdict
footer_fits(DrvStream *stream, const guint8 *p, gsize len)
{
    if (len < NEXT + 1)
        return needs(stream, NEXT + 1);
    gboolean own = !stream->open || drv_be32(p + 1) == stream->open_id;
    switch (p[NEXT]) {
    case QEMU_SECTION_PART:
    case QEMU_SECTION_END:
        return part_fits(stream, p, len, own);
    case QEMU_SECTION_START:
    case QEMU_SECTION_FULL:
        return own ? start_fits(stream, p, len) : FITS_NOT;
    case QEMU_COMMAND:
        return own ? command_fits(stream, p, len) : FITS_NOT;
    case QEMU_EOF:
        return own ? end_fits(stream, p, len) : FITS_NOT;
    default:
        return FITS_NOT;
    }
}

gsize
drv_stream_parse_opaque(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    const guint8 *at = p;
    const guint8 *end = p + len;
    while ((at = memchr(at, QEMU_SECTION_FOOTER, (gsize)(end - at))) != NULL) {
        Verdict verdict = footer_fits(stream, at, (gsize)(end - at));
        if (verdict == FITS_NOT) {
            at++;
            continue;
        }
        if (at > p) {
            /* What is before comes out now; this is looked at again on its own. */
            stream->need = 1;
            return (gsize)(at - p);
        }
        if (verdict == NEEDS)
            return 0;
        event->kind = DRV_STREAM_FOOTER;
        event->section.id = drv_be32(p + 1);
        stream->open = FALSE;
        stream->state = AT_SECTION;
        return QEMU_FOOTER_LEN;
    }
    return len;
}
