/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/pieces.h"
#include "tests/fuzz/entry.h"

/* The length of pieces, and whether to flush after each, from an input's first byte. */
static inline gsize
fuzz_piece(guint8 how)
{
    static const gsize lengths[] = {1, 3, 7, 61, 512, 4104, 65536, 1 << 30};
    return lengths[how & 7];
}

static inline gboolean
fuzz_flush(guint8 how)
{
    return (how & 8) != 0;
}

/* That the piece is what has to come next. */
static inline void
fuzz_expect(const guint8 **expected, gsize *left, const DrvPiece *piece)
{
    g_assert(piece->len <= *left && piece->len <= piece->unit_len);
    g_assert(memcmp(piece->bytes, *expected, piece->len) == 0);
    *expected += piece->len;
    *left -= piece->len;
}
