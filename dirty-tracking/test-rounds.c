/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/rounds.h"

#define PAGE 4096
#define S G_USEC_PER_SEC

/* Two blocks, of which the second ends within a region. */
static DrvRounds *
begin(void)
{
    DrvRounds *rounds = drv_rounds_new(PAGE, 100 * S);
    g_assert_true(drv_rounds_add_block(rounds, 0, "b0", 8192));
    g_assert_true(drv_rounds_add_block(rounds, 3, "b3", 700));
    return rounds;
}

/* Everything, from 101 to 105 s. */
static void
first_round(DrvRounds *rounds)
{
    drv_rounds_next(rounds, 1, 101 * S);
    drv_rounds_mark(rounds, 0, 0, 8192);
    drv_rounds_mark(rounds, 3, 0, 700);
    drv_rounds_next(rounds, 2, 105 * S);
}

static DrvRound
latest(DrvRounds *rounds)
{
    DrvRound round;
    g_assert_cmpuint(drv_rounds_history(rounds, &round, 1), ==, 1);
    return round;
}

static void
test_first(void)
{
    g_autoptr(DrvRounds) rounds = begin();
    DrvRoundsSummary sum;
    first_round(rounds);
    DrvRound round = latest(rounds);
    g_assert_cmpuint(round.pass, ==, 1);
    g_assert_cmpuint(round.pages, ==, 8892);
    g_assert_cmpuint(round.bytes, ==, 8892 * PAGE);
    g_assert_cmpint(round.begin_us, ==, 1 * S);
    g_assert_cmpint(round.us, ==, 4 * S);
    g_assert_false(round.dirtied_known);
    g_assert_cmpuint(round.working_set, ==, 0);
    g_assert_cmpuint(round.hot_pages, ==, 0);

    drv_rounds_summary(rounds, &sum);
    g_assert_cmpuint(sum.pass, ==, 2);
    g_assert_cmpuint(sum.pages, ==, 0);
    g_assert_cmpuint(sum.rounds, ==, 1);
    g_assert_cmpuint(sum.total_pages, ==, 8892);
    g_assert_cmpuint(sum.again_pages, ==, 0);
    g_assert_false(drv_rounds_is_hot(rounds, 0, 5));
}

/* What round 2 brings was written during round 1's four seconds, and so on. */
static void
test_rates(void)
{
    g_autoptr(DrvRounds) rounds = begin();
    DrvRoundsSummary sum;
    DrvRound round[3];
    first_round(rounds);
    drv_rounds_mark(rounds, 0, 0, 400);
    drv_rounds_mark(rounds, 3, 600, 100);
    drv_rounds_mark(rounds, 0, 390, 10); /* a page that comes twice is one page */
    drv_rounds_next(rounds, 3, 106 * S);
    drv_rounds_mark(rounds, 0, 300, 200);
    drv_rounds_finish(rounds, 106 * S + S / 2);

    g_assert_cmpuint(drv_rounds_history(rounds, round, 3), ==, 3);
    g_assert_true(round[0].dirtied_known);
    g_assert_cmpuint(round[0].dirtied, ==, 500 * PAGE);
    g_assert_cmpfloat(round[0].dirty_rate, ==, 500 * PAGE / 4.0);
    g_assert_cmpuint(round[1].pages, ==, 500);
    g_assert_cmpuint(round[1].repeated, ==, 10);
    g_assert_cmpuint(round[1].again, ==, 0); /* the first does not count */
    g_assert_cmpfloat(round[1].dirty_rate, ==, 200 * PAGE / 1.0);
    g_assert_cmpuint(round[1].working_set, ==, 500 * PAGE);
    g_assert_cmpuint(round[2].pages, ==, 200);
    g_assert_cmpuint(round[2].again, ==, 100);
    g_assert_false(round[2].dirtied_known);
    g_assert_cmpuint(round[2].working_set, ==, 600 * PAGE);

    drv_rounds_summary(rounds, &sum);
    g_assert_cmpfloat(sum.dirty_rate, ==, 200 * PAGE);
    g_assert_cmpfloat(sum.peak_rate, ==, 200 * PAGE);
    g_assert_cmpuint(sum.working_set, ==, 600 * PAGE);
    g_assert_cmpfloat_with_epsilon(sum.times, 700 / 600.0, 1e-9);
    g_assert_cmpuint(sum.rounds, ==, 3);
    g_assert_cmpuint(sum.total_pages, ==, 8892 + 700);
    g_assert_cmpuint(sum.again_pages, ==, 700);
}

