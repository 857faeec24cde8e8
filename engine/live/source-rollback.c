/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/job/qemu-identity.h"
#include "engine/job/settings.h"

#include <unistd.h>

/*
 * Taking everything back, the guest first: QEMU's migration is ended, the guest goes on if it ran
 * before, QEMU's settings are put back, and the destination is told to drop its half. The
 * destination may not run the guest without COMMIT, so the guest need not wait for its answer.
 *
 * Every step may be done twice, and none stops the others: what fails is noted, and the rest is
 * still tried.
 */

#define SETTLE_POLL_MS 20
#define SETTLE_MS 30000
#define ABORT_MS 3000

static void
note(LiveSource *self, const char *what, const GError *error)
{
    g_warning("job %s: while rolling back, %s: %s", self->base.rec->id, what, error->message);
}

/* --- QEMU --- */

static void
qmp_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (client != NULL && drv_qemu_is_remembered(self->base.detail, client, &error)) {
        live_use_qmp(self, g_steal_pointer(&client));
    } else {
        note(self, "the source's QEMU cannot be reached", error);
        g_free(self->stranded);
        self->stranded = g_strdup(error->message);
    }
    drv_steps_next(&self->steps);
}

static void
step_connect(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp != NULL || !self->touched) /* it was never set up: nothing to take back */
        drv_steps_next(&self->steps);
    else
        live_connect_qmp(self, qmp_connected, live_ticket(self));
}

/* A command whose failure is noted and passed over. */
static void
tried(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL)
        note(self, "QEMU refused", *error);
    drv_steps_next(&self->steps);
}

static void
try(LiveSource *self, const char *command, JsonNode *args)
{
    live_ask(self, command, args, tried);
}

static void
step_cancel(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || !self->migrating)
        drv_steps_next(&self->steps);
    else
        try(self, "migrate_cancel", NULL);
}

/* QEMU has its connections to us closed before it is waited for: one of its threads may stand in a
 * call on one of them that cancelling does not wake. */
static void
step_hang_up(gpointer owner)
{
    LiveSource *self = owner;
    g_clear_pointer(&self->listener, drv_listener_free);
    g_clear_pointer(&self->channels, drv_channel_set_free);
    live_offers_close(&self->offers);
    drv_steps_next(&self->steps);
}

static void ask_settled(LiveSource *self);

static gboolean
ask_settled_again(gpointer data)
{
    LiveSource *self = data;
    live_clear_source(&self->retry);
    ask_settled(self);
    return G_SOURCE_REMOVE;
}

static void
settled_known(gpointer owner, JsonNode *reply, GError **error)
{
    static const char *const settled[] = {"none", "completed", "failed", "cancelled", NULL};
    LiveSource *self = owner;
    const char *status = qmp_get_string(qmp_node_object(reply), "status");
    if (reply == NULL)
        note(self, "QEMU does not say how its migration stands", *error);
    if (reply == NULL || status == NULL || g_strv_contains(settled, status) ||
        g_get_monotonic_time() > self->settle_until)
        drv_steps_next(&self->steps);
    else
        live_set_timer(&self->retry, SETTLE_POLL_MS, ask_settled_again, self);
}

static void
ask_settled(LiveSource *self)
{
    if (self->qmp == NULL) { /* closed while we waited */
        drv_steps_next(&self->steps);
        return;
    }
    live_ask(self, "query-migrate", NULL, settled_known);
}

static void
step_settle(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || !self->migrating) {
        drv_steps_next(&self->steps);
        return;
    }
    self->settle_until = g_get_monotonic_time() + (gint64)SETTLE_MS * 1000;
    ask_settled(self);
}

void
live_stranded(LiveSource *self, const GError *error)
{
    g_free(self->stranded);
    self->stranded = g_strdup_printf("QEMU does not resume the guest: %s", error->message);
}

static void
resumed(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL) {
        note(self, "the guest cannot be resumed", *error);
        live_stranded(self, *error);
    }
    drv_steps_next(&self->steps);
}

static void
run_state_known(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    gboolean running = FALSE;
    qmp_get_bool(qmp_node_object(reply), "running", &running);
    if (running || !self->was_running || self->qmp == NULL)
        drv_steps_next(&self->steps);
    else
        live_ask(self, "cont", NULL, resumed);
}

static void
step_resume(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || !self->migrating)
        drv_steps_next(&self->steps);
    else
        live_ask(self, "query-status", NULL, run_state_known);
}

/* The guest is to be as fast as it was. */
static void
step_unlimit(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || !drv_json_flag(self->base.detail, "dirty_limit", FALSE))
        drv_steps_next(&self->steps);
    else
        try(self, "cancel-vcpu-dirty-limit", NULL);
}

