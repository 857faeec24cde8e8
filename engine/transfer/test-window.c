/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/window.h"

#define MS 1000

/* 'ms' milliseconds of delivery at 'rate' bytes a second, an ack a millisecond. */
static gint64
deliver(DrvWindow *window, gint64 now, guint ms, guint64 rate, gint64 rtt_us)
{
    for (guint i = 0; i < ms; i++) {
        now += MS;
        drv_window_delivered(window, rate / 1000, rtt_us, now);
        g_assert_cmpuint(window->limit, >=, DRV_WINDOW_FLOOR);
    }
    return now;
}

static void
expect_limit(const DrvWindow *window, double bytes)
{
    g_assert_cmpfloat_with_epsilon((double)window->limit / bytes, 1, 0.02);
}

static void
test_floor(void)
{
    DrvWindow window;
    drv_window_init(&window, 0);
    g_assert_cmpuint(window.limit, ==, DRV_WINDOW_FLOOR);
    deliver(&window, 0, 2000, 10 * 1000 * 1000, 0);
    g_assert_cmpuint(window.limit, ==, DRV_WINDOW_FLOOR);
    drv_window_delivered(&window, 0, G_MAXINT32, 2000 * MS); /* nothing arrived: no rate */
    g_assert_cmpuint(window.limit, >=, DRV_WINDOW_FLOOR);
}

/* Twice the bandwidth-delay product, the scheduling allowance included. */
static void
test_product(void)
{
    DrvWindow window;
    drv_window_init(&window, 0);
    deliver(&window, 0, 1000, 1000 * 1000 * 1000, 10 * MS);
    expect_limit(&window, 2 * 1e9 * (0.010 + DRV_WINDOW_SCHEDULING_US / 1e6));
}

/* It grows within a sample and shrinks when the old rate is no longer among the last. */
static void
test_changes(void)
{
    DrvWindow window;
    drv_window_init(&window, 0);
    gint64 now = deliver(&window, 0, 500, 500 * 1000 * 1000, 8 * MS);
    gsize before = window.limit;
    now = deliver(&window, now, 300, 1000 * 1000 * 1000, 8 * MS);
    g_assert_cmpuint(window.limit, >, before);
    now = deliver(&window, now, 2000, 200 * 1000 * 1000, 8 * MS);
    expect_limit(&window, 2 * 2e8 * 0.010);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/window/floor", test_floor);
    g_test_add_func("/window/product", test_product);
    g_test_add_func("/window/changes", test_changes);
    return g_test_run();
}
