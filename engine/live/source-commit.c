/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/job/decide.h"
#include "engine/job/qemu-identity.h"

/*
 * The decision, and what follows from it. QEMU has completed, the destination has loaded, what came
 * out is what went in: COMMITTED is written, COMMIT is sent until the destination says that the
 * guest runs, and the source's QEMU quits.
 *
 * From COMMITTED on nothing is undone by guess: an unreachable destination makes the job IN_DOUBT,
 * where it goes on asking, until there is an answer, a person resolves it, or the fence command
 * says that the destination is dead.
 */

#define QUIT_MS 10000
#define ASK_AGAIN_MS 5000

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
        /* Still COMMITTED: somebody must go on asking, and be able to give up. */
        live_commit_later(self, ASK_AGAIN_MS);
        if (self->lost_us != 0)
            live_start_drop_timer(self);
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
    DrvAct act = drv_source_on_silence(drv_job_state(&self->base));
    if (act == DRV_ACT_FENCE)
        run_fence(self);
    else if (act == DRV_ACT_DOUBT)
        go_in_doubt(self, why);
    else if (act == DRV_ACT_ROLL_BACK)
        live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                                    "the link to %s was down for %d s, the drop timeout",
                                    self->spec->to, (int)self->spec->drop_timeout_s));
    return G_SOURCE_REMOVE;
}

void
live_start_drop_timer(LiveSource *self)
{
    if (self->lost_us == 0)
        self->lost_us = g_get_monotonic_time();
    if (self->drop == NULL && drv_job_state(&self->base) != DRV_STATE_ROLLING_BACK)
        live_set_timer(&self->drop, (guint)self->spec->drop_timeout_s * 1000, link_given_up, self);
}

/* --- the end of all that goes well --- */

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
figures_known(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
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
        live_ask(self, "query-migrate", NULL, figures_known);
}

static void
unlimited(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL)
        g_warning("job %s: the source's QEMU keeps the guest's dirty limit: %s", self->base.rec->id,
                  (*error)->message);
    drv_steps_next(&self->steps);
}

/* A source that is kept is kept for being started again, and not slowed down then. */
static void
step_unlimit(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || !drv_json_flag(self->base.detail, "dirty_limit", FALSE))
        drv_steps_next(&self->steps);
    else
        live_ask(self, "cancel-vcpu-dirty-limit", NULL, unlimited);
}

static void
source_quit(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL && !g_error_matches(*error, QMP_ERROR, QMP_ERROR_CLOSED))
        g_warning("job %s: the source's QEMU, stopped, did not quit: %s: end it by hand",
                  self->base.rec->id, (*error)->message);
    drv_steps_next(&self->steps);
}

static void
step_quit(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || self->spec->keep_source)
        drv_steps_next(&self->steps);
    else
        drv_job_ask(&self->steps, self->qmp, "quit", NULL, QUIT_MS, source_quit);
}

static const DrvStep leave_steps[] = {
    {"the source's QEMU", step_quit_connect},
    {"the source's QEMU", step_last_figures},
    {"the source's QEMU", step_unlimit},
    {"the source's QEMU", step_quit},
    {NULL, NULL},
};

static void
left(gpointer owner, GError *error)
{
    g_clear_error(&error);
    live_finish(owner, DRV_STATE_DONE);
}

void
live_leave(LiveSource *self)
{
    drv_steps_start(&self->steps, leave_steps, self, left);
}

static void
on_running(LiveSource *self, JsonObject *ok)
{
    live_measure_downtime(self, drv_json_int(ok, "running_ms", 0));
    self->cpu_dest = drv_json_number(ok, "cpu_s", 0);
    if (self->dest_numa == NULL && drv_json_object(ok, "numa") != NULL)
        self->dest_numa = json_object_ref(drv_json_object(ok, "numa"));
    live_clear_source(&self->drop);
    live_clear_source(&self->finish);
    drv_job_clear_error(&self->base);
    /* It runs there, and the journal says COMMITTED at least: a restart hears the same answer. */
    drv_job_move_anyway(&self->base, DRV_STATE_RUNNING);
    live_leave(self);
}

