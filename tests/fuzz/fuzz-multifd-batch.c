/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A multifd channel through batches, in direct mode: the pages that the receiver places, and those
 * that QEMU finds in what is left of the channel, make the memory that the channel makes. So it has
 * to be as long as the channel is understood, also when another channel loses the way in the middle
 * of it. Where it is not understood, the batches are such as a reader takes.
 *
 * The first byte says in what pieces, with flushes, whether there is little room in a batch, and
 * whether the way is lost; the second when.
 */
#include "precopy/batch-reader.h"
#include "precopy/multifd-batch.h"
#include "tests/fuzz/fuzz.h"

#define PAGES 24u

typedef struct {
    guint8 memory[PAGES][DRV_PAGE_LEN];
    guint syncs;
} Guest;

typedef struct {
    DrvMultifd *parser;
    Guest *guest;
} Qemu;

typedef struct {
    gsize size;
    DrvPageTable *table;
    DrvBatchWriter *writer;
    guint8 *room, *emitted;
    DrvBatchBlock block;
    Guest *guest;
    Qemu qemu;
} Path;

static guint8 *
page_at(Guest *guest, guint64 page)
{
    static guint8 beyond[DRV_PAGE_LEN]; /* QEMU refuses such a packet */
    return page < PAGES ? guest->memory[page] : beyond;
}

/* What QEMU makes of its channel. */
static void
qemu_sees(Qemu *qemu, const DrvMultifdEvent *event)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(qemu->parser);
    gboolean ours = g_str_equal(packet->block, "pc.ram");
    if (event->kind == DRV_MULTIFD_PACKET) {
        qemu->guest->syncs += (packet->flags & DRV_MULTIFD_SYNC) != 0;
        for (guint32 i = 0; ours && i < packet->zero; i++)
            memset(page_at(qemu->guest,
                           drv_multifd_offset(qemu->parser, packet->normal + i) / DRV_PAGE_LEN),
                   0, DRV_PAGE_LEN);
    } else if (event->kind == DRV_MULTIFD_PAGES) {
        for (guint32 i = 0; ours && i < event->pages.count; i++)
            memcpy(page_at(qemu->guest,
                           drv_multifd_offset(qemu->parser, event->pages.first + i) / DRV_PAGE_LEN),
                   event->piece.unit + (gsize)i * DRV_PAGE_LEN, DRV_PAGE_LEN);
    }
}

static void
qemu_reads(Qemu *qemu, const guint8 *bytes, gsize len)
{
    DrvMultifdEvent event;
    drv_multifd_push(qemu->parser, bytes, len);
    while (drv_multifd_next(qemu->parser, &event))
        qemu_sees(qemu, &event);
}

static void
place(Path *path, const DrvRecord *record)
{
    for (guint32 i = 0; i < record->count; i++) {
        guint8 *page = path->guest->memory[record->first + i];
        if (record->kind == DRV_RECORD_ZERO)
            memset(page, record->fill, DRV_PAGE_LEN);
        else if (record->kind == DRV_RECORD_LITERAL)
            memcpy(page, record->bytes + (gsize)i * DRV_PAGE_LEN, DRV_PAGE_LEN);
        else if (record->kind == DRV_RECORD_DUP)
            memmove(page, path->guest->memory[record->from], DRV_PAGE_LEN);
        else
            drv_batch_patch(record, page);
    }
}

static void
finish(Path *path)
{
    gsize len = drv_batch_writer_finish(path->writer);
    if (len > 0) {
        g_autofree guint8 *batch = g_memdup2(path->room, len);
        DrvCursor out = drv_cursor_writer(path->emitted, path->size);
        DrvEmit emit = DRV_EMIT_INIT;
        DrvBatchReader reader;
        DrvRecord record;
        g_assert(drv_batch_reader_init(&reader, batch, len, &path->block, 1, NULL));
        while (drv_batch_reader_next(&reader, &record)) {
            if (drv_batch_is_placed(&path->block, &record))
                place(path, &record);
            drv_batch_direct(&emit, &out, &path->block, &record);
        }
        g_assert(drv_cursor_ok(&out));
        qemu_reads(&path->qemu, path->emitted, out.pos);
    }
    drv_batch_writer_begin(path->writer, path->room, path->size);
}

static void
see(Path *path, DrvMultifdBatch *batch, const DrvMultifdEvent *event, gint *until_lost)
{
    while (!drv_multifd_batch_add(batch, event)) {
        g_assert(!drv_batch_writer_is_empty(path->writer));
        finish(path);
        if (--*until_lost == 0)
            drv_page_table_lose(path->table, "of a test");
    }
    if (--*until_lost == 0)
        drv_page_table_lose(path->table, "of a test");
}

static void
feed(Path *path, DrvMultifd *multifd, guint8 how, guint8 lose, const guint8 *data, gsize size)
{
    g_autoptr(DrvMultifdBatch) batch = drv_multifd_batch_new(path->table, path->writer, multifd);
    gint until_lost = how & 32 ? lose : -1;
    gsize piece = fuzz_piece(how);
    DrvMultifdEvent event;
    for (gsize at = 0, n; at < size; at += n) {
        n = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, n);
        drv_multifd_push(multifd, copy, n);
        while (drv_multifd_next(multifd, &event))
            see(path, batch, &event, &until_lost);
        if ((fuzz_flush(how) || at + n == size) && drv_multifd_flush(multifd, &event))
            see(path, batch, &event, &until_lost);
        if (fuzz_flush(how))
            finish(path);
    }
    finish(path);
}

static Qemu
qemu_new(Guest *guest)
{
    return (Qemu){drv_multifd_new(DRV_PAGE_LEN), guest};
}

static void
qemu_free(Qemu *qemu)
{
    drv_multifd_free(qemu->parser);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    static const guint8 pieces[DRV_PAGE_SECRET] = {1}, digest[DRV_PAGE_SECRET] = {2};
    if (size < 2)
        return 0;
    g_autofree Guest *expected = g_new0(Guest, 1), *guest = g_new0(Guest, 1);
    g_autoptr(DrvMultifd) multifd = drv_multifd_new(DRV_PAGE_LEN);
    Qemu native = qemu_new(expected);
    Path path = {
        .size = data[0] & 16 ? DRV_BATCH_MIN : DRV_BATCH_MAX,
        .table = drv_page_table_new(pieces, digest, 1 << 16),
        .block = {.ram = {.id = "pc.ram", .size = PAGES * DRV_PAGE_LEN}, .placeable = TRUE},
        .guest = guest,
        .qemu = qemu_new(guest)};
    path.writer = drv_batch_writer_new(path.table);
    path.room = g_malloc(path.size);
    path.emitted = g_malloc(path.size);
    g_assert(drv_page_table_add_block(path.table, 0, "pc.ram", PAGES * DRV_PAGE_LEN, TRUE, NULL));
    drv_batch_writer_begin(path.writer, path.room, path.size);
    qemu_reads(&native, data + 2, size - 2);
    feed(&path, multifd, data[0], data[1], data + 2, size - 2);
    if (drv_multifd_exact(native.parser)) {
        g_assert(memcmp(expected->memory, guest->memory, sizeof guest->memory) == 0);
        g_assert(expected->syncs == guest->syncs);
    }
    drv_batch_writer_free(path.writer);
    drv_page_table_free(path.table);
    qemu_free(&native);
    qemu_free(&path.qemu);
    g_free(path.room);
    g_free(path.emitted);
    return 0;
}
