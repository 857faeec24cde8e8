/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/listener.h"
#include "engine/channel/nbd-handshake.h"
#include "engine/host/disk-data.h"
#include "engine/host/disks.h"
#include "engine/live/dest-private.h"
#include "engine/live/disk-names.h"

#include <glib/gstdio.h>
#include <unistd.h>

/*
 * The destination's half of '--disks mirror': its QEMU serves the disks that the source's writes to
 * over NBD, on a socket in the state directory. The connections to that are made, and greeted,
 * before the source's QEMU makes its own, and joined to those (nbd-handshake.h).
 * When all of them have ended, the server is stopped: only then the guest counts as loaded, so that
 * nobody but the guest writes to its disks when it runs.
 *
 * QEMU has one NBD server, which a user may be running himself: then it is left alone, and the job
 * ends. What the journal knows ("nbd") is taken back by a restarted daemon, too.
 */

/* A QEMU that has just answered over QMP answers over NBD within: */
#define GREET_MS 10000

typedef struct {
    int fd; /* -1: it is a channel's */
    DrvNbdExport export;
} DestLink;

struct _DestDisks {
    GPtrArray *wanted; /* of DrvDisk: the source's */
    GPtrArray *here;   /* of DrvDisk */
    GPtrArray *pairs;  /* ... of these, those that are written to, in the order of 'wanted' */
    GArray *links;     /* of DestLink, in the same order: connections to the exports */
    DrvChannelSet *channels;
    guint at;             /* the disk that is being exported, or looked at */
    gboolean greeting;    /* a connection is in its handshake ... */
    gboolean withdrawing; /* ... and the step at hand waits for the end of that */
    gboolean closing;
    gboolean closed;
};

void
dest_disks_free(DestDisks *disks)
{
    if (disks == NULL)
        return;
    g_clear_pointer(&disks->channels, drv_channel_set_free);
    g_clear_pointer(&disks->links, g_array_unref);
    g_clear_pointer(&disks->pairs, g_ptr_array_unref);
    g_clear_pointer(&disks->here, g_ptr_array_unref);
    g_clear_pointer(&disks->wanted, g_ptr_array_unref);
    g_free(disks);
}

static char *
socket_path(LiveDest *self)
{
    return drv_services_socket_path(self->base.services, self->base.rec->id, DRV_LIVE_DISK_SOCKET);
}

static gboolean
is_serving(LiveDest *self)
{
    return drv_json_flag(self->base.detail, "nbd", FALSE);
}

static gboolean
set_serving(LiveDest *self, gboolean serving, GError **error)
{
    json_object_set_boolean_member(self->base.detail, "nbd", serving);
    return drv_job_save(&self->base, error);
}

/* --- exporting --- */

static void export_next(LiveDest *self);

static void
exported(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    const DrvDisk *disk = self->disks->pairs->pdata[self->disks->at];
    if (reply == NULL) {
        g_prefix_error(error, "disk '%s': ", disk->name);
        drv_steps_fail(&self->steps, g_steal_pointer(error));
        return;
    }
    self->disks->at++;
    export_next(self);
}

static void
export_next(LiveDest *self)
{
    DestDisks *disks = self->disks;
    if (disks->at == disks->pairs->len || self->qmp == NULL) {
        drv_steps_next(&self->steps);
        return;
    }
    const DrvDisk *disk = disks->pairs->pdata[disks->at];
    g_autofree char *id = drv_live_disk_id(self->base.rec->id, disks->at);
    dest_ask(self, "block-export-add",
             qmp_args("type", "s", "nbd", "id", "s", id, "name", "s", id, "node-name", "s",
                      disk->node, "writable", "b", TRUE, NULL),
             exported);
}

static void
server_started(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    if (reply != NULL) {
        export_next(self);
        return;
    }
    /* There may be one that is not ours to stop. */
    if (g_error_matches(*error, QMP_ERROR, QMP_ERROR_COMMAND))
        set_serving(self, FALSE, NULL);
    drv_steps_fail(&self->steps,
                   g_error_new((*error)->domain, (*error)->code,
                               "%s: if it serves NBD for something else, end that with "
                               "'nbd-server-stop'",
                               (*error)->message));
}

static gboolean
keeps_chain(LiveDest *self)
{
    return drv_json_flag(self->asked, "disks_keep_chain", FALSE);
}

static gboolean
pair_disks(LiveDest *self, JsonNode *reply, GError **error)
{
    DestDisks *disks = self->disks;
    disks->here = drv_disks_parse(reply, error);
    if (disks->here != NULL)
        disks->pairs = drv_disks_pair(disks->wanted, disks->here, keeps_chain(self), error);
    return disks->pairs != NULL && set_serving(self, TRUE, error);
}

static void
disks_known(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    if (reply == NULL || !pair_disks(self, reply, error)) {
        drv_steps_fail(&self->steps, g_steal_pointer(error));
        return;
    }
    g_autofree char *path = socket_path(self);
    JsonNode *where =
        qmp_args("type", "s", "unix", "data", "o", qmp_args("path", "s", path, NULL), NULL);
    g_unlink(path);
    /* QEMU from 9.1 on takes 100 connections unless told otherwise: deltas have several a disk. */
    dest_ask(self, "nbd-server-start",
             qmp_args("addr", "o", where, "max-connections", "i", 0, NULL), server_started);
}

