/* SPDX-License-Identifier: Apache-2.0 */

/* Pages in direct mode: what they become, in what order they may be placed, what is found out. */
#include "precopy/test-model.h"

#include "common/error.h"
#include "precopy/page-table-private.h"

#include <string.h>

static void
fill(Model *model, guint block, guint page, guint32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    guint8 *content = model_page(model, block, page);
    for (guint i = 0; i < DRV_PAGE_LEN; i += 4) {
        guint32 value = g_rand_int(rand);
        memcpy(content + i, &value, 4);
    }
}

/* ---- a random guest ---- */

static void
change_page(Model *model, GRand *rand, guint block, guint page)
{
    guint8 *content = model_page(model, block, page);
    guint other = (guint)g_rand_int_range(rand, 0, (gint)MODEL_PAGES);
    guint8 swap[DRV_PAGE_LEN];
    switch (g_rand_int_range(rand, 0, 7)) {
    case 0:
        memset(content, 0, DRV_PAGE_LEN);
        break;
    case 1:
        fill(model, block, page, g_rand_int(rand));
        break;
    case 2: /* one of a few contents */
        fill(model, block, page, (guint32)g_rand_int_range(rand, 0, 5));
        break;
    case 3:
    case 4:
        for (gint n = g_rand_int_range(rand, 1, 7); n > 0; n--)
            content[g_rand_int_range(rand, 0, DRV_PAGE_LEN)] ^= 0x5a;
        break;
    case 5:
        memcpy(content, model_page(model, 0, other), DRV_PAGE_LEN);
        break;
    case 6:
        memcpy(swap, content, DRV_PAGE_LEN);
        memcpy(content, model_page(model, 0, other), DRV_PAGE_LEN);
        memcpy(model_page(model, 0, other), swap, DRV_PAGE_LEN);
        break;
    }
}

static void
send_any(Model *model, GRand *rand, guint channels, guint block, guint page)
{
    guint channel =
        model_blocks[block].placeable ? (guint)g_rand_int_range(rand, 0, (gint)channels) : 0;
    const guint8 *content = model_page(model, block, page);
    if (g_rand_int_range(rand, 0, 8) == 0)
        model_send_as(model, channel, block, page, DRV_PAGES_NORMAL, content, DRV_PAGE_LEN);
    else
        model_send(model, channel, block, page);
    if (g_rand_int_range(rand, 0, 60) == 0)
        model_finish(model, channel);
}

/* All pages that differ from what was last sent, in rounds; so that what is sent is complete, it
 * compares with a copy. */
static void
send_round(Model *model, GRand *rand, guint channels, guint8 *sent[MODEL_BLOCKS], gboolean all)
{
    model_section(model, DRV_SECTION_PART);
    for (guint b = 0; b < MODEL_BLOCKS; b++)
        for (guint p = 0; p < model_pages(b); p++) {
            guint8 *last = sent[b] + (gsize)p * DRV_PAGE_LEN;
            gboolean same = memcmp(last, model_page(model, b, p), DRV_PAGE_LEN) == 0;
            if (!all && same && g_rand_int_range(rand, 0, 10) > 0)
                continue;
            memcpy(last, model_page(model, b, p), DRV_PAGE_LEN);
            send_any(model, rand, channels, b, p);
        }
    model_section_end(model);
    for (guint i = 0; i < channels; i++)
        model_finish(model, i);
}

