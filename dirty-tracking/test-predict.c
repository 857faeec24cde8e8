/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/predict.h"

#include "dirty-tracking/words-private.h"

#include <math.h>
#include <string.h>

#define MIB 1048576.0
#define GIB (1024 * MIB)
#define JUST(x) ((DrvRange){(x), (x), (x)})

/* 4 GiB, half of it in use; 1 Gbit/s; everything known exactly. It writes nothing. */
static DrvPredictInput
plain(void)
{
    return (DrvPredictInput){
        .ram = 4 * GIB,
        .nonzero = JUST(0.5),
        .dirty_factor = JUST(1),
        .link = JUST(117 * MIB),
        .ratio = JUST(1),
        .ratio_again = JUST(1),
        .speed = JUST(4 * GIB),
        .fixed_ms = JUST(20),
        .downtime_ms = 300,
        .trust = 1,
    };
}

/* Writes 'rate' bytes a second, never to the same page twice in all the time that matters. */
static void
linear(DrvPredictInput *in, double rate)
{
    in->n_dirty = 2;
    in->dirty[0] = (DrvDirtyPoint){1e-3, rate * 1e-3};
    in->dirty[1] = (DrvDirtyPoint){1e4, rate * 1e4};
}

/* Writes to the same bytes over and over, as fast as nothing. */
static void
hot_set(DrvPredictInput *in, double bytes)
{
    in->n_dirty = 2;
    in->dirty[0] = (DrvDirtyPoint){1e-3, bytes};
    in->dirty[1] = (DrvDirtyPoint){1e4, bytes};
}

static void
assert_range(DrvRange range, double low, double likely, double high)
{
    g_assert_cmpfloat_with_epsilon(range.low, low, low / 50 + 1);
    g_assert_cmpfloat_with_epsilon(range.likely, likely, likely / 50 + 1);
    g_assert_cmpfloat_with_epsilon(range.high, high, high / 50 + 1);
}

static void
assert_sane(const DrvPrediction *p)
{
    const DrvRange ranges[] = {p->total_ms, p->downtime_ms, p->rounds, p->needed_ms};
    for (guint i = 0; i < G_N_ELEMENTS(ranges); i++) {
        g_assert_true(isfinite(ranges[i].low) && isfinite(ranges[i].high));
        g_assert_cmpfloat(ranges[i].low, >=, 0);
        g_assert_cmpfloat(ranges[i].low, <=, ranges[i].likely);
        g_assert_cmpfloat(ranges[i].likely, <=, ranges[i].high);
    }
    g_assert_true(p->chance >= 0 && p->chance <= 1);
    g_assert_true(p->sure >= 0.5 && p->sure <= 1);
}

static void
test_idle(void)
{
    DrvPredictInput in = plain();
    DrvPrediction p;
    drv_predict(&in, &p);
    assert_sane(&p);
    g_assert_cmpint(p.converges, ==, DRV_PREDICT_YES);
    g_assert_cmpfloat(p.sure, >, 0.999);
    /* 2 GiB at 117 MiB/s; its zeros, and the devices */
    double ms = 2048 / 117.0 * 1000 + 2 * GIB / 4e9 * 1000 + 20;
    assert_range(p.total_ms, ms, ms, ms);
    assert_range(p.downtime_ms, 20, 20, 20);
    assert_range(p.rounds, 2, 2, 2);
}

/* Each round is rho times as long as the one before: the sum is known. */
static void
test_linear(void)
{
    DrvPredictInput in = plain();
    DrvPrediction p;
    linear(&in, 0.5 * 117 * MIB);
    drv_predict(&in, &p);
    assert_sane(&p);
    g_assert_cmpint(p.converges, ==, DRV_PREDICT_YES);
    double first = 2048 / 117.0 * 1000 + 2 * GIB / 4e9 * 1000;
    double total = first, left = first / 2;
    for (; left > 300; left /= 2)
        total += left;
    assert_range(p.total_ms, total + left + 20, total + left + 20, total + left + 20);
    assert_range(p.downtime_ms, left + 20, left + 20, left + 20);

    linear(&in, 1.1 * 117 * MIB);
    drv_predict(&in, &p);
    assert_sane(&p);
    g_assert_cmpint(p.converges, ==, DRV_PREDICT_NO);
    g_assert_cmpfloat(p.sure, >, 0.999);
    g_assert_cmpfloat(p.total_ms.high, ==, 0);
    g_assert_cmpfloat(p.needed_ms.likely, >, 10000);
}

