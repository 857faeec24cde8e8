/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/view-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/job/qemu-identity.h"

#include <glib/gstdio.h>
#include <unistd.h>

/*
 * Takes a view out of a guest's QEMU again, by what is in the journal alone: the daemon that made
 * it may be gone, and may have come anywhere near as far. So every step is tried, most refusals
 * mean that there is nothing to be done, and what QEMU says in the end of its nodes is what counts.
 *
 * The one step that could do harm is to give the device its disk back: had somebody put another
 * node there in the meantime (a snapshot, say), what the guest has written since would be lost. It
 * is done only where our filter is what the device has.
 */

static void
done(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (reply == NULL)
        g_debug("taking a disk's view back: %s", (*error)->message);
    drv_steps_next(&self->steps);
}

/* 'args' is taken. */
static void
ask(DrvDiskView *self, const char *command, JsonNode *args, DrvAnswered answered)
{
    if (self->qmp != NULL) {
        view_ask(self, command, args, answered);
        return;
    }
    g_clear_pointer(&args, json_node_unref);
    drv_steps_next(&self->steps); /* QEMU has ended, and all of it with it */
}

/* --- reaching QEMU --- */

static void step_connect(gpointer owner);

/* QEMU cannot be asked. */
static void
may_have(DrvDiskView *self, const GError *why)
{
    g_free(self->left);
    if (self->bitmap_only)
        self->left = g_strdup_printf("the guest's QEMU may still have the bitmap '%s' of disk '%s' "
                                     "(%s): remove it with block-dirty-bitmap-remove",
                                     self->spec->bitmap, self->spec->disk, why->message);
    else
        self->left = g_strdup_printf(
            "the guest's QEMU may still have the view of disk '%s' (%s): give its device "
            "the disk back with qom-set, and remove the nodes '%s', '%s', '%s' and '%s'",
            self->spec->disk, why->message, self->node, self->access, self->filter, self->scratch);
}

static void
connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvDiskView) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    DrvDiskView *self = view_redeem(ticket, &keep);
    if (self == NULL || view_wait_busy(self, error, step_connect))
        return;
    if (client != NULL && drv_qemu_is_remembered(self->job->detail, client, NULL))
        view_use_qmp(self, g_steal_pointer(&client));
    /* One that does not listen, or is another, has nothing of ours. */
    if (error != NULL && !g_error_matches(error, QMP_ERROR, QMP_ERROR_NOT_FOUND) &&
        !g_error_matches(error, QMP_ERROR, QMP_ERROR_REFUSED))
        may_have(self, error);
    drv_steps_next(&self->steps);
}

static void
step_connect(gpointer owner)
{
    DrvDiskView *self = owner;
    if (self->qmp != NULL)
        drv_steps_next(&self->steps);
    else
        qmp_client_connect_async(self->spec->qmp, VIEW_CONNECT_MS, self->steps.cancellable,
                                 connected, view_ticket(self));
}

/* --- one thing after the other --- */

/* The next one that QEMU has is another's. */
static void
server_stopped(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (reply != NULL || g_error_matches(*error, QMP_ERROR, QMP_ERROR_COMMAND)) {
        json_object_set_boolean_member(view_record(self), "server", FALSE);
        drv_job_save(self->job, NULL);
    }
    drv_steps_next(&self->steps);
}

static void
step_server(gpointer owner)
{
    DrvDiskView *self = owner;
    if (drv_json_flag(view_record(self), "server", FALSE))
        ask(self, "nbd-server-stop", NULL, server_stopped);
    else
        drv_steps_next(&self->steps);
}

static void
remove_node(DrvDiskView *self, const char *name)
{
    ask(self, "blockdev-del", qmp_args("node-name", "s", name, NULL), done);
}

static void
step_front(gpointer owner)
{
    DrvDiskView *self = owner;
    remove_node(self, self->node);
}

static void
step_access(gpointer owner)
{
    DrvDiskView *self = owner;
    remove_node(self, self->access);
}

static void
step_empty(gpointer owner)
{
    DrvDiskView *self = owner;
    remove_node(self, self->empty);
}

