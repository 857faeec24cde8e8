/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/compress.h"

#include "common/error.h"

#include <string.h>

#define LEN DRV_FRAME_RAW_MAX
#define MEG (1024.0 * 1024.0)

static guint8 *
random_bytes(GRand *rand, gsize len)
{
    guint8 *bytes = g_malloc(len);
    for (gsize i = 0; i < len; i++)
        bytes[i] = (guint8)g_rand_int(rand);
    return bytes;
}

static guint8 *
text(gsize len)
{
    guint8 *bytes = g_malloc(len);
    for (gsize i = 0; i < len; i++)
        bytes[i] = (guint8)("the quick brown fox "[i % 20] + (i / 977) % 3);
    return bytes;
}

static void
test_round_trip(void)
{
    static const DrvCodec codecs[] = {DRV_CODEC_LZ4, DRV_CODEC_ZSTD};
    static const gsize lens[] = {256, 4096, 5000, 40000, LEN};
    g_autoptr(DrvCompressor) c = drv_compressor_new();
    g_autofree guint8 *in = text(LEN);
    for (guint i = 0; i < G_N_ELEMENTS(codecs); i++) {
        for (guint j = 0; j < G_N_ELEMENTS(lens); j++) {
            g_autofree guint8 *packed = g_malloc(lens[j]);
            g_autofree guint8 *out = g_malloc(lens[j]);
            g_autoptr(GError) error = NULL;
            gsize n = drv_compress(c, codecs[i], in, lens[j], packed);
            g_assert_cmpuint(n, >, 0);
            g_assert_cmpuint(n, <, lens[j]);
            g_assert_true(drv_decompress(c, codecs[i], packed, n, out, lens[j], &error));
            g_assert_cmpmem(in, lens[j], out, lens[j]);
            /* The announced length must be met, not just not exceeded. */
            g_assert_false(drv_decompress(c, codecs[i], packed, n, out, lens[j] - 1, &error));
            g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
            g_assert_false(drv_decompress(c, codecs[i], packed, n - 1, out, lens[j], NULL));
        }
    }
}

/* What does not get smaller goes as it is, and 'out' is never written beyond 'len'. */
static void
test_incompressible(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autoptr(DrvCompressor) c = drv_compressor_new();
    static const gsize lens[] = {0, 1, 255, 300, 4096, 30000, LEN};
    for (guint i = 0; i < G_N_ELEMENTS(lens); i++) {
        g_autofree guint8 *in = random_bytes(rand, lens[i]);
        g_autofree guint8 *out = g_malloc(MAX(lens[i], 1));
        g_assert_cmpuint(drv_compress(c, DRV_CODEC_LZ4, in, lens[i], out), ==, 0);
        g_assert_cmpuint(drv_compress(c, DRV_CODEC_ZSTD, in, lens[i], out), ==, 0);
        g_assert_cmpuint(drv_compress(c, DRV_CODEC_NONE, in, lens[i], out), ==, 0);
    }
    /* Half random, half not: the samples see both. */
    g_autofree guint8 *mixed = random_bytes(rand, LEN);
    g_autofree guint8 *out = g_malloc(LEN);
    memset(mixed + LEN / 2, 0, LEN / 2);
    gsize n = drv_compress(c, DRV_CODEC_LZ4, mixed, LEN, out);
    g_assert_cmpuint(n, >, 0);
    g_assert_cmpuint(n, <, LEN * 6 / 10);
}

/* Whatever comes in: no crash, no byte beyond the room (ASan watches), and an error or the full
 * length. */
