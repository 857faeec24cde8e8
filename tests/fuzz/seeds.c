/* SPDX-License-Identifier: Apache-2.0 */

/* seeds DIR: writes what the fuzzers begin with to DIR/stream, DIR/multifd, DIR/batch, DIR/relay,
 * DIR/multifd-batch. */
#include "precopy/batch-writer.h"
#include "precopy/test-sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
write_seed(const char *dir, const char *target, const char *name, guint number, const guint8 *data,
           gsize len)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *folder = g_build_filename(dir, target, NULL);
    g_autofree char *path = g_strdup_printf("%s/%s-%u", folder, name, number);
    if (g_mkdir_with_parents(folder, 0755) != 0) {
        perror(folder);
        exit(1);
    }
    if (!g_file_set_contents(path, (const char *)data, (gssize)len, &error)) {
        fprintf(stderr, "seeds: %s\n", error->message);
        exit(1);
    }
}

/* The sample in each of the ways that its first byte can say. */
static void
write_seeds(const char *dir, const char *target, const char *name, const GByteArray *sample,
            guint ways)
{
    for (guint how = 0; how < ways; how++) {
        g_autoptr(GByteArray) seed = g_byte_array_new();
        guint8 first = (guint8)how;
        g_byte_array_append(seed, &first, 1);
        g_byte_array_append(seed, sample->data, sample->len);
        write_seed(dir, target, name, how, seed->data, seed->len);
    }
}

/* The batches that the sample becomes, where its first block is placeable and where none is. */
static void
write_batches(const char *dir, const char *name, const GByteArray *sample, gboolean placeable)
{
    static const guint8 pieces[DRV_PAGE_SECRET] = {1}, digest[DRV_PAGE_SECRET] = {2};
    g_autoptr(DrvPageTable) table = drv_page_table_new(pieces, digest, 1 << 16);
    g_autoptr(DrvBatchWriter) writer = drv_batch_writer_new(table);
    g_autoptr(DrvStream) stream = drv_stream_new();
    guint8 room[DRV_BATCH_MIN];
    DrvStreamEvent event;
    guint n = 0;
    drv_batch_writer_begin(writer, room, sizeof room);
    drv_stream_push(stream, sample->data, sample->len);
    while (drv_stream_next(stream, &event)) {
        guint32 done = 0;
        if (event.kind == DRV_STREAM_RAM_BLOCK) {
            const DrvRamBlock *block = drv_stream_block(stream, event.block);
            drv_page_table_add_block(table, event.block, block->id, block->size,
                                     placeable && event.block == 0, NULL);
        }
        while (!drv_batch_writer_add(writer, stream, &event, &done)) {
            write_seed(dir, "batch", name, n++, room, drv_batch_writer_finish(writer));
            drv_batch_writer_begin(writer, room, sizeof room);
        }
    }
    write_seed(dir, "batch", name, n, room, drv_batch_writer_finish(writer));
}

/* Has the packet whose head came last say where page 'i' is. */
static void
set_page(GByteArray *out, guint i, guint64 page)
{
    guint64 offset = GUINT64_TO_BE(page * SAMPLE_PAGE);
    memcpy(out->data + out->len - (gsize)(128 - i) * sizeof offset, &offset, sizeof offset);
}

/* A channel of plain pages, most of which come once: what is lost stays lost. */
static GByteArray *
make_channel(void)
{
    static const guint8 pages[3][5] = {{0, 1, 2}, {3, 9, 1, 5}, {0, 7, 20, 21, 8}};
    GByteArray *out = g_byte_array_new();
    sample_u32(out, 0x11223344);
    sample_u32(out, 1);
    for (guint i = 0; i < 56; i++)
        sample_u8(out, i == 16 ? 3 : 0);
    for (guint round = 0; round < 3; round++) {
        sample_packet(out, round & 1, 128, 2, 1 + round, 2 * SAMPLE_PAGE);
        for (guint i = 0; i < 3 + round; i++)
            set_page(out, i, pages[round][i]);
        for (guint i = 0; i < 2 * SAMPLE_PAGE / 4; i++)
            sample_u32(out, i % 100 == round ? i : i / 1024);
        sample_packet(out, 1, 0, 0, 0, 0);
    }
    return out;
}

/* In each of the ways that the first byte can say; where the way is lost, early or late. */
static void
write_channels(const char *dir)
{
    g_autoptr(GByteArray) channel = make_channel();
    for (guint lose = 3; lose < 12; lose += 5) {
        g_autoptr(GByteArray) seed = g_byte_array_new();
        g_autofree char *name = g_strdup_printf("plain-%u", lose);
        sample_u8(seed, (guint8)lose);
        g_byte_array_append(seed, channel->data, channel->len);
        write_seeds(dir, "multifd-batch", name, seed, 64);
    }
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: seeds DIR\n");
        return 2;
    }
    g_autoptr(GByteArray) multifd = sample_multifd();
    g_autoptr(GByteArray) stream = sample_stream(FALSE, 2);
    g_autoptr(GByteArray) iterables = sample_stream(TRUE, 2);
    write_seeds(argv[1], "stream", "plain", stream, 16);
    write_seeds(argv[1], "stream", "iterables", iterables, 16);
    write_seeds(argv[1], "multifd", "multifd", multifd, 16);
    write_seeds(argv[1], "relay", "plain", stream, 64);
    write_seeds(argv[1], "relay", "iterables", iterables, 64);
    write_channels(argv[1]);
    write_batches(argv[1], "relay", stream, FALSE);
    write_batches(argv[1], "direct", iterables, TRUE);
    return 0;
}
