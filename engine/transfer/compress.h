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
 * The choice behind --codec auto. It remembers, for each codec, its speed and ratio over the last
 * batches, and takes the one by which a raw byte is over soonest: whichever is longer, coding it or
 * sending what remains of it. Other codecs are tried now and then to keep their figures fresh.
 * Pure; the session's lock guards it.
 */
typedef struct {
    double seconds_per_byte[DRV_CODEC_COUNT]; /* coding, raw */
    double ratio[DRV_CODEC_COUNT];            /* wire/raw */
    guint seen[DRV_CODEC_COUNT];
    guint turn;
} DrvCodecChoice;

void drv_codec_choice_init(DrvCodecChoice *choice);
/* 'link' in wire bytes a second (0: not known yet), 'threads' that code side by side. */
DrvCodec drv_codec_choice_pick(DrvCodecChoice *choice, double link, guint threads);
void drv_codec_choice_learn(DrvCodecChoice *choice, DrvCodec codec, gsize raw, gsize wire,
                            double seconds);
