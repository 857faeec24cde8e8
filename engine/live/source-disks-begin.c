/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-disks-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/live/disk-names.h"

#include <unistd.h>

/*
 * How the mirrors begin: first a node for each disk, with its connection and its channel, then the
 * mirrors.
 *
 * QEMU's main loop, and with it the guest, stands while its NBD client is in the handshake, so that
 * is done here. And a newer QEMU (10.0) waits, several times over, for all that is on its way when
 * a mirror begins, that of the mirrors before it included: until it has arrived, and has been
 * answered. So nothing is. A mirror begins when all channels are open, and pauses; when it says
 * that it has, all that it had sent was answered, and the next one begins. With the last one they
 * go on.
 */

/* QEMU is about to do just that: */
#define GREET_MS 10000

/* --- QEMU's connections --- */

/* Whether all nodes are there, and joined to the destination's disks. */
void
live_disks_opened(LiveSource *self)
{
    LiveDisks *disks = self->disks;
    if (!disks->connecting || disks->at < disks->mirrors->len || disks->offers.offering ||
        drv_channel_set_count(disks->channels) < disks->mirrors->len)
        return;
    disks->connecting = FALSE;
    drv_steps_next(&self->steps);
}

static void greet_next(LiveSource *self);

static void
greeted(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    LiveDisks *disks = self->disks;
    GError *error = NULL;
    int fd = drv_nbd_agree_finish(result, NULL, &error);
    disks->greeting = FALSE;
    if (disks->channels == NULL) { /* hung up */
        g_clear_error(&error);
        if (fd >= 0)
            close(fd);
    } else if (fd < 0) {
        g_prefix_error(&error, "disk '%s', the source's QEMU: ",
                       live_mirror_at(self, disks->greeted)->disk->name);
        live_fail(self, error);
    } else {
        disks->greeted++;
        live_offer(self, &disks->offers, fd);
        greet_next(self);
    }
}

/* Without the destination: QEMU's main loop waits for this, and so does the guest for its devices,
 * however long the link is, and whether or not it is up. Nodes are added one after the other, so
 * this is the connection of the one of that number. */
static void
greet_next(LiveSource *self)
{
    LiveDisks *disks = self->disks;
    if (disks->greeting || disks->arrived.length == 0)
        return;
    int fd = GPOINTER_TO_INT(g_queue_pop_head(&disks->arrived));
    const LiveMirror *mirror = live_mirror_at(self, disks->greeted);
    disks->greeting = TRUE;
    drv_nbd_welcome_async(fd, mirror->id, GREET_MS, &mirror->export, greeted,
                          drv_job_ref(&self->base));
}

static void
on_connection(int fd, gpointer data)
{
    LiveSource *self = data;
    LiveDisks *disks = self->disks;
    guint taken = disks->greeted + disks->greeting + disks->arrived.length;
    if (self->peer == NULL || taken >= disks->mirrors->len) {
        g_warning("job %s: one connection too many on its disks' socket was closed",
                  self->base.rec->id);
        close(fd);
        return;
    }
    g_queue_push_tail(&disks->arrived, GINT_TO_POINTER(fd));
    greet_next(self);
}

static void
channels_changed(DrvChannelSet *set, gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (drv_channel_set_error(set) != NULL && !self->handed_over)
        live_fail(self, g_error_copy(drv_channel_set_error(set)));
    else
        live_check_handover(self);
}

/* --- beginning --- */

static DrvChannelCodec *
make_codec(guint index, gpointer data)
{
    LiveSource *self = data;
    DrvDeltaKnown *known = live_mirror_at(self, index)->known;
    return known != NULL ? drv_delta_send_new(known, self->disks->tally)
                         : drv_codec_nbd_new(self->disks->tally);
}

void
live_disks_listen(gpointer owner)
{
    LiveSource *self = owner;
    GError *error = NULL;
    if (!live_disks_any(self)) {
        drv_steps_next(&self->steps);
        return;
    }
    LiveDisks *disks = self->disks;
    g_autofree char *path =
        drv_services_socket_path(self->base.services, self->base.rec->id, DRV_LIVE_DISK_SOCKET);
    disks->class = DRV_CLASS_BULK;
    disks->channels = drv_channel_set_new(drv_services_transfer(self->base.services),
                                          disks->mirrors->len, live_frame_codec(self), disks->class,
                                          self->shaper, channels_changed, self);
    drv_channel_set_use_codec(disks->channels, make_codec, self);
    disks->listener = drv_listener_new(path, on_connection, self, &error);
    /* What a restart has to remove must be known before it is there. */
    json_object_set_int_member(self->base.detail, "mirrors", disks->mirrors->len);
    if (disks->listener == NULL || !drv_job_move(&self->base, DRV_STATE_COPYING, &error))
        drv_steps_fail(&self->steps, error);
    else
        drv_steps_next(&self->steps);
}

