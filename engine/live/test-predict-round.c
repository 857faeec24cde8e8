/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/predict-round.h"

#include "common/json.h"

#define MIB 1048576.0

/* 1 GiB, a quarter of it in use, in 2.56 s over a link of 50 MiB/s, two to one. */
static DrvFirstRound
first_round(double dirtied)
{
    DrvFirstRound r = {.ram = 1024 * MIB,
                       .seconds = 2.56,
                       .normal = (guint64)(256 * MIB),
                       .dirtied = (guint64)dirtied,
                       .wire = (guint64)(128 * MIB),
                       .downtime_ms = 300};
    for (guint i = 0; i < 8; i++)
        r.link.rates[r.link.n++] = (48 + (i % 5)) * MIB;
    r.link.rtt_us = 1000;
    return r;
}

static void
test_what_goes_in(void)
{
    DrvPredictInput in;
    DrvFirstRound r = first_round(40 * MIB);
    drv_predict_round_fill(&r, &in);
    g_assert_cmpfloat(in.nonzero.likely, ==, 0.25);
    g_assert_cmpfloat(in.ratio.likely, ==, 2);
    g_assert_cmpfloat(in.ratio_again.high, <, 3);
    g_assert_cmpfloat_with_epsilon(in.link.likely, 50 * MIB, 2 * MIB);
    g_assert_cmpfloat_with_epsilon(in.speed.low, 100 * MIB, 1);
    g_assert_cmpuint(in.n_dirty, ==, 1);
    g_assert_cmpfloat(in.dirty[0].seconds, ==, 2.56);
    g_assert_cmpfloat(in.dirty[0].bytes, ==, 40 * MIB);
    g_assert_cmpfloat(in.fixed_ms.likely, >, 30);
    /* In direct mode, deltas may or may not do better later. */
    r.direct = TRUE;
    drv_predict_round_fill(&r, &in);
    g_assert_cmpfloat(in.ratio_again.low, <, 2);
    g_assert_cmpfloat(in.ratio_again.high, >, 10);
}

static JsonObject *
predicted(double dirtied)
{
    const DrvFirstRound r = first_round(dirtied);
    JsonObject *o = drv_predict_round(&r, 2600);
    g_assert_nonnull(o);
    g_assert_cmpstr(drv_json_string(o, "made", ""), ==, "first-round");
    g_assert_cmpint(drv_json_int(o, "ms", 0), ==, 2600);
    g_assert_cmpint(drv_json_int(o, "downtime_limit_ms", 0), ==, 300);
    g_assert_nonnull(drv_json_string(o, "why", NULL));
    g_assert_null(drv_json_object(o, "link_rate")); /* figures that nothing can be held against */
    return o;
}

static void
test_verdicts(void)
{
    g_autoptr(JsonObject) little = predicted(20 * MIB);
    g_assert_cmpstr(drv_json_string(little, "converges", ""), ==, "yes");
    JsonObject *total = drv_json_object(little, "total_ms");
    g_assert_cmpfloat(drv_json_number(total, "low", 0), >, 1500);
    g_assert_cmpfloat(drv_json_number(total, "high", 0), <, 12000);
    g_assert_cmpfloat(drv_json_number(little, "sure", 0), >, 0.8);

    /* 2 GiB in 2.56 s, and only 100 MiB/s get across: whatever that curve is like. */
    g_autoptr(JsonObject) much = predicted(1024 * MIB);
    g_assert_cmpstr(drv_json_string(much, "converges", ""), ==, "no");
    g_assert_cmpfloat(drv_json_number(much, "sure", 0), >, 0.7);

    /* 120 MiB may be the same again and again, or new ones: from one length of time nobody knows.
     */
    g_autoptr(JsonObject) unclear = predicted(120 * MIB);
    g_assert_cmpfloat(drv_json_number(unclear, "sure", 1), <, 0.85);
}

static void
test_nothing_to_say(void)
{
    DrvFirstRound r = first_round(MIB);
    r.seconds = 0.01;
    g_assert_null(drv_predict_round(&r, 10));
    r = first_round(MIB);
    r.wire = 0;
    g_assert_null(drv_predict_round(&r, 10));
    r = first_round(MIB);
    r.normal = 0;
    g_assert_null(drv_predict_round(&r, 10));
    /* No rate was taken: then it is the mean. */
    r = first_round(MIB);
    r.link.n = 0;
    g_autoptr(JsonObject) o = drv_predict_round(&r, 10);
    g_assert_cmpstr(drv_json_string(o, "converges", ""), ==, "yes");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/predict-round/what-goes-in", test_what_goes_in);
    g_test_add_func("/predict-round/verdicts", test_verdicts);
    g_test_add_func("/predict-round/nothing-to-say", test_nothing_to_say);
    return g_test_run();
}
