/* SPDX-License-Identifier: Apache-2.0 */

/* Direct mode when the stream is not understood any more: QEMU places everything itself. */
#include "precopy/test-model.h"

#include <string.h>

static void
put_iterable(Model *model, DrvSectionType type, gboolean empty)
{
    guint8 room[100];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    drv_emit_section(&out, type, 3, "dirty-bitmap", 1);
    if (!empty)
        drv_cursor_put_u32(&out, 0x7e000000);
    drv_emit_footer(&out, 3);
    model_feed(model, 0, room, out.pos);
}

static guint
records_of(Model *model, DrvRecordKind kind)
{
    guint n = 0;
    for (guint64 i = 1; i <= model_last(model); i++) {
        ModelBatch *batch = model_batch(model, i);
        DrvBatchReader reader;
        DrvRecord record;
        g_assert_true(drv_batch_reader_init(&reader, batch->data, batch->len, model_blocks,
                                            MODEL_BLOCKS, NULL));
        while (drv_batch_reader_next(&reader, &record))
            n += record.kind == kind;
    }
    return n;
}

static void
send_some(Model *model, guint channel, guint32 seed, guint first, guint n)
{
    for (guint i = first; i < first + n; i++) {
        model_fill(model, 0, i, seed + i);
        model_send(model, channel, 0, i);
    }
}

/* Ends a migration of which not all pages were sent. */
static void
check_end(Model *model, guint32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    model_devices(model);
    model_place_all(model, rand);
    g_assert_true(drv_page_table_lost(model->table));
    g_assert_cmpmem(model->dest[0], 100 * DRV_PAGE_LEN, model->source[0], 100 * DRV_PAGE_LEN);
    g_assert_cmpuint(model->devices, ==, 1);
}

/* Another device's section in between: the next page continues a block that QEMU saw none of. */
static void
check_lost_at_a_section(gboolean empty)
{
    g_autoptr(Model) model = model_begun();
    send_some(model, 0, 1, 0, 100);
    model_section_end(model);
    g_assert_false(drv_page_table_lost(model->table));
    put_iterable(model, DRV_SECTION_START, empty);
    model_section(model, DRV_SECTION_PART);
    g_assert_true(drv_page_table_lost(model->table));
    g_assert_nonnull(strstr(drv_page_table_why_lost(model->table), "dirty bitmaps"));
    send_some(model, 0, 500, 50, 20);
    model_section_end(model);
    check_end(model, 3);
    g_assert_cmpuint(records_of(model, DRV_RECORD_NAME), ==, 1);
    g_assert_cmpuint(records_of(model, DRV_RECORD_DELTA), ==, 0);
}

static void
test_lost_at_a_section(void)
{
    check_lost_at_a_section(FALSE);
    check_lost_at_a_section(TRUE);
}

/* The block of the last page is one that QEMU has seen. */
static void
test_lost_after_qemus_own_page(void)
{
    g_autoptr(Model) model = model_begun();
    send_some(model, 0, 1, 0, 100);
    model_fill(model, 2, 0, 77);
    model_send(model, 0, 2, 0);
    model_section_end(model);
    put_iterable(model, DRV_SECTION_START, FALSE);
    model_section(model, DRV_SECTION_PART);
    model_fill(model, 2, 1, 78);
    model_send(model, 0, 2, 1);
    send_some(model, 0, 500, 50, 20);
    model_section_end(model);
    check_end(model, 3);
    g_assert_cmpuint(records_of(model, DRV_RECORD_NAME), ==, 0);
    g_assert_cmpmem(model->dest[2], 2 * DRV_PAGE_LEN, model->source[2], 2 * DRV_PAGE_LEN);
}

/* A flush in the middle of a page gives QEMU half of it, and so all of it. */
static void
test_lost_by_a_flush(void)
{
    g_autoptr(Model) model = model_begun();
    send_some(model, 0, 1, 0, 100);
    guint8 room[DRV_EMIT_MAX_HEAD + DRV_PAGE_LEN];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    model_fill(model, 0, 5, 999);
    drv_emit_page(&model->channels[0].emit, &out, &model_blocks[0].ram, 0, DRV_PAGES_NORMAL,
                  5 * DRV_PAGE_LEN, model_page(model, 0, 5), DRV_PAGE_LEN);
    model_feed(model, 0, room, 1000);
    g_assert_false(drv_page_table_lost(model->table));
    model_flush(model, 0);
    g_assert_true(drv_page_table_lost(model->table));
    model_feed(model, 0, room + 1000, out.pos - 1000);
    send_some(model, 0, 500, 6, 20);
    model_section_end(model);
    check_end(model, 3);
    g_assert_cmpuint(records_of(model, DRV_RECORD_NAME), ==, 1);
}

/* QEMU's own delta: it is passed on, and lands on the page that was placed. */
static void
test_lost_by_xbzrle(void)
{
    g_autoptr(Model) model = model_begun();
    guint8 xbzrle[3 + 10] = {1, 0, 10};
    send_some(model, 0, 1, 0, 100);
    g_assert_null(drv_page_table_why_lost(model->table));
    model_send_as(model, 0, 0, 3, DRV_PAGES_XBZRLE, xbzrle, sizeof xbzrle);
    g_assert_true(drv_page_table_lost(model->table));
    g_assert_nonnull(strstr(drv_page_table_why_lost(model->table), "made deltas"));
    drv_page_table_lose(model->table, "of something later");
    g_assert_nonnull(strstr(drv_page_table_why_lost(model->table), "made deltas"));
    send_some(model, 0, 500, 4, 20);
    model_section_end(model);
    check_end(model, 3);
}

/* Somebody else lost the way, while another channel has an open batch with pages to be placed: what
 * QEMU places comes after those. */
static void
test_lost_by_another(void)
{
    for (guint32 seed = 0; seed < 20; seed++) {
        g_autoptr(Model) model = model_begun();
        model_begin(model, 1);
        model_finish(model, 1);
        send_some(model, 0, 1, 0, 60);
        send_some(model, 1, 1, 60, 45);
        drv_page_table_lose(model->table, "of a test");
        model_fill(model, 0, 70, 4711);
        model_send(model, 0, 0, 70);
        model_fill(model, 0, 104, 4712);
        model_send(model, 0, 0, 104);
        model_section_end(model);
        model_finish(model, 0);
        model_finish(model, 1);
        g_assert_cmpuint(records_of(model, DRV_RECORD_NAME), ==, 1);
        check_end(model, seed);
        g_assert_cmpmem(model->dest[0], 105 * DRV_PAGE_LEN, model->source[0], 105 * DRV_PAGE_LEN);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lost/at-a-section", test_lost_at_a_section);
    g_test_add_func("/lost/after-qemus-own-page", test_lost_after_qemus_own_page);
    g_test_add_func("/lost/by-a-flush", test_lost_by_a_flush);
    g_test_add_func("/lost/by-xbzrle", test_lost_by_xbzrle);
    g_test_add_func("/lost/by-another", test_lost_by_another);
    return g_test_run();
}
