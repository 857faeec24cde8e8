/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/address.h"
#include "engine/job/decide.h"
#include "engine/live/disk-names.h"
#include "engine/live/source-private.h"

#include <glib/gstdio.h>
#include <unistd.h>

/*
 * The source's half of a live migration: its life, and its link to the destination.
 *
 *   prepare   both QEMUs are looked at and set up               source-prepare.c
 *   copy      QEMU copies; its connections are channels         source-copy.c
 *   verify    what is there is what was here                    source-verify.c
 *   decide    COMMITTED is written, and COMMIT sent until the
 *             guest runs there; then the source's QEMU quits    source-commit.c
 *
 * Whatever goes wrong before COMMITTED rolls back (source-rollback.c).
 */

#define COMMIT_RETRY_MS 500

LiveSource *
live_source(DrvJob *job)
{
    return (LiveSource *)job;
}

DrvTicket *
live_ticket(LiveSource *self)
{
    return drv_job_ticket(&self->steps);
}

LiveSource *
live_redeem(gpointer ticket, DrvJob **keep)
{
    return drv_job_redeem(ticket, keep);
}

void
live_ask(LiveSource *self, const char *command, JsonNode *args, DrvAnswered answered)
{
    drv_job_ask(&self->steps, self->qmp, command, args, QMP_TIMEOUT_MS, answered);
}

void
live_clear_source(GSource **source)
{
    if (*source != NULL) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

void
live_set_timer(GSource **source, guint ms, GSourceFunc func, gpointer data)
{
    live_clear_source(source);
    *source = g_timeout_source_new(ms);
    g_source_set_callback(*source, func, data, NULL);
    g_source_attach(*source, g_main_context_get_thread_default());
}

void
live_fail(LiveSource *self, GError *error)
{
    g_autoptr(GError) owned = error;
    DrvJobState state = drv_job_state(&self->base);
    if (drv_state_is_final(state))
        return;
    if (self->handed_over) {
        g_message("job %s: after the decision: %s", self->base.rec->id, owned->message);
        return;
    }
    drv_job_set_error(&self->base, owned);
    if (state != DRV_STATE_ROLLING_BACK)
        live_roll_back(self);
}

/* --- the destination --- */

static void
peer_connected(DrvPeer *peer, gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    self->lost_us = 0;
    live_clear_source(&self->drop);
    /* What waits for the connection: the preparation's step, or the commit. */
    if (drv_job_state(&self->base) == DRV_STATE_PREPARING && !self->prepared)
        drv_steps_next(&self->steps);
    else if (self->handed_over && self->retry == NULL)
        live_commit(self);
    drv_job_changed(&self->base);
}

static void
peer_lost(DrvPeer *peer, const GError *why, gpointer data)
{
    LiveSource *self = data;
    g_message("job %s: the link to %s is down: %s", self->base.rec->id, self->spec->to,
              why->message);
    live_start_drop_timer(self);
    drv_job_changed(&self->base);
}

static gboolean
commit_again(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_clear_source(&self->retry);
    live_use_peer(self);
    live_commit(self);
    return G_SOURCE_REMOVE;
}

void
live_commit_later(LiveSource *self, guint ms)
{
    live_set_timer(&self->retry, ms, commit_again, self);
}

static void
peer_dead(DrvPeer *peer, const GError *why, gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    DrvSessionStats stats;
    drv_session_get_stats(drv_peer_session(peer), &stats);
    self->reconnects_before += stats.reconnects;
    live_drop_peer(self);
    if (self->handed_over) {
        live_start_drop_timer(self);
        live_commit_later(self, COMMIT_RETRY_MS);
    } else if (drv_steps_running(&self->steps) &&
               drv_job_state(&self->base) == DRV_STATE_PREPARING) {
        drv_steps_fail(&self->steps, g_error_copy(why));
    } else if (drv_job_state(&self->base) != DRV_STATE_ROLLING_BACK) {
        live_fail(self, g_error_new(why->domain, why->code, "the destination's daemon is lost: %s",
                                    why->message));
    }
}

static void
note_peer_error(LiveSource *self, JsonObject *error)
{
    const char *message = drv_json_string(error, "message", NULL);
    if (message != NULL && self->peer_error == NULL)
        self->peer_error = g_strdup(message);
}

static void
peer_tells(DrvPeer *peer, const char *op, JsonObject *args, gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (!g_str_equal(drv_json_string(args, "job", ""), self->base.rec->id))
        return;
    if (g_str_equal(op, "job.loaded") && !self->loaded) {
        JsonArray *digests = drv_json_array(args, "digests");
        self->loaded = TRUE;
        self->loaded_us = g_get_monotonic_time();
        self->digests = digests != NULL ? json_array_ref(digests) : NULL;
        digests = drv_json_array(args, "disk_digests");
        self->disk_digests = digests != NULL ? json_array_ref(digests) : NULL;
        live_check_handover(self);
    } else if (g_str_equal(op, "job.news")) {
        if (drv_source_on_news(drv_job_state(&self->base)) == DRV_ACT_COMMIT)
            live_commit(self);
    } else if (g_str_equal(op, "job.failed")) {
        note_peer_error(self, drv_json_object(args, "error"));
        live_peer_failed(self);
    }
}

static const DrvPeerOps peer_ops = {
    .tell = peer_tells,
    .connected = peer_connected,
    .lost = peer_lost,
    .dead = peer_dead,
};

void
live_use_peer(LiveSource *self)
{
    if (self->peer != NULL)
        return;
    self->peer = drv_peers_get(drv_services_peers(self->base.services), self->host, self->port,
                               (guint)self->spec->lanes);
    drv_peer_listen(self->peer, &peer_ops, self);
}

void
live_drop_peer(LiveSource *self)
{
    if (self->peer == NULL)
        return;
    DrvPeer *peer = g_steal_pointer(&self->peer);
    drv_peer_unlisten(peer, self);
    drv_peers_put(drv_services_peers(self->base.services), peer);
}

/* --- life --- */

static gboolean
out_of_time(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_clear_source(&self->timeout);
    /* From the switchover on, finishing is faster than going back. */
    if (drv_job_state(&self->base) <= DRV_STATE_COPYING)
        live_fail(self,
                  g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                              "the migration was not done within %d s: %s",
                              (int)self->spec->timeout_s,
                              live_doubt(self) != NULL
                                  ? live_doubt(self)
                                  : "the guest writes faster than the link carries, or --timeout "
                                    "is too short"));
    return G_SOURCE_REMOVE;
}

