/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/mirror-pace.h"

#define MIB ((double)(1 << 20))
#define TICK 0.25

/* A disk of 1 GiB and a guest that writes to 'hot' bytes of it, 'written' a second, while 'link'
 * are carried. */
typedef struct {
    double link;
    double written;
    double hot;
    double done;
    double left;
    gint64 now_us;
    gboolean level;
} World;

static World
world(double link, double written, double hot)
{
    return (World){.link = link, .written = written, .hot = hot, .left = 1024 * MIB, .now_us = 1};
}

static void
tick(World *w)
{
    double carried = MIN(w->left, w->link * TICK);
    double first_pass = MAX(1024 * MIB - w->done, 0);
    w->done += carried;
    w->left -= carried;
    w->level = w->left == 0;
    /* What is still to come in the first pass cannot become more. */
    double dirty = w->left - MIN(w->left, first_pass);
    w->left += MIN(w->written * TICK, MAX(w->hot - dirty, 0)) * (first_pass > 0 ? 0.5 : 1);
    w->now_us += (gint64)(TICK * G_USEC_PER_SEC);
}

/* Seconds until it was said, or -1 when the mirror has become level before. */
static double
run(World *w, DrvMirrorPace *pace)
{
    gint64 begin = w->now_us;
    for (guint i = 0; i < 100000 && !w->level; i++) {
        if (drv_mirror_pace_sample(pace, w->now_us, (guint64)w->done, (guint64)w->left))
            return (double)(w->now_us - begin) / G_USEC_PER_SEC;
        tick(w);
    }
    g_assert_true(w->level);
    return -1;
}

static void
test_becomes_level(void)
{
    static const double written[] = {0, 1, 20, 50};
    for (guint i = 0; i < G_N_ELEMENTS(written); i++) {
        DrvMirrorPace pace = {0};
        World w = world(100 * MIB, written[i] * MIB, 1024 * MIB);
        g_assert_cmpfloat(run(&w, &pace), ==, -1);
    }
}

/* A pass over the disk, and two over what the guest writes to: not more, and not less. */
static void
test_does_not(void)
{
    static const double hot[] = {100, 200, 600};
    for (guint i = 0; i < G_N_ELEMENTS(hot); i++) {
        DrvMirrorPace pace = {0};
        World w = world(100 * MIB, 150 * MIB, hot[i] * MIB);
        double seconds = run(&w, &pace);
        g_assert_cmpfloat(seconds, >, 10);
        g_assert_cmpfloat(seconds, <, 45);
        g_assert_cmpfloat_with_epsilon(pace.carried, 100 * MIB, 20 * MIB);
        g_assert_cmpfloat(pace.written, >, 70 * MIB);
    }
}

/* A link that carries nothing for an hour says nothing of the guest. */
static void
test_slow_link(void)
{
    DrvMirrorPace pace = {0};
    g_assert_false(drv_mirror_pace_sample(&pace, 1, 0, 1 << 30));
    for (gint64 s = 1; s < 3600; s++)
        g_assert_false(drv_mirror_pace_sample(&pace, s * G_USEC_PER_SEC, 1 << 20, 1 << 30));
}

/* Level, the guest writes on: a little is always left, and that is nothing. */
static void
test_little_is_left(void)
{
    DrvMirrorPace pace = {0};
    for (guint64 s = 1; s < 100; s++)
        g_assert_false(drv_mirror_pace_sample(&pace, (gint64)s * G_USEC_PER_SEC, s << 20, 1 << 20));
    /* More and more is something. */
    gboolean said = FALSE;
    for (guint64 s = 100; s < 110; s++)
        said = drv_mirror_pace_sample(&pace, (gint64)s * G_USEC_PER_SEC, (s * s) << 20, s << 20);
    g_assert_true(said);
}

static void
test_anew(void)
{
    DrvMirrorPace pace = {0};
    World w = world(100 * MIB, 150 * MIB, 200 * MIB);
    g_assert_cmpfloat(run(&w, &pace), >, 0);
    /* It begins at nothing again, as QEMU counts; or is told to forget. */
    g_assert_false(drv_mirror_pace_sample(&pace, w.now_us, 0, 1 << 30));
    pace.vain = 2;
    drv_mirror_pace_reset(&pace);
    g_assert_false(drv_mirror_pace_sample(&pace, w.now_us, 5, 1 << 30));
}

/* Whatever is on its way to the destination is there in a second and a half, of all disks. */
static void
test_buffer(void)
{
    g_assert_cmpint(drv_mirror_pace_buffer(0, 1), ==, 0);
    g_assert_cmpint(drv_mirror_pace_buffer(G_MAXINT64, 1), ==, 0);
    g_assert_cmpint(drv_mirror_pace_buffer(11 << 20, 1), ==, 0); /* 16 MiB are QEMU's own */
    g_assert_cmpint(drv_mirror_pace_buffer(1 << 20, 1), ==, 1536 << 10);
    g_assert_cmpint(drv_mirror_pace_buffer(1 << 20, 2), ==, 384 << 10);
    g_assert_cmpint(drv_mirror_pace_buffer(1000000, 1), ==, 22 * (64 << 10));
    g_assert_cmpint(drv_mirror_pace_buffer(65536, 64), ==, 64 << 10);
    for (guint disks = 1; disks <= 8; disks *= 2) {
        gint64 rate = 100 << 20;
        gint64 bytes = drv_mirror_pace_buffer(rate, disks);
        gint64 each = (bytes != 0 ? bytes : 16 << 20) * disks; /* at its share of the link */
        g_assert_cmpint(each * disks * 2, <=, 3 * rate);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mirror-pace/becomes-level", test_becomes_level);
    g_test_add_func("/mirror-pace/does-not", test_does_not);
    g_test_add_func("/mirror-pace/slow-link", test_slow_link);
    g_test_add_func("/mirror-pace/little-is-left", test_little_is_left);
    g_test_add_func("/mirror-pace/anew", test_anew);
    g_test_add_func("/mirror-pace/buffer", test_buffer);
    return g_test_run();
}
