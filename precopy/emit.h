/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "common/cursor.h"
#include "precopy/stream.h"

/*
 * Writes a main stream. What goes by unchanged is passed on with drv_emit_event(). Whoever leaves
 * pages out or puts some in uses the others, which keep track of the block of the last page
 * written: CONTINUE refers to what the reader has seen, not to what was parsed.
 *
 * All write through a cursor; when it is too short, drv_cursor_ok() says so afterwards and the
 * emitter must not be used any more.
 */
typedef struct {
    gint block; /* of the last page written; -1: none */
} DrvEmit;

#define DRV_EMIT_INIT ((DrvEmit){.block = -1})

/* What must be there for a page and its head. */
#define DRV_EMIT_MAX_HEAD (DRV_STREAM_WORD + 1 + 255)

/* The event's bytes as they came. Not to be mixed with what changes the order of pages: a run that
 * follows left-out pages needs drv_emit_pages(). */
void drv_emit_event(DrvEmit *emit, DrvCursor *out, const DrvStreamEvent *event);

/* Pages 'first' to 'first + count - 1' of a run, of any kind. */
void drv_emit_pages(DrvEmit *emit, DrvCursor *out, const DrvStream *stream,
                    const DrvStreamEvent *event, guint32 first, guint32 count);

/* A page: 'block' and its number, the page's offset there, and its payload (a byte for zero). */
void drv_emit_page(DrvEmit *emit, DrvCursor *out, const DrvRamBlock *block, guint number,
                   DrvPagesKind kind, guint64 offset, const void *payload, gsize len);

/* Headers. 'name', at most 255 bytes, counts for START and FULL only. */
void drv_emit_header(DrvCursor *out);
void drv_emit_section(DrvCursor *out, DrvSectionType type, guint32 id, const char *name,
                      guint32 version);
void drv_emit_footer(DrvCursor *out, guint32 id);

/* The RAM's list of blocks, without extras. */
void drv_emit_blocks(DrvCursor *out, const DrvRamBlock *blocks, guint n);

/* The words without a page. */
void drv_emit_flush_word(DrvCursor *out);
void drv_emit_eos(DrvCursor *out);