/* Pages that are left alone leave the working set after some rounds. */
static void
test_working_set(void)
{
    g_autoptr(DrvRounds) rounds = begin();
    first_round(rounds);
    drv_rounds_mark(rounds, 0, 0, 1000);
    drv_rounds_next(rounds, 3, 106 * S);
    g_assert_cmpuint(latest(rounds).working_set, ==, 1000 * PAGE);
    g_assert_true(drv_rounds_is_hot(rounds, 0, 0));
    g_assert_false(drv_rounds_is_hot(rounds, 0, 1000));
    g_assert_false(drv_rounds_is_hot(rounds, 0, 8192)); /* beyond its block */
    g_assert_false(drv_rounds_is_hot(rounds, 7, 0));
    for (guint pass = 4; pass < 10; pass++) {
        drv_rounds_mark(rounds, 0, 900, 200);
        drv_rounds_next(rounds, pass, (100 + pass) * S);
    }
    g_assert_cmpuint(latest(rounds).working_set, ==, 200 * PAGE);
    g_assert_cmpuint(latest(rounds).again, ==, 200);
    g_assert_false(drv_rounds_is_hot(rounds, 0, 0));
    g_assert_true(drv_rounds_is_hot(rounds, 0, 900));
}

static void
assert_region(const DrvHotRegion *region, guint block, guint64 first, guint64 pages, guint64 count,
              guint n)
{
    g_assert_cmpuint(region->block, ==, block);
    g_assert_cmpuint(region->first, ==, first);
    g_assert_cmpuint(region->pages, ==, pages);
    g_assert_cmpuint(region->count, ==, count);
    g_assert_cmpuint(region->rounds, ==, n);
}

static void
test_hot(void)
{
    g_autoptr(DrvRounds) rounds = begin();
    DrvHotRegion hot[3];
    first_round(rounds);
    g_assert_cmpuint(drv_rounds_hot(rounds, hot, 3), ==, 0);
    drv_rounds_mark(rounds, 0, 500, 24); /* 12 in each of two regions */
    drv_rounds_mark(rounds, 3, 600, 50);
    drv_rounds_mark(rounds, 0, 5120, 20);
    drv_rounds_next(rounds, 3, 106 * S);
    DrvRound round = latest(rounds);
    g_assert_cmpuint(round.hot_block, ==, 3);
    g_assert_cmpuint(round.hot_first, ==, 512);
    g_assert_cmpuint(round.hot_pages, ==, 50);
    drv_rounds_mark(rounds, 0, 5121, 40);
    drv_rounds_next(rounds, 4, 107 * S);

    g_assert_cmpuint(drv_rounds_hot(rounds, hot, 0), ==, 0);
    g_assert_cmpuint(drv_rounds_hot(rounds, hot, 3), ==, 3);
    assert_region(&hot[0], 0, 5120, 512, 60, 2);
    assert_region(&hot[1], 3, 512, 188, 50, 1);
    assert_region(&hot[2], 0, 0, 512, 12, 1);
    g_assert_cmpuint(drv_rounds_hot(rounds, hot, 1), ==, 1);
    assert_region(&hot[0], 0, 5120, 512, 60, 2);
}

/* However many rounds there are, memory stays, and nothing is lost of the sums. */
static void
test_many_rounds(void)
{
    g_autoptr(DrvRounds) rounds = begin();
    DrvRound history[DRV_ROUNDS_HISTORY];
    DrvRoundsSummary before, after;
    const guint last = 5000;
    first_round(rounds);
    for (guint pass = 3; pass <= last; pass++) {
        drv_rounds_mark(rounds, 0, pass, 100);
        drv_rounds_next(rounds, pass, 105 * S + (pass - 2) * 1000);
        if (pass == 10)
            drv_rounds_summary(rounds, &before);
    }
    drv_rounds_summary(rounds, &after);
    g_assert_cmpuint(after.memory, <=, before.memory + 512);
    g_assert_cmpuint(after.rounds, ==, last - 1);
    g_assert_cmpuint(after.again_pages, ==, 100 * (last - 2));

    guint n = drv_rounds_history(rounds, history, DRV_ROUNDS_HISTORY);
    guint64 pages = 0;
    gint64 us = 0;
    g_assert_cmpuint(n, >, DRV_ROUNDS_HISTORY / 2);
    for (guint i = 0; i < n; i++) {
        pages += history[i].pages;
        us += history[i].us;
        g_assert_cmpuint(history[i].pass, ==, i > 0 ? history[i - 1].last_pass + 1 : 1);
        if (i > 0 && i < n - 1)
            g_assert_cmpfloat_with_epsilon(history[i].dirty_rate, 100 * PAGE * 1e3, 1);
    }
    g_assert_cmpuint(pages, ==, after.total_pages);
    g_assert_cmpint(us, ==, 4 * S + (last - 2) * 1000);
    g_assert_cmpuint(history[0].last_pass, ==, 1); /* the first is never put together */
    g_assert_cmpuint(history[n - 1].last_pass, ==, last - 1);
    g_assert_cmpuint(drv_rounds_history(rounds, history, 2), ==, 2);
    g_assert_cmpuint(history[1].last_pass, ==, last - 1);
}

