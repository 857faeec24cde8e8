/* SPDX-License-Identifier: Apache-2.0 */

/* As fuzz-stream.c, for a multifd channel. */
#include "precopy/multifd.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

typedef struct {
    const guint8 *expected;
    gsize left;
} Output;

static void
see(Output *output, const DrvMultifd *multifd, const DrvMultifdEvent *event)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(multifd);
    fuzz_expect(&output->expected, &output->left, &event->piece);
    if (event->kind == DRV_MULTIFD_PACKET)
        for (guint32 i = 0; i < packet->normal + packet->zero; i++)
            g_assert(drv_multifd_offset(multifd, i) % 4096 == 0);
    if (event->kind == DRV_MULTIFD_PAGES)
        g_assert(event->pages.first + event->pages.count <= packet->normal &&
                 event->piece.unit_len == (gsize)event->pages.count * 4096);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    if (size == 0)
        return 0;
    g_autoptr(DrvMultifd) multifd = drv_multifd_new(4096);
    Output output = {data + 1, size - 1};
    DrvMultifdEvent event;
    gsize piece = fuzz_piece(data[0]);
    for (gsize at = 1, n; at < size; at += n) {
        n = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, n);
        drv_multifd_push(multifd, copy, n);
        while (drv_multifd_next(multifd, &event))
            see(&output, multifd, &event);
        if ((fuzz_flush(data[0]) || at + n == size) && drv_multifd_flush(multifd, &event))
            see(&output, multifd, &event);
    }
    g_assert(output.left == 0);
    return 0;
}
