/* SPDX-License-Identifier: Apache-2.0 */

/* seeds DIR: writes what the fuzzers begin with to DIR/TARGET. */
#include "common/cursor.h"
#include "engine/transfer/frame.h"
#include "precopy/batch-writer.h"
#include "precopy/test-sample.h"
#include "tests/fuzz/seeds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
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

void
write_text(const char *dir, const char *target, guint number, const char *text)
{
    write_seed(dir, target, "text", number, (const guint8 *)text, strlen(text));
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

/* A greeting, a header and an ack, as they come first. */
static void
write_frames(const char *dir)
{
    g_autoptr(DrvHello) hello = drv_hello_new();
    DrvProgress progress = {3, 9, 7};
    guint8 bytes[DRV_FRAME_HEADER];
    hello->name = g_strdup("host");
    g_array_append_val(hello->progress, progress);
    g_autoptr(GByteArray) text = drv_hello_encode(hello);
    write_seed(dir, "frame", "hello", 0, text->data, text->len);
    hello->version_min = hello->version_max = 7;
    g_autoptr(GByteArray) newer = drv_hello_encode(hello);
    write_seed(dir, "frame", "hello", 1, newer->data, newer->len);
    for (guint type = DRV_FRAME_HELLO; type <= DRV_FRAME_BYE; type++) {
        gboolean data = type == DRV_FRAME_DATA;
        DrvFrameHeader header = {.type = type,
                                 .codec = data ? DRV_CODEC_LZ4 : DRV_CODEC_NONE,
                                 .raw_len = data ? 4096 : 0,
                                 .wire_len = data ? 100 : 0};
        drv_frame_encode(&header, bytes);
        write_seed(dir, "frame", "header", type, bytes, sizeof bytes);
    }
    drv_ack_encode(&progress, bytes);
    write_seed(dir, "frame", "ack", 0, bytes, DRV_ACK_BYTES);
}

static void
write_texts(const char *dir)
{
    static const char *const messages[] = {
        "{\"id\":7,\"call\":\"job.commit\",\"args\":{\"job\":\"a1\",\"cancelled\":true}}",
        "{\"id\":7,\"error\":{\"class\":\"qemu\",\"message\":\"no\"}}",
        "{\"job\":\"a\",\"lane\":-1,\"rate\":1.5e9,\"disks\":[{\"name\":\"\\u00e9\"},[],null]}",
    };
    static const char *const files[] = {
        "[daemon]\nstate=/s\nlisten=127.0.0.1:1\npki=/p\napi=/a.sock\nname=h\nlog-level=info\n"
        "images=/a:/b\napi-group=root\n",
        "[transfer]\nthreads=4\nlanes=2\nbandwidth=65536\nkernel-tls=auto\nnuma=off\n"
        "[migration]\ndrop-timeout=60\nfence-command=/bin/fence 'a b' \\\"c\n",
        "[incoming]\nallow=a, b c\n[outgoing]\nallow=\n",
    };
    for (guint i = 0; i < G_N_ELEMENTS(messages); i++)
        write_text(dir, "json", i, messages[i]);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++)
        write_text(dir, "config", i, files[i]);
}

static void
write_qmp(const char *dir)
{
    static const char replies[] =
        "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7}},\"capabilities\":[]}}\r\n"
        "{\"return\":{},\"id\":\"1\"}\r\n"
        "{\"timestamp\":{\"seconds\":1,\"microseconds\":2},\"event\":\"STOP\",\"data\":{\"a\":[1]}}"
        "\r\n"
        "{\"id\":\"2\",\"error\":{\"class\":\"GenericError\",\"desc\":\"a \\\"quote\\\"\"}}\r\n";
    g_autoptr(GByteArray) sample = g_byte_array_new();
    g_byte_array_append(sample, (const guint8 *)replies, sizeof replies - 1);
    write_seeds(dir, "qmp", "replies", sample, 8);
}

/* Requests, one of them with data. */
static void
write_nbd(const char *dir)
{
    guint8 bytes[256] = {0};
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    g_autoptr(GByteArray) sample = g_byte_array_new();
    for (guint16 type = 0; type < 7; type += type == 1 ? 5 : 1) { /* read, write, write zeroes */
        drv_cursor_put_u32(&c, 0x25609513);
        drv_cursor_put_u16(&c, 1);
        drv_cursor_put_u16(&c, type);
        drv_cursor_take(&c, 16);
        drv_cursor_put_u32(&c, 16);
        drv_cursor_take(&c, type == 1 ? 16 : 0);
    }
    g_assert(drv_cursor_ok(&c));
    g_byte_array_append(sample, bytes, (guint)c.pos);
    write_seeds(dir, "nbd", "client", sample, 8);
    /* A block of zeroes written, then trimmed, then written again. */
    guint8 block[28 + 4096] = {0};
    static const guint16 types[] = {1, 4, 1};
    for (guint i = 0; i < G_N_ELEMENTS(types); i++) {
        c = drv_cursor_writer(block, sizeof block);
        drv_cursor_put_u32(&c, 0x25609513);
        drv_cursor_put_u32(&c, types[i]);
        drv_cursor_put_u64(&c, 0);
        drv_cursor_put_u64(&c, 4096);
        drv_cursor_put_u32(&c, 4096);
        g_byte_array_append(sample, block, types[i] == 1 ? sizeof block : (guint)c.pos);
    }
    write_seeds(dir, "nbd", "blocks", sample, 8);
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
    write_frames(argv[1]);
    write_texts(argv[1]);
    write_qmp(argv[1]);
    write_nbd(argv[1]);
    write_batches(argv[1], "relay", stream, FALSE);
    write_batches(argv[1], "direct", iterables, TRUE);
    write_engine_seeds(argv[1]);
    return 0;
}
