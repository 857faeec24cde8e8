/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-disks-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/live/disk-names.h"

#include <errno.h>
#include <unistd.h>

/*
 * The source's half of '--disks mirror': docs/disks.md. QEMU mirrors each disk that the guest can
 * write to into an NBD client of its own, whose connection comes to a socket of ours, is greeted
 * in the name of the destination's QEMU, which serves the disk, and is a channel to that.
 *
 *   before the RAM    a node and a mirror for each disk: source-disks-begin.c; all of them brought
 *                     level ("ready"): source-disks-level.c
 *   with the RAM      QEMU sends on what the guest writes
 *   guest stopped     QEMU holds at pre-switchover: the mirrors are completed, the nodes removed,
 *                     and only then the migration goes on
 *
 * On failure the connections are closed first (QEMU's main loop may stand waiting for one of them),
 * then what is left of mirrors and nodes is removed: source-disks-undo.c.
 */

static void
free_mirror(gpointer data)
{
    LiveMirror *mirror = data;
    g_free(mirror->doubt);
    drv_delta_known_unref(mirror->known);
    g_free(mirror->id);
    g_free(mirror);
}

static void
drop_connections(LiveDisks *disks)
{
    g_clear_pointer(&disks->listener, drv_listener_free);
    g_clear_pointer(&disks->channels, drv_channel_set_free);
    while (disks->arrived.length > 0)
        close(GPOINTER_TO_INT(g_queue_pop_head(&disks->arrived)));
    live_offers_close(&disks->offers);
}

void
live_disks_free(LiveDisks *disks)
{
    if (disks == NULL)
        return;
    live_clear_source(&disks->poll);
    drop_connections(disks);
    drv_nbd_tally_unref(disks->tally);
    g_ptr_array_unref(disks->mirrors);
    g_ptr_array_unref(disks->all);
    g_free(disks);
}

gboolean
live_disks_any(LiveSource *self)
{
    return self->disks != NULL && self->disks->mirrors->len > 0;
}

LiveMirror *
live_mirror_at(LiveSource *self, guint i)
{
    return self->disks->mirrors->pdata[i];
}

LiveMirror *
live_find_mirror(LiveSource *self, const char *id)
{
    for (guint i = 0; id != NULL && live_disks_any(self) && i < self->disks->mirrors->len; i++)
        if (g_str_equal(live_mirror_at(self, i)->id, id))
            return live_mirror_at(self, i);
    return NULL;
}

/* --- which disks --- */

static void
disks_known(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    GPtrArray *all = reply != NULL ? drv_disks_parse(reply, error) : NULL;
    if (all == NULL) {
        drv_steps_fail(&self->steps, g_steal_pointer(error));
        return;
    }
    LiveDisks *disks = g_new0(LiveDisks, 1);
    disks->all = all;
    disks->mirrors = g_ptr_array_new_with_free_func(free_mirror);
    disks->tally = drv_nbd_tally_new();
    g_queue_init(&disks->arrived);
    disks->offers =
        (LiveOffers){"job.disk", "a disk's channel", &disks->channels, live_disks_opened};
    for (guint i = 0; i < all->len; i++) {
        if (!drv_disk_is_written(all->pdata[i]))
            continue;
        LiveMirror *mirror = g_new0(LiveMirror, 1);
        mirror->disk = all->pdata[i];
        mirror->id = drv_live_disk_id(self->base.rec->id, disks->mirrors->len);
        g_ptr_array_add(disks->mirrors, mirror);
    }
    live_disks_free(self->disks);
    self->disks = disks;
    drv_steps_next(&self->steps);
}

void
live_disks_describe(gpointer owner)
{
    LiveSource *self = owner;
    if (self->spec->disks != DRV_SPEC_DISKS_MIRROR)
        drv_steps_next(&self->steps);
    else
        live_ask(self, "query-block", NULL, disks_known);
}

/* Of a disk without a backing file QEMU copies all of it either way. */
static gboolean
keeps_chain(LiveSource *self)
{
    return self->spec->disks_chain == DRV_SPEC_CHAIN_KEEP;
}

