/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/to-json.h"

#include "common/json.h"

#define S G_USEC_PER_SEC

static void
assert_text(JsonObject *o, const char *expected)
{
    g_autofree char *text = drv_json_text(o);
    g_assert_cmpstr(text, ==, expected);
    json_object_unref(o);
}

static void
test_rounds(void)
{
    g_autoptr(DrvRounds) rounds = drv_rounds_new(4096, 0);
    drv_rounds_add_block(rounds, 0, "pc.ram", 1024);
    drv_rounds_next(rounds, 1, 1 * S);
    drv_rounds_mark(rounds, 0, 0, 1024);
    drv_rounds_next(rounds, 2, 3 * S);
    drv_rounds_mark(rounds, 0, 600, 10);
    drv_rounds_next(rounds, 3, 4 * S);
    JsonObject *o = drv_rounds_to_json(rounds, 2, 4);
    g_assert_cmpint(json_object_get_int_member(o, "memory"), >, 0);
    json_object_remove_member(o, "memory");
    assert_text(o, "{\"pass\":3,\"rounds\":2,\"pages\":1034,\"again\":10,\"dirty_rate\":20480,"
                   "\"peak_dirty_rate\":20480,\"working_set\":40960,\"times\":1.0,\"history\":["
                   "{\"pass\":1,\"last_pass\":1,\"begin_ms\":1000,\"ms\":2000,\"pages\":1024,"
                   "\"again\":0,\"bytes\":4194304,\"dirty_rate\":20480,\"working_set\":0},"
                   "{\"pass\":2,\"last_pass\":2,\"begin_ms\":3000,\"ms\":1000,\"pages\":10,"
                   "\"again\":0,\"bytes\":40960,\"dirty_rate\":null,\"working_set\":40960}],"
                   "\"hot\":[{\"block\":\"pc.ram\",\"first_page\":512,\"pages\":512,\"count\":10,"
                   "\"rounds\":1}]}");
    o = drv_rounds_to_json(rounds, 0, 0);
    g_assert_cmpuint(json_array_get_length(json_object_get_array_member(o, "history")), ==, 0);
    g_assert_cmpuint(json_array_get_length(json_object_get_array_member(o, "hot")), ==, 0);
    json_object_unref(o);
}

static void
test_prediction(void)
{
    DrvPredictInput in = {.ram = 1 << 30, .link = {1e8, 1.1e8, 1.2e8}, .downtime_ms = 300};
    DrvPrediction p = {
        .converges = DRV_PREDICT_UNSURE,
        .chance = 0.6254,
        .sure = 0.75,
        .total_ms = {1000.4, 2000, 3000},
        .downtime_ms = {20, 30, 40},
        .rounds = {2, 3, 4},
        .needed_ms = {10, 20, 400},
        .dirty_rate = 5e6,
        .delivery_rate = 1e8,
    };
    JsonObject *o = drv_prediction_to_json(&in, &p);
    g_autofree char *why = drv_predict_sentence(&in, &p);
    g_assert_cmpstr(json_object_get_string_member(o, "why"), ==, why);
    json_object_remove_member(o, "why");
    assert_text(o, "{\"converges\":\"unsure\",\"chance\":0.625,\"sure\":0.75,"
                   "\"total_ms\":{\"low\":1000,\"likely\":2000,\"high\":3000},"
                   "\"downtime_ms\":{\"low\":20,\"likely\":30,\"high\":40},"
                   "\"rounds\":{\"low\":2,\"likely\":3,\"high\":4},"
                   "\"downtime_limit_ms\":300,"
                   "\"downtime_needed_ms\":{\"low\":10,\"likely\":20,\"high\":400},"
                   "\"dirty_rate\":5000000,\"delivery_rate\":100000000,\"ram\":1073741824,"
                   "\"nonzero\":{\"low\":0.0,\"likely\":0.0,\"high\":0.0},"
                   "\"link_rate\":{\"low\":100000000,\"likely\":110000000,\"high\":120000000},"
                   "\"ratio\":{\"low\":0.0,\"likely\":0.0,\"high\":0.0},"
                   "\"ratio_again\":{\"low\":0.0,\"likely\":0.0,\"high\":0.0},"
                   "\"speed\":{\"low\":0,\"likely\":0,\"high\":0}}");
    p.chance = 0;
    p.converges = DRV_PREDICT_NO;
    o = drv_prediction_to_json(&in, &p);
    g_assert_true(json_object_get_null_member(o, "total_ms"));
    g_assert_true(json_object_get_null_member(o, "downtime_ms"));
    g_assert_true(json_object_get_null_member(o, "rounds"));
    g_assert_cmpstr(json_object_get_string_member(o, "converges"), ==, "no");
    json_object_unref(o);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/to-json/rounds", test_rounds);
    g_test_add_func("/to-json/prediction", test_prediction);
    return g_test_run();
}