static void
check_random(guint32 seed, guint channels, gsize size, gsize dedup_memory, guint32 last_stamp)
{
    g_autoptr(Model) model = model_new(size, dedup_memory);
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    guint8 *sent[MODEL_BLOCKS];
    DrvPageCounts counts;
    if (last_stamp != 0)
        drv_page_table_set_last_stamp(model->table, last_stamp);
    for (guint b = 0; b < MODEL_BLOCKS; b++)
        sent[b] = g_malloc0(model_blocks[b].ram.size);
    for (guint i = 0; i < channels; i++)
        model_begin(model, i);

    for (guint round = 0; round < 5; round++) {
        for (guint n = round == 0 ? 600 : 150; n > 0; n--) {
            guint block = (guint)g_rand_int_range(rand, 0, MODEL_BLOCKS);
            change_page(model, rand, block,
                        (guint)g_rand_int_range(rand, 0, (gint)model_pages(block)));
        }
        send_round(model, rand, channels, sent, round == 0);
        /* Sometimes all is placed before the next round, mostly batches of several mix. */
        if (g_rand_int_range(rand, 0, 4) == 0)
            model_place_all(model, rand);
    }
    model_devices(model);
    model_place_all(model, rand);
    g_assert_true(model_is_equal(model));
    g_assert_cmpuint(model->devices, ==, 1);
    g_assert_false(model->rushed);
    g_assert_false(drv_page_table_lost(model->table));

    drv_page_table_counts(model->table, &counts);
    g_assert_cmpuint(counts.zero, >, 0);
    g_assert_cmpuint(counts.delta, >, 0);
    g_assert_cmpuint(counts.unchanged, >, 0);
    g_assert_cmpuint(counts.literal, >, 0);
    g_assert_cmpuint(counts.saved_bytes, >, 0);
    if (dedup_memory == 0)
        g_assert_cmpuint(counts.dup, ==, 0);
    else
        g_assert_cmpuint(counts.dup, >, 0);
    for (guint b = 0; b < MODEL_BLOCKS; b++)
        g_free(sent[b]);
}

static void
test_random(void)
{
    for (guint32 seed = 0; seed < 12; seed++)
        check_random(seed, 1, seed % 2 ? DRV_BATCH_MIN : DRV_BATCH_MAX, DRV_DEDUP_MEMORY_DEFAULT,
                     0);
}

static void
test_random_channels(void)
{
    for (guint32 seed = 100; seed < 112; seed++)
        check_random(seed, MODEL_CHANNELS, seed % 2 ? DRV_BATCH_MIN : DRV_BATCH_MAX,
                     DRV_DEDUP_MEMORY_DEFAULT, 0);
}

/* When there are more batches than stamps tell apart, order is kept all the same. */
static void
test_random_without_stamps(void)
{
    for (guint32 seed = 200; seed < 208; seed++)
        check_random(seed, MODEL_CHANNELS, DRV_BATCH_MIN, DRV_DEDUP_MEMORY_DEFAULT, 1 + seed % 50);
}

static void
test_random_dedup_memory(void)
{
    check_random(300, 1, DRV_BATCH_MAX, 0, 0);
    check_random(301, 1, DRV_BATCH_MAX, 64, 0);
}

/* ---- what pages become ---- */

typedef struct {
    guint zero, dup, delta, unchanged, literal;
} Classes;

/* What has been sent since the last time. */
static Classes
classes(Model *model, DrvPageCounts *before)
{
    DrvPageCounts now;
    model_finish(model, 0);
    drv_page_table_counts(model->table, &now);
    Classes since = {.zero = (guint)(now.zero - before->zero),
                     .dup = (guint)(now.dup - before->dup),
                     .delta = (guint)(now.delta - before->delta),
                     .unchanged = (guint)(now.unchanged - before->unchanged),
                     .literal = (guint)(now.literal - before->literal)};
    *before = now;
    return since;
}

static void
expect(Model *model, DrvPageCounts *before, Classes expected)
{
    Classes since = classes(model, before);
    g_assert_cmpuint(since.zero, ==, expected.zero);
    g_assert_cmpuint(since.dup, ==, expected.dup);
    g_assert_cmpuint(since.delta, ==, expected.delta);
    g_assert_cmpuint(since.unchanged, ==, expected.unchanged);
    g_assert_cmpuint(since.literal, ==, expected.literal);
}

static Model *
begun(void)
{
    Model *model = model_new(DRV_BATCH_MAX, DRV_DEDUP_MEMORY_DEFAULT);
    model_begin(model, 0);
    model_section(model, DRV_SECTION_PART);
    return model;
}

