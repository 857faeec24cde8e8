/* SPDX-License-Identifier: Apache-2.0 */

/* What stands between the sections' contents: headers, footers, the configuration, commands. */
#include "precopy/stream-private.h"

#include <string.h>

#define START_FIXED 6          /* type, id, length of the name */
#define START_TAIL 8           /* instance, version */
#define PART_LEN 5             /* type, id */
#define COMMAND_LEN 5          /* type, command, length */
#define MAX_COMMAND_IN_UNIT 64 /* data of longer ones follows as opaque */
#define MAX_SANE_VERSION 0xffff
#define MAX_CAPABILITIES 32
#define MIN_PAGE_BITS 10 /* the RAM's flags take as many */
#define MAX_PAGE_BITS 16

static gboolean
is_name(const guint8 *p, gsize len)
{
    for (gsize i = 0; i < len; i++)
        if (!g_ascii_isprint(p[i]))
            return FALSE;
    return len > 0;
}

static gboolean
name_is(const DrvStreamEvent *event, const char *name)
{
    return event->name_len == strlen(name) && memcmp(event->name, name, event->name_len) == 0;
}

const char *
drv_stream_started(const DrvStream *stream, guint32 id)
{
    for (guint i = 0; i < stream->started->len; i++)
        if (g_array_index(stream->started, DrvSectionName, i).id == id)
            return g_array_index(stream->started, DrvSectionName, i).name;
    return NULL;
}

static void
remember_started(DrvStream *stream, const DrvStreamEvent *event)
{
    DrvSectionName entry = {.id = event->section.id};
    if (stream->started->len == DRV_STREAM_MAX_SECTIONS ||
        drv_stream_started(stream, event->section.id) != NULL)
        return;
    memcpy(entry.name, event->name, event->name_len);
    g_array_append_val(stream->started, entry);
}

/* ---- sections ---- */

gssize
drv_stream_section_header(DrvStream *stream, const guint8 *p, gsize len)
{
    gsize unit = p[0] == QEMU_SECTION_PART || p[0] == QEMU_SECTION_END ? PART_LEN : START_FIXED;
    if (len < unit)
        return (gssize)drv_stream_needs(stream, unit);
    if (unit == PART_LEN)
        return PART_LEN;

    gsize name_len = p[START_FIXED - 1];
    unit += name_len + START_TAIL;
    if (!is_name(p + START_FIXED, MIN(name_len, len - START_FIXED)) && len > START_FIXED)
        return -1;
    if (len < unit)
        return (gssize)drv_stream_needs(stream, unit);
    return drv_be32(p + unit - 4) <= MAX_SANE_VERSION ? (gssize)unit : -1;
}

static void
enter_section(DrvStream *stream, DrvStreamEvent *event)
{
    stream->open = TRUE;
    stream->open_id = event->section.id;
    event->section.is_ram = stream->ram_known && event->section.id == stream->ram_id;
    if (event->section.is_ram && !stream->ram_ended) {
        stream->ram_ending = event->section.type == DRV_SECTION_END;
        stream->state = IN_RAM;
        return;
    }
    stream->state = IN_OPAQUE;
    if (!stream->ram_ended)
        stream->guessed = TRUE;
}

static gsize
parse_section_header(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    gssize unit = drv_stream_section_header(stream, p, len);
    if (unit < 0)
        return drv_stream_lose(stream);
    if (unit == 0)
        return 0;

    event->kind = DRV_STREAM_SECTION;
    event->section.type = p[0];
    event->section.id = drv_be32(p + 1);
    if (unit == PART_LEN) {
        event->name = drv_stream_started(stream, event->section.id);
        event->name_len = event->name != NULL ? strlen(event->name) : 0;
    } else {
        event->name = (const char *)p + START_FIXED;
        event->name_len = p[START_FIXED - 1];
        event->section.instance = drv_be32(p + unit - 8);
        event->section.version = drv_be32(p + unit - 4);
    }
    if (event->section.type == DRV_SECTION_START) {
        remember_started(stream, event);
        if (!stream->ram_known && name_is(event, "ram") &&
            event->section.version == QEMU_RAM_VERSION) {
            stream->ram_known = TRUE;
            stream->ram_id = event->section.id;
        }
    }
    enter_section(stream, event);
    return (gsize)unit;
}

static gsize
parse_footer(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (len < QEMU_FOOTER_LEN)
        return drv_stream_needs(stream, QEMU_FOOTER_LEN);
    if (!stream->open || drv_be32(p + 1) != stream->open_id)
        return drv_stream_lose(stream);
    event->kind = DRV_STREAM_FOOTER;
    event->section.id = stream->open_id;
    stream->open = FALSE;
    return QEMU_FOOTER_LEN;
}

/* ---- the configuration ---- */