/* --- nodes --- */

static void add_node(LiveSource *self);

/* Takes the error. */
static void
cannot_mirror(LiveSource *self, GError *error)
{
    g_prefix_error(&error, "disk '%s': ", live_mirror_at(self, self->disks->at)->disk->name);
    drv_steps_fail(&self->steps, error);
}

static void
node_added(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL)
        cannot_mirror(self, g_steal_pointer(error));
    else if (++self->disks->at < self->disks->mirrors->len)
        add_node(self);
    else
        live_disks_opened(self);
}

/* QEMU itself finds blocks of zeroes in what the guest writes ("detect-zeroes") and sends them as
 * such; with "discard" it may leave holes where they are. But then it would begin with clearing all
 * of the target, and what that holds is of use in a delta: image/delta-writer.c. */
static void
add_node(LiveSource *self)
{
    const LiveMirror *mirror = live_mirror_at(self, self->disks->at);
    g_autofree char *path =
        drv_services_socket_path(self->base.services, self->base.rec->id, DRV_LIVE_DISK_SOCKET);
    JsonNode *args =
        qmp_args("driver", "s", "nbd", "node-name", "s", mirror->id, "export", "s", mirror->id,
                 "discard", "s", mirror->known != NULL ? "ignore" : "unmap", "detect-zeroes", "s",
                 mirror->known != NULL ? "on" : "unmap", "server", "o",
                 qmp_args("type", "s", "unix", "path", "s", path, NULL), NULL);
    live_ask(self, "blockdev-add", args, node_added);
}

void
live_disks_connect(gpointer owner)
{
    LiveSource *self = owner;
    if (!live_disks_any(self)) {
        drv_steps_next(&self->steps);
        return;
    }
    self->disks->at = 0;
    self->disks->connecting = TRUE;
    add_node(self);
}

/* --- mirrors --- */

static void begin_mirror(LiveSource *self);

/* One that has ended tells why by itself. */
static void
resumed(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
}

static void
all_begun(LiveSource *self)
{
    for (guint i = 0; i + 1 < self->disks->mirrors->len; i++)
        qmp_client_execute_async(self->qmp, "block-job-resume",
                                 qmp_args("device", "s", live_mirror_at(self, i)->id, NULL),
                                 QMP_TIMEOUT_MS, NULL, resumed, NULL);
    drv_steps_next(&self->steps);
}

/* "standby" is one that is level. */
void
live_mirror_status(LiveSource *self, const LiveMirror *mirror, const char *status)
{
    LiveDisks *disks = self->disks;
    if (!disks->pausing || mirror != live_mirror_at(self, disks->at) ||
        (g_strcmp0(status, "paused") != 0 && g_strcmp0(status, "standby") != 0))
        return;
    disks->pausing = FALSE;
    disks->at++;
    begin_mirror(self);
}

static void
mirror_told(gpointer owner, JsonNode *reply, GError **error)
{
    if (reply == NULL)
        cannot_mirror(owner, g_steal_pointer(error));
}

static void
mirror_begun(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (reply == NULL) {
        cannot_mirror(self, g_steal_pointer(error));
        return;
    }
    LiveDisks *disks = self->disks;
    if (disks->at == 0)
        live_disks_watch(self);
    if (disks->at + 1 == disks->mirrors->len) {
        all_begun(self);
        return;
    }
    disks->pausing = TRUE;
    live_ask(self, "block-job-pause",
             qmp_args("device", "s", live_mirror_at(self, disks->at)->id, NULL), mirror_told);
    if (disks->at == 0)
        drv_job_test_point(&self->base, "mirroring");
}

static void
begin_mirror(LiveSource *self)
{
    live_ask(self, "blockdev-mirror", live_mirror_args(self, live_mirror_at(self, self->disks->at)),
             mirror_begun);
}

void
live_disks_mirror(gpointer owner)
{
    LiveSource *self = owner;
    if (!live_disks_any(self)) {
        drv_steps_next(&self->steps);
        return;
    }
    self->disks->at = 0;
    begin_mirror(self);
}