static void
test_classes(void)
{
    g_autoptr(Model) model = begun();
    DrvPageCounts before = {0};
    model_send(model, 0, 0, 0);
    expect(model, &before, (Classes){.zero = 1});
    /* A zero page is a base like any other. */
    memset(model_page(model, 0, 0) + 1000, 7, 100);
    model_send(model, 0, 0, 0);
    expect(model, &before, (Classes){.delta = 1});
    model_send(model, 0, 0, 0);
    expect(model, &before, (Classes){.delta = 1, .unchanged = 1});
    fill(model, 0, 1, 1);
    model_send(model, 0, 0, 1);
    expect(model, &before, (Classes){.literal = 1});
    /* The same content elsewhere, in another block as well. */
    fill(model, 0, 2, 1);
    fill(model, 1, 7, 1);
    model_send(model, 0, 0, 2);
    model_send(model, 0, 1, 7);
    expect(model, &before, (Classes){.dup = 2});
    /* Half a page changed is still a delta, more is not. */
    for (guint i = 0; i < 4; i++)
        model_page(model, 0, 1)[i * 1024] ^= 1;
    model_send(model, 0, 0, 1);
    expect(model, &before, (Classes){.delta = 1});
    for (guint i = 0; i < 5; i++)
        model_page(model, 0, 1)[i * 512] ^= 1;
    model_send(model, 0, 0, 1);
    expect(model, &before, (Classes){.literal = 1});
    /* Not a duplicate of itself in former times, and none of a page that has changed since. */
    memset(model_page(model, 0, 2), 0, DRV_PAGE_LEN);
    memset(model_page(model, 1, 7), 0, DRV_PAGE_LEN);
    model_send(model, 0, 0, 2);
    model_send(model, 0, 1, 7);
    expect(model, &before, (Classes){.zero = 2});
    fill(model, 0, 3, 1);
    model_send(model, 0, 0, 3);
    expect(model, &before, (Classes){.literal = 1});
    /* A block that QEMU places: neither base nor source. */
    fill(model, 2, 0, 1);
    model_send(model, 0, 2, 0);
    model_send(model, 0, 2, 0);
    expect(model, &before, (Classes){.literal = 2});
    memset(model_page(model, 2, 0), 0, DRV_PAGE_LEN);
    model_send(model, 0, 2, 0);
    expect(model, &before, (Classes){.zero = 1});

    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    model_place_all(model, rand);
    g_assert_cmpmem(model_page(model, 0, 0), DRV_PAGE_LEN, model->dest[0], DRV_PAGE_LEN);
}

/* Two pages change places: the first to be sent finds its content, the second has to bring it. */
static void
test_swap(void)
{
    g_autoptr(Model) model = begun();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    DrvPageCounts before = {0};
    for (guint i = 0; i < 2; i++) {
        fill(model, 0, i, 1 + i);
        model_send(model, 0, 0, i);
    }
    expect(model, &before, (Classes){.literal = 2});
    for (guint i = 0; i < 2; i++)
        fill(model, 0, i, 2 - i);
    for (guint i = 0; i < 2; i++)
        model_send(model, 0, 0, i);
    expect(model, &before, (Classes){.dup = 1, .literal = 1});
    model_place_all(model, rand);
    g_assert_cmpmem(model->dest[0], 2 * DRV_PAGE_LEN, model->source[0], 2 * DRV_PAGE_LEN);
}

/* Pages full of something else than 0, as QEMU's ancestors said it. */
static void
test_filled(void)
{
    g_autoptr(Model) model = begun();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    DrvPageCounts before = {0};
    for (guint i = 0; i < 3; i++) {
        memset(model_page(model, 0, i), 0x55, DRV_PAGE_LEN);
        model_send_as(model, 0, 0, i, DRV_PAGES_ZERO, "\x55", 1);
    }
    expect(model, &before, (Classes){.zero = 3});
    model_page(model, 0, 0)[0] = 0;
    model_send(model, 0, 0, 0);
    memset(model_page(model, 0, 3), 0x55, DRV_PAGE_LEN);
    model_send(model, 0, 0, 3);
    expect(model, &before, (Classes){.delta = 1, .dup = 1});
    model_place_all(model, rand);
    g_assert_cmpmem(model->dest[0], 4 * DRV_PAGE_LEN, model->source[0], 4 * DRV_PAGE_LEN);
}

/* ---- order ---- */

/* Sends a page in a batch of its own, and returns what that waits for. */
static guint64
after_of(Model *model, guint block, guint page)
{
    model_send(model, 0, block, page);
    model_finish(model, 0);
    return model_batch(model, model_last(model))->head.after;
}