/* What is written again and again must fit into the downtime, or be sent in fewer bytes. */
static void
test_hot_set(void)
{
    DrvPredictInput in = plain();
    DrvPrediction p;
    hot_set(&in, 256 * MIB);
    drv_predict(&in, &p);
    assert_sane(&p);
    g_assert_cmpint(p.converges, ==, DRV_PREDICT_NO);
    assert_range(p.needed_ms, 2188, 2188, 2188);
    in.downtime_ms = 2200;
    drv_predict(&in, &p);
    g_assert_cmpint(p.converges, ==, DRV_PREDICT_YES);
    assert_range(p.downtime_ms, 2208, 2208, 2208);
    in.downtime_ms = 300;
    in.ratio_again = JUST(20); /* deltas */
    drv_predict(&in, &p);
    g_assert_cmpint(p.converges, ==, DRV_PREDICT_YES);
    assert_range(p.downtime_ms, 109 + 20, 109 + 20, 109 + 20);
    in.speed = JUST(500 * MIB); /* which cannot be made faster than this */
    drv_predict(&in, &p);
    g_assert_cmpint(p.converges, ==, DRV_PREDICT_NO);
    assert_range(p.needed_ms, 512, 512, 512);
}

/* The more is not known, the wider the answer. */
static void
test_ranges(void)
{
    DrvPredictInput in = plain();
    DrvPrediction exact, wide;
    linear(&in, 20 * MIB);
    drv_predict(&in, &exact);
    in.link = (DrvRange){80 * MIB, 117 * MIB, 130 * MIB};
    in.ratio = in.ratio_again = (DrvRange){1, 1.5, 3};
    in.dirty_factor = DRV_PREDICT_DIRTY_FACTOR;
    drv_predict(&in, &wide);
    assert_sane(&wide);
    g_assert_cmpint(wide.converges, ==, DRV_PREDICT_YES);
    g_assert_cmpfloat(exact.total_ms.high - exact.total_ms.low, <, 1);
    g_assert_cmpfloat(wide.total_ms.high, >, 1.5 * wide.total_ms.low);
    g_assert_cmpfloat(wide.total_ms.low, <, exact.total_ms.likely);

    /* Between the least and the most that it may come to. */
    linear(&in, 100 * MIB);
    drv_predict(&in, &wide);
    assert_sane(&wide);
    g_assert_cmpint(wide.converges, ==, DRV_PREDICT_UNSURE);
    g_assert_cmpfloat(wide.chance, >, 0.15);
    g_assert_cmpfloat(wide.chance, <, 0.85);
    double sure = wide.sure;
    in.trust = 0.5;
    drv_predict(&in, &wide);
    g_assert_cmpfloat_with_epsilon(wide.sure - 0.5, (sure - 0.5) / 2, 1e-9);
    in.trust = 0;
    drv_predict(&in, &wide);
    g_assert_cmpfloat(wide.sure, ==, 0.5);
}

static void
assert_dirtied(const DrvPredictInput *in, double seconds, double least, double middle, double most)
{
    g_assert_cmpfloat_with_epsilon(drv_predict_dirtied(in, seconds, 0), least, 1e-6 * least + 1e-9);
    g_assert_cmpfloat_with_epsilon(drv_predict_dirtied(in, seconds, 0.5), middle,
                                   1e-6 * middle + 1e-9);
    g_assert_cmpfloat_with_epsilon(drv_predict_dirtied(in, seconds, 1), most, 1e-6 * most + 1e-9);
}

