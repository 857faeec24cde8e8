/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/disks-look.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/daemon/disks-spec.h"
#include "engine/host/disk-image.h"
#include "engine/host/disks.h"
#include "engine/job/allow.h"
#include "engine/job/look.h"

#include <string.h>

#define QMP_TIMEOUT_MS 20000

typedef struct {
    DrvLook look;
    DrvDisksSpec *spec;
    GPtrArray *disks;  /* of DrvDisk */
    GPtrArray *images; /* of DrvDiskImage, in the same order */
    JsonArray *wanted; /* what the destination was asked for; NULL: it was not */
    JsonObject *there; /* its answer */
    gboolean asking;
} Disks;

/* --- the guest's disks --- */

static void
step_connect_qmp(gpointer owner)
{
    Disks *self = owner;
    drv_look_connect_qmp(&self->look, self->spec->qmp);
}

static void
known(gpointer owner, JsonNode *reply, GError **error)
{
    Disks *self = owner;
    if (reply != NULL)
        self->disks = drv_disks_parse(reply, error);
    if (self->disks != NULL)
        self->images = drv_disk_images_parse(reply);
    drv_look_close_qmp(&self->look);
    drv_look_step_done(&self->look, g_steal_pointer(error));
}

static void
step_ask(gpointer owner)
{
    Disks *self = owner;
    drv_job_ask(&self->look.steps, self->look.qmp, "query-block", NULL, QMP_TIMEOUT_MS, known);
}

/* --- what the destination is asked for --- */

/* A disk that is the whole of a file or a device is a raw image. */
static const char *
format_of(Disks *self, const DrvDisk *disk)
{
    if (self->spec->dest_format != NULL)
        return self->spec->dest_format;
    return g_str_equal(disk->format, "file") || g_str_equal(disk->format, "host_device")
               ? "raw"
               : disk->format;
}

/* Owned by the caller; NULL with an error. */
static char *
path_of(Disks *self, const DrvDisk *disk, const DrvDiskImage *image, GError **error)
{
    const char *given = g_hash_table_lookup(self->spec->dest, disk->name);
    const char *here =
        image->files->len > 0 ? ((const DrvDiskFile *)image->files->pdata[0])->path : "";
    if (given != NULL)
        return g_strdup(given);
    if (!g_path_is_absolute(here)) {
        g_autofree char *shown = g_strescape(here, NULL);
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "its image here is '%.200s', which is no absolute path: say which it is to "
                    "have there with '--dest %s=PATH'",
                    shown, disk->name);
        return NULL;
    }
    if (self->spec->dest_dir == NULL)
        return g_strdup(here);
    g_autofree char *name = g_path_get_basename(here);
    return g_build_filename(self->spec->dest_dir, name, NULL);
}

static gboolean
check_chain(const char *format, gboolean keep, GError **error)
{
    if (!keep || g_str_equal(format, "qcow2"))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "an image of format %s is not made with a backing file: choose '--dest-format "
                "qcow2', or '--chain flatten'",
                format);
    return FALSE;
}

static JsonObject *
want(Disks *self, guint i, GError **error)
{
    const DrvDisk *disk = self->disks->pdata[i];
    const DrvDiskImage *image = self->images->pdata[i];
    const char *format = format_of(self, disk);
    gboolean keep = self->spec->keep_chain && disk->backing;
    g_autofree char *path = path_of(self, disk, image, error);
    if (path == NULL || !check_chain(format, keep, error)) {
        g_prefix_error(error, "disk '%s': ", disk->name);
        return NULL;
    }
    JsonObject *o = json_object_new();
    json_object_set_string_member(o, "name", disk->name);
    json_object_set_string_member(o, "dest", path);
    json_object_set_string_member(o, "format", format);
    json_object_set_int_member(o, "size", (gint64)disk->size);
    json_object_set_int_member(o, "data", (gint64)drv_disk_image_allocated(image, !keep));
    if (disk->encrypted)
        json_object_set_boolean_member(o, "encrypted", TRUE);
    if (image->options != NULL && g_str_equal(format, "qcow2"))
        json_object_set_string_member(o, "options", image->options);
    if (keep && image->files->len > 1) {
        const DrvDiskFile *base = image->files->pdata[1];
        json_object_set_string_member(o, "backing", base->path);
        json_object_set_string_member(o, "backing_format", base->format);
    }
    return o;
}

