/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/multifd.h"

#include "precopy/test-sample.h"

#include <string.h>

typedef struct {
    GByteArray *out;
    guint kinds[DRV_MULTIFD_PAGES + 1];
    guint64 normal, zero, opaque;
    guint syncs, channel;
    gboolean exact;
    char device[256];
    guint64 last_offset;
} Seen;

static void
seen_clear(Seen *seen)
{
    g_byte_array_unref(seen->out);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Seen, seen_clear)

static void
see(Seen *seen, const DrvMultifd *multifd, const DrvMultifdEvent *event)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(multifd);
    g_byte_array_append(seen->out, event->piece.bytes, (guint)event->piece.len);
    seen->kinds[event->kind]++;
    switch (event->kind) {
    case DRV_MULTIFD_OPAQUE:
        seen->opaque += event->piece.len;
        break;
    case DRV_MULTIFD_INIT:
        seen->channel = event->channel;
        break;
    case DRV_MULTIFD_PACKET:
        seen->zero += packet->zero;
        seen->syncs += packet->flags & DRV_MULTIFD_SYNC;
        if (packet->flags & DRV_MULTIFD_DEVICE_STATE)
            memcpy(seen->device, packet->block, sizeof seen->device);
        else if (packet->normal + packet->zero > 0)
            seen->last_offset = drv_multifd_offset(multifd, packet->normal + packet->zero - 1);
        break;
    case DRV_MULTIFD_PAGES:
        seen->normal += event->pages.count;
        g_assert_cmpuint(event->pages.first + event->pages.count, <=, packet->normal);
        break;
    }
}

static Seen
parse(const GByteArray *in, guint piece, guint flush_every)
{
    g_autoptr(DrvMultifd) multifd = drv_multifd_new(SAMPLE_PAGE);
    Seen seen = {.out = g_byte_array_new()};
    DrvMultifdEvent event;
    guint pieces = 0;
    for (guint at = 0, n; at < in->len; at += n) {
        n = piece != 0 ? piece : (guint)g_test_rand_int_range(1, 2 << g_test_rand_int_range(0, 15));
        n = MIN(n, in->len - at);
        g_autofree guint8 *copy = g_memdup2(in->data + at, n);
        drv_multifd_push(multifd, copy, n);
        while (drv_multifd_next(multifd, &event))
            see(&seen, multifd, &event);
        gboolean flush = at + n == in->len || (flush_every > 0 && ++pieces % flush_every == 0);
        if (flush && drv_multifd_flush(multifd, &event))
            see(&seen, multifd, &event);
    }
    seen.exact = drv_multifd_exact(multifd);
    return seen;
}

static void
assert_same(const Seen *seen, const GByteArray *in)
{
    g_assert_cmpmem(seen->out->data, seen->out->len, in->data, in->len);
}

static void
test_pieces(void)
{
    static const guint sizes[] = {1, 7, 4096, 65536, 1 << 20, 0};
    g_autoptr(GByteArray) in = sample_multifd();
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++)
        for (guint flush_every = 0; flush_every < 3; flush_every++) {
            g_auto(Seen) seen = parse(in, sizes[i], flush_every);
            assert_same(&seen, in);
            g_assert_true(seen.exact);
            g_assert_cmpuint(seen.channel, ==, 3);
            g_assert_cmpuint(seen.kinds[DRV_MULTIFD_PACKET], ==, 6);
            g_assert_cmpuint(seen.normal, ==, 6);
            g_assert_cmpuint(seen.zero, ==, 7);
            g_assert_cmpuint(seen.syncs, ==, 3);
            g_assert_cmpstr(seen.device, ==, "0000:00:03.0/vfio");
            g_assert_cmpuint(seen.last_offset, ==, 0);
            if (flush_every == 0)
                g_assert_cmpuint(seen.opaque, ==, 777 + 333);
        }
}

static void
test_cut_and_flipped(void)
{
    g_autoptr(GByteArray) in = sample_multifd();
    for (guint round = 0; round < 1000; round++) {
        g_autoptr(GByteArray) bad = g_byte_array_new();
        g_byte_array_append(bad, in->data, (guint)g_test_rand_int_range(1, (gint)in->len));
        bad->data[g_test_rand_int_range(0, (gint)bad->len)] ^=
            (guint8)(1u << g_test_rand_int_range(0, 8));
        g_auto(Seen) seen = parse(bad, 0, round % 3);
        assert_same(&seen, bad);
    }
}

/* Heads that are not to be believed, and that the next one is found. */
static void
test_heads_that_make_no_sense(void)
{
    static const struct {
        guint32 flags, allocated, normal, zero, data_len;
    } bad[] = {
        {0x80, 128, 1, 0, SAMPLE_PAGE},        /* a flag that there is not */
        {0, 64, 1, 0, SAMPLE_PAGE},            /* room for another number of pages */
        {0, 128, 129, 0, 129 * SAMPLE_PAGE},   /* too many pages */
        {0, 128, 1, 128, SAMPLE_PAGE},         /* too many with the zero pages */
        {0, 128, 1, G_MAXUINT32, SAMPLE_PAGE}, /* so many that the sum is small */
        {0, 128, 1, 0, SAMPLE_PAGE - 1},       /* a length that is not the pages' */
        {0, 128, G_MAXUINT32, G_MAXUINT32, 0},
    };
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) in = sample_multifd();
        g_byte_array_set_size(in, 64);
        sample_packet(in, bad[i].flags, bad[i].allocated, bad[i].normal, bad[i].zero,
                      bad[i].data_len);
        guint length = in->len - 64;
        sample_packet(in, 1, 128, 0, 2, 0);
        for (guint piece = 0; piece < 2; piece++) {
            g_auto(Seen) seen = parse(in, piece, 0);
            assert_same(&seen, in);
            g_assert_false(seen.exact);
            g_assert_cmpuint(seen.opaque, ==, length);
            g_assert_cmpuint(seen.kinds[DRV_MULTIFD_PACKET], ==, 1);
            g_assert_cmpuint(seen.zero, ==, 2);
        }
    }
}

static void
test_unterminated_and_unaligned(void)
{
    g_autoptr(GByteArray) in = sample_multifd();
    g_byte_array_set_size(in, 64);
    sample_packet(in, 0, 128, 0, 1, 0);
    memset(in->data + 64 + 64, 'x', 256); /* the id, without an end */
    g_auto(Seen) seen = parse(in, in->len, 0);
    assert_same(&seen, in);
    g_assert_cmpuint(seen.kinds[DRV_MULTIFD_PACKET], ==, 0);

    g_byte_array_set_size(in, 64);
    sample_packet(in, 0, 128, 0, 1, 0);
    in->data[64 + 320 + 7] = 1;
    g_auto(Seen) unaligned = parse(in, in->len, 0);
    assert_same(&unaligned, in);
    g_assert_cmpuint(unaligned.kinds[DRV_MULTIFD_PACKET], ==, 0);
}

static void
test_foreign(void)
{
    g_autoptr(GByteArray) in = sample_stream(FALSE, 50);
    g_auto(Seen) seen = parse(in, 0, 0);
    assert_same(&seen, in);
    g_assert_cmpuint(seen.opaque, ==, in->len);
    g_assert_false(seen.exact);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/multifd/pieces", test_pieces);
    g_test_add_func("/multifd/cut-and-flipped", test_cut_and_flipped);
    g_test_add_func("/multifd/heads-that-make-no-sense", test_heads_that_make_no_sense);
    g_test_add_func("/multifd/unterminated-and-unaligned", test_unterminated_and_unaligned);
    g_test_add_func("/multifd/foreign", test_foreign);
    return g_test_run();
}
