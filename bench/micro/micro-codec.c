/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "engine/transfer/compress.h"

#include <string.h>

/* The codecs on batches as the data path makes them: pieces of DRV_FRAME_RAW_MAX of realistic
 * memory, of zeros, and of noise, one after the other. */
#define BATCH ((gsize)DRV_FRAME_RAW_MAX)
#define TOTAL (32 * MICRO_MIB)

typedef struct {
    DrvCompressor *compressor;
    DrvCodec codec;
    const guint8 *memory; /* what is gone through */
    gsize len;
    gsize at;
    gsize raw, wire; /* so far */
    guint8 out[DRV_FRAME_RAW_MAX];
    GPtrArray *packed; /* of GBytes: the batches that compress, compressed */
    guint turn;
} Batches;

static void
compress_next(gpointer data)
{
    Batches *b = data;
    gsize n = drv_compress(b->compressor, b->codec, b->memory + b->at, BATCH, b->out);
    b->raw += BATCH;
    b->wire += n > 0 ? n : BATCH;
    b->at = (b->at + BATCH) % b->len;
}

static void
decompress_next(gpointer data)
{
    Batches *b = data;
    gsize len;
    const guint8 *bytes =
        g_bytes_get_data(g_ptr_array_index(b->packed, b->turn++ % b->packed->len), &len);
    if (!drv_decompress(b->compressor, b->codec, bytes, len, b->out, BATCH, NULL))
        g_error("what was compressed does not decompress");
}

static void
pack(Batches *b)
{
    g_ptr_array_set_size(b->packed, 0);
    for (gsize at = 0; at < b->len; at += BATCH) {
        gsize n = drv_compress(b->compressor, b->codec, b->memory + at, BATCH, b->out);
        if (n > 0)
            g_ptr_array_add(b->packed, g_bytes_new(b->out, n));
    }
}

static void
measure(Batches *b, const char *what)
{
    g_autofree char *name = g_strdup_printf("%s, %s", drv_codec_name(b->codec), what);
    g_autofree char *back = g_strdup_printf("%s, back", name);
    b->at = b->raw = b->wire = 0;
    micro_run(name, BATCH, compress_next, b);
    g_print("%36s %.2f of the bytes are left\n", "", (gdouble)b->wire / (gdouble)b->raw);
    pack(b);
    if (b->packed->len > 0)
        micro_run(back, BATCH, decompress_next, b);
}

static void
make_noise(guint8 *out, gsize len)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    for (gsize i = 0; i < len; i += sizeof(guint32)) {
        guint32 word = g_rand_int(rand);
        memcpy(out + i, &word, sizeof word);
    }
}

int
main(void)
{
    g_autofree guint8 *memory = micro_memory(TOTAL);
    g_autofree guint8 *zeros = g_malloc0(MICRO_MIB);
    g_autofree guint8 *noise = g_malloc(MICRO_MIB);
    make_noise(noise, MICRO_MIB);
    g_autoptr(DrvCompressor) compressor = drv_compressor_new();
    g_autofree Batches *b = g_new0(Batches, 1);
    g_autoptr(GPtrArray) packed = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    b->compressor = compressor;
    b->packed = packed;
    for (DrvCodec codec = DRV_CODEC_LZ4; codec < DRV_CODEC_COUNT; codec++) {
        b->codec = codec;
        b->memory = memory;
        b->len = TOTAL;
        measure(b, "realistic memory");
        b->len = MICRO_MIB;
        b->memory = zeros;
        measure(b, "zeros");
        b->memory = noise;
        measure(b, "noise");
    }
    return 0;
}