/* --- COMMIT --- */

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

/* The way back must be on the disk first: a restart would send COMMIT again. */
gboolean
live_take_back(LiveSource *self, const GError *why, GError **error)
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

static DrvHeard
heard(LiveSource *self, DrvPeer *peer, JsonObject *ok)
{
    if (ok != NULL)
        return DRV_HEARD_OK;
    return self->peer == peer && !drv_peer_is_dead(peer) ? DRV_HEARD_REFUSAL : DRV_HEARD_NOTHING;
}

/* The destination has given the guest up for good: that is as good as a fence. */
static void
give_up_there(LiveSource *self)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) why =
        g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "the destination could not run the guest: %s",
                    self->peer_error != NULL ? self->peer_error : "it does not say why");
    if (!live_take_back(self, why, &error)) {
        g_warning("job %s: %s", self->base.rec->id, error->message);
        go_in_doubt(self, error->message);
    }
}

static void
aborted_after_refusal(DrvPeer *peer, JsonObject *ok, const GError *refused, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    DrvJobState there = DRV_STATE_LAST;
    drv_state_parse(drv_json_string(ok, "state", NULL), &there);
    DrvAct act = drv_source_on_abort_reply(drv_job_state(job), heard(self, peer, ok), there);
    if (act == DRV_ACT_TAKE_BACK)
        give_up_there(self);
    else if (act == DRV_ACT_LEAVE)
        on_running(self, ok);
    else if (act == DRV_ACT_DOUBT)
        go_in_doubt(self, self->peer_error);
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
    DrvAct act = drv_source_on_commit_reply(drv_job_state(job), heard(self, peer, ok));
    if (act == DRV_ACT_LEAVE)
        on_running(self, ok);
    else if (act == DRV_ACT_ASK_ABORT)
        ask_to_abort(self, error);
    /* when the session has died, peer_dead() tries again */
}

/* The link is there, and nobody answers: a daemon that hangs, or lies. */
static gboolean
answer_overdue(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_clear_source(&self->finish);
    if (self->lost_us != 0) /* the drop timeout has the say; COMMIT is sent again after it */
        return G_SOURCE_REMOVE;
    if (drv_source_on_silence(drv_job_state(&self->base)) == DRV_ACT_DOUBT)
        go_in_doubt(self, "its daemon does not answer");
    return G_SOURCE_REMOVE;
}

void
live_commit(LiveSource *self)
{
    JsonObject *args = json_object_new();
    live_use_peer(self);
    json_object_set_string_member(args, "job", self->base.rec->id);
    drv_peer_call(self->peer, "job.commit", args, committed, drv_job_ref(&self->base));
    /* One that is well answers as soon as its QEMU has. */
    live_set_timer(&self->finish, (guint)self->spec->drop_timeout_s * 1000 + QMP_TIMEOUT_MS,
                   answer_overdue, self);
}

/* --- the decision --- */

/* For the report, should it be another daemon that writes it: that has another monotonic clock. */
static void
note_stop_time(LiveSource *self)
{
    if (self->stopped_us > 0)
        json_object_set_int_member(self->base.detail, "stopped_at_us",
                                   g_get_real_time() - (g_get_monotonic_time() - self->stopped_us));
}

void
live_check_handover(LiveSource *self)
{
    GError *error = NULL;
    DrvJobState state = drv_job_state(&self->base);
    if (!drv_source_may_commit(state, self->completed, self->loaded, TRUE))
        return;
    if (!live_verified(self))
        return;
    state = drv_job_state(&self->base);
    live_clear_source(&self->finish);
    live_clear_source(&self->timeout);
    live_stop_polling(self);
    note_stop_time(self);
    if ((state == DRV_STATE_COPYING && !drv_job_move(&self->base, DRV_STATE_SWITCHOVER, &error)) ||
        !drv_job_move(&self->base, DRV_STATE_LOADED, &error) ||
        !drv_job_move(&self->base, DRV_STATE_COMMITTED, &error)) {
        live_fail(self, error);
        return;
    }
    self->handed_over = TRUE;
    live_commit(self);
}
