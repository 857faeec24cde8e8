/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/predict-round.h"

#include "dirty-tracking/to-json.h"

#include <math.h>

/* What was measured while it is needed needs no allowance, but for chance. */
#define DIRTY_FACTOR ((DrvRange){0.8, 1, 1.3})
/* Device state, the last messages, `cont`: */
#define FIXED_MS ((DrvRange){10, 30, 120})
/* What the stream can do beyond what the link let it do: */
#define SPEED_MORE 2
/* Whether only little of a page changes, nobody knows before it is sent twice. */
#define DELTA_LIKELY 1.5
#define DELTA_HIGH 6
/* One length of time says less of how a guest writes than two. */
#define TRUST 0.75
#define LEAST_SECONDS 0.05

void
drv_predict_round_fill(const DrvFirstRound *r, DrvPredictInput *in)
{
    DrvLinkMeasure link = r->link;
    link.bytes = r->wire;
    link.us = (gint64)(r->seconds * G_USEC_PER_SEC);
    double nonzero = r->ram > 0 ? MIN((double)r->normal / r->ram, 1) : 1;
    double ratio = r->wire > 0 ? MAX((double)r->normal / (double)r->wire, 1) : 1;
    double speed = (double)r->normal / MAX(r->seconds, LEAST_SECONDS);
    const DrvRange fixed = FIXED_MS;
    double trips = 4 * (double)r->link.rtt_us / 1000;
    *in = (DrvPredictInput){
        .ram = r->ram,
        .nonzero = {nonzero, nonzero, nonzero},
        .n_dirty = 1,
        .dirty = {{r->seconds, (double)r->dirtied}},
        .dirty_factor = DIRTY_FACTOR,
        .link = drv_link_range(&link),
        .ratio = {ratio, ratio, ratio},
        .ratio_again = {ratio * 0.8, ratio, ratio * 1.25},
        .speed = {speed, speed * SPEED_MORE, speed * SPEED_MORE * SPEED_MORE},
        .fixed_ms = {fixed.low + trips, fixed.likely + trips, fixed.high + trips},
        .downtime_ms = r->downtime_ms,
        .trust = TRUST,
    };
    if (r->direct) {
        in->ratio_again.likely *= DELTA_LIKELY;
        in->ratio_again.high *= DELTA_HIGH;
    }
}

JsonObject *
drv_predict_brief(JsonObject *prediction, const char *made, gint64 ms)
{
    static const char *const kept[] = {
        "converges",          "chance",      "sure",         "why",
        "total_ms",           "downtime_ms", "rounds",       "downtime_limit_ms",
        "downtime_needed_ms", "dirty_rate",  "delivery_rate"};
    JsonObject *o = json_object_new();
    json_object_set_string_member(o, "made", made);
    json_object_set_int_member(o, "ms", ms);
    for (guint i = 0; i < G_N_ELEMENTS(kept); i++)
        if (json_object_has_member(prediction, kept[i]))
            json_object_set_member(o, kept[i], json_object_dup_member(prediction, kept[i]));
    return o;
}

JsonObject *
drv_predict_round(const DrvFirstRound *round, gint64 ms)
{
    DrvPredictInput in;
    DrvPrediction prediction;
    if (round->seconds < LEAST_SECONDS || round->wire == 0 || round->normal == 0)
        return NULL;
    drv_predict_round_fill(round, &in);
    drv_predict(&in, &prediction);
    g_autoptr(JsonObject) all = drv_prediction_to_json(&in, &prediction);
    return drv_predict_brief(all, "first-round", ms);
}
