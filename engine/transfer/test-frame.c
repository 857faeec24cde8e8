/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/frame.h"

#include "common/error.h"

#include <string.h>

static DrvFrameHeader
sample(void)
{
    return (DrvFrameHeader){.type = DRV_FRAME_DATA,
                            .codec = DRV_CODEC_ZSTD,
                            .flags = DRV_DATA_EOF,
                            .channel = 0x01020304,
                            .seq = G_GUINT64_CONSTANT(0x1112131415161718),
                            .raw_len = 0x20000,
                            .wire_len = 0x1ffff,
                            .checksum = {7, 8}};
}

static void
test_round_trip(void)
{
    guint8 bytes[DRV_FRAME_HEADER];
    DrvFrameHeader in = sample(), out;
    g_autoptr(GError) error = NULL;
    drv_frame_encode(&in, bytes);
    g_assert_cmpuint(bytes[0], ==, 7);
    g_assert_cmpuint(bytes[4], ==, 1); /* big endian */
    g_assert_true(drv_frame_decode(bytes, &out, &error));
    g_assert_cmpint(out.type, ==, in.type);
    g_assert_cmpint(out.codec, ==, in.codec);
    g_assert_cmpint(out.flags, ==, in.flags);
    g_assert_cmpuint(out.channel, ==, in.channel);
    g_assert_cmpuint(out.seq, ==, in.seq);
    g_assert_cmpuint(out.raw_len, ==, in.raw_len);
    g_assert_cmpuint(out.wire_len, ==, in.wire_len);
    g_assert_true(drv_checksum_equal(out.checksum, in.checksum));
}

