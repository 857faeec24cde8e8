/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/disks-make.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/copy/dest.h"
#include "engine/host/disks.h"
#include "engine/image/blank.h"
#include "engine/image/digest.h"
#include "engine/job/job.h"

/* Each has a thread. */
#define MAX_MAKES 8

/*
 * A thread looks and makes; an idle source brings what came of it to the control thread, which
 * answers. Who has asked may be gone by then: what was made is removed, as nobody knows of it.
 */
typedef struct {
    DrvDiskMakes *owner;
    char *job;
    DrvPeer *peer; /* NULL: nobody waits */
    guint64 call;
    char *const *folders; /* borrowed from the configuration */
    gboolean make;
    GPtrArray *blanks; /* of DrvBlank; the thread's while it runs */
    GStrv doubts;
    GError *error;
    GThread *thread;
    gint cancelled; /* atomic */
} Make;

struct _DrvDiskMakes {
    DrvServices *services;
    GPtrArray *list; /* of Make */
};

static void
free_blank(gpointer data)
{
    drv_blank_free(data);
}

static void
make_free(Make *make)
{
    g_clear_pointer(&make->peer, drv_peer_unref);
    g_clear_pointer(&make->blanks, g_ptr_array_unref);
    g_clear_pointer(&make->doubts, g_strfreev);
    g_clear_error(&make->error);
    g_free(make->job);
    g_free(make);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Make, make_free)

/* --- what came of it --- */

static JsonObject *
describe(const Make *make)
{
    static const char *const states[] = {
        [DRV_BLANK_ABSENT] = "absent", [DRV_BLANK_THERE] = "kept", [DRV_BLANK_MADE] = "created"};
    JsonObject *ok = json_object_new();
    JsonArray *disks = json_array_new(), *warnings = json_array_new();
    for (guint i = 0; i < make->blanks->len; i++)
        json_array_add_string_element(disks,
                                      states[((const DrvBlank *)make->blanks->pdata[i])->state]);
    for (guint i = 0; make->doubts[i] != NULL; i++)
        json_array_add_string_element(warnings, make->doubts[i]);
    json_object_set_array_member(ok, "disks", disks);
    json_object_set_array_member(ok, "warnings", warnings);
    return ok;
}

static void
answer(Make *make)
{
    if (make->error != NULL)
        drv_peer_refuse(make->peer, make->call, make->error);
    else
        drv_peer_answer(make->peer, make->call, describe(make));
}

static gboolean
made(gpointer data)
{
    g_autoptr(Make) make = data;
    g_thread_join(make->thread);
    g_ptr_array_remove_fast(make->owner->list, make);
    if (g_atomic_int_get(&make->cancelled)) {
        drv_blanks_unmake(make->blanks);
        g_clear_error(&make->error);
        make->error =
            g_error_new(DRV_ERROR, DRV_ERROR_CANCELLED, "making the images was called off");
    }
    if (make->peer != NULL)
        answer(make);
    return G_SOURCE_REMOVE;
}

static gpointer
run(gpointer data)
{
    Make *make = data;
    if (drv_blanks_look(make->blanks, make->folders, &make->error)) {
        make->doubts = drv_blanks_doubts(make->blanks);
        if (make->make)
            drv_blanks_make(make->blanks, &make->cancelled, &make->error);
    }
    g_idle_add(made, make);
    return NULL;
}

/* --- what is asked for --- */

static DrvBlank *
parse_one(JsonObject *disk)
{
    gint64 size = drv_json_int(disk, "size", -1), data = drv_json_int(disk, "data", 0);
    const char *backing = drv_json_string(disk, "backing", NULL);
    const char *backing_format = drv_json_string(disk, "backing_format", NULL);
    if (size < 0 || (guint64)size > DRV_IMAGE_SIZE_MAX || data < 0 ||
        drv_json_string(disk, "dest", NULL) == NULL ||
        drv_json_string(disk, "format", NULL) == NULL ||
        (backing == NULL) != (backing_format == NULL))
        return NULL;
    DrvBlank *blank = drv_blank_new();
    blank->disk = g_strdup(drv_json_string(disk, "name", ""));
    blank->path = g_strdup(drv_json_string(disk, "dest", ""));
    blank->format = g_strdup(drv_json_string(disk, "format", ""));
    blank->options = g_strdup(drv_json_string(disk, "options", NULL));
    blank->backing = g_strdup(backing);
    blank->backing_format = g_strdup(backing_format);
    blank->size = (guint64)size;
    blank->data = (guint64)data;
    blank->encrypted = drv_json_flag(disk, "encrypted", FALSE);
    return blank;
}