/* Puts back what was saved under 'what', with what makes a command's arguments of it. */
static void
restore(LiveSource *self, const char *what, JsonNode *(*make)(JsonNode *), const char *command)
{
    JsonNode *saved = json_object_get_member(self->base.detail, what);
    JsonNode *args = self->qmp != NULL && self->touched && saved != NULL ? make(saved) : NULL;
    if (args == NULL)
        drv_steps_next(&self->steps);
    else
        try(self, command, args);
}

static void
step_restore_capabilities(gpointer owner)
{
    restore(owner, "capabilities", drv_settings_restore_capabilities, "migrate-set-capabilities");
}

static void
step_restore_parameters(gpointer owner)
{
    restore(owner, "parameters", drv_settings_restore_parameters, "migrate-set-parameters");
}

/* --- the destination --- */

static void
abort_settled(LiveSource *self)
{
    live_clear_source(&self->retry);
    drv_steps_next(&self->steps);
}

static void
aborted(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    JsonObject *why = drv_json_object(ok, "error");
    const char *words = drv_json_string(why, "message", NULL);
    /* That we have given it up is no news. */
    gboolean echo = g_str_equal(drv_json_string(why, "class", ""), "cancelled");
    if (words != NULL && !echo && self->peer_error == NULL)
        self->peer_error = g_strdup(words);
    /* A refusal is an answer; that the session ended is none. */
    if (ok == NULL && drv_peer_is_dead(peer))
        self->base.rec->abort_due = TRUE;
    abort_settled(self);
}

static gboolean
abort_overdue(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    self->base.rec->abort_due = TRUE;
    abort_settled(self);
    return G_SOURCE_REMOVE;
}

static void
step_abort(gpointer owner)
{
    LiveSource *self = owner;
    if (!self->prepared) {
        drv_steps_next(&self->steps);
    } else if (self->peer == NULL || !drv_peer_is_connected(self->peer)) {
        self->base.rec->abort_due = TRUE;
        drv_steps_next(&self->steps);
    } else {
        JsonObject *args = json_object_new();
        json_object_set_string_member(args, "job", self->base.rec->id);
        json_object_set_boolean_member(args, "cancelled", self->cancelling);
        live_set_timer(&self->retry, ABORT_MS, abort_overdue, self);
        drv_peer_call(self->peer, "job.abort", args, aborted, live_ticket(self));
    }
}

static const DrvStep rollback_steps[] = {
    {"connect", step_connect},
    {"cancel", step_cancel},
    {"hang up", step_hang_up},
    {"settle", step_settle},
    {"resume", step_resume},
    {"lift the dirty limit", step_unlimit},
    {"disks", live_disks_undo},
    {"restore capabilities", step_restore_capabilities},
    {"restore parameters", step_restore_parameters},
    {"abort", step_abort},
    {NULL, NULL},
};

/* The destination's words say more than QEMU's "migration failed" at the source; and if the guest
 * could not be taken back, that is what must be read first. */
static void
complete_error(LiveSource *self)
{
    GError *first = self->base.error;
    g_autoptr(GString) text = g_string_new(NULL);
    if (self->stranded != NULL)
        g_string_append_printf(
            text, "the guest may be stopped at the source and needs a look (%s); ", self->stranded);
    g_string_append(text, first->message);
    if (self->peer_error != NULL && strstr(first->message, self->peer_error) == NULL &&
        g_error_matches(first, DRV_ERROR, DRV_ERROR_QEMU))
        g_string_append_printf(text, "; the destination says: %s", self->peer_error);
    GError *complete = g_error_new_literal(first->domain, first->code, text->str);
    g_error_free(first);
    self->base.error = complete;
}

static void
rolled_back(gpointer owner, GError *error)
{
    LiveSource *self = owner;
    g_clear_error(&error);
    complete_error(self);
    gboolean cancelled = g_error_matches(self->base.error, DRV_ERROR, DRV_ERROR_CANCELLED);
    live_finish(self, cancelled ? DRV_STATE_CANCELLED : DRV_STATE_FAILED);
}

void
live_roll_back(LiveSource *self)
{
    live_stop_polling(self);
    live_stop_verify(self);
    live_clear_source(&self->drop);
    live_clear_source(&self->timeout);
    live_clear_source(&self->finish);
    live_clear_source(&self->retry);
    /* Before QEMU is asked for anything: its main loop may be waiting for a disk of ours. */
    live_disks_hang_up(self);
    /* Until COMMITTED a restart would roll back, too: the guest does not wait for the disk. */
    if (drv_job_state(&self->base) != DRV_STATE_ROLLING_BACK)
        drv_job_move_anyway(&self->base, DRV_STATE_ROLLING_BACK);
    drv_steps_start(&self->steps, rollback_steps, self, rolled_back);
}