static gboolean
has_filter(DrvDiskView *self, JsonNode *blocks)
{
    const char *qdev = drv_json_string(view_record(self), "qdev", "");
    JsonArray *all = qmp_node_array(blocks);
    for (guint i = 0; all != NULL && i < json_array_get_length(all); i++) {
        JsonObject *block = qmp_node_object(json_array_get_element(all, i));
        const char *node = qmp_get_string(qmp_get_object(block, "inserted"), "node-name");
        if (g_strcmp0(qmp_get_string(block, "qdev"), qdev) == 0)
            return g_strcmp0(node, self->filter) == 0;
    }
    return FALSE;
}

/* NULL: there is no such node. */
static JsonObject *
find_node(JsonArray *nodes, const char *key, gint64 id, const char *name)
{
    for (guint i = 0; nodes != NULL && i < json_array_get_length(nodes); i++) {
        JsonObject *node = qmp_node_object(json_array_get_element(nodes, i));
        gint64 number;
        if (name != NULL ? g_strcmp0(qmp_get_string(node, key), name) == 0
                         : qmp_get_int(node, key, &number) && number == id)
            return node;
    }
    return NULL;
}

/* The node that the filter is above; NULL: not known. */
static const char *
below_filter(DrvDiskView *self, JsonObject *graph)
{
    JsonArray *nodes = qmp_get_array(graph, "nodes");
    JsonArray *edges = qmp_get_array(graph, "edges");
    gint64 filter, parent, child;
    JsonObject *found = find_node(nodes, "name", 0, self->filter);
    if (found == NULL || !qmp_get_int(found, "id", &filter))
        return NULL;
    for (guint i = 0; edges != NULL && i < json_array_get_length(edges); i++) {
        JsonObject *edge = qmp_node_object(json_array_get_element(edges, i));
        if (qmp_get_int(edge, "parent", &parent) && parent == filter &&
            g_strcmp0(qmp_get_string(edge, "name"), "file") == 0 &&
            qmp_get_int(edge, "child", &child))
            return qmp_get_string(find_node(nodes, "id", child, NULL), "name");
    }
    return NULL;
}

/* Who takes a snapshot of the node by its name (libvirt does) has put an overlay between it and the
 * filter: that is what the guest writes to now. A QEMU that does not tell its nodes gets the disk
 * as it was; it refuses that where the disk has an overlay. */
static void
graph_known(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    JsonObject *view = view_record(self);
    const char *disk = drv_json_string(view, "node", "");
    const char *below = below_filter(self, qmp_node_object(reply));
    self->overlaid = below != NULL && !g_str_equal(below, disk);
    ask(self, "qom-set",
        qmp_args("path", "s", drv_json_string(view, "qdev", ""), "property", "s", "drive", "value",
                 "s", below != NULL ? below : disk, NULL),
        done);
}

static void
disks_known(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (has_filter(self, reply))
        ask(self, "x-debug-query-block-graph", NULL, graph_known);
    else
        drv_steps_next(&self->steps);
}

static void
step_restore(gpointer owner)
{
    ask(owner, "query-block", NULL, disks_known);
}

static void
step_filter(gpointer owner)
{
    DrvDiskView *self = owner;
    remove_node(self, self->filter);
}

static void
step_scratch(gpointer owner)
{
    DrvDiskView *self = owner;
    remove_node(self, self->scratch);
}

static gboolean
is_scratch(DrvDiskView *self, JsonObject *set)
{
    JsonArray *fds = qmp_get_array(set, "fds");
    for (guint i = 0; fds != NULL && i < json_array_get_length(fds); i++)
        if (g_strcmp0(qmp_get_string(qmp_node_object(json_array_get_element(fds, i)), "opaque"),
                      self->scratch) == 0)
            return TRUE;
    return FALSE;
}

static void
files_known(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    JsonArray *sets = qmp_node_array(reply);
    for (guint i = 0; sets != NULL && i < json_array_get_length(sets); i++) {
        JsonObject *set = qmp_node_object(json_array_get_element(sets, i));
        gint64 id;
        if (is_scratch(self, set) && qmp_get_int(set, "fdset-id", &id)) {
            ask(self, "remove-fd", qmp_args("fdset-id", "x", id, NULL), done);
            return;
        }
    }
    drv_steps_next(&self->steps);
}

/* It was handed over, and whoever did that came no further. */
static void
step_file(gpointer owner)
{
    ask(owner, "query-fdsets", NULL, files_known);
}

