/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/compress.h"

#include "common/error.h"

#include <lz4.h>
#include <string.h>
#include <zstd.h>

/* zstd's fastest proper level: drover runs it only where the link is slower than this. */
#define ZSTD_LEVEL 1
/* Samples that tell whether data compresses, and from which share on it is called incompressible.
 */
#define SAMPLE ((gsize)4096)
#define SAMPLES 3
#define INCOMPRESSIBLE 0.97
/* Below this a frame is not worth compressing: its header and record weigh more than what is saved.
 */
#define SMALLEST 256

struct _DrvCompressor {
    void *lz4;
    ZSTD_CCtx *zstd_out; /* made when first needed: about 1 MiB each */
    ZSTD_DCtx *zstd_in;
    char scratch[LZ4_COMPRESSBOUND(4096)];
};

DrvCompressor *
drv_compressor_new(void)
{
    DrvCompressor *compressor = g_new0(DrvCompressor, 1);
    compressor->lz4 = g_malloc0((gsize)LZ4_sizeofState());
    return compressor;
}

void
drv_compressor_free(DrvCompressor *compressor)
{
    if (compressor == NULL)
        return;
    g_free(compressor->lz4);
    ZSTD_freeCCtx(compressor->zstd_out);
    ZSTD_freeDCtx(compressor->zstd_in);
    g_free(compressor);
}

static gsize
lz4(DrvCompressor *compressor, const guint8 *in, gsize len, char *out, gsize room)
{
    int n =
        LZ4_compress_fast_extState(compressor->lz4, (const char *)in, out, (int)len, (int)room, 1);
    return n > 0 ? (gsize)n : 0;
}

static gboolean
looks_compressible(DrvCompressor *compressor, const guint8 *in, gsize len)
{
    if (len < 2 * SAMPLES * SAMPLE)
        return TRUE;
    gsize sum = 0;
    for (guint i = 0; i < SAMPLES; i++) {
        const guint8 *piece = in + (len - SAMPLE) / (SAMPLES - 1) * i;
        sum += lz4(compressor, piece, SAMPLE, compressor->scratch, sizeof compressor->scratch);
    }
    return (double)sum < INCOMPRESSIBLE * SAMPLES * SAMPLE;
}

gsize
drv_compress(DrvCompressor *compressor, DrvCodec codec, const guint8 *in, gsize len, guint8 *out)
{
    if (codec == DRV_CODEC_NONE || len < SMALLEST || !looks_compressible(compressor, in, len))
        return 0;
    if (codec == DRV_CODEC_LZ4)
        return lz4(compressor, in, len, (char *)out, len - 1);
    if (compressor->zstd_out == NULL)
        compressor->zstd_out = ZSTD_createCCtx();
    gsize n = ZSTD_compressCCtx(compressor->zstd_out, out, len - 1, in, len, ZSTD_LEVEL);
    return ZSTD_isError(n) ? 0 : n; /* the one error there can be is that it does not fit */
}

gboolean
drv_decompress(DrvCompressor *compressor, DrvCodec codec, const guint8 *in, gsize in_len,
               guint8 *out, gsize out_len, GError **error)
{
    gboolean good = FALSE;
    switch (codec) {
    case DRV_CODEC_NONE:
        good = in_len == out_len;
        if (good && in_len > 0)
            memcpy(out, in, in_len);
        break;
    case DRV_CODEC_LZ4:
        good = LZ4_decompress_safe((const char *)in, (char *)out, (int)in_len, (int)out_len) ==
               (int)out_len;
        break;
    case DRV_CODEC_ZSTD:
        if (compressor->zstd_in == NULL)
            compressor->zstd_in = ZSTD_createDCtx();
        good = ZSTD_decompressDCtx(compressor->zstd_in, out, out_len, in, in_len) == out_len;
        break;
    default:
        break;
    }
    if (!good)
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the peer sent a frame whose %s data cannot be decoded",
                    codec < DRV_CODEC_COUNT ? drv_codec_name(codec) : "unknown");
    return good;
}

/* --- auto --- */

#define FRESH 0.2        /* weight of a new sample */
#define EXPLORE_EVERY 64 /* every so many batches another codec is tried */
#define LEARN_FIRST 2    /* batches of each codec before any figure counts */
/* Coding time that is hidden behind the link still takes a CPU from the guests: it weighs this
 * much. */
#define CPU_WEIGHT 0.15

void
drv_codec_choice_init(DrvCodecChoice *choice)
{
    *choice = (DrvCodecChoice){.turn = 0};
    /* Guesses that hold until the first batches are measured. */
    for (guint i = 0; i < DRV_CODEC_COUNT; i++)
        choice->ratio[i] = 1;
}

static double
cost(const DrvCodecChoice *choice, DrvCodec codec, double link, guint threads)
{
    double code = choice->seconds_per_byte[codec];
    double send = link > 0 ? choice->ratio[codec] / link : 0;
    return MAX(code / MAX(threads, 1), send) + CPU_WEIGHT * code;
}

DrvCodec
drv_codec_choice_pick(DrvCodecChoice *choice, double link, guint threads)
{
    choice->turn++;
    for (guint i = 0; i < DRV_CODEC_COUNT; i++)
        if (choice->seen[i] < LEARN_FIRST)
            return (DrvCodec)i;
    if (choice->turn % EXPLORE_EVERY == 0)
        return (DrvCodec)(choice->turn / EXPLORE_EVERY % DRV_CODEC_COUNT);
    DrvCodec best = DRV_CODEC_NONE;
    for (guint i = 1; i < DRV_CODEC_COUNT; i++)
        if (cost(choice, (DrvCodec)i, link, threads) < cost(choice, best, link, threads))
            best = (DrvCodec)i;
    return best;
}

void
drv_codec_choice_learn(DrvCodecChoice *choice, DrvCodec codec, gsize raw, gsize wire,
                       double seconds)
{
    if (raw == 0)
        return;
    double speed = seconds / (double)raw;
    double ratio = (double)wire / (double)raw;
    double weight = choice->seen[codec] == 0 ? 1 : FRESH;
    choice->seconds_per_byte[codec] += weight * (speed - choice->seconds_per_byte[codec]);
    choice->ratio[codec] += weight * (ratio - choice->ratio[codec]);
    if (choice->seen[codec] < G_MAXUINT)
        choice->seen[codec]++;
}
