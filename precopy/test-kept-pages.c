/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "precopy/kept-pages.h"
#include "precopy/test-model.h"

#include <string.h>

/*
 * Guests that set out together: what one of them has brought, the others only name. What must hold:
 * no batch refers to a page that is not there, in whatever order anything arrives.
 */

#define GUESTS 3u

typedef struct {
    DrvKeptPages *kept;
    DrvPageStore *store;
    Model *guests[GUESTS];
    GRand *rand;
    guint waited, gave_up;
} Family;

static DrvKeptPages *
new_kept(guint32 slots)
{
    guint8 secret[DRV_PAGE_SECRET];
    model_secret(MODEL_PIECES_SEED, secret);
    return drv_kept_pages_new(slots, secret);
}

/* All that is under way arrives. */
static void
deliver(Family *f, Model *model)
{
    for (guint c = 0; c < MODEL_CHANNELS; c++)
        model_finish(model, c);
    model_place_all(model, f->rand);
    model_acknowledge(model);
}

/* Whoever waits sends what it waits for itself. */
static void
give_up(Family *f, guint channel)
{
    for (guint i = 0; i < GUESTS; i++) {
        if (f->guests[i] != NULL && drv_kept_user_give_up(f->guests[i]->channels[channel].kept))
            f->gave_up++;
    }
}

/* One that does not come at once is given up, or all others have theirs delivered. */
static void
on_wait(gpointer data, guint channel)
{
    Family *f = data;
    guint before = 0, after = 0;
    for (guint i = 0; i < GUESTS; i++)
        for (guint c = 0; f->guests[i] != NULL && c < MODEL_CHANNELS; c++)
            before += f->guests[i]->channels[c].wakes;
    f->waited++;
    if (g_rand_int_range(f->rand, 0, 4) == 0) {
        give_up(f, channel);
        return;
    }
    for (guint i = 0; i < GUESTS; i++)
        if (f->guests[i] != NULL)
            deliver(f, f->guests[i]);
    for (guint i = 0; i < GUESTS; i++)
        for (guint c = 0; f->guests[i] != NULL && c < MODEL_CHANNELS; c++)
            after += f->guests[i]->channels[c].wakes;
    g_assert_cmpuint(after, ==, before + 1);
}

static Model *
new_guest(Family *f)
{
    Model *model = model_new(20000, DRV_DEDUP_MEMORY_DEFAULT);
    model_use_kept(model, f->kept, f->store, on_wait, f);
    drv_kept_pages_join(f->kept, FALSE);
    model_begin(model, 0);
    model_section(model, DRV_SECTION_PART);
    return model;
}

static void
family_init(Family *f, guint32 slots, guint32 seed)
{
    *f = (Family){.kept = new_kept(slots), .rand = g_rand_new_with_seed(seed)};
    f->store = drv_page_store_new(slots, NULL);
    for (guint i = 0; i < GUESTS; i++)
        f->guests[i] = new_guest(f);
}

static void
family_clear(Family *f)
{
    for (guint i = 0; i < GUESTS; i++)
        g_clear_pointer(&f->guests[i], model_free);
    drv_page_store_unref(f->store);
    drv_kept_pages_unref(f->kept);
    g_rand_free(f->rand);
}

static DrvKeptStats
stats_of(const Family *f)
{
    DrvKeptStats stats;
    drv_kept_pages_get_stats(f->kept, &stats);
    return stats;
}

static DrvPageCounts
counts_of(Model *model)
{
    DrvPageCounts counts;
    for (guint c = 0; c < MODEL_CHANNELS; c++)
        model_finish(model, c);
    drv_page_table_counts(model->table, &counts);
    return counts;
}

static void
arrive(Family *f, Model *model)
{
    for (guint block = 0; block < MODEL_BLOCKS; block++)
        for (guint page = 0; page < model_pages(block); page++)
            model_send(model, 0, block, page);
    model_devices(model);
    model_place_all(model, f->rand);
    model_acknowledge(model);
    g_assert_true(model_is_equal(model));
    g_assert_false(model->rushed);
}

/* ---- in order ---- */

static void
send_pages(Model *model, guint n, guint32 seed)
{
    for (guint p = 0; p < n; p++) {
        model_fill(model, 0, p, seed + p);
        model_send(model, 0, 0, p);
    }
}

