/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/to-json.h"

#include <math.h>

/* Figures are whole numbers, as in the rest of the API, but for shares and factors. */
static void
set_whole(JsonObject *o, const char *member, double value)
{
    json_object_set_int_member(o, member, (gint64)CLAMP(round(value), 0, 9e18));
}

static void
set_share(JsonObject *o, const char *member, double value)
{
    json_object_set_double_member(o, member, round(value * 1000) / 1000);
}

/* --- rounds --- */

static JsonObject *
round_to_json(const DrvRound *round)
{
    JsonObject *o = json_object_new();
    json_object_set_int_member(o, "pass", round->pass);
    json_object_set_int_member(o, "last_pass", round->last_pass);
    json_object_set_int_member(o, "begin_ms", round->begin_us / 1000);
    json_object_set_int_member(o, "ms", round->us / 1000);
    json_object_set_int_member(o, "pages", (gint64)round->pages);
    json_object_set_int_member(o, "again", (gint64)round->again);
    json_object_set_int_member(o, "bytes", (gint64)round->bytes);
    if (round->dirtied_known)
        set_whole(o, "dirty_rate", round->dirty_rate);
    else
        json_object_set_null_member(o, "dirty_rate");
    json_object_set_int_member(o, "working_set", (gint64)round->working_set);
    return o;
}

static JsonArray *
history_to_json(DrvRounds *rounds, guint max)
{
    DrvRound history[DRV_ROUNDS_HISTORY];
    JsonArray *array = json_array_new();
    guint n = drv_rounds_history(rounds, history, MIN(max, DRV_ROUNDS_HISTORY));
    for (guint i = 0; i < n; i++)
        json_array_add_object_element(array, round_to_json(&history[i]));
    return array;
}

static JsonArray *
hot_to_json(DrvRounds *rounds, guint max)
{
    g_autofree DrvHotRegion *hot = g_new(DrvHotRegion, MAX(max, 1));
    JsonArray *array = json_array_new();
    guint n = drv_rounds_hot(rounds, hot, max);
    for (guint i = 0; i < n; i++) {
        const char *id = drv_rounds_block_id(rounds, hot[i].block);
        JsonObject *o = json_object_new();
        json_object_set_string_member(o, "block", id != NULL ? id : "");
        json_object_set_int_member(o, "first_page", (gint64)hot[i].first);
        json_object_set_int_member(o, "pages", (gint64)hot[i].pages);
        json_object_set_int_member(o, "count", (gint64)hot[i].count);
        json_object_set_int_member(o, "rounds", hot[i].rounds);
        json_array_add_object_element(array, o);
    }
    return array;
}

JsonObject *
drv_rounds_to_json(DrvRounds *rounds, guint history, guint hot)
{
    DrvRoundsSummary sum;
    JsonObject *o = json_object_new();
    drv_rounds_summary(rounds, &sum);
    json_object_set_int_member(o, "pass", sum.pass);
    json_object_set_int_member(o, "rounds", sum.rounds);
    json_object_set_int_member(o, "pages", (gint64)sum.total_pages);
    json_object_set_int_member(o, "again", (gint64)sum.again_pages);
    set_whole(o, "dirty_rate", sum.dirty_rate);
    set_whole(o, "peak_dirty_rate", sum.peak_rate);
    json_object_set_int_member(o, "working_set", (gint64)sum.working_set);
    set_share(o, "times", sum.times);
    json_object_set_int_member(o, "memory", (gint64)sum.memory);
    json_object_set_array_member(o, "history", history_to_json(rounds, history));
    json_object_set_array_member(o, "hot", hot_to_json(rounds, hot));
    return o;
}

/* --- predictions --- */

typedef void (*SetFunc)(JsonObject *o, const char *member, double value);

static void
set_range(JsonObject *o, const char *member, const DrvRange *range, SetFunc set)
{
    JsonObject *r = json_object_new();
    set(r, "low", range->low);
    set(r, "likely", range->likely);
    set(r, "high", range->high);
    json_object_set_object_member(o, member, r);
}

/* What there is only if the migration can end. */
static void
set_end(JsonObject *o, const char *member, const DrvPrediction *p, const DrvRange *range)
{
    if (p->chance > 0)
        set_range(o, member, range, set_whole);
    else
        json_object_set_null_member(o, member);
}

JsonObject *
drv_prediction_to_json(const DrvPredictInput *in, const DrvPrediction *p)
{
    JsonObject *o = json_object_new();
    g_autofree char *why = drv_predict_sentence(in, p);
    json_object_set_string_member(o, "converges", drv_predict_verdict_name(p->converges));
    set_share(o, "chance", p->chance);
    set_share(o, "sure", p->sure);
    json_object_set_string_member(o, "why", why);
    set_end(o, "total_ms", p, &p->total_ms);
    set_end(o, "downtime_ms", p, &p->downtime_ms);
    set_end(o, "rounds", p, &p->rounds);
    set_whole(o, "downtime_limit_ms", in->downtime_ms);
    set_range(o, "downtime_needed_ms", &p->needed_ms, set_whole);
    set_whole(o, "dirty_rate", p->dirty_rate);
    set_whole(o, "delivery_rate", p->delivery_rate);
    set_whole(o, "ram", in->ram);
    set_range(o, "nonzero", &in->nonzero, set_share);
    set_range(o, "link_rate", &in->link, set_whole);
    set_range(o, "ratio", &in->ratio, set_share);
    set_range(o, "ratio_again", &in->ratio_again, set_share);
    set_range(o, "speed", &in->speed, set_whole);
    return o;
}