static void
test_order(void)
{
    g_autoptr(Model) model = begun();
    model_finish(model, 0);
    guint64 listed = 1; /* the batch with the blocks */
    for (guint i = 0; i < 3; i++)
        fill(model, 0, i, 1 + i);
    /* What has nothing in common waits for the blocks only. */
    g_assert_cmpuint(after_of(model, 0, 0), ==, listed);
    guint64 first = model_last(model);
    g_assert_cmpuint(after_of(model, 0, 1), ==, listed);
    g_assert_cmpuint(after_of(model, 2, 0), ==, listed);
    /* Write after write. */
    fill(model, 0, 0, 10);
    g_assert_cmpuint(after_of(model, 0, 0), ==, first);
    guint64 second = model_last(model);
    /* Read after write; two readers need not wait for each other. */
    fill(model, 0, 20, 10);
    fill(model, 0, 21, 10);
    g_assert_cmpuint(after_of(model, 0, 20), ==, second);
    g_assert_cmpuint(after_of(model, 0, 21), ==, second);
    guint64 reader = model_last(model);
    /* Write after read. */
    fill(model, 0, 0, 11);
    g_assert_cmpuint(after_of(model, 0, 0), ==, reader);
    /* Zero pages as well. */
    guint64 third = model_last(model);
    memset(model_page(model, 0, 0), 0, DRV_PAGE_LEN);
    g_assert_cmpuint(after_of(model, 0, 0), ==, third);
}

/* What the devices find in the guest's RAM is complete, whatever channel the pages came by. */
static void
test_devices_wait(void)
{
    for (guint32 seed = 0; seed < 5; seed++) {
        g_autoptr(Model) model = begun();
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        model_begin(model, 1);
        model_finish(model, 0);
        model_finish(model, 1);
        for (guint b = 0; b < MODEL_BLOCKS; b++)
            for (guint p = 0; p < model_pages(b); p++) {
                fill(model, b, p, b * 1000 + p + 1);
                model_send(model, b == 1, b, p);
            }
        model_section_end(model);
        /* The main channel's last batch is open, and the other has begun one after it. */
        model_devices(model);
        g_assert_false(drv_page_table_lost(model->table));
        g_assert_cmpuint(model_last(model), >, 3 + 300 / 31);
        model_place_all(model, rand);
        g_assert_true(model_is_equal(model));
        g_assert_cmpuint(model->devices, ==, 1);
        g_assert_false(model->rushed);
    }
}

/* A batch that is begun is too old for them once another channel has begun one. */
static void
test_devices_begin_anew(void)
{
    g_autoptr(Model) model = begun();
    model_begin(model, 1);
    model_finish(model, 0);
    model_finish(model, 1);
    model_send(model, 0, 0, 0);
    guint64 number = model_last(model) + 1;
    model_send(model, 1, 0, 1);
    model_section_end(model);
    model_devices(model);
    g_assert_cmpuint(model_last(model), ==, number + 2);
    g_assert_cmpuint(model_batch(model, number)->head.after, <, number - 1);
    g_assert_cmpuint(model_batch(model, number + 2)->head.after, ==, number + 1);
    g_assert_cmpuint(model_batch(model, number + 2)->channel, ==, 0);
}

/* A batch that reads a page and then writes it has to wait for others that have read it: they are
 * known no more, and so it does not write it. */
static void
test_order_of_own_reads(void)
{
    g_autoptr(Model) model = begun();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    fill(model, 0, 0, 1);
    after_of(model, 0, 0);
    fill(model, 0, 10, 1);
    after_of(model, 0, 10); /* reads page 0 */
    guint64 reader = model_last(model);
    fill(model, 0, 11, 1);
    model_send(model, 0, 0, 11); /* so does this */
    fill(model, 0, 0, 2);
    g_assert_cmpuint(after_of(model, 0, 0), ==, reader + 1);
    g_assert_cmpuint(model_last(model), ==, reader + 2);
    model_place_all(model, rand);
    g_assert_cmpmem(model->dest[0], DRV_PAGE_LEN, model->source[0], DRV_PAGE_LEN);
}

