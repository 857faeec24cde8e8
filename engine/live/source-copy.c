/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "common/json.h"

#include <unistd.h>

/* Watching QEMU copy: its connections become channels, its events move the job, its figures become
 * the progress. */

#define POLL_MS 250
/* After QEMU's "completed", its last bytes and the destination's word follow at once: within this,
 * or not at all. */
#define HANDOVER_MS 15000
/* A QEMU that can tell what became of it does so within: */
#define CAUSE_MS 2000

/* --- QEMU's connections --- */

void
live_on_connection(int fd, gpointer data)
{
    LiveSource *self = data;
    guint expected = 1 + (guint)self->spec->multifd;
    if (self->peer == NULL ||
        drv_channel_set_count(self->channels) + self->offers.waiting.length >= expected) {
        g_warning("job %s: one connection too many on its socket was closed", self->base.rec->id);
        close(fd);
        return;
    }
    live_offer(self, &self->offers, fd);
}

void
live_channels_changed(DrvChannelSet *set, gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (drv_channel_set_error(set) != NULL && !self->handed_over)
        live_fail(self, g_error_copy(drv_channel_set_error(set)));
    else
        live_check_handover(self);
}

/* --- QEMU's word --- */

static gboolean
handover_overdue(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (self->lost_us != 0) /* the drop timeout has the say while the link is down */
        return G_SOURCE_CONTINUE;
    live_clear_source(&self->finish);
    live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                                "QEMU has completed the migration, but within %d s %s",
                                HANDOVER_MS / 1000,
                                self->loaded ? "its connections did not end"
                                             : "the destination did not say that it has loaded"));
    return G_SOURCE_REMOVE;
}

static void
on_completed(LiveSource *self)
{
    if (self->completed)
        return;
    self->completed = TRUE;
    self->completed_us = g_get_monotonic_time();
    live_set_timer(&self->finish, HANDOVER_MS, handover_overdue, self);
    live_check_handover(self);
}

static void
reason_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
    const char *words = qmp_get_string(qmp_node_object(reply), "error-desc");
    const GError *broken = self->channels != NULL ? drv_channel_set_broken(self->channels) : NULL;
    if (words == NULL && broken != NULL)
        words = broken->message;
    live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "QEMU's migration failed%s%s",
                                words != NULL ? ": " : "", words != NULL ? words : ""));
}

static void
on_failed(LiveSource *self)
{
    if (drv_job_state(&self->base) == DRV_STATE_ROLLING_BACK || self->handed_over)
        return;
    qmp_client_execute_async(self->qmp, "query-migrate", NULL, QMP_TIMEOUT_MS, NULL, reason_known,
                             drv_job_ref(&self->base));
}

static void
on_status(LiveSource *self, const char *status)
{
    if (g_str_equal(status, "completed"))
        on_completed(self);
    else if (g_str_equal(status, "failed"))
        on_failed(self);
    else if (g_str_equal(status, "pre-switchover"))
        live_disks_switchover(self);
    else if (g_str_equal(status, "cancelled") && !self->cancelling &&
             drv_job_state(&self->base) != DRV_STATE_ROLLING_BACK)
        live_fail(self,
                  g_error_new_literal(DRV_ERROR, DRV_ERROR_QEMU,
                                      "the migration was cancelled in QEMU by somebody else"));
}

/* --- the destination's word --- */

static GError *
destination_failed(LiveSource *self)
{
    return g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "the destination failed: %s",
                       self->peer_error != NULL ? self->peer_error : "it does not say why");
}

static void
cause_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    const char *status = qmp_get_string(qmp_node_object(reply), "status");
    if (g_error_matches(error, QMP_ERROR, QMP_ERROR_CLOSED))
        live_qmp_closed(self, error);
    else if (g_strcmp0(status, "cancelling") == 0 || g_strcmp0(status, "cancelled") == 0)
        on_status(self, "cancelled");
    /* Only the first of all these counts. */
    live_fail(self, destination_failed(self));
}

/* What it ran into may be what became of this end: a QEMU that has died, or was told to cancel,
 * leaves a broken stream behind, and the other one is the first to complain. So this one is asked
 * before that is believed. */
