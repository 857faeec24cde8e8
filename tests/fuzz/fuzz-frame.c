/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a peer says before anything else is known of it: a frame's header, and behind it an ack and
 * a hello. Refused, or within bounds and the same again when it is written and read once more.
 */
#include "engine/transfer/frame.h"
#include "tests/fuzz/fuzz.h"

static void
see_header(const guint8 *data)
{
    guint8 again[DRV_FRAME_HEADER];
    DrvFrameHeader header, same;
    if (!drv_frame_decode(data, &header, NULL))
        return;
    g_assert(header.raw_len <= DRV_FRAME_RAW_MAX && header.wire_len <= header.raw_len);
    drv_frame_encode(&header, again);
    g_assert(drv_frame_decode(again, &same, NULL));
    g_assert(same.seq == header.seq && same.channel == header.channel);
    g_assert(drv_checksum_equal(same.checksum, header.checksum));
}

static void
see_hello(const guint8 *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvHello) hello = drv_hello_decode(data, size, &error);
    g_assert((hello == NULL) == (error != NULL));
    if (hello == NULL)
        return;
    drv_hello_wants_new(hello);
    if (!drv_hello_compatible(hello, &error))
        g_assert(g_utf8_validate(error->message, -1, NULL));
    if (hello->name == NULL) /* of another version: nothing more was read */
        return;
    g_assert(g_utf8_validate(hello->name, -1, NULL));
    g_assert(hello->progress->len <= DRV_HELLO_MAX / DRV_ACK_BYTES);
    g_autoptr(GByteArray) text = drv_hello_encode(hello);
    g_autoptr(DrvHello) same = drv_hello_decode(text->data, text->len, NULL);
    g_assert(same != NULL && same->progress->len == MIN(hello->progress->len, DRV_HELLO_CHANNELS));
    g_assert(same->lane == hello->lane && memcmp(same->secret, hello->secret, 32) == 0);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    g_autofree guint8 *copy = g_memdup2(data, size);
    DrvProgress ack;
    if (size >= DRV_FRAME_HEADER)
        see_header(copy);
    if (drv_ack_decode(copy, size, &ack, NULL))
        g_assert(size == DRV_ACK_BYTES && ack.delivered <= ack.received);
    if (size <= DRV_HELLO_MAX)
        see_hello(copy, size);
    return 0;
}