/* A batch that is open may not take what a higher number has to do with. */
static void
test_order_of_channels(void)
{
    g_autoptr(Model) model = begun();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    model_begin(model, 1);
    model_finish(model, 0);
    model_finish(model, 1);
    guint64 begun_with = model_last(model);
    for (guint i = 0; i < 4; i++)
        fill(model, 0, i, 1 + i);
    model_send(model, 0, 0, 0); /* number 1 */
    model_send(model, 1, 0, 1); /* number 2 */
    model_page(model, 0, 1)[0] ^= 1;
    model_send(model, 0, 0, 1); /* not in 1, so in 3, after 2 */
    model_finish(model, 0);
    model_finish(model, 1);
    g_assert_cmpuint(model_last(model), ==, begun_with + 3);
    g_assert_cmpuint(model_batch(model, begun_with + 3)->head.after, ==, begun_with + 2);
    g_assert_cmpuint(model_batch(model, begun_with + 2)->head.after, <=, begun_with);

    /* A duplicate's source of a higher number is not used; one that is read by it not written. */
    model_send(model, 0, 0, 2); /* begun_with + 4 */
    model_send(model, 1, 0, 3); /* + 5 */
    DrvPageCounts before, now;
    drv_page_table_counts(model->table, &before);
    fill(model, 0, 40, 4);
    model_send(model, 0, 0, 40); /* content of page 3: into + 4, in full */
    model_finish(model, 0);
    drv_page_table_counts(model->table, &now);
    g_assert_cmpuint(now.literal - before.literal, ==, 2);
    g_assert_cmpuint(now.dup, ==, before.dup);
    g_assert_cmpuint(model_last(model), ==, begun_with + 4);
    model_finish(model, 1);
    model_place_all(model, rand);
    g_assert_cmpmem(model->dest[0], 4 * DRV_PAGE_LEN, model->source[0], 4 * DRV_PAGE_LEN);
}

/* ---- what is found out ---- */