static void
refused(DrvFrameHeader header, const char *what)
{
    guint8 bytes[DRV_FRAME_HEADER];
    DrvFrameHeader out;
    g_autoptr(GError) error = NULL;
    drv_frame_encode(&header, bytes);
    g_assert_false(drv_frame_decode(bytes, &out, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_autofree char *words = g_strdup_printf("whose %s is out of bounds", what);
    g_assert_nonnull(strstr(error->message, words));
}

#define REFUSED(what, ...)                                                                         \
    do {                                                                                           \
        DrvFrameHeader h = sample();                                                               \
        __VA_ARGS__;                                                                               \
        refused(h, what);                                                                          \
    } while (0)

static void
test_bounds(void)
{
    REFUSED("type", h.type = 0);
    REFUSED("type", h.type = 9);
    REFUSED("type", h.type = 255);
    REFUSED("codec", h.codec = DRV_CODEC_COUNT);
    REFUSED("codec", h.type = DRV_FRAME_PING);
    REFUSED("flags", h.flags = 4);
    REFUSED("flags", h.type = DRV_FRAME_ACK, h.codec = 0);
    REFUSED("raw length", h.raw_len = DRV_FRAME_RAW_MAX + 1);
    REFUSED("raw length", h.raw_len = G_MAXUINT32);
    REFUSED("raw length", h.type = DRV_FRAME_ACK, h.codec = 0, h.flags = 0,
            h.raw_len = DRV_ACK_BYTES + 1);
    REFUSED("raw length", h.type = DRV_FRAME_PONG, h.codec = 0, h.flags = 0, h.raw_len = 1);
    REFUSED("raw length", h.type = DRV_FRAME_BYE, h.codec = 0, h.flags = 0,
            h.raw_len = DRV_HELLO_MAX + 1);
    /* An encoding that saves nothing is not sent, so it is not taken: a lane holds a frame's worth.
     */
    REFUSED("wire length", h.wire_len = h.raw_len);
    REFUSED("wire length", h.wire_len = G_MAXUINT32);
    REFUSED("wire length", h.codec = DRV_CODEC_NONE);
}

static void
test_ack(void)
{
    guint8 bytes[DRV_ACK_BYTES + 1] = {0};
    DrvProgress out;
    drv_ack_encode(&(DrvProgress){5, 100, 99}, bytes);
    g_assert_true(drv_ack_decode(bytes, DRV_ACK_BYTES, &out, NULL));
    g_assert_cmpuint(out.channel, ==, 5);
    g_assert_cmpuint(out.received, ==, 100);
    g_assert_cmpuint(out.delivered, ==, 99);
    for (gsize len = 0; len <= sizeof bytes; len++) {
        g_autoptr(GError) error = NULL;
        if (len == DRV_ACK_BYTES)
            continue;
        g_assert_false(drv_ack_decode(bytes, len, &out, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    drv_ack_encode(&(DrvProgress){5, 99, 100}, bytes);
    g_assert_false(drv_ack_decode(bytes, DRV_ACK_BYTES, &out, NULL));
}

static DrvHello *
full_hello(guint channels)
{
    DrvHello *hello = drv_hello_new();
    memset(hello->session, 3, sizeof hello->session);
    memset(hello->secret, 4, sizeof hello->secret);
    hello->lane = DRV_MAX_LANES - 1;
    hello->name = g_strdup("höst");
    for (guint i = 0; i < channels; i++) {
        DrvProgress p = {i, i * 10, i * 9};
        g_array_append_val(hello->progress, p);
    }
    return hello;
}

static void
test_hello(void)
{
    g_autoptr(DrvHello) in = full_hello(DRV_HELLO_CHANNELS + 5);
    g_autoptr(GByteArray) bytes = drv_hello_encode(in);
    g_autoptr(GError) error = NULL;
    g_assert_cmpuint(bytes->len, <=, DRV_HELLO_MAX);
    g_autoptr(DrvHello) out = drv_hello_decode(bytes->data, bytes->len, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(out->session, 16, in->session, 16);
    g_assert_cmpmem(out->secret, 32, in->secret, 32);
    g_assert_cmpuint(out->lane, ==, in->lane);
    g_assert_cmpstr(out->name, ==, in->name);
    g_assert_cmpuint(out->progress->len, ==, DRV_HELLO_CHANNELS);
    g_assert_cmpuint(g_array_index(out->progress, DrvProgress, 7).received, ==, 70);
    g_assert_true(drv_hello_compatible(out, NULL));
    g_assert_false(drv_hello_wants_new(out));

    g_autoptr(DrvHello) empty = drv_hello_new();
    g_autoptr(GByteArray) short_bytes = drv_hello_encode(empty);
    g_autoptr(DrvHello) again = drv_hello_decode(short_bytes->data, short_bytes->len, NULL);
    g_assert_true(drv_hello_wants_new(again));
    g_assert_cmpstr(again->name, ==, "");
}

static void
test_hello_truncated(void)
{
    g_autoptr(DrvHello) in = full_hello(3);
    g_autoptr(GByteArray) bytes = drv_hello_encode(in);
    for (guint len = 0; len < bytes->len; len++) {
        g_autoptr(GError) error = NULL;
        /* A copy of its own, so that a read beyond the end is seen. */
        g_autofree guint8 *piece = g_memdup2(bytes->data, len);
        g_assert_null(drv_hello_decode(piece, len, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    guint8 more = 0;
    g_byte_array_append(bytes, &more, 1);
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_hello_decode(bytes->data, bytes->len, &error));
    g_assert_cmpstr(error->message, ==, "the peer sent a malformed hello");
}

/* Offsets in the hello: docs/wire-protocol.md. */
#define AT_LANE (8 + 2 + 2 + 8 + 16 + 32)
#define AT_NAME (AT_LANE + 2)

static void
test_hello_hostile(void)
{
    g_autoptr(DrvHello) in = full_hello(1);
    static const struct {
        gsize at;
        guint8 value;
    } lies[] = {{AT_LANE, 1},  {AT_LANE + 1, DRV_MAX_LANES}, {AT_NAME, 255}, {AT_NAME, 0},
                {AT_NAME, 40}, {AT_NAME + 1 + 5, 255},       {0, 'd'},       {7, 0}};
    for (guint i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autoptr(GByteArray) bytes = drv_hello_encode(in);
        g_autoptr(GError) error = NULL;
        bytes->data[lies[i].at] = lies[i].value;
        g_assert_null(drv_hello_decode(bytes->data, bytes->len, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    /* A name that is not UTF-8 is made so. */
    g_autoptr(GByteArray) bytes = drv_hello_encode(in);
    bytes->data[AT_NAME + 1] = 0xff;
    g_autoptr(DrvHello) out = drv_hello_decode(bytes->data, bytes->len, NULL);
    g_assert_true(g_utf8_validate(out->name, -1, NULL));
}

static void
test_versions(void)
{
    g_autoptr(DrvHello) in = full_hello(0);
    in->version_min = 2;
    in->version_max = 3;
    g_autoptr(GByteArray) bytes = drv_hello_encode(in);
    g_autoptr(GError) error = NULL;
    /* Of another version only the beginning is read: the rest may be anything. */
    g_autoptr(DrvHello) newer = drv_hello_decode(bytes->data, 12, &error);
    g_assert_no_error(error);
    g_assert_false(drv_hello_compatible(newer, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_cmpstr(error->message, ==,
                    "protocol versions 2 to 3 are offered and 1 is spoken here: bring both hosts "
                    "to the same drover");
    g_clear_error(&error);
    in->version_min = 1;
    g_assert_true(drv_hello_compatible(in, &error));
    in->features = 1;
    g_assert_false(drv_hello_compatible(in, &error));
    g_assert_nonnull(strstr(error->message, "features 0x1 are insisted on"));
}

static void
test_codec_names(void)
{
    for (guint i = 0; i <= DRV_CODEC_AUTO; i++) {
        DrvCodec codec;
        g_assert_true(drv_codec_parse(drv_codec_name(i), &codec));
        g_assert_cmpuint(codec, ==, i);
    }
    DrvCodec codec;
    g_assert_false(drv_codec_parse("gzip", &codec));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/frame/round-trip", test_round_trip);
    g_test_add_func("/frame/bounds", test_bounds);
    g_test_add_func("/frame/ack", test_ack);
    g_test_add_func("/frame/hello", test_hello);
    g_test_add_func("/frame/hello-truncated", test_hello_truncated);
    g_test_add_func("/frame/hello-hostile", test_hello_hostile);
    g_test_add_func("/frame/versions", test_versions);
    g_test_add_func("/frame/codec-names", test_codec_names);
    return g_test_run();
}
