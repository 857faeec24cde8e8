/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/pieces.h"

#include <glib.h>

/*
 * An incremental parser of the main stream of a QEMU migration (docs/qemu-stream.md).
 *
 * Bytes go in as they come, events come out. Each event carries bytes, and the bytes of all events,
 * one after the other, are the input, whatever it was: structure is a hint. What the parser does
 * not understand is opaque, and it looks for the next RAM section in it. There is no error: hostile
 * input gives opaque bytes, in constant memory.
 *
 *     drv_stream_push(stream, data, len);
 *     while (drv_stream_next(stream, &event))
 *         ...
 *     if (nothing more will come soon && drv_stream_flush(stream, &event))
 *         ...
 *
 * Between two pushes the beginning of a unit may be held back, at most a page. Whoever relays has
 * to flush before waiting for long: QEMU may be waiting for an answer to just those bytes.
 */
typedef struct _DrvStream DrvStream;

#define DRV_STREAM_PAGE_BITS 12 /* the size of target pages unless the stream names another */
#define DRV_STREAM_MAX_BLOCKS 1024
#define DRV_STREAM_MAX_SECTIONS 64

typedef enum {
    DRV_STREAM_OPAQUE,     /* bytes without meaning, or the flushed beginning of a unit */
    DRV_STREAM_HEADER,     /* magic and version */
    DRV_STREAM_CONFIG,     /* the configuration section: name is the machine type */
    DRV_STREAM_CONFIG_SUB, /* a subsection of it: name */
    DRV_STREAM_SECTION,    /* section: the header; content follows in further events */
    DRV_STREAM_FOOTER,     /* section.id */
    DRV_STREAM_COMMAND,    /* command; what of its data is not in the unit follows, opaque */
    DRV_STREAM_RAM_SIZE,   /* ram_bytes: the list of blocks begins */
    DRV_STREAM_RAM_BLOCK,  /* block: drv_stream_block() knows it now */
    DRV_STREAM_RAM_EXTRA,  /* a further word about the last block: its page size or address */
    DRV_STREAM_RAM_PAGES,  /* pages: a run of pages that follow each other in the guest */
    DRV_STREAM_RAM_FLUSH,  /* wait for the multifd channels' SYNC packets here */
    DRV_STREAM_RAM_EOS,    /* the RAM section's content ends */
    DRV_STREAM_EOF,        /* no more sections */
    DRV_STREAM_VMDESC,     /* a description of the sections in JSON follows, opaque */
} DrvStreamKind;

typedef enum {
    DRV_SECTION_START = 1,
    DRV_SECTION_PART = 2,
    DRV_SECTION_END = 3,
    DRV_SECTION_FULL = 4,
} DrvSectionType;

typedef enum {
    DRV_COMMAND_OPEN_RETURN_PATH = 1,
    DRV_COMMAND_PING,
    DRV_COMMAND_POSTCOPY_ADVISE,
    DRV_COMMAND_POSTCOPY_LISTEN,
    DRV_COMMAND_POSTCOPY_RUN,
    DRV_COMMAND_POSTCOPY_RAM_DISCARD,
    DRV_COMMAND_PACKAGED,
    DRV_COMMAND_ENABLE_COLO,
    DRV_COMMAND_POSTCOPY_RESUME,
    DRV_COMMAND_RECV_BITMAP,
    DRV_COMMAND_SWITCHOVER_START,
} DrvCommand;

typedef enum {
    DRV_PAGES_ZERO,       /* the payload is one byte, 'fill', which the page is full of: 0 */
    DRV_PAGES_NORMAL,     /* the payload is the page */
    DRV_PAGES_XBZRLE,     /* a delta to an earlier version; runs of one */
    DRV_PAGES_COMPRESSED, /* zlib, before QEMU 9.1; runs of one */
} DrvPagesKind;

typedef struct {
    char id[256];
    guint64 size; /* bytes */
} DrvRamBlock;

typedef struct {
    DrvStreamKind kind;
    DrvPiece piece; /* piece.bytes, piece.len: what is to be passed on */
    /* CONFIG, CONFIG_SUB, SECTION (NULL where a PART's or END's beginning was not understood): not
     * terminated, as long as the event is valid */
    const char *name;
    gsize name_len;
    union {
        struct {
            DrvSectionType type;
            guint32 id;
            guint32 instance, version; /* START and FULL */
            gboolean is_ram;
        } section;
        struct {
            guint16 command; /* DrvCommand or one that is not known */
            guint16 len;     /* of its data */
        } command;
        guint64 ram_bytes;
        guint block; /* its number */
        struct {
            DrvPagesKind kind;
            guint block;
            guint64 offset;   /* of the first page in the block */
            guint32 count;    /* the others follow it */
            guint32 page_len; /* bytes of a page in the guest */
            guint32 head;     /* bytes of the unit before the first page's payload */
            guint32 payload;  /* bytes of each page's payload */
            guint8 fill;
        } pages;
    };
} DrvStreamEvent;

#define DRV_STREAM_WORD 8 /* bytes before the payload of every page of a run but the first */

DrvStream *drv_stream_new(void);
void drv_stream_free(DrvStream *stream);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvStream, drv_stream_free)

/* More bytes; borrowed until drv_stream_next() has returned FALSE, which must be before the next
 * push. */
void drv_stream_push(DrvStream *stream, const void *data, gsize len);

/* The next event, valid until the next call; FALSE when it takes more bytes. */
gboolean drv_stream_next(DrvStream *stream, DrvStreamEvent *event);

/*
 * The bytes held back so far as an opaque event; FALSE when there are none. The unit they begin is
 * still understood when the rest comes: its event has all of it in piece.unit, and in piece.bytes
 * only that rest.
 */
gboolean drv_stream_flush(DrvStream *stream, DrvStreamEvent *event);

/*
 * Whether every byte so far was understood from the first on, up to the RAM's last section; what
 * comes after that may be opaque. Only then is it certain that what looks like pages is pages: who
 * takes them out of the stream must insist on it, who passes it on need not.
 */
gboolean drv_stream_exact(const DrvStream *stream);

/* The RAM's END section has come by: there are no more pages. */
gboolean drv_stream_ram_ended(const DrvStream *stream);

guint32 drv_stream_page_len(const DrvStream *stream);
guint drv_stream_n_blocks(const DrvStream *stream);
/* Owned by the stream; moves when another block comes. */
const DrvRamBlock *drv_stream_block(const DrvStream *stream, guint number);

/* The payload of page 'i' of a run. */
static inline const guint8 *
drv_stream_payload(const DrvStreamEvent *event, guint32 i)
{
    return event->piece.unit + event->pages.head +
           (gsize)i * (DRV_STREAM_WORD + event->pages.payload);
}