static GPtrArray *
parse(JsonArray *disks, GError **error)
{
    g_autoptr(GPtrArray) blanks = g_ptr_array_new_with_free_func(free_blank);
    guint count = disks != NULL ? json_array_get_length(disks) : 0;
    for (guint i = 0; i < count && i <= DRV_DISKS_MAX; i++) {
        DrvBlank *blank = parse_one(drv_json_element(disks, i));
        if (blank != NULL)
            g_ptr_array_add(blanks, blank);
    }
    if (blanks->len == count && count <= DRV_DISKS_MAX)
        return g_steal_pointer(&blanks);
    g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                        "the source's list of images makes no sense");
    return NULL;
}

static void
begin(DrvDiskMakes *makes, DrvPeer *peer, guint64 call, JsonObject *args)
{
    g_autoptr(GError) error = NULL;
    const char *job = drv_json_string(args, "job", "");
    g_autoptr(GPtrArray) blanks = parse(drv_json_array(args, "disks"), &error);
    if (blanks != NULL && !drv_job_valid_id(job))
        error = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL, "the job's id makes no sense");
    else if (blanks != NULL && makes->list->len >= MAX_MAKES)
        error = g_error_new(DRV_ERROR, DRV_ERROR_LIMIT,
                            "images are being made here for %d others: try again later", MAX_MAKES);
    if (error != NULL) {
        drv_peer_refuse(peer, call, error);
        return;
    }
    Make *make = g_new0(Make, 1);
    make->owner = makes;
    make->job = g_strdup(job);
    make->peer = drv_peer_ref(peer);
    make->call = call;
    make->folders = drv_copy_folders(makes->services);
    make->make = drv_json_flag(args, "create", FALSE);
    make->blanks = g_steal_pointer(&blanks);
    g_ptr_array_add(makes->list, make);
    make->thread = g_thread_new("disks", run, make);
}

static void
abort_job(DrvDiskMakes *makes, DrvPeer *peer, guint64 call, JsonObject *args)
{
    for (guint i = 0; i < makes->list->len; i++) {
        Make *make = makes->list->pdata[i];
        if (make->peer == peer && g_str_equal(make->job, drv_json_string(args, "job", "")))
            g_atomic_int_set(&make->cancelled, 1);
    }
    drv_peer_answer(peer, call, json_object_new());
}

gboolean
drv_disk_makes_call(DrvDiskMakes *makes, DrvPeer *peer, guint64 call, const char *op,
                    JsonObject *args)
{
    if (g_str_equal(op, "disks.create"))
        begin(makes, peer, call, args);
    else if (g_str_equal(op, "disks.abort"))
        abort_job(makes, peer, call, args);
    else
        return FALSE;
    return TRUE;
}

void
drv_disk_makes_peer_dead(DrvDiskMakes *makes, DrvPeer *peer)
{
    for (guint i = 0; i < makes->list->len; i++) {
        Make *make = makes->list->pdata[i];
        if (make->peer != peer)
            continue;
        g_atomic_int_set(&make->cancelled, 1);
        g_clear_pointer(&make->peer, drv_peer_unref);
    }
}

/* --- life --- */

DrvDiskMakes *
drv_disk_makes_new(DrvServices *services)
{
    DrvDiskMakes *makes = g_new0(DrvDiskMakes, 1);
    makes->services = services;
    makes->list = g_ptr_array_new();
    return makes;
}

void
drv_disk_makes_free(DrvDiskMakes *makes)
{
    if (makes == NULL)
        return;
    while (makes->list->len > 0) {
        g_autoptr(Make) make = g_ptr_array_steal_index_fast(makes->list, 0);
        g_atomic_int_set(&make->cancelled, 1);
        g_thread_join(make->thread);
        g_idle_remove_by_data(make); /* its last word */
        drv_blanks_unmake(make->blanks);
    }
    g_ptr_array_unref(makes->list);
    g_free(makes);
}
