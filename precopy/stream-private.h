/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/be.h"
#include "precopy/stream.h"

/* The types of sections, and what else begins like one */
enum {
    QEMU_EOF = 0x00,
    QEMU_SECTION_START = DRV_SECTION_START,
    QEMU_SECTION_PART = DRV_SECTION_PART,
    QEMU_SECTION_END = DRV_SECTION_END,
    QEMU_SECTION_FULL = DRV_SECTION_FULL,
    QEMU_SUBSECTION = 0x05,
    QEMU_VMDESCRIPTION = 0x06,
    QEMU_CONFIGURATION = 0x07,
    QEMU_COMMAND = 0x08,
    QEMU_SECTION_FOOTER = 0x7e,
};

#define QEMU_MAGIC 0x5145564d
#define QEMU_VERSION 3
#define QEMU_RAM_VERSION 4
#define QEMU_FOOTER_LEN 5

/* The flags in the low bits of a RAM word */
enum {
    RAM_ZERO = 0x02,
    RAM_MEM_SIZE = 0x04,
    RAM_PAGE = 0x08,
    RAM_EOS = 0x10,
    RAM_CONTINUE = 0x20,
    RAM_XBZRLE = 0x40,
    RAM_COMPRESS_PAGE = 0x100,
    RAM_MULTIFD_FLUSH = 0x200,
};

typedef enum {
    AT_HEADER,  /* the stream's first bytes */
    AT_SECTION, /* a section, or the footer of the one before */
    IN_BLOCKS,  /* the list of RAM blocks */
    IN_RAM,     /* RAM words */
    IN_COUNTED, /* opaque bytes of known number */
    IN_OPAQUE,  /* opaque up to what looks like a section's end with another's begin */
    IN_FOREIGN, /* not a stream of QEMU: opaque to its end */
} DrvStreamState;

typedef struct {
    guint32 id;
    char name[256];
} DrvSectionName;

struct _DrvStream {
    DrvPieces in;
    gsize need; /* bytes it takes to go on */
    DrvStreamState state;
    guint64 counted;  /* IN_COUNTED: bytes left */
    guint32 page_len; /* of the target */

    gboolean configured; /* the configuration was there, its subsections may follow */
    gboolean open;       /* a section is, open_id */
    guint32 open_id;
    gboolean guessed; /* something before the end of the RAM was not understood */
    GArray *started;  /* DrvSectionName */

    gboolean ram_known;
    gboolean ram_ending, ram_ended; /* its END section has begun, and was understood to its end */
    guint32 ram_id;
    GArray *blocks;      /* DrvRamBlock */
    guint64 blocks_left; /* bytes of blocks still to be listed */
    guint extras;        /* words that followed the last block listed */
    gint block;          /* of the last page, for CONTINUE; -1 when not known */
};

/*
 * A parse function is shown the 'len' bytes that lie in one piece, at least one. It returns the
 * length of the unit they begin with and fills in the event and the state; or 0 when it takes more
 * bytes, with their number in stream->need; or 0 with another state, in which to try again.
 */

gsize drv_stream_parse_ram(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event);
gsize drv_stream_parse_blocks(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event);
gsize drv_stream_parse_section(DrvStream *stream, const guint8 *p, gsize len,
                               DrvStreamEvent *event);
gsize drv_stream_parse_opaque(DrvStream *stream, const guint8 *p, gsize len, DrvStreamEvent *event);

/* Whether a RAM section may begin with this word. */
gboolean drv_stream_ram_word_fits(const DrvStream *stream, guint64 word);

/* How much of a section's header 'p' is: its length; 0: stream->need more bytes; -1: none. */
gssize drv_stream_section_header(DrvStream *stream, const guint8 *p, gsize len);

/* The name of a section that was started, or NULL. */
const char *drv_stream_started(const DrvStream *stream, guint32 id);

static inline gsize
drv_stream_needs(DrvStream *stream, gsize need)
{
    stream->need = need;
    return 0;
}

/* What comes is not understood: opaque until a section is found again. */
static inline gsize
drv_stream_lose(DrvStream *stream)
{
    stream->state = IN_OPAQUE;
    if (!stream->ram_ended)
        stream->guessed = TRUE;
    /* Pages may come by unseen: what CONTINUE continues is not known any more. */
    stream->block = -1;
    return 0;
}
