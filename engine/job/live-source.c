/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/live-source.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/address.h"
#include "engine/job/live-source-private.h"
#include "engine/job/qemu-identity.h"

#include <glib/gstdio.h>
#include <unistd.h>

/*
 * The source's half of a live migration, and the decision.
 *
 *   prepare   both QEMUs are looked at and set up               live-source-prepare.c
 *   copy      QEMU copies; its connections are channels         live-source-copy.c
 *   decide    QEMU has completed, the destination has loaded, what came out is what went in:
 * COMMITTED is written commit    COMMIT is sent until the destination says that the guest runs;
 * then the source's QEMU quits
 *
 * Whatever goes wrong before COMMITTED rolls back (live-source-rollback.c). After it nothing is
 * undone by guess: an unreachable destination makes the job IN_DOUBT, where it goes on asking,
 * until there is an answer, a person resolves it, or the fence command says that the destination is
 * dead.
 */

#define COMMIT_RETRY_MS 500
#define QUIT_MS 10000

static void start_drop_timer(LiveSource *self);

LiveSource *
live_source(DrvJob *job)
{
    return (LiveSource *)job;
}

static gpointer
ref_job(gpointer owner)
{
    return drv_job_ref(owner);
}

DrvTicket *
live_ticket(LiveSource *self)
{
    return drv_steps_ticket(&self->steps, ref_job);
}

LiveSource *
live_redeem(gpointer ticket, DrvJob **keep)
{
    gpointer owner;
    gboolean good = drv_ticket_redeem(ticket, &owner);
    *keep = owner;
    return good ? live_source(owner) : NULL;
}

static void
executed(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (reply == NULL)
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
    else
        drv_steps_next(&self->steps);
}

void
live_execute(LiveSource *self, const char *command, JsonNode *args)
{
    qmp_client_execute_async(self->qmp, command, args, QMP_TIMEOUT_MS, self->steps.cancellable,
                             executed, live_ticket(self));
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
    start_drop_timer(self);
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
        start_drop_timer(self);
        live_set_timer(&self->retry, COMMIT_RETRY_MS, commit_again, self);
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
        self->digests = digests != NULL ? json_array_ref(digests) : NULL;
        live_check_handover(self);
    } else if (g_str_equal(op, "job.failed")) {
        note_peer_error(self, drv_json_object(args, "error"));
        if (!self->handed_over)
            live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "the destination failed: %s",
                                        self->peer_error != NULL ? self->peer_error
                                                                 : "it does not say why"));
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

/* --- in doubt --- */

static void
fence_ended(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    g_autoptr(GError) error = NULL;
    g_subprocess_wait_finish(G_SUBPROCESS(source), result, NULL);
    gboolean dead = g_subprocess_get_successful(G_SUBPROCESS(source));
    if (drv_job_state(job) != DRV_STATE_IN_DOUBT)
        return;
    g_message("job %s: the fence command %s", job->rec->id,
              dead ? "says that the destination is dead" : "does not say that it is dead");
    if (dead && !job->ops->resolve(job, TRUE, &error))
        g_warning("job %s: %s", job->rec->id, error->message);
}

static void
run_fence(LiveSource *self)
{
    char **command = drv_services_config(self->base.services)->fence_command;
    if (command == NULL)
        return;
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    for (guint i = 0; command[i] != NULL; i++)
        g_ptr_array_add(argv, command[i]);
    g_ptr_array_add(argv, self->spec->to);
    g_ptr_array_add(argv, NULL);
    g_autoptr(GSubprocess) process =
        g_subprocess_newv((const char *const *)argv->pdata, G_SUBPROCESS_FLAGS_NONE, &error);
    if (process == NULL)
        g_warning("job %s: the fence command cannot be run: %s", self->base.rec->id,
                  error->message);
    else
        g_subprocess_wait_async(process, NULL, fence_ended, drv_job_ref(&self->base));
}

