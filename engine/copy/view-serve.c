/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/view-private.h"

#include "common/error.h"
#include "common/json.h"

#include <glib/gstdio.h>

/*
 * The NBD server of a view, and our connections to it, which are there before there is anything to
 * read.
 *
 * When a guest resets its disk (its firmware does, so does a reboot), QEMU waits, with its main
 * loop, until all that is under way on that disk has ended; its NBD server takes no requests of its
 * clients meanwhile. But one that connects in that very time is not told: that it waits for a
 * request counts as something that is under way, and QEMU waits for ever, its guest with it
 * (nbd_drained_begin() and nbd_drained_poll() in nbd/server.c of 7.2 to 10.0). So nobody may
 * connect to what is above a guest's disk.
 *
 * What is served is therefore a node of its own, the front, which is above an empty one at first.
 * When all connections are made to it, it is put above the view of the disk (blockdev-reopen).
 *
 *       NBD server <- we                NBD server <- we
 *           |                               |
 *         front ("raw")      becomes      front
 *           |                               |
 *         empty ("null-co")               access ("snapshot-access"), and so on
 *
 * And whatever makes QEMU wait for its readers: as long as they are there it is asked now and then
 * whether it still answers. If it does not they hang up, which is what lets it go on.
 */
#define GREET_S 10
#define WATCH_S 2
#define SILENT_S 10

/* Refused: then it is not ours to take back. After anything else nobody knows. */
void
view_not_ours(DrvDiskView *view, const char *what, const GError *error)
{
    if (!g_error_matches(error, QMP_ERROR, QMP_ERROR_COMMAND))
        return;
    json_object_set_boolean_member(view_record(view), what, FALSE);
    drv_job_save(view->job, NULL);
}

static void
server_started(gpointer owner, JsonNode *reply, GError **error)
{
    DrvDiskView *self = owner;
    if (reply == NULL) {
        const GError *why = *error;
        view_not_ours(self, "server", why);
        drv_steps_fail(
            &self->steps,
            g_error_new(why->domain, why->code,
                        "%s: QEMU has one NBD server, so if it serves something else already,"
                        " end that with 'nbd-server-stop'",
                        why->message));
    } else {
        drv_steps_next(&self->steps);
    }
}

void
view_step_server(gpointer owner)
{
    DrvDiskView *self = owner;
    JsonNode *where =
        qmp_args("type", "s", "unix", "data", "o", qmp_args("path", "s", self->socket, NULL), NULL);
    g_unlink(self->socket);
    view_ask(self, "nbd-server-start", qmp_args("addr", "o", where, NULL), server_started);
}

/* --- the front --- */

void
view_step_empty(gpointer owner)
{
    DrvDiskView *self = owner;
    view_ask(self, "blockdev-add",
             qmp_args("driver", "s", "null-co", "node-name", "s", self->empty, "size", "x",
                      (gint64)self->size, "read-zeroes", "b", TRUE, "read-only", "b", TRUE, NULL),
             NULL);
}

static JsonNode *
front_above(const DrvDiskView *self, const char *below)
{
    return qmp_args("driver", "s", "raw", "node-name", "s", self->node, "file", "s", below,
                    "read-only", "b", TRUE, NULL);
}

void
view_step_front(gpointer owner)
{
    DrvDiskView *self = owner;
    view_ask(self, "blockdev-add", front_above(self, self->empty), NULL);
}

void
view_step_export(gpointer owner)
{
    DrvDiskView *self = owner;
    view_ask(self, "block-export-add",
             qmp_args("type", "s", "nbd", "id", "s", self->node, "name", "s", self->node,
                      "node-name", "s", self->node, NULL),
             NULL);
}

void
view_step_switch(gpointer owner)
{
    DrvDiskView *self = owner;
    JsonNode *fronts = qmp_list(front_above(self, self->access), NULL);
    view_ask(self, "blockdev-reopen", qmp_args("options", "o", fronts, NULL), NULL);
}

void
view_step_no_empty(gpointer owner)
{
    DrvDiskView *self = owner;
    view_ask(self, "blockdev-del", qmp_args("node-name", "s", self->empty, NULL), NULL);
}

/* --- the connections --- */

/* What the thread gets: it is not to hold the view. */
typedef struct {
    DrvStore *store;
    char *name;
} Greeting;

static void
greeting_free(gpointer data)
{
    Greeting *greeting = data;
    g_free(greeting->name);
    g_free(greeting);
}

static void
greet(GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
    const Greeting *greeting = data;
    GError *error = NULL;
    if (drv_store_export_greet(greeting->store, greeting->name, &error))
        g_task_return_boolean(task, TRUE);
    else
        g_task_return_error(task, error);
}

static gboolean
too_late(gpointer data)
{
    DrvDiskView *self = data;
    self->patience = 0;
    drv_store_export_break(self->store);
    return G_SOURCE_REMOVE;
}

static void
greeted(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvDiskView) self = NULL;
    GError *error = NULL;
    gboolean at_hand = view_redeem(ticket, &self) != NULL;
    gboolean late = self->patience == 0;
    g_task_propagate_boolean(G_TASK(result), &error);
    g_clear_handle_id(&self->patience, g_source_remove);
    self->greeting = FALSE;
    if (error != NULL && late) {
        g_error_free(error);
        error = g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                            "the NBD server of the guest's QEMU has not answered for %d s: see "
                            "whether the guest runs, and start the copy again",
                            GREET_S);
    }
    if (at_hand) {
        drv_steps_over(&self->steps, error);
    } else {
        g_clear_error(&error);
        view_undo_when_free(self);
    }
}

void
view_step_connect_readers(gpointer owner)
{
    DrvDiskView *self = owner;
    GError *error = NULL;
    self->store = drv_store_export(self->socket, self->spec->disk, self->users, &error);
    if (self->store == NULL) {
        drv_steps_fail(&self->steps, error);
        return;
    }
    if (self->plain)
        drv_store_export_plain(self->store);
    self->greeting = TRUE;
    self->patience = g_timeout_add_seconds(GREET_S, too_late, self);
    Greeting *greeting = g_new(Greeting, 1);
    *greeting = (Greeting){self->store, g_strdup(self->node)};
    g_autoptr(GTask) task = g_task_new(NULL, NULL, greeted, view_ticket(self));
    g_task_set_task_data(task, greeting, greeting_free);
    g_task_run_in_thread(task, greet);
}

/* --- whether QEMU lives --- */

static void
lives(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvDiskView) self = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    self->asked = FALSE;
    if (self->watch == 0 || !g_error_matches(error, QMP_ERROR, QMP_ERROR_TIMEOUT))
        return;
    view_stop_watch(self);
    view_give_up(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU,
                                   "the guest's QEMU has not answered for %d s while its disk '%s' "
                                   "was read, so it is left alone: see whether the guest runs, and "
                                   "start the copy again",
                                   SILENT_S, self->spec->disk));
}

static gboolean
watch(gpointer data)
{
    DrvDiskView *self = data;
    if (self->asked || self->qmp == NULL)
        return G_SOURCE_CONTINUE;
    self->asked = TRUE;
    qmp_client_execute_async(self->qmp, "query-status", NULL, SILENT_S * 1000, NULL, lives,
                             g_rc_box_acquire(self));
    return G_SOURCE_CONTINUE;
}

void
view_start_watch(DrvDiskView *view)
{
    view->watch = g_timeout_add_seconds(WATCH_S, watch, view);
}

void
view_stop_watch(DrvDiskView *view)
{
    g_clear_handle_id(&view->watch, g_source_remove);
}