static void
test_one_after_another(void)
{
    Family f;
    family_init(&f, 1000, 1);
    for (guint i = 0; i < GUESTS; i++) {
        send_pages(f.guests[i], 200, 1);
        DrvPageCounts counts = counts_of(f.guests[i]);
        g_assert_cmpuint(counts.literal, ==, i == 0 ? 200 : 0);
        g_assert_cmpuint(counts.kept, ==, i == 0 ? 0 : 200);
        g_assert_cmpuint(counts.dup, ==, counts.kept);
        deliver(&f, f.guests[i]);
    }
    g_assert_cmpuint(stats_of(&f).there, ==, 200);
    g_assert_cmpuint(stats_of(&f).coming, ==, 0);
    /* What is new in one of them is new to none of the others. */
    for (guint i = 0; i < GUESTS; i++) {
        f.guests[i]->source[0][77] ^= 1;
        model_send(f.guests[i], 0, 0, 0);
        arrive(&f, f.guests[i]);
    }
    family_clear(&f);
}

/* The pages of one that travels alone are not kept, unless that is asked for. */
static void
test_alone(void)
{
    for (guint asked = 0; asked < 2; asked++) {
        Family f = {.kept = new_kept(1000), .rand = g_rand_new_with_seed(1)};
        f.store = drv_page_store_new(1000, NULL);
        if (asked)
            drv_kept_pages_join(f.kept, TRUE);
        else
            g_assert_cmpuint(stats_of(&f).memory, ==, 0);
        f.guests[0] = model_new(DRV_BATCH_MAX, DRV_DEDUP_MEMORY_DEFAULT);
        model_use_kept(f.guests[0], f.kept, f.store, on_wait, &f);
        if (!asked)
            drv_kept_pages_join(f.kept, FALSE);
        model_begin(f.guests[0], 0);
        model_section(f.guests[0], DRV_SECTION_PART);
        send_pages(f.guests[0], 100, 1);
        arrive(&f, f.guests[0]);
        g_assert_cmpuint(stats_of(&f).there, ==, asked ? 100 : 0);
        /* The next one is a second, and finds what there is. */
        f.guests[1] = new_guest(&f);
        send_pages(f.guests[1], 100, 1);
        g_assert_cmpuint(counts_of(f.guests[1]).kept, ==, asked ? 100 : 0);
        arrive(&f, f.guests[1]);
        g_assert_cmpuint(stats_of(&f).there, ==, 100);
        family_clear(&f);
    }
}

/* Only in the first round: what is written to again is seldom the same elsewhere. */
static void
test_only_fresh_pages_are_kept(void)
{
    Family f;
    family_init(&f, 1000, 1);
    send_pages(f.guests[0], 10, 1);
    send_pages(f.guests[0], 10, 500);
    deliver(&f, f.guests[0]);
    g_assert_cmpuint(stats_of(&f).there, ==, 10);
    /* What would be a small delta after a zero page is referred to. */
    for (guint i = 0; i < 2; i++) {
        memset(model_page(f.guests[i], 0, 10), 0, DRV_PAGE_LEN);
        if (i == 1)
            model_send(f.guests[i], 0, 0, 10);
        model_page(f.guests[i], 0, 10)[5] = 1;
        model_send(f.guests[i], 0, 0, 10);
        deliver(&f, f.guests[i]);
    }
    g_assert_cmpuint(counts_of(f.guests[1]).kept, ==, 1);
    family_clear(&f);
}

/* ---- the rules ---- */

static void
no_wait(gpointer data, guint channel)
{
    Family *f = data;
    f->waited++;
    give_up(f, channel);
}

static void
never_wait_long(Family *f)
{
    for (guint i = 0; i < GUESTS; i++)
        f->guests[i]->waits = no_wait;
}

