/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "engine/job/settings.h"

/*
 * Whether the migration is expected to end, and what is done so that it does: QEMU's figures go to
 * the controller of dirty-tracking/, and what that decides goes to QEMU (docs/convergence.md).
 *
 * Throttling has two ways. With the dirty ring, QEMU can hold back the CPUs that write; whether
 * there is one it tells by refusing. Otherwise all of them get less time, by auto-converge: QEMU
 * switches that on before a migration only, so that it is on from the start, held down to one
 * percent (settings.c).
 */

#define MIB ((gint64)1 << 20)
/* More measures than these are not told apart in the report. */
#define MEASURES 16

/* The most of anything that the user allows; he need not name it where it is not to be more. */
static guint
max_downtime_ms(const DrvJobSpec *spec)
{
    return (guint)MAX(spec->max_downtime_ms, spec->downtime_ms);
}

static DrvConvergence *
controller_for(const DrvJobSpec *spec)
{
    const DrvConvergePolicy policy = {
        .downtime_ms = (guint)spec->downtime_ms,
        .max_downtime_ms = max_downtime_ms(spec),
        .throttle = spec->converge == DRV_SPEC_CONVERGE_THROTTLE ? DRV_THROTTLE_AUTO_CONVERGE
                                                                 : DRV_THROTTLE_NONE,
        .give_up = spec->converge != DRV_SPEC_CONVERGE_WAIT,
    };
    return drv_convergence_new(&policy);
}

guint
live_downtime_limit(LiveSource *self)
{
    return self->converge.limit_ms > 0 ? self->converge.limit_ms : (guint)self->spec->downtime_ms;
}

/* --- measures --- */

void
live_note_measure(LiveSource *self, const DrvConvergeDecision *d)
{
    LiveConverge *c = &self->converge;
    g_message("job %s: %s", self->base.rec->id, d->why);
    g_free(c->measure);
    c->measure = g_strdup(d->why);
    if (c->measures == NULL)
        c->measures = json_array_new();
    if (json_array_get_length(c->measures) >= MEASURES)
        return;
    JsonObject *o = json_object_new();
    json_object_set_int_member(o, "at_ms", (g_get_monotonic_time() - self->begin_us) / 1000);
    if (d->action == DRV_CONVERGE_DOWNTIME)
        json_object_set_int_member(o, "downtime_limit_ms", d->downtime_ms);
    if (d->action == DRV_CONVERGE_THROTTLE)
        json_object_set_int_member(o, "throttle_pct", d->throttle_pct);
    json_object_set_string_member(o, "why", d->why);
    json_array_add_object_element(c->measures, o);
}

/* The job, for as long as it can still be helped; 'keep' holds it for the caller's scope. */
static LiveSource *
refused_by_qemu(GObject *source, GAsyncResult *result, gpointer data, DrvJob **keep, GError **why)
{
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, why);
    *keep = data;
    LiveSource *self = live_source(data);
    if (reply == NULL && !g_error_matches(*why, QMP_ERROR, QMP_ERROR_CLOSED))
        g_info("job %s: QEMU refuses a measure: %s", self->base.rec->id, (*why)->message);
    return self;
}

static void
downtime_set(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) why = NULL;
    LiveSource *self = refused_by_qemu(source, result, data, &keep, &why);
    /* The promise is the one that QEMU has, not the one that it did not hear of. */
    if (why == NULL)
        self->converge.limit_ms = self->converge.asked_ms;
}

static void
throttle_set(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) why = NULL;
    refused_by_qemu(source, result, data, &keep, &why);
}

static void
throttle_cpus(LiveSource *self)
{
    if (self->qmp != NULL)
        qmp_client_execute_async(self->qmp, "migrate-set-parameters",
                                 drv_settings_throttle(self->converge.asked_pct), QMP_TIMEOUT_MS,
                                 NULL, throttle_set, drv_job_ref(&self->base));
}

