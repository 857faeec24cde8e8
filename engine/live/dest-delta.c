/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/disks.h"
#include "engine/image/delta-receive.h"
#include "engine/live/dest-private.h"
#include "engine/live/disk-names.h"

/*
 * The destination's half of '--disks-delta': its disks hold an older version. They are hashed, one
 * after the other, as QEMU serves them; the source fetches the leaves, and then names the blocks
 * that are the same instead of sending them (image/delta-writer.c).
 */

/* Leaves in an answer: with base64, as many as fit into a message. */
#define LEAVES 1024

struct _DestDelta {
    GPtrArray *disks; /* of DrvDeltaDisk, as the source counts them */
    guint32 block;
    gboolean hashed; /* all of them */
};

typedef struct {
    DrvJob *job;
    DestDelta *delta; /* of the job, if that still has it */
} Hashing;

void
dest_delta_free(DestDelta *delta)
{
    if (delta == NULL)
        return;
    g_ptr_array_unref(delta->disks);
    g_free(delta);
}

static void
cannot_place(const GError *error, gpointer data)
{
    LiveDest *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    dest_fail(self, g_error_copy(error));
}

/* --- hashing --- */

static void
hash_all(GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
    GPtrArray *disks = data;
    GError *error = NULL;
    for (guint i = 0; i < disks->len; i++) {
        if (!drv_delta_disk_hash(disks->pdata[i], &error)) {
            g_task_return_error(task, error);
            return;
        }
    }
    g_task_return_boolean(task, TRUE);
}

static void
all_hashed(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autofree Hashing *hashing = data;
    g_autoptr(DrvJob) job = hashing->job;
    LiveDest *self = live_dest(job);
    GError *error = NULL;
    gboolean good = g_task_propagate_boolean(G_TASK(result), &error);
    if (self->delta != hashing->delta) { /* it was given up */
        g_clear_error(&error);
        return;
    }
    self->delta->hashed = good;
    if (good)
        return;
    g_prefix_error(&error, "the destination's disks cannot be hashed: ");
    dest_fail(self, error);
}

void
dest_delta_hash(LiveDest *self)
{
    g_autoptr(GTask) task = NULL;
    Hashing *hashing = g_new(Hashing, 1);
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)drv_delta_disk_unref);
    for (guint i = 0; i < self->delta->disks->len; i++)
        g_ptr_array_add(disks, drv_delta_disk_ref(self->delta->disks->pdata[i]));
    *hashing = (Hashing){drv_job_ref(&self->base), self->delta};
    task = g_task_new(NULL, NULL, all_hashed, hashing);
    g_task_set_task_data(task, disks, (GDestroyNotify)g_ptr_array_unref);
    g_task_run_in_thread(task, hash_all);
}

static DrvDeltaDisk *
new_disk(LiveDest *self, const DrvDisk *disk, guint index, GError **error)
{
    g_autofree char *socket =
        drv_services_socket_path(self->base.services, self->base.rec->id, DRV_LIVE_DISK_SOCKET);
    g_autofree char *name = drv_live_disk_id(self->base.rec->id, index);
    g_autofree char *shown = g_strdup_printf("disk '%s'", disk->name);
    const DrvDeltaDiskParams params = {
        .socket = socket,
        .name = name,
        .shown = shown,
        .size = disk->size,
        .block = self->delta->block,
        .failed = cannot_place,
        .data = self,
    };
    return drv_delta_disk_new(drv_services_transfer(self->base.services), &params, error);
}