/* Nothing that QEMU, or a stream that is not understood, may say does harm. */
static void
test_odd(void)
{
    g_autoptr(DrvRounds) rounds = begin();
    DrvRoundsSummary sum;
    DrvRound round;
    g_assert_true(drv_rounds_add_block(rounds, 3, "b3", 700));
    g_assert_false(drv_rounds_add_block(rounds, 3, "b3", 701));
    g_assert_false(drv_rounds_add_block(rounds, DRV_ROUNDS_MAX_BLOCKS, "many", 1));
    g_assert_false(drv_rounds_add_block(rounds, 1, "b1", DRV_ROUNDS_MAX_PAGES));
    g_assert_false(drv_rounds_add_block(rounds, 1, "b1", G_MAXUINT64));
    g_assert_true(drv_rounds_add_block(rounds, 2, "b2", 0));
    g_assert_cmpstr(drv_rounds_block_id(rounds, 3), ==, "b3");
    g_assert_null(drv_rounds_block_id(rounds, 1));
    g_assert_null(drv_rounds_block_id(rounds, 77));

    drv_rounds_mark(rounds, 0, 0, 10); /* before QEMU says that it begins */
    drv_rounds_next(rounds, 0, 101 * S);
    g_assert_cmpuint(drv_rounds_history(rounds, &round, 1), ==, 0);
    drv_rounds_next(rounds, 1, 101 * S);
    drv_rounds_mark(rounds, 9, 0, 3);
    drv_rounds_mark(rounds, 1, 0, 3);
    drv_rounds_mark(rounds, 2, 0, 1);
    drv_rounds_mark(rounds, 3, 699, 2);
    drv_rounds_mark(rounds, 3, G_MAXUINT64, 2);
    drv_rounds_next(rounds, 1, 102 * S);
    drv_rounds_next(rounds, 4, 101 * S); /* some were missed, and time went backwards */
    drv_rounds_next(rounds, 2, 103 * S);
    round = latest(rounds);
    g_assert_cmpuint(round.pages, ==, 10 + 3 + 3 + 1 + 2 + 2);
    g_assert_cmpint(round.us, ==, 0);
    drv_rounds_mark(rounds, 0, 0, 1);
    drv_rounds_finish(rounds, 104 * S);
    drv_rounds_finish(rounds, 105 * S);
    drv_rounds_next(rounds, 5, 106 * S);
    drv_rounds_summary(rounds, &sum);
    g_assert_cmpuint(sum.untracked, ==, 11);
    g_assert_cmpuint(sum.rounds, ==, 2);
    g_assert_cmpfloat(sum.dirty_rate, ==, 0); /* a round that took no time has no rate */
}

#define THREADS 4
#define MARKS 2000

static gpointer
mark_some(gpointer data)
{
    DrvRounds *rounds = data;
    DrvRoundsSummary sum;
    for (guint i = 0; i < MARKS; i++) {
        drv_rounds_mark(rounds, 0, i, 1);
        if (i % 100 == 0) {
            drv_rounds_summary(rounds, &sum);
            drv_rounds_next(rounds, sum.pass + 1, sum.pass * S);
        }
    }
    return NULL;
}

static void
test_threads(void)
{
    g_autoptr(DrvRounds) rounds = begin();
    GThread *threads[THREADS];
    DrvRoundsSummary sum;
    DrvRound history[DRV_ROUNDS_HISTORY];
    guint64 marked = 0;
    for (guint i = 0; i < THREADS; i++)
        threads[i] = g_thread_new("mark", mark_some, rounds);
    for (guint i = 0; i < THREADS; i++)
        g_thread_join(threads[i]);
    drv_rounds_finish(rounds, 1000 * S);
    drv_rounds_summary(rounds, &sum);
    guint n = drv_rounds_history(rounds, history, DRV_ROUNDS_HISTORY);
    for (guint i = 0; i < n; i++)
        marked += history[i].pages + history[i].repeated;
    g_assert_cmpuint(marked, ==, THREADS * MARKS);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rounds/first", test_first);
    g_test_add_func("/rounds/rates", test_rates);
    g_test_add_func("/rounds/working-set", test_working_set);
    g_test_add_func("/rounds/hot", test_hot);
    g_test_add_func("/rounds/many-rounds", test_many_rounds);
    g_test_add_func("/rounds/odd", test_odd);
    g_test_add_func("/rounds/threads", test_threads);
    return g_test_run();
}
