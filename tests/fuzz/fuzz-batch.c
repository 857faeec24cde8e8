/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A batch that a peer has made up: refused, or all that its records say is within bounds. The
 * batch's bytes are a copy of their own, so that reading beyond them is seen.
 */
#include "precopy/batch-reader.h"
#include "tests/fuzz/fuzz.h"

static const DrvBatchBlock blocks[] = {
    {.ram = {.id = "pc.ram", .size = 128 * DRV_PAGE_LEN}, .placeable = TRUE},
    {.ram = {.id = "0000:00:02.0/vga.vram", .size = 16 * DRV_PAGE_LEN}},
    {.ram = {.id = "huge", .size = (guint64)1 << 50}, .placeable = TRUE},
    {.ram = {.id = "odd", .size = 5000}},
};

static void
see_pages(const DrvRecord *record)
{
    g_assert(record->block < G_N_ELEMENTS(blocks) && record->count > 0);
    guint64 size = blocks[record->block].ram.size;
    g_assert((record->first + record->count) * DRV_PAGE_LEN <= size);
    g_assert(blocks[record->block].placeable || (!record->keep && record->kind != DRV_RECORD_KEPT));
    if (record->kind == DRV_RECORD_DUP)
        g_assert(blocks[record->from_block].placeable &&
                 (record->from + 1) * DRV_PAGE_LEN <= blocks[record->from_block].ram.size);
    if (record->kind == DRV_RECORD_DELTA) {
        guint8 page[DRV_PAGE_LEN] = {0};
        drv_batch_patch(record, page);
    }
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    g_autofree guint8 *copy = g_memdup2(data, size);
    g_autofree guint8 *room = g_malloc(DRV_BATCH_MAX);
    DrvCursor out = drv_cursor_writer(room, DRV_BATCH_MAX);
    DrvEmit emit = DRV_EMIT_INIT;
    DrvBatchReader reader;
    DrvRecord record;
    guint64 placed = 0;
    if (!drv_batch_reader_init(&reader, copy, size, blocks, G_N_ELEMENTS(blocks), NULL))
        return 0;
    while (drv_batch_reader_next(&reader, &record)) {
        if (record.kind != DRV_RECORD_OPAQUE && record.kind != DRV_RECORD_BLOCK)
            see_pages(&record);
        placed += drv_batch_is_placed(blocks, &record) ? record.count : 0;
        drv_batch_direct(&emit, &out, blocks, &record);
    }
    g_assert(placed <= 16384);
    g_assert(drv_cursor_ok(&out) && out.pos <= reader.emitted);
    return 0;
}