static void
test_not_before_it_is_there(void)
{
    Family f;
    family_init(&f, 1000, 1);
    never_wait_long(&f);
    send_pages(f.guests[0], 3, 1);
    model_finish(f.guests[0], 0);
    model_place_all(f.guests[0], f.rand);
    g_assert_cmpuint(stats_of(&f).coming, ==, 3); /* placed, but who knows */
    model_fill(f.guests[1], 0, 0, 1);
    model_send(f.guests[1], 0, 0, 0);
    g_assert_cmpuint(f.waited, ==, 1);
    DrvPageCounts counts = counts_of(f.guests[1]);
    g_assert_cmpuint(counts.kept, ==, 0);
    g_assert_cmpuint(counts.literal, ==, 1);
    /* It is not waited for again, ... */
    model_fill(f.guests[1], 0, 1, 2);
    model_send(f.guests[1], 0, 0, 1);
    g_assert_cmpuint(f.waited, ==, 1);
    /* ... but referred to. */
    model_acknowledge(f.guests[0]);
    g_assert_cmpuint(stats_of(&f).coming, ==, 0);
    model_fill(f.guests[1], 0, 2, 3);
    model_send(f.guests[1], 0, 0, 2);
    g_assert_cmpuint(counts_of(f.guests[1]).kept, ==, 1);
    family_clear(&f);
}

/* Only what comes for the first time: a guest may be stopped when it is sent again. */
static void
test_no_wait_in_later_rounds(void)
{
    Family f;
    family_init(&f, 1000, 1);
    never_wait_long(&f);
    model_fill(f.guests[1], 0, 0, 99);
    model_send(f.guests[1], 0, 0, 0);
    send_pages(f.guests[0], 1, 1);
    model_finish(f.guests[0], 0);
    model_fill(f.guests[1], 0, 0, 1);
    model_send(f.guests[1], 0, 0, 0);
    g_assert_cmpuint(f.waited, ==, 0);
    family_clear(&f);
}

static void
test_not_overwritten_while_in_use(void)
{
    Family f;
    family_init(&f, 2, 1);
    never_wait_long(&f);
    send_pages(f.guests[0], 2, 1);
    deliver(&f, f.guests[0]);
    model_fill(f.guests[1], 0, 0, 1);
    model_send(f.guests[1], 0, 0, 0);
    g_assert_cmpuint(counts_of(f.guests[1]).kept, ==, 1);
    /* Of the two slots one is referred to: the other one is given away, and then there is none. */
    send_pages(f.guests[2], 3, 100);
    g_assert_cmpuint(counts_of(f.guests[2]).literal, ==, 3);
    g_assert_cmpuint(stats_of(&f).coming, ==, 1);
    g_assert_cmpuint(stats_of(&f).there, ==, 1);
    deliver(&f, f.guests[2]);
    g_assert_cmpuint(stats_of(&f).there, ==, 2);
    deliver(&f, f.guests[1]); /* and the content was still there: the digest says so */
    g_assert_cmpmem(f.guests[1]->dest[0], DRV_PAGE_LEN, f.guests[1]->source[0], DRV_PAGE_LEN);
    /* Not referred to any more, it is given away in its turn. */
    for (guint p = 3; p < 6; p++) {
        model_fill(f.guests[2], 0, p, 100 + p);
        model_send(f.guests[2], 0, 0, p);
    }
    deliver(&f, f.guests[2]);
    model_fill(f.guests[1], 0, 1, 1);
    model_send(f.guests[1], 0, 0, 1);
    g_assert_cmpuint(counts_of(f.guests[1]).dup, ==, 2); /* within the guest */
    g_assert_cmpuint(counts_of(f.guests[1]).kept, ==, 1);
    family_clear(&f);
}

/* A guest that is gone: what it had under way is not relied on, nor its slots used; the rest is. */
static void
test_abort(void)
{
    Family f;
    family_init(&f, 1000, 1);
    never_wait_long(&f);
    send_pages(f.guests[0], 5, 1);
    deliver(&f, f.guests[0]);
    for (guint p = 5; p < 8; p++) {
        model_fill(f.guests[0], 0, p, 1 + p);
        model_send(f.guests[0], 0, 0, p);
    }
    model_finish(f.guests[0], 0);
    model_fill(f.guests[0], 0, 8, 9); /* in a batch that was never finished */
    model_send(f.guests[0], 0, 0, 8);
    g_clear_pointer(&f.guests[0], model_free);
    g_assert_cmpuint(stats_of(&f).there, ==, 5);
    g_assert_cmpuint(stats_of(&f).lost, ==, 4);
    g_assert_cmpuint(stats_of(&f).coming, ==, 0);
    send_pages(f.guests[1], 10, 1);
    DrvPageCounts counts = counts_of(f.guests[1]);
    g_assert_cmpuint(counts.kept, ==, 5);
    g_assert_cmpuint(counts.literal, ==, 5);
    g_assert_cmpuint(f.waited, ==, 0);
    arrive(&f, f.guests[1]);
    g_assert_cmpuint(stats_of(&f).there, ==, 10);
    g_assert_cmpuint(stats_of(&f).lost, ==, 4);
    family_clear(&f);
}

