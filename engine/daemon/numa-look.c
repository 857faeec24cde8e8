/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/numa-look.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/guest-numa.h"
#include "engine/job/steps.h"
#include "numa/to-json.h"
#include "qmp/qmp.h"

#include <string.h>

#define QMP_TIMEOUT_MS 20000
#define QMP_CONNECT_MS 3000
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
    DrvJob base;
    DrvSteps steps;
    char *path;
    QmpClient *qmp;
    DrvGuestNuma *guest;
} Look;

static DrvTicket *
ticket_of(Look *self)
{
    return drv_job_ticket(&self->steps);
}

/* NULL when the step is over. 'keep' holds the job for the caller's scope. */
static Look *
redeem(gpointer ticket, DrvJob **keep)
{
    return drv_job_redeem(ticket, keep);
}

static void
drop_all(Look *self)
{
    drv_steps_drop(&self->steps);
    if (self->qmp != NULL)
        qmp_client_close(self->qmp);
    g_clear_object(&self->qmp);
}

static void
end(Look *self, DrvJobState state)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    drop_all(self);
    if (drv_state_is_final(drv_job_state(&self->base)))
        return;
    drv_job_move(&self->base, state, NULL);
    drv_job_leave(&self->base);
}

static void
connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    Look *self = redeem(ticket, &keep);
    if (self == NULL)
        return;
    self->qmp = g_steal_pointer(&client);
    if (self->qmp == NULL)
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
    else
        drv_steps_next(&self->steps);
}

static void
step_connect(gpointer owner)
{
    Look *self = owner;
    qmp_client_connect_async(self->path, QMP_CONNECT_MS, self->steps.cancellable, connected,
                             ticket_of(self));
}

static void
found(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvGuestNuma) guest = drv_guest_numa_find_finish(result, &error);
    Look *self = redeem(ticket, &keep);
    if (self == NULL)
        return;
    self->guest = g_steal_pointer(&guest);
    if (self->guest == NULL)
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
    else
        drv_steps_next(&self->steps);
}

static void
step_find(gpointer owner)
{
    Look *self = owner;
    drv_guest_numa_find_async(self->qmp, SAMPLES, QMP_TIMEOUT_MS, self->steps.cancellable, found,
                              ticket_of(self));
}

static const DrvStep steps[] = {
    {"the VM's QMP socket cannot be used", step_connect},
    {"nothing can be said of where the VM is", step_find},
    {NULL, NULL},
};

static void
done(gpointer owner, GError *error)
{
    Look *self = owner;
    if (error != NULL) {
        drv_job_set_error(&self->base, error);
        g_error_free(error);
        end(self, DRV_STATE_FAILED);
        return;
    }
    g_autoptr(JsonObject) result = drv_numa_host(self->base.services);
    json_object_set_object_member(result, "guest", drv_guest_numa_to_json(self->guest));
    self->base.rec->result = drv_json_text(result);
    end(self, DRV_STATE_DONE);
}

static void
look_start(DrvJob *job)
{
    Look *self = (Look *)job;
    g_autoptr(DrvJob) keep = drv_job_ref(job);
    drv_job_move(job, DRV_STATE_PREPARING, NULL);
    drv_steps_start(&self->steps, steps, self, done);
}

static gboolean
look_cancel(DrvJob *job, GError **error)
{
    end((Look *)job, DRV_STATE_CANCELLED);
    return TRUE;
}

static void
look_free(DrvJob *job)
{
    Look *self = (Look *)job;
    drop_all(self);
    drv_guest_numa_free(self->guest);
    g_free(self->path);
    g_free(self);
}

static const DrvJobOps look_ops = {
    .kind = "numa",
    .start = look_start,
    .cancel = look_cancel,
    .free = look_free,
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
    rec->created_us = rec->updated_us = g_get_real_time();
    drv_job_init(&self->base, &look_ops, services, rec, FALSE);
    return &self->base;
}