void
live_disks_ask(LiveSource *self, JsonObject *args)
{
    if (live_disks_any(self)) {
        json_object_set_array_member(args, "disks", drv_disks_to_json(self->disks->all));
        json_object_set_boolean_member(args, "disks_keep_chain", keeps_chain(self));
        json_object_set_boolean_member(args, "disks_overwrite", self->spec->disks_overwrite);
        json_object_set_boolean_member(args, "disks_delta", self->spec->disks_delta);
    }
}

static gboolean
take_exports(LiveSource *self, JsonArray *exports, GError **error)
{
    for (guint i = 0; i < self->disks->mirrors->len; i++)
        if (!drv_nbd_export_from_json(drv_json_element(exports, i),
                                      &live_mirror_at(self, i)->export, error))
            return FALSE;
    return TRUE;
}

gboolean
live_disks_agreed(LiveSource *self, JsonObject *ok, GError **error)
{
    if (!live_disks_any(self))
        return TRUE;
    JsonArray *exports = drv_json_array(ok, "disks");
    if (exports != NULL && json_array_get_length(exports) == self->disks->mirrors->len)
        return take_exports(self, exports, error) && live_delta_agreed(self, ok, error);
    g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                        "the destination's drover does not take disks: install the same version "
                        "there, or move the guest without '--disks mirror'");
    return FALSE;
}

/* --- beginning: source-disks-begin.c --- */

/* Of this job and of the host; 0: none. */
static gint64
limit_of(LiveSource *self)
{
    gint64 job = self->spec->bandwidth;
    gint64 host = drv_services_config(self->base.services)->bandwidth;
    return job > 0 && host > 0 ? MIN(job, host) : MAX(job, host);
}

/* One that may come to hold the guest's writes up must not end by itself: source-disks-undo.c. When
 * the guest resets its disk, QEMU and its guest wait for all that is on its way ("buf-size"). */
JsonNode *
live_mirror_args(LiveSource *self, const LiveMirror *mirror)
{
    const char *on_error = self->spec->converge == DRV_SPEC_CONVERGE_THROTTLE ? "stop" : "report";
    return qmp_args("job-id", "s", mirror->id, "device", "s", mirror->disk->node, "target", "s",
                    mirror->id, "sync", "s", keeps_chain(self) ? "top" : "full", "copy-mode", "s",
                    mirror->blocking ? "write-blocking" : "background", "on-target-error", "s",
                    on_error, "on-source-error", "s", on_error, "buf-size", "x",
                    drv_mirror_pace_buffer(limit_of(self), self->disks->mirrors->len), NULL);
}

/* --- completing --- */

static void
went_on(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    if (reply == NULL)
        live_fail(live_source(job), error);
}

static void
tell_qemu(LiveSource *self, const char *command, JsonNode *args, GAsyncReadyCallback callback)
{
    qmp_client_execute_async(self->qmp, command, args, QMP_TIMEOUT_MS, NULL, callback,
                             drv_job_ref(&self->base));
}

/* The nodes are removed first: that ends their connections, and the destination's QEMU must have
 * nobody else writing to its disks when it takes them over. QEMU executes in order. */
static void
go_on(LiveSource *self)
{
    for (guint i = 0; i < self->disks->mirrors->len; i++)
        tell_qemu(self, "blockdev-del",
                  qmp_args("node-name", "s", live_mirror_at(self, i)->id, NULL), went_on);
    tell_qemu(self, "migrate-continue", qmp_args("state", "s", "pre-switchover", NULL), went_on);
}

void
live_disks_switchover(LiveSource *self)
{
    if (!live_disks_any(self) || self->disks->completing || self->qmp == NULL)
        return;
    self->disks->completing = TRUE;
    /* "Cancelled" is a mirror that ends with both sides equal and the guest where it was. */
    for (guint i = 0; i < self->disks->mirrors->len; i++)
        tell_qemu(self, "block-job-cancel",
                  qmp_args("device", "s", live_mirror_at(self, i)->id, NULL), went_on);
}