static void
live_start(DrvJob *job)
{
    LiveSource *self = live_source(job);
    if (self->spec->timeout_s > 0)
        live_set_timer(&self->timeout, (guint)self->spec->timeout_s * 1000, out_of_time, self);
    live_prepare(self);
}

static void
live_resume(DrvJob *job)
{
    LiveSource *self = live_source(job);
    DrvAct act = drv_source_on_restart(drv_job_state(job));
    gint64 since = MAX(g_get_real_time() - job->rec->created_us, 0);
    self->begin_us = g_get_monotonic_time() - since;
    self->cpu_before = drv_process_cpu_seconds();
    self->was_running = drv_json_flag(job->detail, "was_running", FALSE);
    self->touched = json_object_has_member(job->detail, "capabilities");
    self->migrating = drv_json_flag(job->detail, "migrating", FALSE);
    self->prepared = TRUE;
    self->downtime_us = MAX(drv_json_int(job->detail, "downtime_us", 0), 0);
    gint64 stopped_at = drv_json_int(job->detail, "stopped_at_us", 0);
    if (stopped_at > 0)
        self->stopped_us = g_get_monotonic_time() - MAX(g_get_real_time() - stopped_at, 0);
    if (act == DRV_ACT_START) {
        live_start(job);
    } else if (act == DRV_ACT_LEAVE) {
        self->handed_over = TRUE;
        live_leave(self);
    } else if (act == DRV_ACT_COMMIT) {
        self->handed_over = TRUE;
        self->completed = self->loaded = TRUE;
        live_start_drop_timer(self);
        live_commit(self);
    } else {
        g_autoptr(GError) error = g_error_new_literal(
            DRV_ERROR, DRV_ERROR_STATE,
            "the source's droverd was restarted in the middle of the migration");
        drv_job_set_error(job, error);
        live_roll_back(self);
    }
}

