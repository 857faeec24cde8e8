/* SPDX-License-Identifier: Apache-2.0 */

/* Pages in direct mode: what they become, in what order they may be placed, what is found out. */
#include "precopy/test-model.h"

#include "common/error.h"
#include "precopy/page-table-private.h"

#include <string.h>

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
        model_fill(model, block, page, g_rand_int(rand));
        break;
    case 2: /* one of a few contents */
        model_fill(model, block, page, (guint32)g_rand_int_range(rand, 0, 5));
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

static void
test_classes(void)
{
    g_autoptr(Model) model = model_begun();
    DrvPageCounts before = {0};
    model_send(model, 0, 0, 0);
    expect(model, &before, (Classes){.zero = 1});
    /* A zero page is a base like any other. */
    memset(model_page(model, 0, 0) + 1000, 7, 100);
    model_send(model, 0, 0, 0);
    expect(model, &before, (Classes){.delta = 1});
    model_send(model, 0, 0, 0);
    expect(model, &before, (Classes){.delta = 1, .unchanged = 1});
    model_fill(model, 0, 1, 1);
    model_send(model, 0, 0, 1);
    expect(model, &before, (Classes){.literal = 1});
    /* The same content elsewhere, in another block as well. */
    model_fill(model, 0, 2, 1);
    model_fill(model, 1, 7, 1);
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
    model_fill(model, 0, 3, 1);
    model_send(model, 0, 0, 3);
    expect(model, &before, (Classes){.literal = 1});
    /* A block that QEMU places: neither base nor source. */
    model_fill(model, 2, 0, 1);
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
    g_autoptr(Model) model = model_begun();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    DrvPageCounts before = {0};
    for (guint i = 0; i < 2; i++) {
        model_fill(model, 0, i, 1 + i);
        model_send(model, 0, 0, i);
    }
    expect(model, &before, (Classes){.literal = 2});
    for (guint i = 0; i < 2; i++)
        model_fill(model, 0, i, 2 - i);
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
    g_autoptr(Model) model = model_begun();
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
    g_autoptr(Model) model = model_begun();
    model_finish(model, 0);
    guint64 listed = 1; /* the batch with the blocks */
    for (guint i = 0; i < 3; i++)
        model_fill(model, 0, i, 1 + i);
    /* What has nothing in common waits for the blocks only. */
    g_assert_cmpuint(after_of(model, 0, 0), ==, listed);
    guint64 first = model_last(model);
    g_assert_cmpuint(after_of(model, 0, 1), ==, listed);
    g_assert_cmpuint(after_of(model, 2, 0), ==, listed);
    /* Write after write. */
    model_fill(model, 0, 0, 10);
    g_assert_cmpuint(after_of(model, 0, 0), ==, first);
    guint64 second = model_last(model);
    /* Read after write; two readers need not wait for each other. */
    model_fill(model, 0, 20, 10);
    model_fill(model, 0, 21, 10);
    g_assert_cmpuint(after_of(model, 0, 20), ==, second);
    g_assert_cmpuint(after_of(model, 0, 21), ==, second);
    guint64 reader = model_last(model);
    /* Write after read. */
    model_fill(model, 0, 0, 11);
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
        g_autoptr(Model) model = model_begun();
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        model_begin(model, 1);
        model_finish(model, 0);
        model_finish(model, 1);
        for (guint b = 0; b < MODEL_BLOCKS; b++)
            for (guint p = 0; p < model_pages(b); p++) {
                model_fill(model, b, p, b * 1000 + p + 1);
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
    g_autoptr(Model) model = model_begun();
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
    g_autoptr(Model) model = model_begun();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    model_fill(model, 0, 0, 1);
    after_of(model, 0, 0);
    model_fill(model, 0, 10, 1);
    after_of(model, 0, 10); /* reads page 0 */
    guint64 reader = model_last(model);
    model_fill(model, 0, 11, 1);
    model_send(model, 0, 0, 11); /* so does this */
    model_fill(model, 0, 0, 2);
    g_assert_cmpuint(after_of(model, 0, 0), ==, reader + 1);
    g_assert_cmpuint(model_last(model), ==, reader + 2);
    model_place_all(model, rand);
    g_assert_cmpmem(model->dest[0], DRV_PAGE_LEN, model->source[0], DRV_PAGE_LEN);
}

/* A batch that is open may not take what a higher number has to do with. */
static void
test_order_of_channels(void)
{
    g_autoptr(Model) model = model_begun();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    model_begin(model, 1);
    model_finish(model, 0);
    model_finish(model, 1);
    guint64 begun_with = model_last(model);
    for (guint i = 0; i < 4; i++)
        model_fill(model, 0, i, 1 + i);
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
    model_fill(model, 0, 40, 4);
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
    Model *model = model_begun();
    model_finish(model, 0);
    model_fill(model, 0, 0, 1);
    model_send(model, 0, 0, 0);
    model_finish(model, 0);
    model_fill(model, 0, then_page, 1);
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
    return g_test_run();
}