/* Who waits for a guest that goes is waked, and sends the page itself. */
static void
abort_first(gpointer data, guint channel)
{
    Family *f = data;
    f->waited++;
    g_clear_pointer(&f->guests[0], model_free);
    g_assert_cmpuint(f->guests[1]->channels[channel].wakes, ==, 1);
}

static void
test_abort_wakes(void)
{
    Family f;
    family_init(&f, 1000, 1);
    f.guests[1]->waits = abort_first;
    send_pages(f.guests[0], 1, 1);
    send_pages(f.guests[1], 1, 1);
    g_assert_cmpuint(f.waited, ==, 1);
    g_assert_cmpuint(counts_of(f.guests[1]).literal, ==, 1);
    family_clear(&f);
}

/* All of a job's users can be made to look again, and then do not wait. */
static void
wake_own(gpointer data, guint channel)
{
    Family *f = data;
    const guint *wakes = &f->guests[1]->channels[channel].wakes;
    if (f->waited++ > 0) {
        give_up(f, channel);
        return;
    }
    drv_kept_pages_wake(f->kept, f->guests[2]);
    g_assert_cmpuint(*wakes, ==, 0);
    drv_kept_pages_wake(f->kept, f->guests[1]);
    g_assert_cmpuint(*wakes, ==, 1);
}

static void
test_wake(void)
{
    Family f;
    family_init(&f, 1000, 1);
    f.guests[1]->waits = wake_own;
    send_pages(f.guests[0], 1, 1);
    send_pages(f.guests[1], 1, 1);
    g_assert_cmpuint(f.waited, ==, 2);
    g_assert_cmpuint(f.gave_up, ==, 1);
    g_assert_cmpuint(counts_of(f.guests[1]).literal, ==, 1);
    deliver(&f, f.guests[0]);
    g_assert_cmpuint(f.guests[1]->channels[0].wakes, ==, 1);
    family_clear(&f);
}

/* One that waits goes itself. */
static void
leave(gpointer data, guint channel)
{
    Family *f = data;
    Model *self = f->guests[1];
    f->waited++;
    drv_batch_writer_use_kept(self->channels[channel].writer, NULL);
    g_assert_true(drv_kept_user_free(g_steal_pointer(&self->channels[channel].kept)));
    g_assert_cmpuint(self->channels[channel].wakes, ==, 0);
}

static void
test_leaves_while_it_waits(void)
{
    Family f;
    family_init(&f, 1000, 1);
    f.guests[1]->waits = leave;
    send_pages(f.guests[0], 1, 1);
    send_pages(f.guests[1], 1, 1);
    g_assert_cmpuint(f.waited, ==, 1);
    deliver(&f, f.guests[0]);
    g_assert_cmpuint(f.guests[1]->channels[0].wakes, ==, 0);
    family_clear(&f);
}

/* A store that is not what the source believes: seen, as everything that is referred to. */
static void
test_store_is_checked(void)
{
    Family f;
    static const guint8 other[DRV_PAGE_LEN] = {1};
    family_init(&f, 1000, 1);
    send_pages(f.guests[0], 1, 1);
    deliver(&f, f.guests[0]);
    send_pages(f.guests[1], 1, 1);
    model_finish(f.guests[1], 0);
    g_assert_true(drv_page_store_put(f.store, 0, 1, other, NULL));
    for (guint64 n = 1; n <= model_last(f.guests[1]); n++) {
        g_autoptr(GError) error = NULL;
        gboolean last = n == model_last(f.guests[1]);
        g_assert_cmpint(model_place(f.guests[1], model_batch(f.guests[1], n), &error), ==, !last);
        if (last)
            g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
    }
    family_clear(&f);
}

/* ---- in any order ---- */

/* Clones: a few contents, most pages of one guest are somewhere in the others, too. */
static void
touch(Family *f, Model *model)
{
    guint block = (guint)g_rand_int_range(f->rand, 0, 2);
    guint page = (guint)g_rand_int_range(f->rand, 0, (gint)model_pages(block));
    switch (g_rand_int_range(f->rand, 0, 8)) {
    case 0:
        memset(model_page(model, block, page), 0, DRV_PAGE_LEN);
        break;
    case 1:
        model_page(model, block, page)[g_rand_int_range(f->rand, 0, DRV_PAGE_LEN)] ^= 1;
        break;
    default:
        model_fill(model, block, page, (guint32)g_rand_int_range(f->rand, 0, 400));
        break;
    }
    model_send(model, 0, block, page);
}

