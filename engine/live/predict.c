/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/predict.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/probe.h"
#include "engine/host/address.h"
#include "engine/host/guest-blocks.h"
#include "engine/job/allow.h"
#include "engine/job/look.h"
#include "engine/live/predict-model.h"
#include "engine/live/predict-round.h"

/*
 * Everything is asked, nothing is set: QEMU's dirty log is on while QEMU measures, and QEMU ends
 * that by itself. The QMP connection is given back before the link is measured. What cannot be had
 * of the guest's memory makes the prediction less sure, and is no error.
 */

#define QMP_TIMEOUT_MS 20000
/* For so long: QEMU 7.2 makes whole seconds of them. */
#define SHORT_MS 300
#define LONG_MS 1500
#define SAMPLE_PAGES 4096

/* The probe ends after so much, whichever comes first. What goes over a link at once is its
 * buffers: the first step does not count. */
#define PROBE_MS 800
#define PROBE_BYTES ((guint64)1 << 30)
#define PROBE_STEP_MS 80
#define PROBE_SKIP 1
/* Then what is under way is waited for. */
#define PROBE_END_MS 5000

/* A guest does something else after so long. */
#define MAX_AGE_US (3600 * (gint64)G_USEC_PER_SEC)

/* Probes that peers may have here at once. */
#define MAX_ENDS 4

typedef struct {
    DrvLook look;
    DrvJobSpec *spec;
    char *host;
    guint16 port;
    DrvVm *vm;
    DrvMeasured measured;

    DrvProbe *probe;
    guint timer;
    guint step;
    gint64 began_us;
    gint64 last_us;
    guint64 last_bytes;
} Predict;

static void
drop_probe(Predict *self)
{
    g_clear_handle_id(&self->timer, g_source_remove);
    g_clear_pointer(&self->probe, drv_probe_free);
}

static void
drop(DrvLook *look)
{
    drop_probe((Predict *)look);
}

/* A link that breaks while it is measured is none to predict anything for. */
static void
lost(DrvLook *look, const GError *why)
{
    if (((Predict *)look)->probe != NULL)
        drv_steps_fail(&look->steps, g_error_copy(why));
}

static void
step_connect_peer(gpointer owner)
{
    Predict *self = owner;
    drv_look_connect_peer(&self->look, self->host, self->port, (guint)self->spec->lanes);
}

/* --- QEMU --- */

static void
step_connect_qmp(gpointer owner)
{
    Predict *self = owner;
    drv_look_connect_qmp(&self->look, self->spec->qmp);
}

static gboolean
is_at_rest(const DrvVm *vm, GError **error)
{
    static const char *const idle[] = {"none", "completed", "failed", "cancelled", NULL};
    static const char *const movable[] = {"running", "paused", "suspended", "prelaunch", NULL};
    if (!g_strv_contains(idle, vm->migration))
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "this VM is already migrating (QEMU says '%s'): nothing can be predicted now",
                    vm->migration);
    else if (!g_strv_contains(movable, vm->status))
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "the source's QEMU is in state '%s', which cannot be migrated", vm->status);
    else
        return TRUE;
    return FALSE;
}

static void
described(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *error = NULL;
    g_autoptr(DrvVm) vm = drv_vm_describe_finish(result, &error);
    Predict *self = drv_job_redeem(ticket, &keep);
    if (self == NULL) {
        g_clear_error(&error);
        return;
    }
    if (vm != NULL && is_at_rest(vm, &error)) {
        g_free(self->look.base.rec->vm);
        self->look.base.rec->vm = g_strdup(self->spec->name != NULL ? self->spec->name
                                           : *vm->name != '\0'      ? vm->name
                                                                    : self->look.base.rec->id);
        self->vm = g_steal_pointer(&vm);
        self->measured.vm = self->vm;
    }
    drv_look_step_done(&self->look, error);
}

static void
step_describe(gpointer owner)
{
    Predict *self = owner;
    drv_vm_describe_async(self->look.qmp, QMP_TIMEOUT_MS, self->look.steps.cancellable, described,
                          drv_look_ticket(&self->look));
}

/* --- the guest's memory --- */

static void
note(Predict *self, const GError *error)
{
    g_info("job %s: %s", self->look.base.rec->id, error->message);
}

static void
sampled(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    DrvGuestSample sample;
    gboolean good = drv_guest_ram_sample_finish(result, &sample, &error);
    Predict *self = drv_job_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (good)
        self->measured.sample = sample;
    else
        note(self, error);
    drv_steps_next(&self->look.steps);
}