static void
dirty_limit_set(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) why = NULL;
    LiveSource *self = refused_by_qemu(source, result, data, &keep, &why);
    LiveConverge *c = &self->converge;
    if (why == NULL) {
        c->limited = TRUE;
        drv_convergence_throttled_by(c->controller, DRV_THROTTLE_DIRTY_LIMIT);
    } else if (!c->limited) { /* there is no dirty ring, or this QEMU is too old for it */
        c->unlimitable = TRUE;
        throttle_cpus(self);
    }
}

/* What QEMU is to be told to take back must outlive this daemon. */
static gboolean
note_dirty_limit(LiveSource *self)
{
    g_autoptr(GError) error = NULL;
    json_object_set_boolean_member(self->base.detail, "dirty_limit", TRUE);
    if (drv_job_save(&self->base, &error))
        return TRUE;
    g_warning("job %s: %s", self->base.rec->id, error->message);
    return FALSE;
}

/* 'limit': bytes a second, of all CPUs together. QEMU takes it for each, in MiB. */
static void
limit_writes(LiveSource *self, double limit)
{
    gint64 cpus = MAX(self->vm->cpus, 1);
    gint64 mib = MAX((gint64)limit / cpus / MIB, 1);
    qmp_client_execute_async(self->qmp, "set-vcpu-dirty-limit",
                             qmp_args("dirty-rate", "x", mib, NULL), QMP_TIMEOUT_MS, NULL,
                             dirty_limit_set, drv_job_ref(&self->base));
}

static void
throttle(LiveSource *self, const DrvConvergeDecision *d)
{
    LiveConverge *c = &self->converge;
    c->asked_pct = d->throttle_pct;
    if (self->vm->kvm && !c->unlimitable && note_dirty_limit(self))
        limit_writes(self, d->dirty_limit);
    else
        throttle_cpus(self);
}

static void
give_up(LiveSource *self, const char *why)
{
    live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                                "%s; allow more with --max-downtime%s, or --converge wait", why,
                                self->spec->converge == DRV_SPEC_CONVERGE_THROTTLE
                                    ? ""
                                    : ", --converge throttle"));
}

static void
carry_out(LiveSource *self, const DrvConvergeDecision *d)
{
    LiveConverge *c = &self->converge;
    if (d->action == DRV_CONVERGE_CONTINUE || self->qmp == NULL || self->completed ||
        drv_job_state(&self->base) != DRV_STATE_COPYING)
        return;
    g_autofree char *why = g_strdup(d->why);
    live_note_measure(self, d);
    switch (d->action) {
    case DRV_CONVERGE_DOWNTIME:
        c->asked_ms = d->downtime_ms;
        qmp_client_execute_async(self->qmp, "migrate-set-parameters",
                                 drv_settings_longer_downtime(d->downtime_ms), QMP_TIMEOUT_MS, NULL,
                                 downtime_set, drv_job_ref(&self->base));
        break;
    case DRV_CONVERGE_THROTTLE:
        throttle(self, d);
        break;
    default:
        give_up(self, why);
        break;
    }
}

/* --- samples --- */

void
live_converge_round(LiveSource *self)
{
    LiveConverge *c = &self->converge;
    if (c->pass == self->progress.rounds)
        return;
    c->pass = self->progress.rounds;
    c->before_us = c->round_us;
    c->round_us = g_get_monotonic_time();
    if (c->pass == 2) { /* the first ended with zero pages, maybe: they say nothing of what comes */
        c->counted_us = 0;
        c->delivery_rate = 0;
    }
}

/* The first that is heard of a round is closest to all that it has to bring: what the guest wrote
 * to during the round before. */
static void
size_round(LiveSource *self)
{
    LiveConverge *c = &self->converge;
    if (c->sized == c->pass)
        return;
    c->sized = c->pass;
    c->round_bytes = MAX(self->progress.remaining, 0);
    if (c->pass > 1 && c->before_us > 0 && c->round_us > c->before_us)
        c->dirty_rate =
            MAX((double)c->round_bytes * G_USEC_PER_SEC / (double)(c->round_us - c->before_us), 1);
    if (c->pass == 2 && c->before_us > 0)
        live_predict_first_round(self);
}