static gboolean
plan(LiveDest *self, GPtrArray *disks, GError **error)
{
    guint64 bytes = 0;
    for (guint i = 0; i < disks->len; i++)
        bytes += MIN(((const DrvDisk *)disks->pdata[i])->size, DRV_IMAGE_SIZE_MAX);
    self->delta = g_new0(DestDelta, 1);
    self->delta->disks = g_ptr_array_new_with_free_func((GDestroyNotify)drv_delta_disk_drop);
    self->delta->block = drv_delta_block_size(bytes, disks->len);
    if (self->delta->block == 0) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_LIMIT,
                            "disks of more than 2 TiB together are not compared: migrate with "
                            "'--disks-overwrite' instead of '--disks-delta'");
        return FALSE;
    }
    for (guint i = 0; i < disks->len; i++) {
        DrvDeltaDisk *disk = new_disk(self, disks->pdata[i], i, error);
        if (disk == NULL)
            return FALSE;
        g_ptr_array_add(self->delta->disks, disk);
    }
    return TRUE;
}

void
dest_delta_plan(gpointer owner)
{
    LiveDest *self = owner;
    GError *error = NULL;
    GPtrArray *disks = dest_disks_wanted(self);
    if (disks == NULL || !drv_json_flag(self->asked, "disks_delta", FALSE) ||
        plan(self, disks, &error))
        drv_steps_next(&self->steps);
    else
        drv_steps_fail(&self->steps, error);
}

guint32
dest_delta_block(const DestDelta *delta)
{
    return delta->block;
}

DrvChannelCodec *
dest_delta_codec(guint index, gpointer data)
{
    DestDelta *delta = data;
    return drv_delta_receive_new(delta->disks->pdata[index]);
}

/* --- the source's calls --- */

static DestDelta *
delta_for(LiveDest *self, DrvPeer *peer, GError **error)
{
    if (drv_job_state(&self->base) == DRV_STATE_COPYING && self->delta != NULL &&
        self->peer == peer)
        return self->delta;
    g_propagate_error(error, dest_not_now(self, "compares no disks now"));
    return NULL;
}

void
drv_live_dest_hashed(DrvJob *job, DrvPeer *peer, guint64 call)
{
    g_autoptr(GError) error = NULL;
    DestDelta *delta = delta_for(live_dest(job), peer, &error);
    if (delta == NULL) {
        drv_peer_refuse(peer, call, error);
        return;
    }
    JsonObject *ok = json_object_new();
    JsonArray *bytes = json_array_new();
    for (guint i = 0; i < delta->disks->len; i++)
        json_array_add_int_element(bytes, (gint64)drv_delta_disk_hashed(delta->disks->pdata[i]));
    json_object_set_array_member(ok, "hashed", bytes);
    json_object_set_boolean_member(ok, "done", delta->hashed);
    drv_peer_answer(peer, call, ok);
}

static JsonObject *
some_leaves(const DestDelta *delta, gint64 disk, gint64 first, GError **error)
{
    const DrvImageDigest *digest = disk >= 0 && disk < (gint64)delta->disks->len
                                       ? drv_delta_disk_digest(delta->disks->pdata[disk])
                                       : NULL;
    if (!delta->hashed || digest == NULL || first < 0 || (guint64)first >= digest->blocks) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "there are no digests of block %" G_GINT64_FORMAT " of disk %" G_GINT64_FORMAT,
                    first, disk);
        return NULL;
    }
    JsonObject *ok = json_object_new();
    gsize count = (gsize)MIN(digest->blocks - (guint64)first, LEAVES);
    g_autofree char *text =
        g_base64_encode(digest->leaves + (guint64)first * DRV_IMAGE_LEAF, count * DRV_IMAGE_LEAF);
    json_object_set_string_member(ok, "leaves", text);
    return ok;
}

void
drv_live_dest_leaves(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args)
{
    g_autoptr(GError) error = NULL;
    DestDelta *delta = delta_for(live_dest(job), peer, &error);
    JsonObject *ok = delta != NULL ? some_leaves(delta, drv_json_int(args, "disk", -1),
                                                 drv_json_int(args, "first", -1), &error)
                                   : NULL;
    if (ok != NULL)
        drv_peer_answer(peer, call, ok);
    else
        drv_peer_refuse(peer, call, error);
}