static gsize
parse_configuration(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (stream->configured || stream->open)
        return drv_stream_lose(stream);
    if (len < 5)
        return drv_stream_needs(stream, 5);
    guint32 name_len = drv_be32(p + 1);
    if (name_len == 0 || name_len > 255)
        return drv_stream_lose(stream);
    if (len < 5 + name_len)
        return drv_stream_needs(stream, 5 + name_len);
    if (!is_name(p + 5, name_len))
        return drv_stream_lose(stream);
    stream->configured = TRUE;
    event->kind = DRV_STREAM_CONFIG;
    event->name = (const char *)p + 5;
    event->name_len = name_len;
    return 5 + name_len;
}

/* The end of a list of 'count' names, each a length and as many bytes, or 0: needs more. */
static gsize
end_of_names(DrvStream *stream, const guint8 *p, gsize len, gsize at, guint32 count)
{
    for (; count > 0; count--) {
        if (len < at + 1)
            return drv_stream_needs(stream, at + 1);
        at += 1 + (gsize)p[at];
    }
    return len < at ? drv_stream_needs(stream, at) : at;
}

static gsize
parse_capabilities(DrvStream *stream, const guint8 *p, gsize len, gsize at)
{
    if (len < at + 4)
        return drv_stream_needs(stream, at + 4);
    guint32 count = drv_be32(p + at);
    if (count > MAX_CAPABILITIES)
        return drv_stream_lose(stream);
    return end_of_names(stream, p, len, at + 4, count);
}

static gsize
parse_page_bits(DrvStream *stream, const guint8 *p, gsize len, gsize at)
{
    if (len < at + 4)
        return drv_stream_needs(stream, at + 4);
    guint32 bits = drv_be32(p + at);
    if (bits < MIN_PAGE_BITS || bits > MAX_PAGE_BITS)
        return drv_stream_lose(stream);
    stream->page_len = 1u << bits;
    return at + 4;
}

/* A configuration's subsection: length and name, version, and fields that only the name tells. */
static gsize
parse_subsection(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (!stream->configured || stream->open || stream->started->len > 0)
        return drv_stream_lose(stream);
    if (len < 2)
        return drv_stream_needs(stream, 2);
    gsize at = 2 + (gsize)p[1] + 4;
    if (len < at)
        return drv_stream_needs(stream, at);

    event->name = (const char *)p + 2;
    event->name_len = p[1];
    event->kind = DRV_STREAM_CONFIG_SUB;
    if (name_is(event, "configuration/capabilities"))
        return parse_capabilities(stream, p, len, at);
    if (name_is(event, "configuration/target-page-bits"))
        return parse_page_bits(stream, p, len, at);
    if (name_is(event, "configuration/uuid"))
        return len < at + 16 ? drv_stream_needs(stream, at + 16) : at + 16;
    return drv_stream_lose(stream);
}

/* ---- commands and the end ---- */

static void
count_opaque(DrvStream *stream, guint64 n)
{
    stream->counted = n;
    stream->state = n > 0 ? IN_COUNTED : AT_SECTION;
}

static gsize
parse_command(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (len < COMMAND_LEN)
        return drv_stream_needs(stream, COMMAND_LEN);
    guint16 command = (guint16)(p[1] << 8 | p[2]);
    guint16 data = (guint16)(p[3] << 8 | p[4]);
    gsize unit = COMMAND_LEN + (data <= MAX_COMMAND_IN_UNIT ? data : 0);
    if (command == 0 || command > 0xff || stream->open)
        return drv_stream_lose(stream);
    if (len < unit)
        return drv_stream_needs(stream, unit);

    event->kind = DRV_STREAM_COMMAND;
    event->command.command = command;
    event->command.len = data;
    if (data > MAX_COMMAND_IN_UNIT)
        count_opaque(stream, data);
    else if (command == DRV_COMMAND_PACKAGED && data == 4)
        count_opaque(stream, drv_be32(p + COMMAND_LEN));
    return unit;
}

static gsize
parse_description(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    if (len < 5)
        return drv_stream_needs(stream, 5);
    event->kind = DRV_STREAM_VMDESC;
    count_opaque(stream, drv_be32(p + 1));
    return 5;
}

gsize
drv_stream_parse_section(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event)
{
    /* Old machine types have no footers: a section's header may follow at once. */
    if (p[0] != QEMU_SECTION_FOOTER)
        stream->open = FALSE;
    switch (p[0]) {
    case QEMU_SECTION_START:
    case QEMU_SECTION_PART:
    case QEMU_SECTION_END:
    case QEMU_SECTION_FULL:
        return parse_section_header(stream, p, len, event);
    case QEMU_SECTION_FOOTER:
        return parse_footer(stream, p, len, event);
    case QEMU_CONFIGURATION:
        return parse_configuration(stream, p, len, event);
    case QEMU_SUBSECTION:
        return parse_subsection(stream, p, len, event);
    case QEMU_COMMAND:
        return parse_command(stream, p, len, event);
    case QEMU_VMDESCRIPTION:
        return parse_description(stream, p, len, event);
    case QEMU_EOF:
        event->kind = DRV_STREAM_EOF;
        return 1;
    default:
        return drv_stream_lose(stream);
    }
}