static void
go_in_doubt(LiveSource *self, const char *why)
{
    if (drv_job_state(&self->base) != DRV_STATE_COMMITTED)
        return;
    g_autoptr(GError) doubt =
        g_error_new(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                    "the guest was handed over, and whether it runs at %s is not known (%s): it is "
                    "stopped here; see whether it runs there, then 'drover resolve %s --run-on "
                    "dest' or '--run-on source'",
                    self->spec->to, why, self->base.rec->id);
    g_autoptr(GError) error = NULL;
    g_clear_error(&self->base.error);
    drv_job_set_error(&self->base, doubt);
    live_report(self, DRV_STATE_IN_DOUBT);
    if (!drv_job_move(&self->base, DRV_STATE_IN_DOUBT, &error)) {
        g_warning("job %s: %s", self->base.rec->id, error->message);
        return;
    }
    run_fence(self);
}

static gboolean
link_given_up(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_clear_source(&self->drop);
    g_autofree char *why =
        g_strdup_printf("the link was down for %d s", (int)self->spec->drop_timeout_s);
    if (drv_job_state(&self->base) == DRV_STATE_IN_DOUBT)
        run_fence(self); /* once more, after a restart or another cut */
    else if (self->handed_over)
        go_in_doubt(self, why);
    else
        live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                                    "the link to %s was down for %d s, the drop timeout",
                                    self->spec->to, (int)self->spec->drop_timeout_s));
    return G_SOURCE_REMOVE;
}

static void
start_drop_timer(LiveSource *self)
{
    if (self->lost_us == 0)
        self->lost_us = g_get_monotonic_time();
    if (self->drop == NULL && drv_job_state(&self->base) != DRV_STATE_ROLLING_BACK)
        live_set_timer(&self->drop, (guint)self->spec->drop_timeout_s * 1000, link_given_up, self);
}

/* --- the end of all that goes well --- */

static void step_quit_connect(gpointer owner);

static void
quit_qmp_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, NULL);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    /* Without one, QEMU is gone already: all the better. */
    if (client != NULL && drv_qemu_is_remembered(self->base.detail, client, &error))
        self->qmp = g_steal_pointer(&client);
    drv_steps_next(&self->steps);
}

static void
step_quit_connect(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp != NULL || self->spec->keep_source)
        drv_steps_next(&self->steps);
    else
        live_connect_qmp(self, quit_qmp_connected, live_ticket(self));
}

static void
figures_known(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (qmp_node_object(reply) != NULL)
        live_take_figures(self, qmp_node_object(reply));
    drv_steps_next(&self->steps);
}

/* QEMU's last figures, for the report: the polls have missed the last rounds. */
static void
step_last_figures(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL)
        drv_steps_next(&self->steps);
    else
        qmp_client_execute_async(self->qmp, "query-migrate", NULL, QMP_TIMEOUT_MS,
                                 self->steps.cancellable, figures_known, live_ticket(self));
}

static void
source_quit(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (reply == NULL && !g_error_matches(error, QMP_ERROR, QMP_ERROR_CLOSED))
        g_warning("job %s: the source's QEMU, stopped, did not quit: %s: end it by hand",
                  self->base.rec->id, error->message);
    drv_steps_next(&self->steps);
}

static void
step_quit(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || self->spec->keep_source)
        drv_steps_next(&self->steps);
    else
        qmp_client_execute_async(self->qmp, "quit", NULL, QUIT_MS, self->steps.cancellable,
                                 source_quit, live_ticket(self));
}

static const DrvStep leave_steps[] = {
    {"the source's QEMU", step_quit_connect},
    {"the source's QEMU", step_last_figures},
    {"the source's QEMU", step_quit},
    {NULL, NULL},
};

static void
left(gpointer owner, GError *error)
{
    g_clear_error(&error);
    live_finish(owner, DRV_STATE_DONE);
}

static void
leave(LiveSource *self)
{
    drv_steps_start(&self->steps, leave_steps, self, left);
}

static void
on_running(LiveSource *self, JsonObject *ok)
{
    if (self->stopped_us > 0 && self->was_running)
        self->downtime_us = g_get_monotonic_time() - self->stopped_us;
    self->cpu_dest = drv_json_number(ok, "cpu_s", 0);
    live_clear_source(&self->drop);
    drv_job_clear_error(&self->base);
    /* It runs there, and the journal says COMMITTED at least: a restart hears the same answer. */
    drv_job_move_anyway(&self->base, DRV_STATE_RUNNING);
    leave(self);
}