void
dest_disks_export(gpointer owner)
{
    LiveDest *self = owner;
    GError *error = NULL;
    JsonArray *asked = drv_json_array(self->asked, "disks");
    GPtrArray *wanted = drv_disks_from_json(asked, &error);
    if (wanted == NULL) {
        drv_steps_fail(&self->steps, error);
        return;
    }
    if (wanted->len == 0) {
        g_ptr_array_unref(wanted);
        drv_steps_next(&self->steps);
        return;
    }
    self->disks = g_new0(DestDisks, 1);
    self->disks->wanted = wanted;
    dest_ask(self, "query-block", NULL, disks_known);
}

/* --- whether they are empty --- */

static void check_next(LiveDest *self);

static void
data_known(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    int holds = drv_disk_data_finish(result, &error);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL)
        return;
    const DrvDisk *disk = self->disks->wanted->pdata[self->disks->at];
    if (holds == 0) {
        self->disks->at++;
        check_next(self);
    } else {
        drv_steps_fail(&self->steps,
                       g_error_new(DRV_ERROR, DRV_ERROR_STATE,
                                   "disk '%s' is not known to be empty there (%s): give it a new "
                                   "image, or say '--disks-overwrite' if nothing in it is needed",
                                   disk->name, holds > 0 ? "it holds data" : error->message));
    }
}

/* Of one that keeps its backing file, the data of that is all that would be seen. */
static void
check_next(LiveDest *self)
{
    DestDisks *disks = self->disks;
    while (disks->at < disks->wanted->len && keeps_chain(self) &&
           ((const DrvDisk *)disks->wanted->pdata[disks->at])->backing)
        disks->at++;
    if (disks->at == disks->wanted->len) {
        drv_steps_next(&self->steps);
        return;
    }
    g_autofree char *path = socket_path(self);
    g_autofree char *id = drv_live_disk_id(self->base.rec->id, disks->at);
    const DrvDisk *disk = disks->wanted->pdata[disks->at];
    drv_disk_data_async(path, id, disk->size, self->steps.cancellable, data_known,
                        dest_ticket(self));
}

void
dest_disks_check(gpointer owner)
{
    LiveDest *self = owner;
    if (self->disks == NULL || drv_json_flag(self->asked, "disks_overwrite", FALSE) ||
        drv_json_flag(self->asked, "disks_delta", FALSE)) {
        drv_steps_next(&self->steps);
        return;
    }
    self->disks->at = 0;
    check_next(self);
}

/* --- connecting to them --- */

static void
clear_link(gpointer data)
{
    DestLink *link = data;
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
}

static void connect_next(LiveDest *self);
static void withdraw(LiveDest *self);

static void
greeted(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    DestLink link;
    GError *error = NULL;
    link.fd = drv_nbd_agree_finish(result, &link.export, &error);
    gboolean wanted = dest_redeem(ticket, &keep) != NULL;
    LiveDest *self = live_dest(keep);
    self->disks->greeting = FALSE;
    if (!wanted) {
        clear_link(&link);
        g_clear_error(&error);
        if (self->disks->withdrawing)
            withdraw(self);
        return;
    }
    if (link.fd < 0) {
        const DrvDisk *disk = self->disks->pairs->pdata[self->disks->links->len];
        g_prefix_error(&error, "disk '%s', its QEMU: ", disk->name);
        drv_steps_fail(&self->steps, error);
        return;
    }
    g_array_append_val(self->disks->links, link);
    connect_next(self);
}

/* The source's QEMU, as its NBD client does from 8.2 on. */
static gboolean
asks_for_extended(const char *version)
{
    char *end;
    guint64 major = g_ascii_strtoull(version, &end, 10);
    guint64 minor = *end == '.' ? g_ascii_strtoull(end + 1, NULL, 10) : 0;
    return major > 8 || (major == 8 && minor >= 2);
}

static void
connect_next(LiveDest *self)
{
    DestDisks *disks = self->disks;
    if (disks->links->len == disks->pairs->len) {
        drv_steps_next(&self->steps);
        return;
    }
    GError *error = NULL;
    g_autofree char *path = socket_path(self);
    g_autofree char *id = drv_live_disk_id(self->base.rec->id, disks->links->len);
    int fd = dest_connect_qemu(path, &error);
    if (fd < 0) {
        drv_steps_fail(&self->steps, error);
        return;
    }
    disks->greeting = TRUE;
    drv_job_test_point(&self->base, "connecting");
    drv_nbd_greet_async(fd, id, GREET_MS, asks_for_extended(self->source_vm->version), greeted,
                        dest_ticket(self));
}

void
dest_disks_connect(gpointer owner)
{
    LiveDest *self = owner;
    if (self->disks == NULL) {
        drv_steps_next(&self->steps);
        return;
    }
    self->disks->links = g_array_new(FALSE, FALSE, sizeof(DestLink));
    g_array_set_clear_func(self->disks->links, clear_link);
    connect_next(self);
}