void
live_peer_failed(LiveSource *self)
{
    if (self->handed_over)
        return;
    if (self->qmp != NULL && self->migrating)
        qmp_client_execute_async(self->qmp, "query-migrate", NULL, CAUSE_MS, NULL, cause_known,
                                 drv_job_ref(&self->base));
    else
        live_fail(self, destination_failed(self));
}

/* --- the guest stops --- */

/* What is left is what a guest that stands still waits for. */
static void
stands_still(LiveSource *self, gboolean still)
{
    DrvClass class = still ? DRV_CLASS_STOPPED : DRV_CLASS_RAM;
    drv_channel_set_class(self->channels, class);
    live_disks_class(self, class);
    if (self->sender != NULL)
        drv_ram_sender_hurry(self->sender, still);
}

/* Whether the guest is to run afterwards, also after a restart. */
static void
note_running(LiveSource *self, gboolean running)
{
    g_autoptr(GError) error = NULL;
    self->was_running = running;
    self->stopped_us = 0;
    json_object_set_boolean_member(self->base.detail, "was_running", running);
    if (!drv_job_save(&self->base, &error))
        g_warning("job %s: %s", self->base.rec->id, error->message);
}

static void
run_state_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
    const char *status = qmp_get_string(qmp_node_object(reply), "status");
    if (status == NULL || self->handed_over || self->channels == NULL)
        return;
    if (g_str_equal(status, "paused")) { /* by somebody else: it is to be paused afterwards, too */
        note_running(self, FALSE);
        stands_still(self, FALSE);
    } else if (!g_str_equal(status, "running") && drv_job_state(job) == DRV_STATE_COPYING) {
        GError *error = NULL;
        if (!drv_job_move(job, DRV_STATE_SWITCHOVER, &error))
            live_fail(self, error);
    }
}

/* QEMU stops the guest for the last rounds, and says so with STOP. (So does everybody else who
 * stops it: the run state tells them apart.) */
static void
on_stop(LiveSource *self, gint64 timestamp_us)
{
    gint64 now = g_get_monotonic_time();
    gint64 ago = timestamp_us > 0 ? g_get_real_time() - timestamp_us : 0;
    /* Before the job began it was not: then the clock has jumped. */
    self->stopped_us = ago >= 0 && ago <= now - self->begin_us ? now - ago : now;
    stands_still(self, TRUE);
    qmp_client_execute_async(self->qmp, "query-status", NULL, QMP_TIMEOUT_MS, NULL, run_state_known,
                             drv_job_ref(&self->base));
}

static void
on_resume(LiveSource *self)
{
    DrvJobState state = drv_job_state(&self->base);
    note_running(self, TRUE);
    if (self->completed && (state == DRV_STATE_COPYING || state == DRV_STATE_SWITCHOVER)) {
        live_fail(self, g_error_new_literal(DRV_ERROR, DRV_ERROR_STATE,
                                            "the guest was resumed at the source by somebody else, "
                                            "in the middle of its handover: it stays there"));
        return;
    }
    stands_still(self, FALSE);
}

static void ask_figures(LiveSource *self);

static void
on_pass(LiveSource *self, JsonObject *data)
{
    qmp_get_int(data, "pass", &self->progress.rounds);
    live_round_begins(self);
    ask_figures(self); /* how much the round has to bring, before it has brought much */
}

void
live_on_event(LiveSource *self, const char *name, JsonObject *data, gint64 timestamp_us)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (live_disks_event(self, name, data) || !self->migrating || self->channels == NULL)
        return;
    if (g_str_equal(name, "MIGRATION"))
        on_status(self,
                  qmp_get_string(data, "status") != NULL ? qmp_get_string(data, "status") : "");
    else if (g_str_equal(name, "STOP"))
        on_stop(self, timestamp_us);
    else if (g_str_equal(name, "RESUME") && !self->handed_over)
        on_resume(self);
    else if (g_str_equal(name, "MIGRATION_PASS"))
        on_pass(self, data);
    drv_job_changed(&self->base);
}

/* --- figures --- */