/* A name that was given and is none of these is a mistake. */
static gboolean
check_names(Disks *self, GError **error)
{
    GHashTableIter iter;
    gpointer name;
    g_hash_table_iter_init(&iter, self->spec->dest);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        gboolean found = FALSE;
        for (guint i = 0; i < self->disks->len && !found; i++) {
            const DrvDisk *disk = self->disks->pdata[i];
            found = drv_disk_is_written(disk) && g_str_equal(disk->name, name);
        }
        if (!found) {
            g_autofree char *shown = g_strescape(name, NULL);
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "the VM has no disk '%.80s' that would be moved: 'drover disks --qmp "
                        "SOCKET' lists them",
                        shown);
            return FALSE;
        }
    }
    return TRUE;
}

static void
step_plan(gpointer owner)
{
    Disks *self = owner;
    GError *error = NULL;
    if (self->spec->to != NULL && check_names(self, &error)) {
        self->wanted = json_array_new();
        for (guint i = 0; i < self->disks->len && error == NULL; i++) {
            JsonObject *o =
                drv_disk_is_written(self->disks->pdata[i]) ? want(self, i, &error) : NULL;
            if (o != NULL)
                json_array_add_object_element(self->wanted, o);
        }
    }
    drv_look_step_done(&self->look, error);
}

/* --- the destination --- */

static gboolean
asks(Disks *self)
{
    return self->wanted != NULL && json_array_get_length(self->wanted) > 0;
}

static void
step_connect_peer(gpointer owner)
{
    Disks *self = owner;
    if (asks(self))
        drv_look_connect_peer(&self->look, self->spec->host, self->spec->port, 1);
    else
        drv_look_step_done(&self->look, NULL);
}

static void
answered(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *why = error != NULL ? g_error_copy(error) : NULL;
    Disks *self = drv_job_redeem(ticket, &keep);
    if (self == NULL) {
        g_clear_error(&why);
        return;
    }
    self->asking = FALSE;
    JsonArray *states = drv_json_array(ok, "disks");
    if (g_error_matches(why, DRV_ERROR, DRV_ERROR_NOT_FOUND)) {
        g_clear_error(&why);
        why = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                          "the destination's drover makes no images: install the same version "
                          "there, or make them with qemu-img");
    } else if (why == NULL && (states == NULL || json_array_get_length(states) !=
                                                     json_array_get_length(self->wanted))) {
        why = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL, "the destination's answer makes no sense");
    }
    if (why == NULL)
        self->there = json_object_ref(ok);
    drv_look_step_done(&self->look, why);
}

static void
step_create(gpointer owner)
{
    Disks *self = owner;
    GError *error = NULL;
    if (!asks(self) || !drv_allow_to(drv_services_config(self->look.base.services),
                                     drv_peer_name(self->look.peer), &error)) {
        drv_look_step_done(&self->look, error);
        return;
    }
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", drv_job_id(&self->look.base));
    json_object_set_boolean_member(args, "create", self->spec->create);
    json_object_set_array_member(args, "disks", json_array_ref(self->wanted));
    self->look.needs_peer = self->asking = TRUE;
    drv_peer_call(self->look.peer, "disks.create", args, answered, drv_look_ticket(&self->look));
}

static void
aborted(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
}

/* What it makes is not wanted any more. */
static void
drop(DrvLook *look)
{
    Disks *self = (Disks *)look;
    if (!self->asking || look->peer == NULL || drv_peer_is_dead(look->peer))
        return;
    self->asking = FALSE;
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", drv_job_id(&look->base));
    drv_peer_call(look->peer, "disks.abort", args, aborted, NULL);
}

/* What is there by then can be kept: it is not worth waiting for the link. */
static void
lost(DrvLook *look, const GError *why)
{
    if (((Disks *)look)->asking)
        drv_steps_fail(&look->steps,
                       g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                                   "the link broke, and it is not known what became of them (%s): "
                                   "ask again, those that were made are kept",
                                   why->message));
}

/* --- what is told --- */

static JsonArray *
strings(char *const *texts)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; texts[i] != NULL; i++)
        json_array_add_string_element(array, texts[i]);
    return array;
}

static JsonArray *
chain_to_json(const DrvDiskImage *image)
{
    JsonArray *array = json_array_new();
    for (guint i = 1; i < image->files->len; i++) {
        const DrvDiskFile *file = image->files->pdata[i];
        JsonObject *o = json_object_new();
        json_object_set_string_member(o, "file", file->path);
        json_object_set_string_member(o, "format", file->format);
        json_array_add_object_element(array, o);
    }
    return array;
}