static gboolean
live_cancel(DrvJob *job, GError **error)
{
    LiveSource *self = live_source(job);
    DrvJobState state = drv_job_state(job);
    if (self->handed_over || drv_state_is_final(state)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "job %s is '%s': it is too late to cancel it", job->rec->id,
                    drv_state_name(state));
        return FALSE;
    }
    self->cancelling = TRUE;
    if (state != DRV_STATE_ROLLING_BACK)
        live_fail(self, g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED,
                                            "cancelled: the VM stays at the source"));
    return TRUE;
}

static gboolean
live_resolve(DrvJob *job, gboolean run_on_source, GError **error)
{
    LiveSource *self = live_source(job);
    if (drv_job_state(job) != DRV_STATE_IN_DOUBT) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "job %s is '%s', not in doubt: there is nothing to resolve", job->rec->id,
                    drv_state_name(drv_job_state(job)));
        return FALSE;
    }
    if (!run_on_source) {
        /* Nobody has confirmed it: the source's QEMU is left there, stopped. */
        drv_job_clear_error(job);
        live_finish(self, DRV_STATE_DONE);
        return TRUE;
    }
    g_autoptr(GError) why = g_error_new_literal(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                                                "resolved: the VM runs on at the source");
    return live_take_back(self, why, error);
}

static void
give_back(LiveSource *self)
{
    drv_steps_drop(&self->steps);
    live_stop_verify(self);
    GSource **timers[] = {&self->poll, &self->drop, &self->timeout, &self->retry, &self->finish};
    for (guint i = 0; i < G_N_ELEMENTS(timers); i++)
        live_clear_source(timers[i]);
    live_disks_hang_up(self);
    g_clear_pointer(&self->listener, drv_listener_free);
    g_clear_pointer(&self->channels, drv_channel_set_free);
    live_offers_close(&self->offers);
    live_drop_qmp(self);
    live_drop_peer(self);
    drv_services_keep_off(self->base.services, self, NULL);
}

void
live_finish(LiveSource *self, DrvJobState state)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    g_autofree char *path =
        drv_services_socket_path(self->base.services, self->base.rec->id, "out");
    g_autofree char *disks =
        drv_services_socket_path(self->base.services, self->base.rec->id, DRV_LIVE_DISK_SOCKET);
    live_report(self, state);
    /* QEMU's socket and the peer are free before anybody hears that the job is over. */
    give_back(self);
    g_unlink(path); /* left by a daemon that was killed */
    g_unlink(disks);
    drv_job_end(&self->base, state);
    if (self->base.rec->abort_due)
        drv_aborts_add(drv_services_aborts(self->base.services), self->base.rec);
}

static void
live_free(DrvJob *job)
{
    LiveSource *self = live_source(job);
    give_back(self);
    g_clear_pointer(&self->digests, json_array_unref);
    g_clear_pointer(&self->disk_digests, json_array_unref);
    g_clear_pointer(&self->disks, live_disks_free);
    g_clear_pointer(&self->dest_numa, json_object_unref);
    live_verify_free(self->verify);
    drv_vm_free(self->vm);
    drv_shaper_unref(self->shaper);
    drv_ram_sender_unref(self->sender);
    live_converge_clear(&self->converge);
    g_free(self->relay_reason);
    g_clear_pointer(&self->left_to_qemu, json_array_unref);
    drv_job_spec_free(self->spec);
    g_free(self->peer_error);
    g_free(self->stranded);
    g_free(self->host);
    g_free(self);
}

static const DrvJobOps live_ops = {
    .kind = "migrate",
    .start = live_start,
    .resume = live_resume,
    .cancel = live_cancel,
    .resolve = live_resolve,
    .progress = live_progress,
    .free = live_free,
};

DrvJob *
drv_live_source_new(DrvServices *services, DrvJobRecord *rec, GError **error)
{
    g_autoptr(DrvJobRecord) owned = rec;
    DrvJobSpec *spec = drv_job_spec_parse(rec->spec, error);
    if (spec == NULL)
        return NULL;
    LiveSource *self = g_new0(LiveSource, 1);
    self->spec = spec;
    self->near = -1;
    self->offers = (LiveOffers){"job.channel", "a channel", .channels = &self->channels};
    drv_address_parse(spec->to, &self->host, &self->port, NULL);
    if (owned->vm == NULL)
        owned->vm = g_strdup(spec->name);
    if (owned->peer == NULL)
        owned->peer = g_strdup(spec->to);
    drv_job_init(&self->base, &live_ops, services, g_steal_pointer(&owned), TRUE);
    return &self->base;
}