static void
expect_mismatch(Model *model, ModelBatch *batch)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(model_place(model, batch, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
}

/* Three batches: blocks; page 0; 'then', which needs it. */
static Model *
two_batches(guint then_page, gboolean sparse)
{
    Model *model = begun();
    model_finish(model, 0);
    fill(model, 0, 0, 1);
    model_send(model, 0, 0, 0);
    model_finish(model, 0);
    fill(model, 0, then_page, 1);
    if (sparse)
        model_page(model, 0, then_page)[600] ^= 1;
    model_send(model, 0, 0, then_page);
    model_finish(model, 0);
    g_assert_cmpuint(model_last(model), ==, 3);
    g_assert_cmpuint(model_batch(model, 3)->head.after, ==, 2);
    g_assert_true(model_place(model, model_batch(model, 1), NULL));
    return model;
}

static void
test_placed_too_early(void)
{
    for (guint page = 0; page < 2; page++) {
        g_autoptr(Model) model = two_batches(page, page == 0);
        expect_mismatch(model, model_batch(model, 3));
    }
}

static void
test_stale_base(void)
{
    for (guint page = 0; page < 2; page++) {
        g_autoptr(Model) model = two_batches(page, page == 0);
        g_assert_true(model_place(model, model_batch(model, 2), NULL));
        model->dest[0][3000] ^= 1; /* not among the pieces that the delta brings */
        expect_mismatch(model, model_batch(model, 3));
    }
}

/* A page that was sent unchanged, and is not what was sent. */
static void
test_unchanged_is_checked(void)
{
    g_autoptr(Model) model = two_batches(0, FALSE);
    g_assert_true(model_place(model, model_batch(model, 2), NULL));
    g_assert_true(model_place(model, model_batch(model, 3), NULL));
    model->dest[0][0] ^= 1;
    expect_mismatch(model, model_batch(model, 3));
}

static void
test_wrong_page(void)
{
    g_autoptr(Model) model = two_batches(1, FALSE);
    ModelBatch *batch = model_batch(model, 3);
    g_assert_true(model_place(model, model_batch(model, 2), NULL));
    batch->data[DRV_BATCH_HEAD + 7] ^= 6; /* page 1 becomes 7 */
    expect_mismatch(model, batch);
}

/* ---- QEMU places everything itself ---- */

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
        fill(model, 0, i, seed + i);
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
    g_autoptr(Model) model = begun();
    send_some(model, 0, 1, 0, 100);
    model_section_end(model);
    g_assert_false(drv_page_table_lost(model->table));
    put_iterable(model, DRV_SECTION_START, empty);
    model_section(model, DRV_SECTION_PART);
    g_assert_true(drv_page_table_lost(model->table));
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
    g_autoptr(Model) model = begun();
    send_some(model, 0, 1, 0, 100);
    fill(model, 2, 0, 77);
    model_send(model, 0, 2, 0);
    model_section_end(model);
    put_iterable(model, DRV_SECTION_START, FALSE);
    model_section(model, DRV_SECTION_PART);
    fill(model, 2, 1, 78);
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
    g_autoptr(Model) model = begun();
    send_some(model, 0, 1, 0, 100);
    guint8 room[DRV_EMIT_MAX_HEAD + DRV_PAGE_LEN];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    fill(model, 0, 5, 999);
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
    g_autoptr(Model) model = begun();
    guint8 xbzrle[3 + 10] = {1, 0, 10};
    send_some(model, 0, 1, 0, 100);
    model_send_as(model, 0, 0, 3, DRV_PAGES_XBZRLE, xbzrle, sizeof xbzrle);
    g_assert_true(drv_page_table_lost(model->table));
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
        g_autoptr(Model) model = begun();
        model_begin(model, 1);
        model_finish(model, 1);
        send_some(model, 0, 1, 0, 60);
        send_some(model, 1, 1, 60, 45);
        drv_page_table_lose(model->table);
        fill(model, 0, 70, 4711);
        model_send(model, 0, 0, 70);
        fill(model, 0, 104, 4712);
        model_send(model, 0, 0, 104);
        model_section_end(model);
        model_finish(model, 0);
        model_finish(model, 1);
        g_assert_cmpuint(records_of(model, DRV_RECORD_NAME), ==, 1);
        check_end(model, seed);
        g_assert_cmpmem(model->dest[0], 105 * DRV_PAGE_LEN, model->source[0], 105 * DRV_PAGE_LEN);
    }
}

/* ---- the table ---- */

