/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-disks-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/disks.h"
#include "engine/live/disk-names.h"

/*
 * Removes what '--disks mirror' has put into the source's QEMU: the mirrors, which fail by
 * themselves when their connections end, but not at once; then the nodes that they wrote to. All it
 * needs to know is how many there may be, which is in the journal: a restarted daemon does the
 * same.
 *
 * A mirror that the guest's writes wait for ("write-blocking") must not end while one of them is
 * under way: QEMU does not wait for that write, which at its end writes to what the mirror has
 * freed, and QEMU dies of it (docs/qemu-notes.md). So such a mirror stops at an error instead of
 * ending by itself, and is cancelled while the guest stands still for some milliseconds: to stop it
 * QEMU waits for all that it has begun.
 */

#define POLL_MS 20
#define UNDO_MS 20000

static guint
count(LiveSource *self)
{
    return (guint)CLAMP(drv_json_int(self->base.detail, "mirrors", 0), 0, DRV_DISKS_MAX);
}

/* --- the guest stands still meanwhile --- */

/* A restarted daemon does not know whether it came to that. */
static gboolean
writes_may_wait(LiveSource *self)
{
    if (self->spec->converge != DRV_SPEC_CONVERGE_THROTTLE)
        return FALSE;
    for (guint i = 0; live_disks_any(self) && i < self->disks->mirrors->len; i++)
        if (live_mirror_at(self, i)->judged)
            return TRUE;
    return !live_disks_any(self);
}

static gboolean
is_held(LiveSource *self)
{
    return drv_json_flag(self->base.detail, "held_for_disks", FALSE);
}

/* Known to whoever comes after us before it is so. */
static gboolean
note_held(LiveSource *self, gboolean held)
{
    g_autoptr(GError) error = NULL;
    json_object_set_boolean_member(self->base.detail, "held_for_disks", held);
    if (drv_job_save(&self->base, &error))
        return TRUE;
    g_warning("job %s: %s", self->base.rec->id, error->message);
    return FALSE;
}

static void
let_go_answered(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL)
        live_stranded(self, *error);
    note_held(self, FALSE);
    drv_steps_next(&self->steps);
}

static void
let_go(LiveSource *self)
{
    if (self->qmp != NULL && is_held(self))
        live_ask(self, "cont", NULL, let_go_answered);
    else
        drv_steps_next(&self->steps);
}

/* --- nodes --- */

static void
last_removed(gpointer owner, JsonNode *reply, GError **error)
{
    let_go(owner);
}

/* Most of the time a node that cannot be removed was not there. What is left after all of it is
 * told by the list of nodes, which comes last. */
static void
removed(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
}

static void
remove_nodes(LiveSource *self)
{
    for (guint i = 0; i < count(self); i++) {
        g_autofree char *id = drv_live_disk_id(self->base.rec->id, i);
        gboolean last = i + 1 == count(self);
        JsonNode *args = qmp_args("node-name", "s", id, NULL);
        if (last)
            live_ask(self, "blockdev-del", args, last_removed);
        else
            qmp_client_execute_async(self->qmp, "blockdev-del", args, QMP_TIMEOUT_MS, NULL, removed,
                                     NULL);
    }
}

/* --- mirrors --- */

static void look(LiveSource *self);

static gboolean
look_again(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_clear_source(&self->retry);
    look(self);
    return G_SOURCE_REMOVE;
}

static gboolean
is_ours(LiveSource *self, JsonObject *job)
{
    g_autofree char *prefix = g_strdup_printf("drover-%s-", self->base.rec->id);
    const char *device = qmp_get_string(job, "device");
    return device != NULL && g_str_has_prefix(device, prefix);
}

static gboolean
any_is_ours(LiveSource *self, JsonArray *jobs)
{
    for (guint i = 0; jobs != NULL && i < json_array_get_length(jobs); i++)
        if (is_ours(self, qmp_node_object(json_array_get_element(jobs, i))))
            return TRUE;
    return FALSE;
}

static void
jobs_known(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    gboolean left = any_is_ours(self, qmp_node_array(reply));
    if (self->qmp == NULL) {
        drv_steps_next(&self->steps);
    } else if (left && g_get_monotonic_time() < self->settle_until) {
        live_set_timer(&self->retry, POLL_MS, look_again, self);
    } else {
        if (left)
            g_warning("job %s: a mirror in the source's QEMU does not end: cancel the block jobs "
                      "'drover-%s-N' by hand",
                      self->base.rec->id, self->base.rec->id);
        remove_nodes(self);
    }
}

static void
look(LiveSource *self)
{
    if (self->qmp == NULL)
        drv_steps_next(&self->steps);
    else
        live_ask(self, "query-block-jobs", NULL, jobs_known);
}

static void
cancel_mirrors(LiveSource *self)
{
    for (guint i = 0; i < count(self); i++) {
        g_autofree char *id = drv_live_disk_id(self->base.rec->id, i);
        qmp_client_execute_async(self->qmp, "block-job-cancel",
                                 qmp_args("device", "s", id, "force", "b", TRUE, NULL),
                                 QMP_TIMEOUT_MS, NULL, removed, NULL);
    }
    self->settle_until = g_get_monotonic_time() + (gint64)UNDO_MS * 1000;
    look(self);
}

static void
held(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL)
        g_warning("job %s: the guest cannot be stopped while its mirrors end: %s",
                  self->base.rec->id, (*error)->message);
    if (self->qmp != NULL)
        cancel_mirrors(self);
    else
        drv_steps_next(&self->steps);
}

static void
run_state_known(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    gboolean running = FALSE;
    qmp_get_bool(qmp_node_object(reply), "running", &running);
    if (self->qmp == NULL)
        drv_steps_next(&self->steps);
    else if (running && note_held(self, TRUE))
        live_ask(self, "stop", NULL, held);
    else
        cancel_mirrors(self);
}

void
live_disks_undo(gpointer owner)
{
    LiveSource *self = owner;
    if (self->qmp == NULL || count(self) == 0)
        drv_steps_next(&self->steps);
    else if (writes_may_wait(self))
        live_ask(self, "query-status", NULL, run_state_known);
    else
        cancel_mirrors(self);
}
