/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest.h"

#include "common/error.h"
#include "engine/job/decide.h"
#include "engine/live/dest-private.h"
#include "engine/job/qemu-identity.h"

/* What the source has decided: COMMIT starts the guest, an abort ends the QEMU that holds it. */

#define AGAIN_S 5

/* --- COMMIT --- */

static void
commit_qmp_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (client == NULL || !drv_qemu_is_remembered(self->base.detail, client, &error)) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    dest_use_qmp(self, g_steal_pointer(&client));
    drv_steps_next(&self->steps);
}

static void
step_commit_connect(gpointer owner)
{
    LiveDest *self = owner;
    if (self->qmp != NULL)
        drv_steps_next(&self->steps);
    else
        dest_connect_qmp(self, commit_qmp_connected, dest_ticket(self));
}

/* Whether the guest may have run here: what an abort must not undo. Kept for a restart by the next
 * move. */
static void
set_may_have_run(LiveDest *self, gboolean may)
{
    self->may_have_run = may;
    json_object_set_boolean_member(self->base.detail, "may_have_run", may);
}

static void
continued(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    /* QEMU's own no is certain; silence is not, nor is a no to a second try. */
    if (g_error_matches(*error, QMP_ERROR, QMP_ERROR_COMMAND))
        set_may_have_run(self, self->ran_before);
    if (reply != NULL)
        self->ran_us = g_get_monotonic_time();
    drv_steps_over(&self->steps, g_steal_pointer(error));
}

/* A run state that a guest which never ran here does not have. */
static gboolean
shows_that_it_ran(const char *status)
{
    static const char *const never_ran[] = {"inmigrate", "paused", "prelaunch", NULL};
    return status != NULL && !g_strv_contains(never_ran, status);
}

static void
run_state_known(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    self->ran = shows_that_it_ran(qmp_get_string(qmp_node_object(reply), "status"));
    drv_steps_next(&self->steps);
}

/* A COMMIT that is carried out once more: the guest may have run since the first time, and have
 * stopped for a reason of its own (it was shut down, its disk failed). */
static void
step_look(gpointer owner)
{
    LiveDest *self = owner;
    self->ran = FALSE;
    if (!self->may_have_run)
        drv_steps_next(&self->steps);
    else
        dest_ask(self, "query-status", NULL, run_state_known);
}

static void
step_continue(gpointer owner)
{
    LiveDest *self = owner;
    if (self->ran || !self->was_running) { /* it was paused at the source, and stays so */
        drv_steps_next(&self->steps);
        return;
    }
    self->ran_before = self->may_have_run;
    set_may_have_run(self, TRUE);
    dest_ask(self, "cont", NULL, continued);
}

static const DrvStep commit_steps[] = {
    {"the destination's QEMU cannot be reached", step_commit_connect},
    {"the destination's QEMU does not say how the guest stands", step_look},
    {"the destination's QEMU does not start the guest", step_continue},
    {NULL, NULL},
};

static gboolean
run_again(gpointer data)
{
    LiveDest *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    dest_clear_source(&self->again);
    dest_run_guest(self);
    return G_SOURCE_REMOVE;
}

/* The journal says COMMITTED, and cannot be told that it did not work: what a restart would do is
 * done without one. */
static void
stay_committed(LiveDest *self)
{
    dest_clear_source(&self->again);
    self->again = g_timeout_source_new_seconds(AGAIN_S);
    g_source_set_callback(self->again, run_again, self, NULL);
    g_source_attach(self->again, g_main_context_get_thread_default());
}

static void
commit_done(gpointer owner, GError *failure)
{
    LiveDest *self = owner;
    g_autoptr(GError) error = failure;
    g_autoptr(GError) why = NULL;
    if (error != NULL) {
        g_clear_error(&self->base.error);
        drv_job_set_error(&self->base, error);
        set_may_have_run(self, self->may_have_run);
        if (drv_job_move(&self->base, DRV_STATE_IN_DOUBT, &why)) {
            dest_tell_news(self);
        } else {
            g_warning("job %s: %s", self->base.rec->id, why->message);
            stay_committed(self);
        }
        drv_calls_refuse(self->calls, DEST_COMMIT, error);
        return;
    }
    drv_job_clear_error(&self->base);
    drv_job_move_anyway(&self->base, DRV_STATE_RUNNING);
    dest_numa_conclude(self);
    dest_answer(self, DEST_COMMIT); /* the source's guest waits for this: the rest can follow */
    dest_finish(self, DRV_STATE_DONE);
}

void
dest_run_guest(LiveDest *self)
{
    g_autoptr(GError) error = NULL;
    DrvJobState state = drv_job_state(&self->base);
    if (drv_steps_running(&self->steps))
        return; /* it is being done */
    /* Whoever finds COMMITTED in the journal cannot know whether 'cont' went out. */
    json_object_set_boolean_member(self->base.detail, "may_have_run", self->was_running);
    if (state != DRV_STATE_COMMITTED && !drv_job_move(&self->base, DRV_STATE_COMMITTED, &error)) {
        drv_calls_refuse(self->calls, DEST_COMMIT, error);
        return;
    }
    dest_clear_source(&self->drop);
    dest_clear_source(&self->again);
    dest_stop_hashing(self); /* for a source that has decided without it */
    drv_steps_start(&self->steps, commit_steps, self, commit_done);
}

void
drv_live_dest_commit(DrvJob *job, DrvPeer *peer, guint64 call)
{
    LiveDest *self = live_dest(job);
    DrvJobState state = drv_job_state(job);
    dest_use_peer(self, peer);
    if (drv_job_test_at(job, "deaf"))
        return;
    DrvAct act = drv_dest_on_commit(state);
    drv_calls_add(self->calls, DEST_COMMIT, peer, call);
    if (act == DRV_ACT_RUN_GUEST) {
        dest_run_guest(self);
    } else if (act == DRV_ACT_ANSWER) {
        dest_answer(self, DEST_COMMIT);
    } else {
        g_autoptr(GError) error =
            g_error_new(DRV_ERROR, DRV_ERROR_STATE, "job %s is '%s' at the destination, not loaded",
                        job->rec->id, drv_state_name(state));
        drv_calls_refuse(self->calls, DEST_COMMIT, error);
    }
}

void
drv_live_dest_abort(DrvJob *job, DrvPeer *peer, guint64 call, gboolean cancelled)
{
    LiveDest *self = live_dest(job);
    DrvJobState state = drv_job_state(job);
    dest_use_peer(self, peer);
    DrvAct act = drv_dest_on_abort(state, self->may_have_run);
    /* Where 'cont' was sent, the guest may have run: that is for a person to judge. */
    if (act == DRV_ACT_REFUSE) {
        g_autoptr(GError) error =
            g_error_new(DRV_ERROR, DRV_ERROR_STATE,
                        "job %s is '%s' at the destination: its guest may have run there",
                        job->rec->id, drv_state_name(state));
        drv_peer_refuse(peer, call, error);
        return;
    }
    drv_calls_add(self->calls, DEST_ABORT, peer, call);
    if (act == DRV_ACT_ANSWER) { /* it is over, and only its record is not written yet */
        dest_answer(self, DEST_ABORT);
        return;
    }
    self->cancelled = cancelled;
    if (state != DRV_STATE_ROLLING_BACK)
        dest_fail(self, g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED,
                                            "the source has given the migration up"));
}
