/* SPDX-License-Identifier: Apache-2.0 */

/* What an NBD client says, read along. The first byte says how it is cut: the figures are the same
 * as when all of it comes at once, and no greater than what was said. */
#include "engine/channel/nbd-requests.h"
#include "tests/fuzz/fuzz.h"

static DrvNbdRequests
read_along(const guint8 *data, gsize size, gsize piece)
{
    DrvNbdRequests requests;
    drv_nbd_requests_init(&requests);
    for (gsize at = 0; at < size; at += piece) {
        gsize len = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, len); /* its end is the sanitizer's */
        drv_nbd_requests_feed(&requests, copy, len);
        g_assert(requests.lost || requests.have <= sizeof requests.header);
    }
    return requests;
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    if (size < 1)
        return 0;
    DrvNbdRequests whole = read_along(data + 1, size - 1, size);
    DrvNbdRequests cut = read_along(data + 1, size - 1, fuzz_piece(data[0]));
    g_assert(whole.lost == cut.lost && whole.requests == cut.requests);
    g_assert(whole.data_bytes == cut.data_bytes && whole.zero_bytes == cut.zero_bytes);
    g_assert(whole.data_bytes <= size);
    return 0;
}
