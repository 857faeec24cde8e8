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

/* A codec is judged by an epoch at least so long and of so many frames. One that takes much longer
 * says nothing: there was little to send. */
#define EPOCH_US 100000
/* One that is tried gets less: on a fast link a whole guest is over in a few tenths of a second. */
#define TRY_US 40000
#define EPOCH_FRAMES 8
/* What a codec sends first waits behind what the one before it has left on the way. */
#define SETTLE_FRAMES 16
/* With smaller frames on the average it was the source that had little to send. */
#define EPOCH_FRAME (DRV_FRAME_RAW_MAX / 2)
#define EPOCH_MAX_US (2 * G_USEC_PER_SEC)
/* From one try to the next: a short look can mislead, by the pages that happened to come, so those
 * that are near the best get the next one soon; and then more and more rarely. */
#define FIRST_PAUSE_US 300000
#define MAX_PAUSE_US (12 * G_USEC_PER_SEC)
/* A new figure's weight: the codec in use is measured all the time, the others are not. */
#define WEIGHT_IN_USE 0.3
#define WEIGHT_TRIED 0.7
/* Below this share of the best, a codec is tried much more rarely. */
#define FAR_BEHIND 0.8

/* What it must be faster by than a cheaper codec to be worth its CPU time, which guests could use.
 */
static const double handicap[DRV_CODEC_COUNT] = {0, 0.03, 0.05};

void
drv_codec_choice_init(DrvCodecChoice *choice)
{
    *choice = (DrvCodecChoice){0};
    for (guint i = 0; i < DRV_CODEC_COUNT; i++)
        choice->pause[i] = FIRST_PAUSE_US;
}

static double
score(const DrvCodecChoice *choice, DrvCodec codec)
{
    return choice->rate[codec] * (1 - handicap[codec]);
}

static void
judge(DrvCodecChoice *choice, gint64 now_us)
{
    DrvCodec codec = choice->current;
    double rate = (double)choice->raw * G_USEC_PER_SEC / (double)(now_us - choice->since);
    double weight = choice->rate[codec] == 0 ? 1
                    : codec == choice->best  ? WEIGHT_IN_USE
                                             : WEIGHT_TRIED;
    choice->rate[codec] += weight * (rate - choice->rate[codec]);
    DrvCodec before = choice->best;
    for (guint i = 0; i < DRV_CODEC_COUNT; i++)
        if (score(choice, (DrvCodec)i) > score(choice, choice->best))
            choice->best = (DrvCodec)i;
    if (choice->best != before)
        for (guint i = 0; i < DRV_CODEC_COUNT; i++)
            choice->pause[i] = FIRST_PAUSE_US;
    if (codec == choice->best)
        return;
    gboolean behind = score(choice, codec) < FAR_BEHIND * score(choice, choice->best);
    choice->next_try[codec] = now_us + MIN(choice->pause[codec] * (behind ? 4 : 1), MAX_PAUSE_US);
    choice->pause[codec] = MIN(choice->pause[codec] * 2, MAX_PAUSE_US);
}

/* Where lz4 makes things slower, the link is not what limits, and zstd makes them slower still. */
static gboolean
is_hopeless(const DrvCodecChoice *choice, DrvCodec codec)
{
    return codec == DRV_CODEC_ZSTD &&
           choice->rate[DRV_CODEC_LZ4] < FAR_BEHIND * choice->rate[DRV_CODEC_NONE];
}

static DrvCodec
whose_turn(const DrvCodecChoice *choice, gint64 now_us)
{
    DrvCodec turn = choice->best;
    for (guint i = 0; i < DRV_CODEC_COUNT; i++) {
        if (i == choice->best || is_hopeless(choice, (DrvCodec)i))
            continue;
        if (choice->rate[i] == 0)
            return (DrvCodec)i;
        if (choice->next_try[i] <= now_us)
            turn = (DrvCodec)i;
    }
    return turn;
}

DrvCodec
drv_codec_choice_pick(DrvCodecChoice *choice, gsize raw, gint64 now_us)
{
    if (choice->settle > 0) {
        choice->settle--;
        return choice->current;
    }
    if (choice->frames == 0)
        choice->since = now_us;
    gint64 elapsed = now_us - choice->since;
    gboolean tried = choice->rate[choice->current] == 0 || choice->current != choice->best;
    if (elapsed >= (tried ? TRY_US : EPOCH_US) && choice->frames >= EPOCH_FRAMES) {
        if (elapsed <= EPOCH_MAX_US && choice->raw >= (guint64)choice->frames * EPOCH_FRAME) {
            judge(choice, now_us);
            DrvCodec turn = whose_turn(choice, now_us);
            choice->settle = turn != choice->current ? SETTLE_FRAMES : 0;
            choice->current = turn;
        }
        choice->since = now_us;
        choice->raw = 0;
        choice->frames = 0;
        if (choice->settle > 0)
            return choice->current;
    }
    choice->raw += raw;
    choice->frames++;
    return choice->current;
}
