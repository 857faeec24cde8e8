/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/pieces.h"

#include <string.h>

void
drv_pieces_init(DrvPieces *pieces, gsize size)
{
    *pieces = (DrvPieces){.carry = g_malloc(size), .carry_size = size};
}

void
drv_pieces_finish(DrvPieces *pieces)
{
    g_clear_pointer(&pieces->carry, g_free);
}

void
drv_pieces_grow(DrvPieces *pieces, gsize size)
{
    if (size <= pieces->carry_size)
        return;
    pieces->carry = g_realloc(pieces->carry, size);
    pieces->carry_size = size;
}

void
drv_pieces_push(DrvPieces *pieces, const void *data, gsize len)
{
    g_return_if_fail(pieces->input_pos == pieces->input_len);
    pieces->input = data;
    pieces->input_len = len;
    pieces->input_pos = 0;
    pieces->moved = 0;
}

static void
move_into_carry(DrvPieces *pieces, gsize n)
{
    if (pieces->carry_pos > 0) {
        pieces->carry_len -= pieces->carry_pos;
        memmove(pieces->carry, pieces->carry + pieces->carry_pos, pieces->carry_len);
        pieces->carry_pos = 0;
    }
    g_assert(n <= pieces->carry_size - pieces->carry_len);
    if (n > 0)
        memcpy(pieces->carry + pieces->carry_len, pieces->input + pieces->input_pos, n);
    pieces->carry_len += n;
    pieces->input_pos += n;
    pieces->moved += n;
}

gboolean
drv_pieces_want(DrvPieces *pieces, gsize need)
{
    gsize have = pieces->carry_len - pieces->carry_pos;
    gsize left = pieces->input_len - pieces->input_pos;
    if (have >= need || (have == 0 && left >= need))
        return TRUE;
    move_into_carry(pieces, MIN(need - have, left));
    return left >= need - have;
}

const guint8 *
drv_pieces_peek(const DrvPieces *pieces, gsize *len)
{
    if (pieces->carry_len > pieces->carry_pos) {
        *len = pieces->carry_len - pieces->carry_pos;
        return pieces->carry + pieces->carry_pos;
    }
    *len = pieces->input_len - pieces->input_pos;
    return pieces->input + pieces->input_pos;
}

/* What is left in the carry and also in the input is read from there, so that the carry gets empty
 * and the next units are not copied. */
static void
back_to_input(DrvPieces *pieces)
{
    gsize left = pieces->carry_len - pieces->carry_pos;
    if (left > pieces->moved)
        return;
    pieces->input_pos -= left;
    pieces->carry_pos = pieces->carry_len = pieces->moved = 0;
}

void
drv_pieces_take(DrvPieces *pieces, gsize n, DrvPiece *piece)
{
    gsize len;
    const guint8 *at = drv_pieces_peek(pieces, &len);
    gsize before = MIN(pieces->flushed, n);
    g_assert(n <= len);

    *piece = (DrvPiece){.unit = at,
                        .unit_len = n,
                        .bytes = at + before,
                        .len = n - before,
                        .carried = pieces->carry_len > 0};
    pieces->flushed -= before;
    if (piece->carried) {
        pieces->carry_pos += n;
        back_to_input(pieces);
    } else {
        pieces->input_pos += n;
    }
}

gboolean
drv_pieces_flush(DrvPieces *pieces, DrvPiece *piece)
{
    gsize have = pieces->carry_len - pieces->carry_pos;
    const guint8 *at = pieces->carry + pieces->carry_pos + pieces->flushed;
    *piece = (DrvPiece){.unit = at, .unit_len = have - pieces->flushed, .carried = TRUE};
    piece->bytes = piece->unit;
    piece->len = piece->unit_len;
    pieces->flushed = have;
    /* What came out must not be read once more from the input. */
    pieces->moved = 0;
    return piece->len > 0;
}