/* --- the source's connections --- */

static void
server_stopped(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveDest *self = live_dest(job);
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    if (reply == NULL) {
        g_prefix_error(&error, "the destination's QEMU does not stop serving its disks: ");
        dest_fail(self, error);
        return;
    }
    json_object_set_boolean_member(self->base.detail, "nbd", FALSE); /* with the next move */
    if (self->disks != NULL)
        self->disks->closed = TRUE;
    dest_check_loaded(self);
}

static void
channels_changed(DrvChannelSet *set, gpointer data)
{
    LiveDest *self = data;
    DestDisks *disks = self->disks;
    if (disks->closing || self->qmp == NULL || drv_job_state(&self->base) != DRV_STATE_COPYING ||
        !drv_channel_set_finished(set) || drv_channel_set_count(set) != disks->wanted->len)
        return;
    disks->closing = TRUE;
    g_clear_pointer(&self->delta, dest_delta_free); /* it is one of the server's clients */
    qmp_client_execute_async(self->qmp, "nbd-server-stop", NULL, QMP_TIMEOUT_MS, NULL,
                             server_stopped, drv_job_ref(&self->base));
}

JsonArray *
dest_disks_prepared(LiveDest *self)
{
    if (self->disks == NULL)
        return NULL;
    GArray *links = self->disks->links;
    JsonArray *exports = json_array_new();
    for (guint i = 0; i < links->len; i++)
        json_array_add_object_element(
            exports, drv_nbd_export_to_json(&g_array_index(links, DestLink, i).export));
    self->disks->channels =
        drv_channel_set_new(drv_services_transfer(self->base.services), links->len, DRV_CODEC_NONE,
                            DRV_CLASS_CONTROL, NULL, channels_changed, self);
    if (self->delta != NULL) {
        drv_channel_set_use_codec(self->disks->channels, dest_delta_codec, self->delta);
        dest_delta_hash(self);
    }
    return exports;
}

GPtrArray *
dest_disks_wanted(LiveDest *self)
{
    return self->disks != NULL ? self->disks->wanted : NULL;
}

void
drv_live_dest_disk(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args)
{
    LiveDest *self = live_dest(job);
    DestDisks *disks = self->disks;
    g_autoptr(GError) error = NULL;
    JsonObject *ok = NULL;
    guint count =
        disks != NULL && disks->channels != NULL ? drv_channel_set_count(disks->channels) : 0;
    if (drv_job_state(job) != DRV_STATE_COPYING || disks == NULL || disks->channels == NULL ||
        disks->closing || self->peer != peer) {
        error = dest_not_now(self, "takes no disks now");
    } else if (count >= disks->links->len || drv_json_int(args, "index", -1) != count ||
               g_array_index(disks->links, DestLink, count).fd < 0) { /* asked for twice */
        error = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "disk %" G_GINT64_FORMAT " of job %s is out of order",
                            drv_json_int(args, "index", -1), job->rec->id);
    } else {
        DestLink *link = &g_array_index(disks->links, DestLink, count);
        ok = drv_channel_set_accept(disks->channels, peer, link->fd, args, &error);
        link->fd = -1;
    }
    if (ok != NULL) {
        dest_has_begun(self);
        drv_peer_answer(peer, call, ok);
    } else {
        drv_peer_refuse(peer, call, error);
    }
}

gboolean
dest_disks_closed(LiveDest *self)
{
    return self->disks == NULL || self->disks->closed;
}

void
dest_disks_digests(LiveDest *self, JsonObject *args)
{
    if (self->disks != NULL)
        json_object_set_array_member(args, "disk_digests",
                                     drv_channel_set_digests(self->disks->channels));
}

/* --- taking it back --- */

gboolean
dest_disks_served(LiveDest *self)
{
    return is_serving(self);
}

static void
withdrawn(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    if (reply == NULL)
        g_warning("job %s: while rolling back, the destination's QEMU does not stop serving its "
                  "disks: %s",
                  self->base.rec->id, (*error)->message);
    drv_steps_next(&self->steps);
}

static void
withdraw(LiveDest *self)
{
    if (self->disks != NULL)
        self->disks->withdrawing = FALSE;
    if (self->qmp == NULL || self->incoming || !is_serving(self))
        drv_steps_next(&self->steps);
    else
        dest_ask(self, "nbd-server-stop", NULL, withdrawn);
}

/* A QEMU that is going to be ended needs nothing taken back. 7.2 hangs when its server is to stop
 * while a client is in the handshake (docs/qemu-notes.md): the end of ours is awaited. */
void
dest_disks_withdraw(gpointer owner)
{
    LiveDest *self = owner;
    if (self->disks != NULL) {
        g_clear_pointer(&self->disks->channels, drv_channel_set_free);
        g_clear_pointer(&self->disks->links, g_array_unref);
    }
    g_clear_pointer(&self->delta, dest_delta_free);
    if (self->disks != NULL && self->disks->greeting)
        self->disks->withdrawing = TRUE;
    else
        withdraw(self);
}