static void
test_curve(void)
{
    DrvPredictInput in = {.ram = 1e9};
    assert_dirtied(&in, 1, 0, 0, 0);
    in.n_dirty = 1;
    in.dirty[0] = (DrvDirtyPoint){1, 1e6};
    assert_dirtied(&in, 1, 1e6, 1e6, 1e6);
    assert_dirtied(&in, 0.25, 0.25e6, 0.5e6, 1e6);
    assert_dirtied(&in, 4, 1e6, 2e6, 4e6);
    assert_dirtied(&in, 1e9, 1e6, 1e6 * sqrt(1e9) > 1e9 ? 1e9 : 1e6 * sqrt(1e9), 1e9);
    in.n_dirty = 2;
    in.dirty[1] = (DrvDirtyPoint){4, 2e6}; /* a steepness of one half */
    assert_dirtied(&in, 2, 1e6 * sqrt(2), 1e6 * sqrt(2), 1e6 * sqrt(2));
    assert_dirtied(&in, 0.0625, 0.0625e6, 0.125e6, 0.25e6);
    assert_dirtied(&in, 16, 2e6, 2e6 * sqrt(2), 4e6);
    in.working_set = 3e6;
    assert_dirtied(&in, 16, 2e6, 2e6 * sqrt(2), 3e6);
    in.dirty[0].bytes = 0; /* it began to write after that */
    assert_dirtied(&in, 2, 1e6, 1e6, 1e6);
    assert_dirtied(&in, 0, 0, 0, 0);
    assert_dirtied(&in, NAN, 0, 0, 0);
}

/* Whatever is put in, something sane comes out, and soon. */
static void
test_garbage(void)
{
    static const double odd[] = {0, -1, 1, 1e-300, 1e300, NAN, INFINITY, -INFINITY, 4096};
    for (guint i = 0; i < 40; i++) {
        DrvPredictInput in;
        double *values = (double *)&in;
        DrvPrediction p;
        memset(&in, 0, sizeof in);
        for (gsize j = 0; j < sizeof in / sizeof(double); j++)
            values[j] = odd[g_test_rand_int_range(0, G_N_ELEMENTS(odd))];
        in.n_dirty = (guint)g_test_rand_int_range(0, 20);
        drv_predict(&in, &p);
        assert_sane(&p);
        g_autofree char *text = drv_predict_sentence(&in, &p);
        g_assert_true(g_utf8_validate(text, -1, NULL));
    }
}

static void
test_sentences(void)
{
    DrvPredictInput in = plain();
    DrvPrediction p;
    linear(&in, 20 * MIB);
    drv_predict(&in, &p);
    g_autofree char *yes = drv_predict_sentence(&in, &p);
    g_assert_cmpstr(yes, ==,
                    "it will converge: the guest is expected to write to 20 MiB in a second, and "
                    "117 MiB/s get across");
    hot_set(&in, 256 * MIB);
    drv_predict(&in, &p);
    g_autofree char *no = drv_predict_sentence(&in, &p);
    g_assert_cmpstr(no, ==,
                    "it will not converge: the guest is expected to write to 256 MiB in a second, "
                    "and 117 MiB/s get across, so that a downtime of 2.2 s would be needed where "
                    "300 ms is allowed");
    in.ratio_again = (DrvRange){1, 8, 20};
    drv_predict(&in, &p);
    g_autofree char *unsure = drv_predict_sentence(&in, &p);
    g_assert_cmpstr(unsure, ==,
                    "it may converge or not: the guest is expected to write to 256 MiB in a "
                    "second, and 936 MiB/s get across; with a downtime of 2.2 s it should, 300 ms "
                    "is allowed");
    g_assert_cmpstr(drv_predict_verdict_name(p.converges), ==, "unsure");
}

static void
test_words(void)
{
    static const struct {
        double value;
        const char *bytes, *ms;
    } cases[] = {
        {0, "0 B", "0 ms"},
        {999, "999 B", "999 ms"},
        {1023.6, "1.0 KiB", "1.0 s"},
        {9.94 * 1024, "9.9 KiB", "10 s"},
        {99e3, "97 KiB", "99 s"},
        {600e3, "586 KiB", "10 min"},
        {5 * GIB, "5.0 GiB", "1491 h"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *bytes = drv_words_bytes(cases[i].value);
        g_autofree char *ms = drv_words_ms(cases[i].value);
        g_assert_cmpstr(bytes, ==, cases[i].bytes);
        g_assert_cmpstr(ms, ==, cases[i].ms);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/predict/idle", test_idle);
    g_test_add_func("/predict/linear", test_linear);
    g_test_add_func("/predict/hot-set", test_hot_set);
    g_test_add_func("/predict/ranges", test_ranges);
    g_test_add_func("/predict/curve", test_curve);
    g_test_add_func("/predict/garbage", test_garbage);
    g_test_add_func("/predict/sentences", test_sentences);
    g_test_add_func("/predict/words", test_words);
    return g_test_run();
}
