/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/place-order.h"

#include "common/error.h"

static void
test_in_order(void)
{
    DrvPlaceOrder order;
    DrvPlaceTurn turn;
    int me;
    drv_place_order_init(&order);
    for (guint64 n = 1; n < 3 * DRV_PLACE_AHEAD; n++) {
        g_assert_true(drv_place_order_add(&order, n, n - 1, NULL));
        g_assert_true(drv_place_order_wait(&order, &turn, n - 1, &me));
        g_assert_false(drv_place_order_wait(&order, &turn, n, &me));
        g_assert_null(drv_place_order_next(&order));
        drv_place_order_done(&order, n);
        g_assert_true(drv_place_order_next(&order) == &me);
        g_assert_cmpuint(order.done_up_to, ==, n);
    }
    drv_place_order_clear(&order);
}

#define BATCHES 3000

typedef struct {
    guint64 number;
    guint64 after;
    gboolean under_way;
    gboolean done;
    DrvPlaceTurn turn;
} Batch;

/* Batches come, and end, in random order: each starts when, and as soon as, all that it waits for
 * are done. */
static void
test_random(void)
{
    g_autofree Batch *batches = g_new0(Batch, BATCHES + 1);
    g_autofree guint *arrival = g_new(guint, BATCHES);
    g_autoptr(GPtrArray) under_way = g_ptr_array_new();
    DrvPlaceOrder order;
    guint arrived = 0, ended = 0;
    drv_place_order_init(&order);
    for (guint i = 0; i < BATCHES; i++) {
        arrival[i] = i + 1;
        batches[i + 1].number = i + 1;
        batches[i + 1].after = g_test_rand_int_range(0, (gint)MIN(i + 1, 50) + 1);
        batches[i + 1].after = i - MIN(i, batches[i + 1].after);
    }
    for (guint i = 0; i + 20 < BATCHES; i++) { /* out of order, but not by much */
        guint j = i + (guint)g_test_rand_int_range(0, 20), t = arrival[i];
        arrival[i] = arrival[j];
        arrival[j] = t;
    }
    while (ended < BATCHES) {
        if (arrived < BATCHES && (under_way->len == 0 || g_test_rand_bit())) {
            Batch *b = &batches[arrival[arrived++]];
            g_assert_true(drv_place_order_add(&order, b->number, b->after, NULL));
            b->under_way = drv_place_order_wait(&order, &b->turn, b->after, b);
            if (b->under_way)
                g_ptr_array_add(under_way, b);
        } else {
            Batch *b = g_ptr_array_remove_index_fast(
                under_way, (guint)g_test_rand_int_range(0, (gint)under_way->len));
            b->done = TRUE;
            ended++;
            drv_place_order_done(&order, b->number);
            while ((b = drv_place_order_next(&order)) != NULL) {
                g_assert_false(b->under_way);
                b->under_way = TRUE;
                g_ptr_array_add(under_way, b);
            }
        }
        guint64 up_to = 0;
        while (up_to < BATCHES && batches[up_to + 1].done)
            up_to++;
        g_assert_cmpuint(order.done_up_to, ==, up_to);
        for (guint i = 0; i < arrived; i++) {
            Batch *b = &batches[arrival[i]];
            g_assert_cmpint(b->under_way, ==, b->after <= up_to);
        }
    }
    drv_place_order_clear(&order);
}

static void
refused(DrvPlaceOrder *order, guint64 number, guint64 after, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(drv_place_order_add(order, number, after, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(error->message, words));
}

static void
test_hostile(void)
{
    DrvPlaceOrder order;
    drv_place_order_init(&order);
    refused(&order, 0, 0, "came before");
    refused(&order, 1, 1, "for itself");
    refused(&order, G_MAXUINT64, 0, "far ahead");
    refused(&order, DRV_PLACE_AHEAD, 0, "far ahead");
    g_assert_true(drv_place_order_add(&order, DRV_PLACE_AHEAD - 1, 0, NULL));
    refused(&order, DRV_PLACE_AHEAD - 1, 0, "came before");
    drv_place_order_done(&order, DRV_PLACE_AHEAD - 1);
    refused(&order, DRV_PLACE_AHEAD - 1, 0, "came before");
    drv_place_order_clear(&order);
}

static void
test_forget(void)
{
    DrvPlaceOrder order;
    DrvPlaceTurn a, b;
    drv_place_order_init(&order);
    g_assert_true(drv_place_order_add(&order, 1, 0, NULL));
    g_assert_false(drv_place_order_wait(&order, &a, 1, &a));
    g_assert_false(drv_place_order_wait(&order, &b, 1, &b));
    drv_place_order_forget(&order, &a);
    drv_place_order_done(&order, 1);
    g_assert_true(drv_place_order_next(&order) == &b);
    g_assert_null(drv_place_order_next(&order));
    drv_place_order_clear(&order);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/place-order/in-order", test_in_order);
    g_test_add_func("/place-order/random", test_random);
    g_test_add_func("/place-order/hostile", test_hostile);
    g_test_add_func("/place-order/forget", test_forget);
    return g_test_run();
}
