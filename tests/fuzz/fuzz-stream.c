/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The first byte says in what pieces the rest is fed; then the parser must give back what it got.
 * Pieces are copies of their own, so that reading beyond one is seen.
 */
#include "precopy/stream.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

typedef struct {
    const guint8 *expected;
    gsize left;
} Output;

static void
see(Output *output, const DrvStream *stream, const DrvStreamEvent *event)
{
    fuzz_expect(&output->expected, &output->left, &event->piece);
    if (event->kind != DRV_STREAM_RAM_PAGES)
        return;
    const DrvRamBlock *block = drv_stream_block(stream, event->pages.block);
    guint64 bytes = (guint64)event->pages.count * event->pages.page_len;
    g_assert(bytes <= block->size && event->pages.offset <= block->size - bytes);
    const guint8 *last = drv_stream_payload(event, event->pages.count - 1);
    g_assert(last + event->pages.payload == event->piece.unit + event->piece.unit_len);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    if (size == 0)
        return 0;
    g_autoptr(DrvStream) stream = drv_stream_new();
    Output output = {data + 1, size - 1};
    DrvStreamEvent event;
    gsize piece = fuzz_piece(data[0]);
    for (gsize at = 1, n; at < size; at += n) {
        n = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, n);
        drv_stream_push(stream, copy, n);
        while (drv_stream_next(stream, &event))
            see(&output, stream, &event);
        if ((fuzz_flush(data[0]) || at + n == size) && drv_stream_flush(stream, &event))
            see(&output, stream, &event);
    }
    g_assert(output.left == 0);
    return 0;
}
