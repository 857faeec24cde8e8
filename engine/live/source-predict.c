/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/json.h"

/*
 * What was predicted of a migration, for its report. One that was made before ('drover predict') is
 * in the job's detail. Another is made of the first round: that is over here and now, and is only
 * noted; the reckoning can wait until the guest runs.
 */

/* Rates that are averages over a while say nothing before that. */
#define SKIP_RATES 4

void
live_predict_rate(LiveSource *self)
{
    LiveConverge *c = &self->converge;
    if (c->first == NULL)
        c->first = g_new0(DrvFirstRound, 1);
    if (self->progress.rounds != 1 || self->lost_us != 0 || c->rates++ < SKIP_RATES)
        return;
    /* A long round's first rates give way to its last. */
    DrvLinkMeasure *link = &c->first->link;
    link->rates[(c->rates - SKIP_RATES - 1) % DRV_LINK_RATES] = self->progress.wire_rate;
    link->n = MIN(c->rates - SKIP_RATES, DRV_LINK_RATES);
}

void
live_predict_first_round(LiveSource *self)
{
    LiveConverge *c = &self->converge;
    const CopyProgress *p = &self->progress;
    DrvChannelTotals totals;
    DrvSessionStats link = {0};
    if (c->first == NULL || c->first->seconds > 0)
        return;
    drv_channel_set_totals(self->channels, &totals);
    if (self->peer != NULL)
        drv_session_get_stats(drv_peer_session(self->peer), &link);
    c->first->ram = (double)MAX(p->total, 0);
    c->first->seconds = (double)(c->round_us - c->before_us) / G_USEC_PER_SEC;
    c->first->normal = (guint64)(MAX(p->normal_pages, 0) * p->page_size);
    c->first->dirtied = (guint64)c->round_bytes;
    c->first->wire = totals.wire;
    c->first->direct = self->sender != NULL;
    c->first->downtime_ms = live_downtime_limit(self);
    c->first->link.rtt_us = link.rtt_us;
    c->first_ms = (c->round_us - self->begin_us) / 1000;
}

void
live_report_predictions(LiveSource *self, JsonObject *o)
{
    LiveConverge *c = &self->converge;
    JsonArray *all = json_array_new();
    JsonObject *before = drv_json_object(self->base.detail, "prediction");
    JsonObject *first =
        c->first != NULL && c->first->seconds > 0 ? drv_predict_round(c->first, c->first_ms) : NULL;
    if (before != NULL)
        json_array_add_object_element(all, json_object_ref(before));
    if (first != NULL)
        json_array_add_object_element(all, first);
    json_object_set_array_member(o, "predictions", all);
}