static void
found(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvGuestBlocks) blocks = drv_guest_blocks_find_finish(result, &error);
    Predict *self = drv_job_redeem(ticket, &keep);
    if (self == NULL)
        return;
    DrvGuestRam *ram =
        blocks != NULL ? drv_guest_ram_open(blocks->pid, blocks->blocks, blocks->n, &error) : NULL;
    if (ram == NULL) {
        note(self, error);
        drv_steps_next(&self->look.steps);
        return;
    }
    drv_guest_ram_sample_async(ram, SAMPLE_PAGES, self->look.steps.cancellable, sampled,
                               drv_look_ticket(&self->look));
}

static void
step_sample(gpointer owner)
{
    Predict *self = owner;
    drv_guest_blocks_find_async(self->look.qmp, QMP_TIMEOUT_MS, self->look.steps.cancellable, found,
                                drv_look_ticket(&self->look));
}

/* --- what it writes --- */

static void
rate_known(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *error = NULL;
    DrvDirtyRate rate;
    gboolean good = drv_dirty_rate_finish(result, &rate, &error);
    Predict *self = drv_job_redeem(ticket, &keep);
    if (self == NULL) {
        g_clear_error(&error);
        return;
    }
    if (good)
        self->measured.dirty[self->measured.n_dirty++] = rate;
    drv_look_step_done(&self->look, error);
}

static void
measure_rate(Predict *self, guint ms)
{
    if (!self->vm->running)
        drv_steps_next(&self->look.steps);
    else
        drv_dirty_rate_async(self->look.qmp, self->vm, ms, self->look.steps.cancellable, rate_known,
                             drv_look_ticket(&self->look));
}

static void
step_short(gpointer owner)
{
    measure_rate(owner, SHORT_MS);
}

static void
step_long(gpointer owner)
{
    measure_rate(owner, LONG_MS);
}

/* --- the link --- */

static void
probe_changed(DrvProbe *probe, gpointer data)
{
    Predict *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->look.base);
    const GError *why = drv_probe_error(probe);
    GError *error = why != NULL ? g_error_copy(why) : NULL;
    DrvLinkMeasure *link = &self->measured.link;
    link->bytes = drv_probe_delivered(probe);
    link->us = g_get_monotonic_time() - self->began_us;
    drop_probe(self);
    drv_look_step_done(&self->look, error);
}

static void
take_rate(Predict *self)
{
    DrvLinkMeasure *link = &self->measured.link;
    gint64 now = g_get_monotonic_time();
    guint64 bytes = drv_probe_delivered(self->probe);
    if (self->step++ >= PROBE_SKIP && now > self->last_us && link->n < DRV_LINK_RATES)
        link->rates[link->n++] =
            (double)(bytes - self->last_bytes) * G_USEC_PER_SEC / (double)(now - self->last_us);
    self->last_us = now;
    self->last_bytes = bytes;
}

static gboolean
probe_on(gpointer data)
{
    Predict *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->look.base);
    gint64 ms = (g_get_monotonic_time() - self->began_us) / 1000;
    if (ms > PROBE_MS + PROBE_END_MS) {
        self->timer = 0;
        drv_steps_fail(&self->look.steps, g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                                                      "the probe did not arrive within %d s",
                                                      (PROBE_MS + PROBE_END_MS) / 1000));
        return G_SOURCE_REMOVE;
    }
    if (ms > PROBE_MS)
        drv_probe_end(self->probe);
    else
        take_rate(self);
    return G_SOURCE_CONTINUE;
}

static void
probe_answered(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *why = error != NULL ? g_error_copy(error) : NULL;
    Predict *self = drv_job_redeem(ticket, &keep);
    if (self == NULL) {
        g_clear_error(&why);
        return;
    }
    if (ok == NULL || !drv_probe_accepted(self->probe, ok, &why)) {
        drv_steps_fail(&self->look.steps, why);
        return;
    }
    self->began_us = self->last_us = g_get_monotonic_time();
    self->timer = g_timeout_add(PROBE_STEP_MS, probe_on, self);
}

static void
step_probe(gpointer owner)
{
    Predict *self = owner;
    GError *error = NULL;
    DrvSessionStats stats;
    drv_look_close_qmp(&self->look);
    self->look.needs_peer = TRUE;
    if (!drv_allow_to(drv_services_config(self->look.base.services), drv_peer_name(self->look.peer),
                      &error)) {
        drv_steps_fail(&self->look.steps, error);
        return;
    }
    JsonObject *args = json_object_new();
    drv_session_get_stats(drv_peer_session(self->look.peer), &stats);
    self->measured.link.rtt_us = stats.rtt_us;
    self->probe = drv_probe_offer(drv_services_transfer(self->look.base.services),
                                  drv_peer_session(self->look.peer), PROBE_BYTES, probe_changed,
                                  self, args, &error);
    if (self->probe == NULL) {
        json_object_unref(args);
        drv_steps_fail(&self->look.steps, error);
        return;
    }
    drv_peer_call(self->look.peer, "probe.open", args, probe_answered,
                  drv_look_ticket(&self->look));
}