/* Back from the decision, which must be on the disk first: a restart would send COMMIT again. */
/* A COMMIT that waits in the session for the link to come back must not be delivered then. */
static void
recall_commit(LiveSource *self)
{
    if (self->peer == NULL || drv_peer_is_connected(self->peer))
        return;
    g_autoptr(GError) why = g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                                        "the session with %s was given up when job %s was resolved",
                                        self->spec->to, self->base.rec->id);
    drv_session_fail(drv_peer_session(self->peer), why);
    live_drop_peer(self);
}

static gboolean
take_back(LiveSource *self, const GError *why, GError **error)
{
    g_autoptr(GError) before = g_steal_pointer(&self->base.error);
    drv_job_set_error(&self->base, why);
    if ((drv_job_state(&self->base) == DRV_STATE_COMMITTED &&
         !drv_job_pass(&self->base, DRV_STATE_IN_DOUBT, error)) ||
        !drv_job_move(&self->base, DRV_STATE_ROLLING_BACK, error)) {
        g_clear_error(&self->base.error);
        self->base.error = g_steal_pointer(&before);
        return FALSE;
    }
    self->handed_over = FALSE;
    recall_commit(self);
    live_roll_back(self);
    return TRUE;
}

/* The destination has given the guest up for good: that is as good as a fence. */
static void
aborted_after_refusal(DrvPeer *peer, JsonObject *ok, const GError *refused, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    const char *state = drv_json_string(ok, "state", "");
    g_autoptr(GError) error = NULL;
    if (drv_job_state(job) != DRV_STATE_COMMITTED && drv_job_state(job) != DRV_STATE_IN_DOUBT)
        return;
    if (g_str_equal(state, "failed") || g_str_equal(state, "cancelled")) {
        g_autoptr(GError) why =
            g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "the destination could not run the guest: %s",
                        self->peer_error != NULL ? self->peer_error : "it does not say why");
        if (!take_back(self, why, &error)) {
            g_warning("job %s: %s", job->rec->id, error->message);
            go_in_doubt(self, error->message);
        }
    } else if (g_str_equal(state, "running") || g_str_equal(state, "done")) {
        on_running(self, ok);
    } else if (self->peer == peer && !drv_peer_is_dead(peer)) {
        go_in_doubt(self, self->peer_error);
    }
}

/* It says that it cannot run the guest. That alone decides nothing: only when it has given the
 * guest up, and no COMMIT can move it any more, the guest may go on here. */
static void
ask_to_abort(LiveSource *self, const GError *refusal)
{
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", self->base.rec->id);
    g_free(self->peer_error);
    self->peer_error = g_strdup(refusal->message);
    drv_peer_call(self->peer, "job.abort", args, aborted_after_refusal, drv_job_ref(&self->base));
}

static void
committed(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    DrvJobState state = drv_job_state(job);
    if (state != DRV_STATE_COMMITTED && state != DRV_STATE_IN_DOUBT)
        return;
    if (ok != NULL) {
        on_running(self, ok);
    } else if (self->peer == peer && !drv_peer_is_dead(peer)) {
        ask_to_abort(self, error);
    } /* else the session died, and peer_dead() tries again */
}

void
live_commit(LiveSource *self)
{
    JsonObject *args = json_object_new();
    live_use_peer(self);
    json_object_set_string_member(args, "job", self->base.rec->id);
    drv_peer_call(self->peer, "job.commit", args, committed, drv_job_ref(&self->base));
}