static void
sample_rates(LiveSource *self)
{
    CopyProgress *p = &self->progress;
    DrvChannelTotals totals;
    gint64 now = g_get_monotonic_time();
    drv_channel_set_totals(self->channels, &totals);
    totals.raw = live_ram_bytes(self, &totals);
    double seconds = (double)(now - p->sampled_us) / G_USEC_PER_SEC;
    if (p->sampled_us > 0 && seconds > 0.05) {
        double raw = (double)(totals.raw - p->sampled_raw) / seconds;
        double wire = (double)(totals.wire - p->sampled_wire) / seconds;
        /* A second's average, so that the line does not flicker. */
        p->raw_rate += (raw - p->raw_rate) * MIN(1, seconds / 0.8);
        p->wire_rate += (wire - p->wire_rate) * MIN(1, seconds / 0.8);
    }
    p->sampled_us = now;
    p->sampled_raw = totals.raw;
    p->sampled_wire = totals.wire;
}

void
live_take_figures(LiveSource *self, JsonObject *reply)
{
    CopyProgress *p = &self->progress;
    JsonObject *ram = qmp_get_object(reply, "ram");
    gint64 pages_a_second = 0;
    p->page_size = 4096;
    qmp_get_int(ram, "transferred", &p->transferred);
    qmp_get_int(ram, "total", &p->total);
    qmp_get_int(ram, "remaining", &p->remaining);
    qmp_get_int(ram, "duplicate", &p->zero_pages);
    qmp_get_int(ram, "normal", &p->normal_pages);
    qmp_get_int(ram, "dirty-sync-count", &p->rounds);
    qmp_get_int(ram, "page-size", &p->page_size);
    if (qmp_get_int(ram, "dirty-pages-rate", &pages_a_second))
        p->dirty_rate = MAX(pages_a_second, 0) * p->page_size;
    qmp_get_int(reply, "expected-downtime", &p->expected_downtime_ms);
    p->throttle_pct = 0; /* it says nothing when it does nothing */
    qmp_get_int(reply, "cpu-throttle-percentage", &p->throttle_pct);
}

static void
figures_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
    self->polling = FALSE;
    JsonObject *object = qmp_node_object(reply);
    if (object == NULL || self->channels == NULL)
        return;
    live_take_figures(self, object);
    live_round_begins(self);
    live_judge_convergence(self);
    /* Events tell it sooner; this is for the one that was missed. */
    const char *status = qmp_get_string(object, "status");
    if (status != NULL && !self->handed_over)
        on_status(self, status);
    drv_job_changed(job);
}

static void
ask_figures(LiveSource *self)
{
    if (self->qmp != NULL && !self->polling && !self->handed_over) {
        self->polling = TRUE;
        qmp_client_execute_async(self->qmp, "query-migrate", NULL, QMP_TIMEOUT_MS, NULL,
                                 figures_known, drv_job_ref(&self->base));
    }
}

static gboolean
poll_figures(gpointer data)
{
    LiveSource *self = data;
    sample_rates(self);
    ask_figures(self);
    drv_job_changed(&self->base);
    return G_SOURCE_CONTINUE;
}

void
live_copy_started(LiveSource *self)
{
    live_set_timer(&self->poll, POLL_MS, poll_figures, self);
    poll_figures(self);
}

void
live_stop_polling(LiveSource *self)
{
    live_clear_source(&self->poll);
}

static double
percent(const LiveSource *self)
{
    const CopyProgress *p = &self->progress;
    switch (drv_job_state(&self->base)) {
    case DRV_STATE_COPYING:
        return p->total > 0
                   ? CLAMP(100.0 * (double)(p->total - p->remaining) / (double)p->total, 0, 99.9)
                   : 0;
    case DRV_STATE_SWITCHOVER: /* QEMU's figures are of the last round that it ran */
        return 99;
    case DRV_STATE_LOADED:
    case DRV_STATE_COMMITTED:
    case DRV_STATE_IN_DOUBT:
        return 99.9;
    case DRV_STATE_RUNNING:
    case DRV_STATE_DONE:
        return 100;
    default:
        return 0;
    }
}

static void
set_or_null(JsonObject *object, const char *member, gboolean known, gint64 value)
{
    if (known)
        json_object_set_int_member(object, member, value);
    else
        json_object_set_null_member(object, member);
}

