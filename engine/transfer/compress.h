/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/frame.h"

#include <glib.h>

/* A data thread's compression contexts. Not thread-safe. */
typedef struct _DrvCompressor DrvCompressor;

DrvCompressor *drv_compressor_new(void);
void drv_compressor_free(DrvCompressor *compressor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvCompressor, drv_compressor_free)

/* Compresses 'len' bytes with 'codec' (never AUTO) into 'out', which has room for 'len'. Returns
 * the length of what is there, less than 'len', or 0 when it is not worth it and the bytes should
 * go as they are: incompressible data is found by a look at samples, at a small part of the cost of
 * trying. */
gsize drv_compress(DrvCompressor *compressor, DrvCodec codec, const guint8 *in, gsize len,
                   guint8 *out);

/* The reverse; 'out_len' must be met exactly. Safe against hostile input. DRV_ERROR_PROTOCOL. */
gboolean drv_decompress(DrvCompressor *compressor, DrvCodec codec, const guint8 *in, gsize in_len,
                        guint8 *out, gsize out_len, GError **error);

/*
 * The choice behind --codec auto, by what comes of it: how many raw bytes a second get through the
 * whole way (coding, link, decoding, the far endpoint) while a codec is in use. The best is used;
 * the others are tried for a moment now and then, those that are far behind more and more rarely.
 * Between equals the one that costs less CPU wins: where the link is not what limits, that is none.
 *
 * Estimates of the link's speed were tried before and did not serve: while a codec keeps the link
 * from being full, nothing shows how much it would carry.
 *
 * Pure; the session's lock guards it.
 */
typedef struct {
    double rate[DRV_CODEC_COUNT];     /* raw bytes a second; 0: not tried yet */
    gint64 next_try[DRV_CODEC_COUNT]; /* when it is its turn again */
    gint64 pause[DRV_CODEC_COUNT];    /* from one try to the next */
    DrvCodec best;
    DrvCodec current;
    gint64 since; /* the first frame of the present epoch */
    guint64 raw;
    guint frames;
    guint settle; /* frames that are not counted yet */
} DrvCodecChoice;

void drv_codec_choice_init(DrvCodecChoice *choice);
/* The codec for a frame of 'raw' bytes that goes out now. */
DrvCodec drv_codec_choice_pick(DrvCodecChoice *choice, gsize raw, gint64 now_us);
