/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A stream through batches and back: every byte comes out again in relay, whatever it was; in
 * direct mode the batches are such as a reader takes. The first byte says how: in what pieces, with
 * flushes, whether the first block is placeable, and the room of a batch.
 */
#include "precopy/batch-reader.h"
#include "precopy/batch-writer.h"
#include "tests/fuzz/fuzz.h"

typedef struct {
    gboolean direct;
    gsize size;
    DrvPageTable *table;
    DrvBatchWriter *writer;
    DrvStream *stream;
    GArray *blocks; /* DrvBatchBlock */
    guint8 *room, *emitted;
    guint64 number;
    const guint8 *expected;
    gsize left;
} Path;

static void
learn_block(Path *path, const DrvRecord *record)
{
    DrvBatchBlock block;
    drv_batch_block(record, path->direct && path->blocks->len == 0, &block);
    g_array_append_val(path->blocks, block);
}

static void
finish(Path *path)
{
    gsize len = drv_batch_writer_finish(path->writer);
    if (len > 0) {
        const DrvBatchBlock *blocks = (const DrvBatchBlock *)path->blocks->data;
        g_autofree guint8 *batch = g_memdup2(path->room, len);
        DrvCursor out = drv_cursor_writer(path->emitted, path->size);
        DrvEmit emit = DRV_EMIT_INIT;
        DrvBatchReader reader;
        DrvRecord record;
        g_assert(drv_batch_reader_init(&reader, batch, len, blocks, path->blocks->len, NULL));
        g_assert(reader.head.number == ++path->number);
        while (drv_batch_reader_next(&reader, &record)) {
            if (record.kind == DRV_RECORD_BLOCK)
                learn_block(path, &record);
            blocks = (const DrvBatchBlock *)path->blocks->data;
            if (path->direct)
                drv_batch_direct(&emit, &out, blocks, &record);
            else
                drv_batch_relay(&out, blocks, &record);
        }
        g_assert(drv_cursor_ok(&out));
        DrvPiece piece = {.bytes = path->emitted, .len = out.pos, .unit_len = out.pos};
        if (!path->direct)
            fuzz_expect(&path->expected, &path->left, &piece);
    }
    drv_batch_writer_begin(path->writer, path->room, path->size);
}

static void
see(Path *path, const DrvStreamEvent *event)
{
    guint32 done = 0;
    if (event->kind == DRV_STREAM_RAM_BLOCK) {
        const DrvRamBlock *block = drv_stream_block(path->stream, event->block);
        gboolean placeable = path->direct && event->block == 0;
        /* A size that nobody has: the stream's owner would have to give up direct mode. */
        if (!drv_page_table_add_block(path->table, event->block, block->id,
                                      placeable ? MIN(block->size, 1 << 20) : block->size,
                                      placeable, NULL))
            g_assert_not_reached();
    }
    while (!drv_batch_writer_add(path->writer, path->stream, event, &done)) {
        g_assert(!drv_batch_writer_is_empty(path->writer));
        finish(path);
    }
}

static void
feed(Path *path, guint8 how, const guint8 *data, gsize size)
{
    DrvStreamEvent event;
    gsize piece = fuzz_piece(how);
    for (gsize at = 0, n; at < size; at += n) {
        n = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, n);
        drv_stream_push(path->stream, copy, n);
        while (drv_stream_next(path->stream, &event))
            see(path, &event);
        if ((fuzz_flush(how) || at + n == size) && drv_stream_flush(path->stream, &event))
            see(path, &event);
        if (fuzz_flush(how))
            finish(path);
    }
    finish(path);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    static const guint8 pieces[DRV_PAGE_SECRET] = {1}, digest[DRV_PAGE_SECRET] = {2};
    if (size == 0)
        return 0;
    Path path = {.direct = (data[0] & 16) != 0,
                 .size = data[0] & 32 ? DRV_BATCH_MIN : DRV_BATCH_MAX,
                 .table = drv_page_table_new(pieces, digest, 1 << 16),
                 .stream = drv_stream_new(),
                 .blocks = g_array_new(FALSE, FALSE, sizeof(DrvBatchBlock)),
                 .expected = data + 1,
                 .left = size - 1};
    path.writer = drv_batch_writer_new(path.table);
    path.room = g_malloc(path.size);
    path.emitted = g_malloc(path.size);
    drv_batch_writer_begin(path.writer, path.room, path.size);
    feed(&path, data[0], data + 1, size - 1);
    g_assert(path.direct || path.left == 0);

    drv_batch_writer_free(path.writer);
    drv_page_table_free(path.table);
    drv_stream_free(path.stream);
    g_array_unref(path.blocks);
    g_free(path.room);
    g_free(path.emitted);
    return 0;
}