static void
test_blocks(void)
{
    g_autoptr(DrvPageTable) table = model_table(1 << 20);
    g_autoptr(GError) error = NULL;
    g_assert_false(drv_page_table_add_block(table, 1, "b", 4096, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_cmpstr(error->message, ==, "RAM block 'b' has number 1 where 0 was expected");
    g_clear_error(&error);
    g_assert_true(drv_page_table_add_block(table, 0, "a", 4096, TRUE, NULL));
    g_assert_cmpint(drv_page_table_find_block(table, "a"), ==, 0);
    g_assert_cmpint(drv_page_table_find_block(table, "b"), ==, -1);

    /* 2^63 bytes: no machine has the address space, and a failure leaves all as it was. */
    g_assert_false(drv_page_table_add_block(table, 1, "b", (guint64)1 << 63, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_LIMIT);
    g_assert_nonnull(strstr(error->message, "RAM block 'b' of 9223372036854775808 bytes"));
    g_assert_true(drv_page_table_add_block(table, 1, "b", (guint64)1 << 63, FALSE, NULL));
    for (guint i = 2; i < DRV_STREAM_MAX_BLOCKS; i++)
        g_assert_true(drv_page_table_add_block(table, i, "more", 0, TRUE, NULL));
    g_clear_error(&error);
    g_assert_false(drv_page_table_add_block(table, DRV_STREAM_MAX_BLOCKS, "more", 0, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
}

/* Memory is taken as pages are sent, and stays under 2 % of them; zero pages take less. */
static void
test_memory(void)
{
    guint64 pages = 64 * 1024; /* 256 MiB */
    g_autoptr(DrvPageTable) table = model_table(DRV_DEDUP_MEMORY_DEFAULT);
    g_assert_true(drv_page_table_add_block(table, 0, "a", pages * DRV_PAGE_LEN, TRUE, NULL));
    guint64 empty = drv_page_table_memory(table);
    g_assert_cmpuint(empty, <, 64 << 10);
    DrvTableBlock *block = drv_page_table_block(table, 0);
    guint64 number = drv_page_table_number(table), after = 0;
    const DrvVerdict zero = {.kind = DRV_RECORD_ZERO};
    for (guint64 page = 0; page < pages; page++)
        drv_page_table_settle(table, number, block, page, NULL, &zero, &after);
    guint64 zeros = drv_page_table_memory(table);
    g_assert_cmpuint(zeros, >=, pages * 8);
    g_assert_cmpuint(zeros, <, pages * DRV_PAGE_LEN / 400);
    for (guint64 page = 0; page < pages; page++) {
        DrvPageHash hash = {.key = page * 0x9e3779b97f4a7c15u};
        DrvVerdict verdict;
        hash.pieces[0] = page;
        g_assert_true(drv_page_table_judge(table, number, block, page, &hash, &verdict));
        verdict.kind = DRV_RECORD_LITERAL;
        drv_page_table_settle(table, number, block, page, &hash, &verdict, &after);
    }
    g_assert_cmpuint(drv_page_table_memory(table), >=, pages * 72);
    g_assert_cmpuint(drv_page_table_memory(table), <, pages * DRV_PAGE_LEN / 50);
}

/* ---- several threads ---- */

#define THREADS 3u
#define THREAD_SENDS 600u

typedef struct {
    DrvPageTable *table;
    guint32 seed;
    GPtrArray *batches; /* GBytes */
} Sender;

static void
sender_finish(Sender *sender, DrvBatchWriter *writer, guint8 *room)
{
    gsize len = drv_batch_writer_finish(writer);
    if (len > 0)
        g_ptr_array_add(sender->batches, g_bytes_new(room, len));
    drv_batch_writer_begin(writer, room, DRV_BATCH_MIN);
}

static void
sender_feed(Sender *sender, DrvStream *stream, DrvBatchWriter *writer, guint8 *room,
            const DrvCursor *bytes)
{
    DrvStreamEvent event;
    drv_stream_push(stream, bytes->data, bytes->pos);
    while (drv_stream_next(stream, &event)) {
        guint32 done = 0;
        while (!drv_batch_writer_add(writer, stream, &event, &done))
            sender_finish(sender, writer, room);
    }
}

/* Sends pages of all threads' own making to the same few places. */
static gpointer
send_thread(gpointer data)
{
    Sender *sender = data;
    g_autoptr(DrvStream) stream = drv_stream_new();
    g_autoptr(DrvBatchWriter) writer = drv_batch_writer_new(sender->table);
    g_autoptr(GRand) rand = g_rand_new_with_seed(sender->seed);
    DrvEmit emit = DRV_EMIT_INIT;
    guint8 room[DRV_BATCH_MIN], bytes[DRV_BATCH_MIN], page[DRV_PAGE_LEN] = {0};
    DrvRamBlock block = model_blocks[1].ram;

    drv_batch_writer_begin(writer, room, sizeof room);
    DrvCursor out = drv_cursor_writer(bytes, sizeof bytes);
    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, 2, "ram", 4);
    drv_emit_blocks(&out, &block, 1);
    sender_feed(sender, stream, writer, room, &out);
    for (guint i = 0; i < THREAD_SENDS; i++) {
        guint number = (guint)g_rand_int_range(rand, 0, 50);
        if (g_rand_int_range(rand, 0, 3) == 0)
            memset(page, g_rand_int_range(rand, 0, 4), sizeof page);
        page[g_rand_int_range(rand, 0, DRV_PAGE_LEN)]++;
        out.pos = 0;
        drv_emit_page(&emit, &out, &block, 0, DRV_PAGES_NORMAL, number * DRV_PAGE_LEN, page,
                      sizeof page);
        sender_feed(sender, stream, writer, room, &out);
    }
    sender_finish(sender, writer, room);
    return NULL;
}

static gint
by_number(gconstpointer a, gconstpointer b)
{
    const ModelBatch *const *x = a, *const *y = b;
    return (*x)->head.number < (*y)->head.number ? -1 : 1;
}

/* Everything that the threads sent, as a model's batches of blocks of the right number. */
static void
collect(Model *model, const Sender *senders)
{
    for (guint t = 0; t < THREADS; t++)
        for (guint i = 0; i < senders[t].batches->len; i++) {
            gsize len;
            ModelBatch *batch = g_new0(ModelBatch, 1);
            batch->data = g_bytes_unref_to_data(senders[t].batches->pdata[i], &len);
            batch->len = len;
            batch->channel = 1;
            batch->for_qemu = g_byte_array_new();
            g_assert_true(drv_batch_head(batch->data, len, &batch->head, NULL));
            g_ptr_array_add(model->batches, batch);
        }
    g_ptr_array_sort(model->batches, by_number);
    for (guint i = 0; i < model->batches->len; i++)
        g_assert_cmpuint(model_batch(model, i + 1)->head.number, ==, i + 1);
    g_array_append_val(model->known, model_blocks[1]);
}

/* Whatever the order in which batches are placed, the digests fit and the result is one. */
static void
test_threads(void)
{
    g_autofree guint8 *first = NULL;
    g_autoptr(DrvPageTable) table = model_table(1 << 20);
    Sender senders[THREADS];
    GThread *threads[THREADS];
    g_assert_true(drv_page_table_add_block(table, 0, model_blocks[1].ram.id,
                                           model_blocks[1].ram.size, TRUE, NULL));
    for (guint t = 0; t < THREADS; t++) {
        senders[t] = (Sender){.table = table, .seed = t, .batches = g_ptr_array_new()};
        threads[t] = g_thread_new("sender", send_thread, &senders[t]);
    }
    for (guint t = 0; t < THREADS; t++)
        g_thread_join(threads[t]);

    g_autoptr(Model) model = model_new(DRV_BATCH_MIN, 0);
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    collect(model, senders);
    for (guint order = 0; order < 5; order++) {
        for (guint i = 0; i < model->batches->len; i++)
            model_batch(model, i + 1)->placed = FALSE;
        model->given = 0;
        memset(model->dest[0], 0xee, model_blocks[1].ram.size);
        model_place_all(model, rand);
        if (first == NULL)
            first = g_memdup2(model->dest[0], model_blocks[1].ram.size);
        g_assert_cmpmem(model->dest[0], model_blocks[1].ram.size, first, model_blocks[1].ram.size);
    }
    for (guint t = 0; t < THREADS; t++)
        g_ptr_array_unref(senders[t].batches);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pages/random", test_random);
    g_test_add_func("/pages/random-channels", test_random_channels);
    g_test_add_func("/pages/random-without-stamps", test_random_without_stamps);
    g_test_add_func("/pages/random-dedup-memory", test_random_dedup_memory);
    g_test_add_func("/pages/classes", test_classes);
    g_test_add_func("/pages/swap", test_swap);
    g_test_add_func("/pages/filled", test_filled);
    g_test_add_func("/pages/order", test_order);
    g_test_add_func("/pages/devices-wait", test_devices_wait);
    g_test_add_func("/pages/devices-begin-anew", test_devices_begin_anew);
    g_test_add_func("/pages/order-of-own-reads", test_order_of_own_reads);
    g_test_add_func("/pages/order-of-channels", test_order_of_channels);
    g_test_add_func("/pages/placed-too-early", test_placed_too_early);
    g_test_add_func("/pages/stale-base", test_stale_base);
    g_test_add_func("/pages/unchanged-is-checked", test_unchanged_is_checked);
    g_test_add_func("/pages/wrong-page", test_wrong_page);
    g_test_add_func("/pages/lost-at-a-section", test_lost_at_a_section);
    g_test_add_func("/pages/lost-after-qemus-own-page", test_lost_after_qemus_own_page);
    g_test_add_func("/pages/lost-by-a-flush", test_lost_by_a_flush);
    g_test_add_func("/pages/lost-by-xbzrle", test_lost_by_xbzrle);
    g_test_add_func("/pages/lost-by-another", test_lost_by_another);
    g_test_add_func("/pages/blocks", test_blocks);
    g_test_add_func("/pages/memory", test_memory);
    g_test_add_func("/pages/threads", test_threads);
    return g_test_run();
}