static void
add_medium(JsonObject *o, const DrvDisk *disk, const DrvDiskImage *image)
{
    const DrvDiskFile *file = image->files->len > 0 ? image->files->pdata[0] : NULL;
    g_auto(GStrv) left = drv_disk_image_left(image, disk->encrypted);
    json_object_set_string_member(o, "node", disk->node);
    json_object_set_string_member(o, "format", disk->format);
    json_object_set_int_member(o, "size", (gint64)disk->size);
    if (file != NULL && file->allocated >= 0)
        json_object_set_int_member(o, "allocated", file->allocated);
    else
        json_object_set_null_member(o, "allocated");
    json_object_set_string_member(o, "file", file != NULL ? file->path : "");
    json_object_set_array_member(o, "backing", chain_to_json(image));
    json_object_set_array_member(o, "stays_behind", strings(left));
}

static JsonObject *
disk_to_json(Disks *self, guint i, guint *at)
{
    const DrvDisk *disk = self->disks->pdata[i];
    JsonObject *o = json_object_new();
    gboolean moved = drv_disk_is_written(disk);
    json_object_set_string_member(o, "id", disk->name);
    json_object_set_string_member(o, "device", disk->qdev);
    json_object_set_boolean_member(o, "moved", moved);
    if (!moved)
        json_object_set_string_member(o, "why_not", drv_disk_skipped(disk));
    if (disk->medium)
        add_medium(o, disk, self->images->pdata[i]);
    if (!moved || self->there == NULL)
        return o;
    JsonObject *dest = json_object_new(), *wanted = drv_json_element(self->wanted, *at);
    JsonNode *state = json_array_get_element(drv_json_array(self->there, "disks"), (*at)++);
    json_object_set_string_member(dest, "file", drv_json_string(wanted, "dest", ""));
    json_object_set_string_member(dest, "format", drv_json_string(wanted, "format", ""));
    json_object_set_string_member(dest, "state",
                                  qmp_node_string(state) != NULL ? qmp_node_string(state) : "");
    json_object_set_object_member(o, "dest", dest);
    return o;
}

static JsonObject *
result(DrvLook *look)
{
    Disks *self = (Disks *)look;
    JsonObject *o = json_object_new();
    JsonArray *disks = json_array_new();
    guint at = 0;
    for (guint i = 0; i < self->disks->len; i++)
        json_array_add_object_element(disks, disk_to_json(self, i, &at));
    JsonArray *warnings = drv_json_array(self->there, "warnings");
    json_object_set_array_member(o, "disks", disks);
    json_object_set_array_member(o, "warnings",
                                 warnings != NULL ? json_array_ref(warnings) : json_array_new());
    return o;
}

/* --- the job --- */

static const DrvStep steps[] = {
    {"the VM's QMP socket cannot be used", step_connect_qmp},
    {"nothing can be said of the VM's disks", step_ask},
    {"the destination's images", step_plan},
    {"the destination's daemon cannot be used", step_connect_peer},
    {"the destination's images", step_create},
    {NULL, NULL},
};

static void
clear(DrvLook *look)
{
    Disks *self = (Disks *)look;
    drv_disks_spec_free(self->spec);
    g_clear_pointer(&self->disks, g_ptr_array_unref);
    g_clear_pointer(&self->images, g_ptr_array_unref);
    g_clear_pointer(&self->wanted, json_array_unref);
    g_clear_pointer(&self->there, json_object_unref);
}

static const DrvLookOps ops = {
    .job = DRV_LOOK_JOB("disks"),
    .steps = steps,
    .result = result,
    .drop = drop,
    .clear = clear,
    .lost = lost,
};

DrvJob *
drv_disks_look_new(DrvServices *services, const char *id, JsonObject *object, GError **error)
{
    DrvDisksSpec *spec = drv_disks_spec_from_json(object, error);
    if (spec == NULL)
        return NULL;
    Disks *self = g_new0(Disks, 1);
    g_autofree char *text = drv_json_text(object);
    DrvJobRecord *rec = drv_job_record_new(id, DRV_ROLE_SOURCE, text);
    self->spec = spec;
    rec->vm = g_path_get_basename(spec->qmp);
    rec->peer = g_strdup(spec->to);
    drv_look_init(&self->look, &ops, services, rec);
    return &self->look.base;
}