/* --- the job --- */

static const DrvStep steps[] = {
    {"the destination's daemon cannot be used", step_connect_peer},
    {"the source's QMP socket cannot be used", step_connect_qmp},
    {"nothing can be said of the source's VM", step_describe},
    {"the guest's memory cannot be looked at", step_sample},
    {"QEMU does not measure what the guest writes", step_short},
    {"QEMU does not measure what the guest writes", step_long},
    {"the link cannot be measured", step_probe},
    {NULL, NULL},
};

static JsonObject *
result(DrvLook *look)
{
    Predict *self = (Predict *)look;
    self->measured.threads = CLAMP(g_get_num_processors() / 2, 1, 8);
    return drv_predict_result(&self->measured, look->base.rec->id, look->base.rec->vm);
}

static void
clear(DrvLook *look)
{
    Predict *self = (Predict *)look;
    drv_vm_free(self->vm);
    drv_job_spec_free(self->spec);
    g_free(self->host);
}

static const DrvLookOps ops = {
    .job = DRV_LOOK_JOB("predict"),
    .steps = steps,
    .result = result,
    .drop = drop,
    .clear = clear,
    .lost = lost,
};

DrvJobSpec *
drv_predict_spec(JsonObject *object, GError **error)
{
    if (!json_object_has_member(object, "dest_qmp"))
        json_object_set_string_member(object, "dest_qmp", "/none"); /* is never looked at */
    return drv_job_spec_from_json(object, error);
}

DrvJob *
drv_predict_new(DrvServices *services, const char *id, DrvJobSpec *spec, GError **error)
{
    g_autofree char *host = NULL;
    guint16 port;
    if (!drv_address_parse(spec->to, &host, &port, error)) {
        drv_job_spec_free(spec);
        return NULL;
    }
    Predict *self = g_new0(Predict, 1);
    g_autofree char *text = drv_job_spec_to_text(spec);
    DrvJobRecord *rec = drv_job_record_new(id, DRV_ROLE_SOURCE, text);
    rec->vm = g_strdup(spec->name);
    rec->peer = g_strdup(spec->to);
    self->spec = spec;
    self->measured.spec = spec;
    self->host = g_steal_pointer(&host);
    self->port = port;
    drv_look_init(&self->look, &ops, services, rec);
    return &self->look.base;
}

/* --- what was predicted, for a migration --- */

/* What it was asked for as well: of another link or another promise it would say nothing. */
static gboolean
is_of(const DrvJobSpec *asked, const DrvJobSpec *spec)
{
    return g_str_equal(asked->qmp, spec->qmp) && g_str_equal(asked->to, spec->to) &&
           asked->codec == spec->codec && asked->mode == spec->mode &&
           asked->bandwidth == spec->bandwidth && asked->downtime_ms == spec->downtime_ms;
}

JsonObject *
drv_predict_earlier(GPtrArray *jobs, const DrvJobSpec *spec)
{
    for (guint i = jobs->len; i > 0; i--) {
        DrvJob *job = jobs->pdata[i - 1];
        gint64 age = g_get_real_time() - job->rec->created_us;
        if (job->ops != &ops.job || drv_job_state(job) != DRV_STATE_DONE || age < 0 ||
            age > MAX_AGE_US || !is_of(((Predict *)job)->spec, spec))
            continue;
        g_autoptr(JsonNode) node = json_from_string(job->rec->result, NULL);
        if (node != NULL && JSON_NODE_HOLDS_OBJECT(node))
            return drv_predict_brief(json_node_get_object(node), "before", age / 1000);
    }
    return NULL;
}

/* --- the other end --- */

static void
far_changed(DrvProbe *probe, gpointer data)
{
    g_ptr_array_remove_fast(data, probe);
}

void
drv_predict_accept(DrvServices *services, GPtrArray *ends, DrvPeer *peer, guint64 call,
                   JsonObject *args)
{
    g_autoptr(GError) error = NULL;
    JsonObject *ok = NULL;
    DrvProbe *probe = NULL;
    if (ends->len >= MAX_ENDS)
        error = g_error_new(DRV_ERROR, DRV_ERROR_LIMIT,
                            "%d links to this daemon are being measured already: try again later",
                            MAX_ENDS);
    else
        probe = drv_probe_accept(drv_services_transfer(services), drv_peer_session(peer), args,
                                 far_changed, ends, &ok, &error);
    if (probe == NULL) {
        drv_peer_refuse(peer, call, error);
        return;
    }
    g_ptr_array_add(ends, probe);
    drv_peer_answer(peer, call, ok);
}