/* Bytes of the guest that QEMU has dealt with, zero pages as well as others. */
static void
take_delivery(LiveSource *self, gint64 now_us)
{
    LiveConverge *c = &self->converge;
    gint64 pages = self->progress.zero_pages + self->progress.normal_pages;
    double seconds = (double)(now_us - c->counted_us) / G_USEC_PER_SEC;
    if (c->counted_us > 0 && seconds < 0.1)
        return;
    if (c->counted_us > 0)
        c->delivery_rate = (double)MAX(pages - c->counted, 0) * self->progress.page_size / seconds;
    c->counted = pages;
    c->counted_us = now_us;
}

void
live_judge_convergence(LiveSource *self)
{
    LiveConverge *c = &self->converge;
    CopyProgress *p = &self->progress;
    gint64 now = g_get_monotonic_time();
    if (c->controller == NULL)
        c->controller = controller_for(self->spec);
    live_converge_round(self);
    size_round(self);
    live_predict_rate(self);
    take_delivery(self, now);
    c->most_pct = MAX(c->most_pct, p->throttle_pct);
    const DrvConvergeSample sample = {
        .now_us = now,
        .pass = (guint)CLAMP(p->rounds, 0, G_MAXINT32),
        .remaining = (guint64)MAX(p->remaining, 0),
        .round_bytes = (guint64)c->round_bytes,
        .dirty_rate = c->dirty_rate,
        .delivery_rate = c->delivery_rate,
        .switchover_rate = p->raw_rate,
        .throttle_pct = (guint)CLAMP(p->throttle_pct, 0, 99),
        .stopped = self->stopped_us != 0,
        .stalled = self->lost_us != 0,
    };
    DrvConvergeDecision decision = drv_convergence_sample(c->controller, &sample);
    carry_out(self, &decision);
}

/* --- what is said of it --- */

const char *
live_doubt(LiveSource *self)
{
    const char *why = NULL;
    if (self->converge.controller != NULL)
        drv_convergence_outlook(self->converge.controller, &why);
    return why != NULL ? why : live_disks_doubt(self);
}

void
live_progress_converge(LiveSource *self, JsonObject *o)
{
    const char *note = NULL;
    if (drv_job_state(&self->base) == DRV_STATE_COPYING)
        note = live_doubt(self) != NULL ? live_doubt(self) : self->converge.measure;
    if (note != NULL)
        json_object_set_string_member(o, "note", note);
    else
        json_object_set_null_member(o, "note");
    json_object_set_int_member(o, "throttle_pct", self->progress.throttle_pct);
    json_object_set_int_member(o, "downtime_limit_ms", live_downtime_limit(self));
}

void
live_report_converge(LiveSource *self, JsonObject *o)
{
    LiveConverge *c = &self->converge;
    /* Held back by what it writes, a CPU loses no certain share of its time. */
    if (c->limited)
        json_object_set_null_member(o, "throttle_pct");
    else
        json_object_set_int_member(o, "throttle_pct", c->most_pct);
    json_object_set_string_member(o, "throttle",
                                  c->limited        ? "dirty-limit"
                                  : c->most_pct > 0 ? "cpus"
                                                    : "none");
    if (c->measures != NULL)
        json_object_set_array_member(o, "measures", json_array_ref(c->measures));
    else
        json_object_set_array_member(o, "measures", json_array_new());
}

void
live_converge_clear(LiveConverge *c)
{
    g_clear_pointer(&c->controller, drv_convergence_free);
    g_clear_pointer(&c->measures, json_array_unref);
    g_clear_pointer(&c->measure, g_free);
    g_clear_pointer(&c->first, g_free);
}