static void
step_bitmap(gpointer owner)
{
    DrvDiskView *self = owner;
    JsonObject *view = view_record(self);
    if (self->keep_bitmap || !drv_json_flag(view, "bitmap", FALSE))
        drv_steps_next(&self->steps);
    else
        ask(self, "block-dirty-bitmap-remove",
            qmp_args("node", "s", drv_json_string(view, "node", ""), "name", "s",
                     self->spec->bitmap, NULL),
            done);
}

static void
nodes_known(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (reply == NULL && self->qmp != NULL)
        may_have(self, *error);
    JsonArray *nodes = qmp_node_array(reply);
    for (guint i = 0; nodes != NULL && i < json_array_get_length(nodes); i++) {
        const char *name =
            qmp_get_string(qmp_node_object(json_array_get_element(nodes, i)), "node-name");
        if (self->left == NULL &&
            (g_strcmp0(name, self->node) == 0 || g_strcmp0(name, self->filter) == 0))
            self->left = g_strdup_printf("the node '%s' cannot be removed from the guest's QEMU, "
                                         "as somebody else has put it to use: remove it "
                                         "with blockdev-del when that is over",
                                         name);
    }
    drv_steps_next(&self->steps);
}

static void
step_check(gpointer owner)
{
    ask(owner, "query-named-block-nodes", qmp_args("flat", "b", TRUE, NULL), nodes_known);
}

static const DrvStep undo_steps[] = {
    {"connect", step_connect},
    {"stop serving", step_server},
    {"remove what was served", step_front},
    {"remove the empty disk", step_empty},
    {"remove the view", step_access},
    {"give the disk back", step_restore},
    {"remove the filter", step_filter},
    {"remove the scratch file", step_scratch},
    {"take the scratch file back", step_file},
    {"remove the bitmap", step_bitmap},
    {"look what is left", step_check},
    {NULL, NULL},
};

/* The bitmap is one of the image below the overlay: by it what the guest writes now would be left
 * out. */
static void
doubt_bitmap(DrvDiskView *self)
{
    if (self->left == NULL && self->overlaid && self->keep_bitmap && self->spec->bitmap != NULL)
        self->left = g_strdup_printf("a snapshot of disk '%s' was taken meanwhile, and the bitmap "
                                     "'%s' knows nothing of what is written since: copy all of the "
                                     "disk the next time, too",
                                     self->spec->disk, self->spec->bitmap);
}

static void
undone(gpointer owner, GError *error)
{
    DrvDiskView *self = owner;
    g_clear_error(&error); /* no step fails */
    view_drop_qmp(self);
    g_unlink(self->socket);
    /* Had QEMU not closed it yet, it is to take no room. */
    if (self->scratch_fd >= 0 && self->left == NULL && ftruncate(self->scratch_fd, 0) != 0)
        g_debug("the scratch file cannot be emptied");
    doubt_bitmap(self);
    if (self->left != NULL)
        g_warning("job %s: %s", self->job->rec->id, self->left);
    self->undoing = FALSE;
    self->ops->undone(self->job, self->left);
}

static gboolean
begin(gpointer data)
{
    DrvDiskView *self = data;
    g_autoptr(DrvDiskView) keep = g_rc_box_acquire(self);
    self->retry = 0;
    g_clear_pointer(&self->left, g_free);
    self->bitmap_only =
        self->spec->bitmap != NULL && !drv_json_flag(view_record(self), "server", TRUE);
    if (view_record(self) != NULL)
        drv_steps_start(&self->steps, undo_steps, self, undone);
    else
        undone(self, NULL);
    return G_SOURCE_REMOVE;
}

/* QEMU 7.2 that is told to stop its NBD server while somebody connects waits for that connection,
 * and serves it no more, nor its guest. So it is told when all of ours are there, or given up. And
 * they hang up first: a QEMU that waits for its readers could not hear us. */
void
view_undo_when_free(DrvDiskView *view)
{
    if (!view->undoing || view->greeting || view->job == NULL)
        return;
    if (view->store != NULL)
        drv_store_export_break(view->store);
    view->retry = g_idle_add(begin, view);
}

void
drv_disk_view_undo(DrvDiskView *view, gboolean keep_bitmap)
{
    if (view->undoing)
        return;
    view->undoing = TRUE;
    view->keep_bitmap = keep_bitmap;
    view_may_be_busy(view);
    g_clear_handle_id(&view->retry, g_source_remove);
    drv_steps_drop(&view->steps);
    view_stop_watch(view);
    view_undo_when_free(view);
}