JsonObject *
live_progress(DrvJob *job)
{
    LiveSource *self = live_source(job);
    const CopyProgress *p = &self->progress;
    DrvSessionStats link = {0};
    JsonObject *o = json_object_new();
    if (self->peer != NULL)
        drv_session_get_stats(drv_peer_session(self->peer), &link);
    json_object_set_int_member(o, "round", p->rounds);
    json_object_set_double_member(o, "percent", percent(self));
    json_object_set_int_member(o, "transferred", (gint64)p->sampled_raw);
    json_object_set_int_member(o, "total", p->total);
    json_object_set_int_member(o, "remaining",
                               drv_job_state(job) < DRV_STATE_LOADED ? p->remaining : 0);
    json_object_set_int_member(o, "raw_rate", (gint64)p->raw_rate);
    json_object_set_int_member(o, "wire_rate", (gint64)p->wire_rate);
    live_progress_rounds(self, o);
    live_progress_converge(self, o);
    live_disks_progress(self, o);
    json_object_set_int_member(o, "lanes", link.lanes);
    json_object_set_int_member(o, "reconnects", self->reconnects_before + link.reconnects);
    json_object_set_boolean_member(o, "connected", self->lost_us == 0);
    json_object_set_int_member(
        o, "elapsed_ms", self->begin_us > 0 ? (g_get_monotonic_time() - self->begin_us) / 1000 : 0);
    /* The time left at the present rate, if the guest does not write faster than that. */
    double net = p->raw_rate - (double)p->dirty_rate;
    gboolean converging = drv_job_state(job) == DRV_STATE_COPYING && net > 1e6;
    set_or_null(o, "expected_ms", converging,
                converging ? (gint64)((double)p->remaining / net * 1000) : 0);
    set_or_null(o, "expected_downtime_ms", p->expected_downtime_ms > 0, p->expected_downtime_ms);
    return o;
}

/* --- the report --- */

void
live_report(LiveSource *self, DrvJobState state)
{
    JsonObject *o = json_object_new();
    DrvChannelTotals totals = {0};
    DrvSessionStats link = {0};
    if (self->channels != NULL)
        drv_channel_set_totals(self->channels, &totals);
    if (self->peer != NULL)
        drv_session_get_stats(drv_peer_session(self->peer), &link);
    json_object_set_string_member(o, "job", self->base.rec->id);
    json_object_set_string_member(o, "vm", self->base.rec->vm != NULL ? self->base.rec->vm : "");
    json_object_set_string_member(o, "state", drv_state_outcome(state));
    if (self->base.error != NULL)
        json_object_set_string_member(o, "error", self->base.error->message);
    else
        json_object_set_null_member(o, "error");
    live_report_mode(self, o);
    json_object_set_string_member(o, "accel", self->vm != NULL && self->vm->kvm ? "kvm" : "tcg");
    json_object_set_int_member(
        o, "total_ms", self->begin_us > 0 ? (g_get_monotonic_time() - self->begin_us) / 1000 : 0);
    live_report_downtime(self, &totals, o);
    json_object_set_int_member(o, "rounds", self->progress.rounds);
    live_report_rounds(self, o);
    json_object_set_int_member(o, "lanes", MAX(link.lanes, 1));
    json_object_set_int_member(o, "reconnects", self->reconnects_before + link.reconnects);
    json_object_set_object_member(o, "ram", live_report_ram(self, &totals));
    json_object_set_object_member(o, "disk", live_disks_report(self));
    JsonObject *cpu = json_object_new();
    json_object_set_double_member(
        cpu, "source", self->begin_us > 0 ? drv_process_cpu_seconds() - self->cpu_before : 0);
    json_object_set_double_member(cpu, "dest", self->cpu_dest);
    json_object_set_object_member(o, "cpu_s", cpu);
    live_report_converge(self, o);
    live_report_predictions(self, o);
    live_report_verify(self, o);
    live_report_numa(self, o);
    g_free(self->base.rec->result);
    self->base.rec->result = drv_json_text(o);
    json_object_unref(o);
}