static void
run_random(guint32 slots, guint32 seed)
{
    Family f;
    guint64 kept = 0;
    family_init(&f, slots, seed);
    for (guint i = 0; i < 4000; i++) {
        guint g = (guint)g_rand_int_range(f.rand, 0, GUESTS);
        Model *model = f.guests[g];
        switch (g_rand_int_range(f.rand, 0, 12)) {
        case 0:
            model_finish(model, 0);
            break;
        case 1:
            model_place_one(model, f.rand);
            break;
        case 2:
            model_acknowledge(model);
            break;
        default:
            touch(&f, model);
        }
        if (g_rand_int_range(f.rand, 0, 800) > 0)
            continue;
        kept += counts_of(model).kept;
        g_clear_pointer(&f.guests[g], model_free); /* and another one in its stead */
        f.guests[g] = new_guest(&f);
    }
    for (guint g = 0; g < GUESTS; g++) {
        kept += counts_of(f.guests[g]).kept;
        arrive(&f, f.guests[g]);
    }
    g_assert_cmpuint(kept, >, 0);
    g_assert_cmpuint(stats_of(&f).coming, ==, 0);
    if (slots > 100)
        g_assert_cmpuint(f.waited, >, f.gave_up);
    family_clear(&f);
}

static void
test_random(void)
{
    for (guint32 seed = 1; seed <= 10; seed++) {
        run_random(1000, seed);
        run_random(60, seed);
    }
}

/* ---- the store ---- */

static void
test_store_bounds(void)
{
    g_autoptr(DrvPageStore) store = drv_page_store_new(4, NULL);
    g_autofree guint8 *pages = g_malloc(4 * DRV_PAGE_LEN);
    guint8 page[DRV_PAGE_LEN];
    static const struct {
        guint32 first, count;
    } wrong[] = {{4, 1}, {3, 2}, {0, 5}, {G_MAXUINT32, 1}, {1, G_MAXUINT32}, {4, 0}};
    for (guint i = 0; i < 4; i++)
        memset(pages + i * DRV_PAGE_LEN, (gint)i + 1, DRV_PAGE_LEN);
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(drv_page_store_put(store, wrong[i].first, wrong[i].count, pages, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    for (guint32 slot = 4; slot != 3; slot = slot == 4 ? G_MAXUINT32 : 3) {
        g_autoptr(GError) error = NULL;
        g_assert_false(drv_page_store_get(store, slot, page, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
        g_assert_nonnull(strstr(error->message, "where 4 are kept"));
    }
    g_assert_true(drv_page_store_put(store, 0, 4, pages, NULL));
    g_assert_true(drv_page_store_get(store, 2, page, NULL));
    g_assert_cmpmem(page, sizeof page, pages + 2 * DRV_PAGE_LEN, DRV_PAGE_LEN);
    g_assert_cmpuint(drv_page_store_slots(store), ==, 4);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/kept-pages/one-after-another", test_one_after_another);
    g_test_add_func("/kept-pages/alone", test_alone);
    g_test_add_func("/kept-pages/only-fresh", test_only_fresh_pages_are_kept);
    g_test_add_func("/kept-pages/not-before-it-is-there", test_not_before_it_is_there);
    g_test_add_func("/kept-pages/no-wait-in-later-rounds", test_no_wait_in_later_rounds);
    g_test_add_func("/kept-pages/not-overwritten-while-in-use", test_not_overwritten_while_in_use);
    g_test_add_func("/kept-pages/abort", test_abort);
    g_test_add_func("/kept-pages/abort-wakes", test_abort_wakes);
    g_test_add_func("/kept-pages/wake", test_wake);
    g_test_add_func("/kept-pages/leaves-while-it-waits", test_leaves_while_it_waits);
    g_test_add_func("/kept-pages/store-is-checked", test_store_is_checked);
    g_test_add_func("/kept-pages/random", test_random);
    g_test_add_func("/kept-pages/store-bounds", test_store_bounds);
    return g_test_run();
}