static void
mirror_failed(LiveSource *self, const LiveMirror *mirror, const char *why)
{
    live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "disk '%s' cannot be mirrored%s: %s",
                                mirror->disk->name,
                                mirror->writing ? ", its copy at the destination fails" : "", why));
}

/* Of a mirror that has stopped QEMU only tells so much. */
static const char *
why_stopped(JsonArray *jobs, const LiveMirror *mirror)
{
    for (guint i = 0; jobs != NULL && i < json_array_get_length(jobs); i++) {
        JsonObject *job = qmp_node_object(json_array_get_element(jobs, i));
        if (g_strcmp0(qmp_get_string(job, "device"), mirror->id) == 0 &&
            g_strcmp0(qmp_get_string(job, "io-status"), "nospace") == 0)
            return g_strerror(ENOSPC);
    }
    return g_strerror(EIO);
}

static void
stopped_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
    LiveSource *self = live_source(job);
    for (guint i = 0; live_disks_any(self) && i < self->disks->mirrors->len; i++) {
        const LiveMirror *mirror = live_mirror_at(self, i);
        if (mirror->stopped)
            mirror_failed(self, mirror, why_stopped(qmp_node_array(reply), mirror));
    }
}

static void
mirror_error(LiveSource *self, LiveMirror *mirror, JsonObject *data)
{
    mirror->writing = g_strcmp0(qmp_get_string(data, "operation"), "write") == 0;
    if (g_strcmp0(qmp_get_string(data, "action"), "stop") != 0 || mirror->stopped ||
        self->qmp == NULL)
        return;
    mirror->stopped = TRUE;
    tell_qemu(self, "query-block-jobs", NULL, stopped_known);
}

static void
mirror_ended(LiveSource *self, LiveMirror *mirror, gboolean failed, const char *why)
{
    if (mirror->again && !failed) {
        live_mirror_again(self, mirror);
        return;
    }
    if (!self->disks->completing || why != NULL) {
        mirror_failed(self, mirror, why != NULL ? why : "somebody else has ended its block job");
        return;
    }
    mirror->completed = TRUE;
    for (guint i = 0; i < self->disks->mirrors->len; i++)
        if (!live_mirror_at(self, i)->completed)
            return;
    if (self->qmp != NULL)
        go_on(self);
}

gboolean
live_disks_event(LiveSource *self, const char *name, JsonObject *data)
{
    gboolean status = g_str_equal(name, "JOB_STATUS_CHANGE");
    LiveMirror *mirror =
        status || g_str_has_prefix(name, "BLOCK_JOB_")
            ? live_find_mirror(self, qmp_get_string(data, status ? "id" : "device"))
            : NULL;
    if (mirror == NULL || drv_job_state(&self->base) == DRV_STATE_ROLLING_BACK)
        return mirror != NULL;
    if (status)
        live_mirror_status(self, mirror, qmp_get_string(data, "status"));
    else if (g_str_equal(name, "BLOCK_JOB_ERROR"))
        mirror_error(self, mirror, data);
    else if (g_str_equal(name, "BLOCK_JOB_COMPLETED"))
        mirror_ended(self, mirror, qmp_get_string(data, "error") != NULL,
                     qmp_get_string(data, "error"));
    else if (g_str_equal(name, "BLOCK_JOB_CANCELLED"))
        mirror_ended(self, mirror, FALSE, "its block job was cancelled");
    return TRUE;
}

gboolean
live_disks_settled(LiveSource *self, gboolean compare, GError **error)
{
    if (!live_disks_any(self))
        return TRUE;
    if (!drv_channel_set_finished(self->disks->channels))
        return FALSE;
    return !compare || drv_channel_set_compare(self->disks->channels, self->disk_digests, error);
}

static void
use_class(const LiveDisks *disks)
{
    if (disks->channels != NULL)
        drv_channel_set_class(disks->channels, disks->pressing ? DRV_CLASS_STOPPED : disks->class);
}

void
live_disks_class(LiveSource *self, DrvClass class)
{
    if (!live_disks_any(self))
        return;
    self->disks->class = class;
    use_class(self->disks);
}

void
live_disks_press(LiveSource *self, gboolean pressing)
{
    if (self->disks->pressing == pressing)
        return;
    self->disks->pressing = pressing;
    use_class(self->disks);
}