void
live_check_handover(LiveSource *self)
{
    GError *error = NULL;
    DrvJobState state = drv_job_state(&self->base);
    if ((state != DRV_STATE_COPYING && state != DRV_STATE_SWITCHOVER) || !self->completed ||
        !self->loaded)
        return;
    if (self->spec->verify == DRV_SPEC_VERIFY_STREAM) {
        if (!drv_channel_set_finished(self->channels))
            return;
        if (!drv_channel_set_compare(self->channels, self->digests, &error)) {
            live_fail(self, error);
            return;
        }
    }
    live_clear_source(&self->finish);
    live_clear_source(&self->timeout);
    live_stop_polling(self);
    if ((state == DRV_STATE_COPYING && !drv_job_move(&self->base, DRV_STATE_SWITCHOVER, &error)) ||
        !drv_job_move(&self->base, DRV_STATE_LOADED, &error) ||
        !drv_job_move(&self->base, DRV_STATE_COMMITTED, &error)) {
        live_fail(self, error);
        return;
    }
    self->handed_over = TRUE;
    live_commit(self);
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
                              "the migration was not done within %d s: the guest writes faster "
                              "than the link carries, or --timeout is too short",
                              (int)self->spec->timeout_s));
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
    DrvJobState state = drv_job_state(job);
    gint64 since = MAX(g_get_real_time() - job->rec->created_us, 0);
    self->begin_us = g_get_monotonic_time() - since;
    self->cpu_before = drv_process_cpu_seconds();
    self->was_running = drv_json_flag(job->detail, "was_running", FALSE);
    self->touched = json_object_has_member(job->detail, "capabilities");
    self->migrating = drv_json_flag(job->detail, "migrating", FALSE);
    self->prepared = TRUE;
    if (state == DRV_STATE_QUEUED) {
        live_start(job);
    } else if (state == DRV_STATE_RUNNING) {
        self->handed_over = TRUE;
        leave(self);
    } else if (state == DRV_STATE_COMMITTED || state == DRV_STATE_IN_DOUBT) {
        self->handed_over = TRUE;
        self->completed = self->loaded = TRUE;
        start_drop_timer(self);
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
    return take_back(self, why, error);
}

static void
give_back(LiveSource *self)
{
    drv_steps_drop(&self->steps);
    GSource **timers[] = {&self->poll, &self->drop, &self->timeout, &self->retry, &self->finish};
    for (guint i = 0; i < G_N_ELEMENTS(timers); i++)
        live_clear_source(timers[i]);
    g_clear_pointer(&self->listener, drv_listener_free);
    g_clear_pointer(&self->channels, drv_channel_set_free);
    while (self->connections.length > 0)
        close(GPOINTER_TO_INT(g_queue_pop_head(&self->connections)));
    live_drop_qmp(self);
    live_drop_peer(self);
}

void
live_finish(LiveSource *self, DrvJobState state)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    g_autofree char *path =
        drv_services_socket_path(self->base.services, self->base.rec->id, "out");
    live_report(self, state);
    /* QEMU's socket and the peer are free before anybody hears that the job is over. */
    give_back(self);
    g_unlink(path); /* left by a daemon that was killed */
    drv_job_end(&self->base, state);
}

static void
live_free(DrvJob *job)
{
    LiveSource *self = live_source(job);
    give_back(self);
    g_clear_pointer(&self->digests, json_array_unref);
    drv_vm_free(self->vm);
    drv_shaper_unref(self->shaper);
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

gboolean
drv_live_available(const DrvJobSpec *spec, GError **error)
{
    const char *what = spec->mode == DRV_SPEC_MODE_DIRECT       ? "--mode direct"
                       : spec->verify == DRV_SPEC_VERIFY_MEMORY ? "--verify memory"
                       : spec->disks == DRV_SPEC_DISKS_MIRROR   ? "--disks mirror"
                                                                : NULL;
    if (what != NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "%s is not in this version of drover", what);
    return what == NULL;
}

DrvJob *
drv_live_source_new(DrvServices *services, DrvJobRecord *rec, GError **error)
{
    g_autoptr(DrvJobRecord) owned = rec;
    DrvJobSpec *spec = drv_job_spec_parse(rec->spec, error);
    if (spec == NULL)
        return NULL;
    LiveSource *self = g_new0(LiveSource, 1);
    self->spec = spec;
    drv_address_parse(spec->to, &self->host, &self->port, NULL);
    if (owned->vm == NULL)
        owned->vm = g_strdup(spec->name);
    if (owned->peer == NULL)
        owned->peer = g_strdup(spec->to);
    drv_job_init(&self->base, &live_ops, services, g_steal_pointer(&owned), TRUE);
    return &self->base;
}
