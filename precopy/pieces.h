/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Bytes that arrive in arbitrary pieces, seen by a parser as units that lie in one piece. A unit
 * that lies within what was pushed stays where it is; only one that spans two pushes is put
 * together in a buffer of fixed size. Nothing is dropped, added or reordered.
 */
typedef struct {
    /* What was pushed last; borrowed */
    const guint8 *input;
    gsize input_len;
    gsize input_pos;

    /* The beginning of a unit whose rest has not come yet */
    guint8 *carry;
    gsize carry_size;
    gsize carry_len;
    gsize carry_pos;
    gsize moved;   /* of the carry's bytes: how many at its end are also in the input */
    gsize flushed; /* of the carry's bytes from carry_pos on: how many came out by a flush */
} DrvPieces;

/* A unit that was taken. Valid until the next call with these pieces. */
typedef struct {
    const guint8 *unit; /* all of it, for whoever wants to understand it */
    gsize unit_len;
    const guint8 *bytes; /* what of it has not come out before: all of it, unless flushed */
    gsize len;
    gboolean carried; /* it lies here; FALSE: in the caller's memory, and is valid as long */
} DrvPiece;

/* 'size' is the longest unit, in bytes, and all the memory that is ever used. */
void drv_pieces_init(DrvPieces *pieces, gsize size);
void drv_pieces_finish(DrvPieces *pieces);

/* Makes longer units possible. */
void drv_pieces_grow(DrvPieces *pieces, gsize size);

/* More bytes, borrowed until all are taken. Those of the last push must have been: go on until
 * drv_pieces_want() is FALSE. */
void drv_pieces_push(DrvPieces *pieces, const void *data, gsize len);

/* Whether there are 'need' bytes in one piece; FALSE: push more. 'need' is at least 1 and at most
 * the longest unit, unless so much lies in one piece anyway. */
gboolean drv_pieces_want(DrvPieces *pieces, gsize need);

/* What lies in one piece now, maybe nothing. */
const guint8 *drv_pieces_peek(const DrvPieces *pieces, gsize *len);

/* Takes 'n' of the bytes that drv_pieces_peek() shows. */
void drv_pieces_take(DrvPieces *pieces, gsize n, DrvPiece *piece);

/* Gives out what waits for the rest of its unit, now and not later; FALSE when nothing does. The
 * unit is still taken as a whole when its rest comes. */
gboolean drv_pieces_flush(DrvPieces *pieces, DrvPiece *piece);
