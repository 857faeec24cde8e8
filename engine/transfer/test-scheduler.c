/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/scheduler.h"

typedef struct {
    DrvScheduler scheduler;
    DrvSendQueue queues[4];
    guint64 next[4];
} Bench;

static void
init(Bench *bench, DrvShaper *host)
{
    *bench = (Bench){0};
    drv_scheduler_init(&bench->scheduler, host);
}

/* A frame of 'len' bytes that are never looked at. */
static DrvFrame *
push(Bench *bench, guint queue, guint64 seq, guint32 len)
{
    DrvFrame *frame = drv_frame_new(NULL, 0, 0);
    frame->seq = seq;
    frame->len = len;
    drv_scheduler_push(&bench->scheduler, &bench->queues[queue], frame);
    drv_frame_unref(frame); /* the scheduler holds one */
    return frame;
}

static void
fill(Bench *bench, guint queue, guint frames, guint32 len)
{
    while (frames-- > 0)
        push(bench, queue, bench->next[queue]++, len);
}

static guint64
next_seq(Bench *bench)
{
    gint64 retry;
    g_autoptr(DrvFrame) frame = drv_scheduler_next(&bench->scheduler, 0, &retry);
    return frame != NULL ? frame->seq : G_MAXUINT64;
}

static void
test_classes(void)
{
    Bench bench;
    init(&bench, NULL);
    for (guint i = 0; i < 4; i++)
        drv_send_queue_init(&bench.queues[i], DRV_CLASS_BULK - i, 1, NULL);
    for (guint i = 0; i < 4; i++)
        push(&bench, i, i, 1000);
    for (guint i = 4; i-- > 0;)
        g_assert_cmpuint(next_seq(&bench), ==, i);
    g_assert_cmpuint(next_seq(&bench), ==, G_MAXUINT64);
    /* A queue that is moved up is served first, with what it holds already. */
    push(&bench, 0, 10, 1000);
    push(&bench, 1, 11, 1000);
    drv_scheduler_set_class(&bench.scheduler, &bench.queues[0], DRV_CLASS_STOPPED);
    g_assert_cmpuint(next_seq(&bench), ==, 10);
    g_assert_cmpuint(next_seq(&bench), ==, 11);
    drv_scheduler_clear(&bench.scheduler);
}

static void
test_weights(void)
{
    static const guint weights[] = {1, 2, 5, 10};
    static const guint32 lens[] = {131072, 9000, 65536, 131072};
    guint64 bytes[4] = {0}, total = 0;
    Bench bench;
    init(&bench, NULL);
    for (guint i = 0; i < 4; i++) {
        drv_send_queue_init(&bench.queues[i], DRV_CLASS_RAM, weights[i], NULL);
        fill(&bench, i, 2 * 1000 * 1000 / (lens[i] / 1000), lens[i]);
    }
    for (guint i = 0; i < 4000; i++) {
        gint64 retry;
        g_autoptr(DrvFrame) frame = drv_scheduler_next(&bench.scheduler, 0, &retry);
        total += frame->len;
    }
    for (guint q = 0; q < 4; q++)
        bytes[q] = (bench.next[q] - bench.queues[q].frames.length) * lens[q];
    for (guint q = 0; q < 4; q++) {
        double share = (double)bytes[q] / (double)total, want = weights[q] / 18.0;
        g_assert_cmpfloat_with_epsilon(share / want, 1, 0.15);
    }
    drv_scheduler_clear(&bench.scheduler);
}

/* What is sent again comes before what was never sent, by number; what the peer has is skipped. */
static void
test_resend(void)
{
    Bench bench;
    init(&bench, NULL);
    drv_send_queue_init(&bench.queues[0], DRV_CLASS_RAM, 1, NULL);
    push(&bench, 0, 7, 100);
    push(&bench, 0, 8, 100);
    push(&bench, 0, 3, 100);
    DrvFrame *settled = push(&bench, 0, 5, 100);
    push(&bench, 0, 4, 100);
    settled->settled = TRUE;
    static const guint64 order[] = {3, 4, 7, 8, G_MAXUINT64};
    for (guint i = 0; i < G_N_ELEMENTS(order); i++)
        g_assert_cmpuint(next_seq(&bench), ==, order[i]);
    /* A queue of nothing but settled frames is empty, and takes new ones again. */
    push(&bench, 0, 9, 100)->settled = TRUE;
    g_assert_cmpuint(next_seq(&bench), ==, G_MAXUINT64);
    push(&bench, 0, 10, 100);
    g_assert_cmpuint(next_seq(&bench), ==, 10);
    drv_scheduler_clear(&bench.scheduler);
}

static void
test_shapers(void)
{
    Bench bench;
    gint64 retry;
    g_autoptr(DrvShaper) host = drv_shaper_new(1000000, 0);
    g_autoptr(DrvShaper) job = drv_shaper_new(100000, 0);
    init(&bench, host);
    drv_send_queue_init(&bench.queues[0], DRV_CLASS_RAM, 1, job);
    drv_send_queue_init(&bench.queues[1], DRV_CLASS_RAM, 1, NULL);
    drv_send_queue_init(&bench.queues[2], DRV_CLASS_CONTROL, 1, NULL);
    fill(&bench, 0, 4, 10000);
    fill(&bench, 1, 4, 10000);
    /* The job's limit holds its own queue only. */
    drv_shaper_charge(job, 50000, 0);
    g_autoptr(DrvFrame) other = drv_scheduler_next(&bench.scheduler, 0, &retry);
    g_assert_nonnull(other);
    g_assert_cmpuint(bench.queues[1].frames.length, ==, 3);
    /* The host's holds all but the control class, and says until when. */
    drv_scheduler_charge(&bench.scheduler, &bench.queues[1], 200000, 0);
    g_assert_null(drv_scheduler_next(&bench.scheduler, 0, &retry));
    g_assert_cmpint(retry, >=, 200000);
    g_assert_cmpint(retry, <=, 200010);
    push(&bench, 2, 99, 100);
    g_assert_cmpuint(next_seq(&bench), ==, 99);
    g_autoptr(DrvFrame) later = drv_scheduler_next(&bench.scheduler, retry, &retry);
    g_assert_nonnull(later);
    /* With only the held queue left, its time is told. */
    drv_scheduler_remove(&bench.scheduler, &bench.queues[1]);
    g_assert_null(drv_scheduler_next(&bench.scheduler, 200010, &retry));
    g_assert_cmpint(retry, >=, 500000);
    g_assert_cmpint(retry, <=, 500010);
    g_autoptr(DrvFrame) own = drv_scheduler_next(&bench.scheduler, retry, &retry);
    g_assert_nonnull(own);
    drv_scheduler_clear(&bench.scheduler);
    g_assert_null(drv_scheduler_next(&bench.scheduler, 900000, &retry));
    g_assert_cmpint(retry, ==, G_MAXINT64);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/scheduler/classes", test_classes);
    g_test_add_func("/scheduler/weights", test_weights);
    g_test_add_func("/scheduler/resend", test_resend);
    g_test_add_func("/scheduler/shapers", test_shapers);
    return g_test_run();
}
