/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/numa-look.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/guest-numa.h"
#include "engine/job/look.h"
#include "numa/to-json.h"

#include <string.h>

#define QMP_TIMEOUT_MS 20000
/* Pages of a block: its shares are right to a percent or two. */
#define SAMPLES 8192

/* --- the host --- */

static JsonArray *
threads_to_json(DrvTransfer *transfer)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < drv_transfer_threads(transfer); i++) {
        const DrvThreadPlace *place = drv_transfer_place(transfer, i);
        g_autofree char *cpus = drv_cpus_format(&place->cpus);
        gboolean placed = drv_transfer_topology(transfer) != NULL;
        JsonObject *o = json_object_new();
        if (placed && place->node >= 0)
            json_object_set_int_member(o, "node", place->node);
        else
            json_object_set_null_member(o, "node");
        if (*cpus != '\0')
            json_object_set_string_member(o, "cpus", cpus);
        else
            json_object_set_null_member(o, "cpus");
        json_array_add_object_element(array, o);
    }
    return array;
}

static JsonObject *
buffers_to_json(DrvTransfer *transfer)
{
    JsonObject *o = json_object_new(), *nodes = json_object_new();
    DrvPoolStats stats;
    drv_pool_get_stats(drv_transfer_pool(transfer), &stats);
    for (guint node = 0; node < DRV_NODES_MAX; node++) {
        g_autofree char *name = g_strdup_printf("%u", node);
        if (stats.bytes[node] > 0)
            json_object_set_int_member(nodes, name, (gint64)stats.bytes[node]);
    }
    json_object_set_object_member(o, "nodes", nodes);
    json_object_set_int_member(o, "anywhere", (gint64)stats.anywhere);
    return o;
}

JsonObject *
drv_numa_host(DrvServices *services)
{
    DrvTransfer *transfer = drv_services_transfer(services);
    const DrvTopology *used = drv_transfer_topology(transfer);
    g_autoptr(DrvTopology) now = used != NULL ? drv_topology_again(used) : drv_topology_read(NULL);
    JsonObject *o = drv_topology_to_json(now);
    json_object_set_boolean_member(o, "placing", drv_transfer_topology(transfer) != NULL);
    json_object_set_array_member(o, "threads", threads_to_json(transfer));
    json_object_set_object_member(o, "buffers", buffers_to_json(transfer));
    return o;
}

/* --- a guest --- */

typedef struct {
    DrvLook look;
    char *path;
    DrvGuestNuma *guest;
} Look;

static void
step_connect(gpointer owner)
{
    Look *self = owner;
    drv_look_connect_qmp(&self->look, self->path);
}

static void
found(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *error = NULL;
    g_autoptr(DrvGuestNuma) guest = drv_guest_numa_find_finish(result, &error);
    Look *self = drv_job_redeem(ticket, &keep);
    if (self == NULL) {
        g_clear_error(&error);
        return;
    }
    self->guest = g_steal_pointer(&guest);
    drv_look_step_done(&self->look, error);
}

static void
step_find(gpointer owner)
{
    Look *self = owner;
    drv_guest_numa_find_async(self->look.qmp, SAMPLES, QMP_TIMEOUT_MS, self->look.steps.cancellable,
                              found, drv_look_ticket(&self->look));
}

static const DrvStep steps[] = {
    {"the VM's QMP socket cannot be used", step_connect},
    {"nothing can be said of where the VM is", step_find},
    {NULL, NULL},
};

static JsonObject *
result(DrvLook *look)
{
    JsonObject *found = drv_numa_host(look->base.services);
    json_object_set_object_member(found, "guest", drv_guest_numa_to_json(((Look *)look)->guest));
    return found;
}

static void
clear(DrvLook *look)
{
    Look *self = (Look *)look;
    drv_guest_numa_free(self->guest);
    g_free(self->path);
}

static const DrvLookOps ops = {
    .job = DRV_LOOK_JOB("numa"),
    .steps = steps,
    .result = result,
    .clear = clear,
};

/* Nothing else is asked for: a word that is not known is a mistake. */
static gboolean
check_spec(JsonObject *spec, GError **error)
{
    g_autoptr(GList) names = json_object_get_members(spec);
    const char *path = drv_json_string(spec, "qmp", "");
    for (GList *l = names; l != NULL; l = l->next) {
        if (g_str_equal(l->data, "qmp"))
            continue;
        g_autofree char *shown = g_strescape(l->data, NULL);
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "\"%.40s\" is not known here: there is \"qmp\"", shown);
        return FALSE;
    }
    if (g_path_is_absolute(path))
        return TRUE;
    g_set_error_literal(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "\"qmp\" is missing or wrong: it must be the absolute path of a VM's QMP "
                        "socket on this host");
    return FALSE;
}

DrvJob *
drv_numa_look_new(DrvServices *services, const char *id, JsonObject *spec, GError **error)
{
    if (!check_spec(spec, error))
        return NULL;
    Look *self = g_new0(Look, 1);
    g_autofree char *text = drv_json_text(spec);
    DrvJobRecord *rec = drv_job_record_new(id, DRV_ROLE_SOURCE, text);
    self->path = g_strdup(drv_json_string(spec, "qmp", ""));
    rec->vm = g_path_get_basename(self->path);
    drv_look_init(&self->look, &ops, services, rec);
    return &self->look.base;
}
