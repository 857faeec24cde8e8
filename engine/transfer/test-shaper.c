/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/shaper.h"

/* Sends as soon as it may; returns when the last byte was charged. */
static gint64
send_bytes(DrvShaper *shaper, gint64 now, guint64 bytes, gsize piece)
{
    for (guint64 sent = 0; sent < bytes; sent += piece) {
        gint64 ready = drv_shaper_ready_at(shaper, now);
        g_assert_cmpint(ready, >=, now);
        now = ready;
        g_assert_cmpint(drv_shaper_ready_at(shaper, now), <=, now); /* it keeps its word */
        drv_shaper_charge(shaper, piece, now);
    }
    return now;
}

/* Over time the rate is met to a thousandth, whatever the pieces. */
static void
test_rate(void)
{
    static const gsize pieces[] = {1000, 131072, 131115, 1000000};
    for (guint i = 0; i < G_N_ELEMENTS(pieces); i++) {
        gint64 begin = 12345678;
        g_autoptr(DrvShaper) shaper = drv_shaper_new(10 * 1000 * 1000, begin);
        guint64 bytes = G_GUINT64_CONSTANT(600) * 1000 * 1000;
        double took = (double)(send_bytes(shaper, begin, bytes, pieces[i]) - begin);
        /* The first piece and the last one's debt are not waited for. */
        double want = (double)(bytes - pieces[i]) / 10;
        g_assert_cmpfloat_with_epsilon(took / want, 1, 0.005);
    }
}

/* What was not used is not saved up beyond a moment's worth. */
static void
test_burst(void)
{
    g_autoptr(DrvShaper) shaper = drv_shaper_new(1000000, 0);
    gint64 now = (gint64)3600 * G_USEC_PER_SEC;
    gint64 end = send_bytes(shaper, now, 2000000, 1000);
    g_assert_cmpint(end - now, >, 1980000);
    g_assert_cmpint(end - now, <, 2010000);
}

static void
test_no_limit(void)
{
    g_autoptr(DrvShaper) shaper = drv_shaper_new(0, 0);
    g_assert_cmpint(send_bytes(shaper, 5, 1000000000, 1000000), ==, 5);
    g_assert_cmpint(drv_shaper_ready_at(NULL, 5), ==, 5);
    drv_shaper_charge(NULL, 5, 5);
    drv_shaper_set_rate(shaper, 1000, 5);
    drv_shaper_charge(shaper, 1000, 5);
    g_assert_cmpint(drv_shaper_ready_at(shaper, 5), >, 5 + 900000);
    /* A new rate forgets the debt of the old one. */
    drv_shaper_set_rate(shaper, 2000, 6);
    g_assert_cmpint(drv_shaper_ready_at(shaper, 6), ==, 6);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shaper/rate", test_rate);
    g_test_add_func("/shaper/burst", test_burst);
    g_test_add_func("/shaper/no-limit", test_no_limit);
    return g_test_run();
}
