/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/live-source-private.h"

#include "dirty-tracking/to-json.h"

/* The rounds of a migration, and whether it is expected to end (docs/convergence.md). Nothing is
 * done about it yet but to say so: QEMU's settings stay as the user has them. */

#define REPORT_HOT 8

/* NULL in relay mode, where nobody looks into the stream, and where it was not understood to the
 * end: half of the pages would be missing. */
static DrvRounds *
known_rounds(LiveSource *self)
{
    if (self->sender == NULL || !drv_ram_sender_understood(self->sender))
        return NULL;
    return drv_ram_sender_rounds(self->sender);
}

void
live_round_begins(LiveSource *self)
{
    if (self->sender != NULL && self->progress.rounds > 0)
        drv_rounds_next(drv_ram_sender_rounds(self->sender),
                        (guint)MIN(self->progress.rounds, G_MAXINT32), g_get_monotonic_time());
}

void
live_judge_convergence(LiveSource *self)
{
    CopyProgress *p = &self->progress;
    DrvConvergeSample sample = {
        .now_us = g_get_monotonic_time(),
        .pass = (guint)CLAMP(p->rounds, 0, G_MAXINT32),
        .remaining = (guint64)MAX(p->remaining, 0),
        .dirty_rate = (double)p->dirty_rate,
        .delivery_rate = p->raw_rate,
        .throttle_pct = (guint)CLAMP(p->throttle_pct, 0, 99),
        .stopped = self->stopped_us != 0,
        .stalled = self->lost_us != 0,
    };
    if (self->convergence == NULL) {
        DrvConvergePolicy policy = {.downtime_ms = (guint)self->spec->downtime_ms,
                                    .max_downtime_ms = (guint)self->spec->downtime_ms};
        self->convergence = drv_convergence_new(&policy);
    }
    if (p->rounds != p->sized_round) { /* the first that is heard of a round is closest to all */
        p->sized_round = p->rounds;
        p->round_bytes = MAX(p->remaining, 0);
    }
    sample.round_bytes = (guint64)p->round_bytes;
    drv_convergence_sample(self->convergence, &sample);
}

const char *
live_doubt(LiveSource *self)
{
    const char *why = NULL;
    if (self->convergence != NULL)
        drv_convergence_outlook(self->convergence, &why);
    return why;
}

void
live_progress_rounds(LiveSource *self, JsonObject *o)
{
    DrvRounds *rounds = known_rounds(self);
    DrvRoundsSummary sum = {0};
    const char *doubt = drv_job_state(&self->base) == DRV_STATE_COPYING ? live_doubt(self) : NULL;
    if (rounds != NULL)
        drv_rounds_summary(rounds, &sum);
    /* QEMU counts once a second, and not in the first. */
    json_object_set_int_member(o, "dirty_rate",
                               self->progress.dirty_rate > 0 ? self->progress.dirty_rate
                                                             : (gint64)sum.dirty_rate);
    if (sum.working_set > 0)
        json_object_set_int_member(o, "working_set", (gint64)sum.working_set);
    else
        json_object_set_null_member(o, "working_set");
    if (doubt != NULL)
        json_object_set_string_member(o, "note", doubt);
    else
        json_object_set_null_member(o, "note");
}

static void
move_member(JsonObject *to, const char *name, JsonObject *from, const char *member)
{
    if (from != NULL)
        json_object_set_member(to, name, json_object_dup_member(from, member));
    else
        json_object_set_null_member(to, name);
}

void
live_report_rounds(LiveSource *self, JsonObject *o)
{
    DrvRounds *rounds = known_rounds(self);
    /* Not as soon as QEMU has completed: its last pages may still be in its socket. */
    if (rounds != NULL)
        drv_rounds_finish(rounds,
                          self->completed_us > 0 ? self->completed_us : g_get_monotonic_time());
    g_autoptr(JsonObject) all =
        rounds != NULL ? drv_rounds_to_json(rounds, DRV_ROUNDS_HISTORY, REPORT_HOT) : NULL;
    move_member(o, "rounds_detail", all, "history");
    move_member(o, "working_set", all, "working_set");
    move_member(o, "hot_regions", all, "hot");
}