/* --- what is shown --- */

static double
percent_of(gint64 done, gint64 total)
{
    return total > 0 ? CLAMP(100.0 * (double)done / (double)total, 0, 99.9) : 0;
}

static JsonObject *
mirror_progress(const LiveMirror *mirror, gboolean hashing)
{
    JsonObject *disk = json_object_new();
    double percent = mirror->ready ? 100
                     : hashing     ? percent_of(mirror->hashed, (gint64)mirror->disk->size)
                                   : percent_of(mirror->done, mirror->total);
    json_object_set_string_member(disk, "name", mirror->disk->name);
    json_object_set_double_member(disk, "percent", percent);
    json_object_set_boolean_member(disk, "ready", mirror->ready);
    if (hashing)
        json_object_set_boolean_member(disk, "hashing", TRUE);
    return disk;
}

void
live_disks_progress(LiveSource *self, JsonObject *o)
{
    if (!live_disks_any(self))
        return;
    JsonArray *array = json_array_new();
    for (guint i = 0; i < self->disks->mirrors->len; i++)
        json_array_add_object_element(
            array, mirror_progress(live_mirror_at(self, i), self->disks->hashing));
    json_object_set_array_member(o, "disks", array);
}

static void
report_mirror(LiveSource *self, const DrvDisk *disk, JsonObject *o)
{
    for (guint i = 0; i < self->disks->mirrors->len; i++) {
        const LiveMirror *mirror = live_mirror_at(self, i);
        if (mirror->disk != disk)
            continue;
        json_object_set_boolean_member(o, "write_blocking", mirror->blocking);
        if (mirror->known != NULL)
            json_object_set_int_member(o, "reused_bytes",
                                       (gint64)drv_delta_known_reused(mirror->known));
    }
}

static guint64
reused_bytes(LiveSource *self)
{
    guint64 sum = 0;
    for (guint i = 0; live_disks_any(self) && i < self->disks->mirrors->len; i++)
        if (live_mirror_at(self, i)->known != NULL)
            sum += drv_delta_known_reused(live_mirror_at(self, i)->known);
    return sum;
}

static JsonArray *
report_disks(LiveSource *self)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < self->disks->all->len; i++) {
        const DrvDisk *disk = self->disks->all->pdata[i];
        JsonObject *o = json_object_new();
        json_object_set_string_member(o, "name", disk->name);
        json_object_set_int_member(o, "size", (gint64)disk->size);
        json_object_set_string_member(o, "format", disk->format);
        json_object_set_boolean_member(o, "mirrored", drv_disk_is_written(disk));
        if (!drv_disk_is_written(disk))
            json_object_set_string_member(o, "why_not", drv_disk_skipped(disk));
        else
            report_mirror(self, disk, o);
        json_array_add_object_element(array, o);
    }
    return array;
}

JsonObject *
live_disks_report(LiveSource *self)
{
    DrvChannelTotals totals = {0};
    DrvNbdFigures written = {0};
    JsonObject *o = json_object_new();
    if (self->disks != NULL)
        drv_nbd_tally_get(self->disks->tally, &written);
    if (live_disks_any(self) && self->disks->channels != NULL)
        drv_channel_set_totals(self->disks->channels, &totals);
    json_object_set_int_member(o, "bytes", (gint64)written.data_bytes);
    json_object_set_int_member(o, "wire_bytes", (gint64)totals.wire);
    json_object_set_int_member(o, "zero_bytes", (gint64)written.zero_bytes);
    if (self->spec->disks_delta)
        json_object_set_int_member(o, "reused_bytes", (gint64)reused_bytes(self));
    if (self->disks != NULL)
        json_object_set_array_member(o, "disks", report_disks(self));
    return o;
}

/* --- the end --- */

void
live_disks_hang_up(LiveSource *self)
{
    if (self->disks == NULL)
        return;
    self->disks->connecting = self->disks->pausing = FALSE;
    self->disks->waiting = self->disks->hashing = FALSE;
    live_clear_source(&self->disks->poll);
    drop_connections(self->disks);
}