static void
test_hostile(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    g_autoptr(DrvCompressor) c = drv_compressor_new();
    g_autofree guint8 *in = text(8192);
    for (guint round = 0; round < 4000; round++) {
        DrvCodec codec = round % 2 ? DRV_CODEC_LZ4 : DRV_CODEC_ZSTD;
        guint8 scratch[8192];
        gsize n = drv_compress(c, codec, in, sizeof scratch, scratch);
        gsize len = (gsize)g_rand_int_range(rand, 1, 8192);
        g_autofree guint8 *bent = g_memdup2(scratch, n);
        g_autofree guint8 *out = g_malloc(len);
        for (guint i = 0; i < 3; i++)
            bent[g_rand_int_range(rand, 0, (gint)n)] = (guint8)g_rand_int(rand);
        g_autoptr(GError) error = NULL;
        if (!drv_decompress(c, codec, bent, n, out, len, &error))
            g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    guint8 byte = 0;
    g_autoptr(GError) error = NULL;
    g_assert_false(drv_decompress(c, DRV_CODEC_COUNT, in, 1, &byte, 1, &error));
    g_assert_nonnull(strstr(error->message, "unknown data cannot be decoded"));
    g_assert_true(drv_decompress(c, DRV_CODEC_NONE, in, 1, &byte, 1, NULL));
    g_assert_false(drv_decompress(c, DRV_CODEC_NONE, in, 2, &byte, 1, NULL));
    /* After all this it still works. */
    test_round_trip();
}

#define LONG (20 * G_USEC_PER_SEC)

/* A source that always has more, codecs of known speed and ratio, a link of 'link' MiB/s and a far
 * endpoint that takes 'sink' MiB/s: which codec is used most, in the second half of 'us' of its
 * clock? */
static DrvCodec
settle(DrvCodecChoice *choice, gint64 *now, double link, double sink, gint64 us)
{
    static const double speed[] = {1e6, 600, 300}, ratio[] = {1, 0.6, 0.4};
    guint count[DRV_CODEC_COUNT] = {0}, total = 0;
    gint64 begin = *now;
    while (*now - begin < us) {
        DrvCodec codec = drv_codec_choice_pick(choice, LEN, *now);
        g_assert_cmpuint(codec, <, DRV_CODEC_COUNT);
        double rate = MIN(speed[codec], MIN(link / ratio[codec], sink));
        *now += MAX((gint64)((double)LEN / (rate * MEG) * G_USEC_PER_SEC), 1);
        if (*now - begin > us / 2) {
            count[codec]++;
            total++;
        }
    }
    DrvCodec best = DRV_CODEC_NONE;
    for (guint i = 0; i < DRV_CODEC_COUNT; i++)
        if (count[i] > count[best])
            best = (DrvCodec)i;
    g_assert_cmpuint(count[best], >, total * 8 / 10); /* the rest is looking around */
    return best;
}

static void
test_auto(void)
{
    DrvCodecChoice choice;
    gint64 now = 1;
    drv_codec_choice_init(&choice);
    g_assert_cmpint(settle(&choice, &now, 5000, 1e6, LONG), ==, DRV_CODEC_NONE);
    g_assert_cmpfloat(choice.rate[DRV_CODEC_ZSTD], ==, 0); /* lz4 has shown enough */
    g_assert_cmpint(settle(&choice, &now, 118, 1e6, LONG), ==, DRV_CODEC_ZSTD);
    g_assert_cmpint(settle(&choice, &now, 300, 1e6, LONG), ==, DRV_CODEC_LZ4);
    /* The far end is what limits: no codec helps, so the cheapest. */
    g_assert_cmpint(settle(&choice, &now, 300, 200, LONG), ==, DRV_CODEC_NONE);
    g_assert_cmpint(settle(&choice, &now, 10, 200, LONG), ==, DRV_CODEC_ZSTD);
    g_assert_cmpint(settle(&choice, &now, 5000, 1e6, LONG), ==, DRV_CODEC_NONE);
}

/* What went before the first frame, and a beginning of small frames (pages of zeros make little),
 * are not held against the codec that came first. */
static void
test_late(void)
{
    DrvCodecChoice choice;
    gint64 now = 1;
    drv_codec_choice_init(&choice);
    now += G_USEC_PER_SEC / 2;
    for (guint i = 0; i < 100; i++) {
        drv_codec_choice_pick(&choice, 100, now);
        now += 1000;
    }
    g_assert_cmpint(settle(&choice, &now, 5000, 1e6, G_USEC_PER_SEC / 2), ==, DRV_CODEC_NONE);
}

/* A trickle says nothing about codecs: what was known before stays. */
static void
test_trickle(void)
{
    DrvCodecChoice choice;
    gint64 now = 1;
    drv_codec_choice_init(&choice);
    g_assert_cmpint(settle(&choice, &now, 118, 1e6, LONG), ==, DRV_CODEC_ZSTD);
    double known = choice.rate[DRV_CODEC_ZSTD];
    for (guint i = 0; i < 1000; i++) {
        drv_codec_choice_pick(&choice, LEN, now);
        now += G_USEC_PER_SEC;
    }
    g_assert_cmpint(choice.best, ==, DRV_CODEC_ZSTD);
    g_assert_cmpfloat(ABS(choice.rate[DRV_CODEC_ZSTD] - known), <, known / 2);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compress/round-trip", test_round_trip);
    g_test_add_func("/compress/incompressible", test_incompressible);
    g_test_add_func("/compress/late", test_late);
    g_test_add_func("/compress/hostile", test_hostile);
    g_test_add_func("/compress/auto", test_auto);
    g_test_add_func("/compress/trickle", test_trickle);
    return g_test_run();
}
