/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest-private.h"

#include "common/error.h"
#include "engine/job/qemu-identity.h"
#include "engine/job/settings.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- QEMU's last words --- */

/* QEMU before 9.1 ends when it cannot load a stream, and says why on its standard error only. Where
 * that is a file (as under libvirt and most scripts), it can be read. */
static void
open_log(LiveDest *self)
{
    struct stat st;
    pid_t pid = qmp_client_get_peer_pid(self->qmp);
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/2", (int)pid);
    if (pid <= 0 || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return;
    self->log_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    self->log_from = st.st_size;
}

char *
dest_last_words(LiveDest *self)
{
    char buffer[2048];
    if (self->log_fd < 0)
        return NULL;
    gssize n = pread(self->log_fd, buffer, sizeof buffer - 1, self->log_from);
    if (n <= 0)
        return NULL;
    g_autofree char *text = g_utf8_make_valid(buffer, n);
    g_auto(GStrv) lines = g_strsplit(g_strstrip(text), "\n", -1);
    /* "qemu-system-x86_64: Machine type received is ..." and then its consequences: the first line
     * is the cause. */
    for (guint i = 0; lines[i] != NULL; i++)
        if (strlen(lines[i]) > 0)
            return g_strdup(lines[i]);
    return NULL;
}

/* --- steps --- */

static void
qmp_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (client == NULL) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    drv_qemu_remember(self->base.detail, client);
    dest_use_qmp(self, g_steal_pointer(&client));
    open_log(self);
    drv_steps_next(&self->steps);
}

static void
step_connect(gpointer owner)
{
    LiveDest *self = owner;
    dest_connect_qmp(self, qmp_connected, dest_ticket(self));
}

static gboolean
can_receive(LiveDest *self, const DrvVm *vm, GError **error)
{
    if (!g_str_equal(vm->status, "inmigrate") || !g_str_equal(vm->migration, "none")) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "the destination's QEMU at %s does not wait for a migration (it is '%s'%s): "
                    "start it with '-incoming defer -S'",
                    self->dest_qmp, vm->status,
                    g_str_equal(vm->status, "inmigrate") ? ", but an incoming migration was begun"
                                                         : "");
        return FALSE;
    }
    return drv_vm_compatible(self->source_vm, vm, error);
}

static void
described(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvVm) vm = drv_vm_describe_finish(result, &error);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (vm == NULL || !can_receive(self, vm, &error)) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    self->vm = g_steal_pointer(&vm);
    drv_steps_next(&self->steps);
}

static void
step_describe(gpointer owner)
{
    LiveDest *self = owner;
    drv_vm_describe_async(self->qmp, QMP_TIMEOUT_MS, self->steps.cancellable, described,
                          dest_ticket(self));
}

/* While it waits for a migration, 'stop' makes QEMU stay paused after loading, whether or not it
 * was started with -S: the guest must not run here before COMMIT. */
static void
step_stay_paused(gpointer owner)
{
    dest_ask(owner, "stop", NULL, NULL);
}

/* A setting's step is two commands: what QEMU knows of, and then what it is to be. */
static void
set_known(LiveDest *self, JsonNode *known, GError **error, const char *command,
          JsonNode *(*make)(JsonNode *known, const DrvSettings *settings))
{
    DrvSettings settings = {.multifd = self->multifd};
    if (known != NULL)
        dest_ask(self, command, make(known, &settings), NULL);
    else
        drv_steps_fail(&self->steps, g_steal_pointer(error));
}

static void
capabilities_known(gpointer owner, JsonNode *reply, GError **error)
{
    set_known(owner, reply, error, "migrate-set-capabilities", drv_settings_capabilities);
}

static void
step_set_capabilities(gpointer owner)
{
    dest_ask(owner, "query-migrate-capabilities", NULL, capabilities_known);
}

static void
parameters_known(gpointer owner, JsonNode *reply, GError **error)
{
    set_known(owner, reply, error, "migrate-set-parameters", drv_settings_parameters);
}

static void
step_set_parameters(gpointer owner)
{
    dest_ask(owner, "query-migrate-parameters", NULL, parameters_known);
}

/* Whether QEMU was given to this job for good: then it is ended when the job fails. */
static void
set_incoming(LiveDest *self, gboolean incoming)
{
    self->incoming = incoming;
    json_object_set_boolean_member(self->base.detail, "incoming", incoming);
}

static void begin_incoming(LiveDest *self);

static void
listening(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    if (reply != NULL) {
        drv_steps_next(&self->steps);
        return;
    }
    if (!self->plain_incoming && g_error_matches(*error, QMP_ERROR, QMP_ERROR_COMMAND) &&
        strstr((*error)->message, "exit-on-error") != NULL) {
        self->plain_incoming = TRUE;
        begin_incoming(self);
        return;
    }
    /* It waits for somebody else's migration, say: then it is not ours to end. */
    if (g_error_matches(*error, QMP_ERROR, QMP_ERROR_COMMAND))
        set_incoming(self, FALSE);
    drv_steps_fail(&self->steps,
                   g_error_new((*error)->domain, (*error)->code,
                               "%s: start one anew with '-incoming defer -S'", (*error)->message));
}

static void
begin_incoming(LiveDest *self)
{
    g_autofree char *path = drv_services_socket_path(self->base.services, self->base.rec->id, "in");
    g_autofree char *uri = g_strconcat("unix:", path, NULL);
    JsonNode *args = qmp_args("uri", "s", uri, NULL);
    /* A QEMU that can stay after a failure (from 9.1 on) tells over QMP why it failed. One that
     * cannot refuses the word. */
    if (!self->plain_incoming)
        json_object_set_boolean_member(json_node_get_object(args), "exit-on-error", FALSE);
    dest_ask(self, "migrate-incoming", args, listening);
}

static void
step_listen(gpointer owner)
{
    LiveDest *self = owner;
    GError *error = NULL;
    set_incoming(self, TRUE);
    if (!drv_job_move(&self->base, DRV_STATE_COPYING, &error)) {
        set_incoming(self, FALSE);
        drv_steps_fail(&self->steps, error);
        return;
    }
    begin_incoming(self);
}

static const DrvStep prepare_steps[] = {
    {"the destination's QMP socket cannot be used", step_connect},
    {"the destination's VM does not fit", step_describe},
    {"the destination's guest memory cannot be written", dest_reach_ram},
    {"the destination's guest memory cannot be compared", dest_open_memory},
    {"the guest does not fit the destination's NUMA nodes", dest_place},
    {"the destination's disks cannot be written to", dest_disks_export},
    {"the destination's disks may not be overwritten", dest_disks_check},
    {"the destination's disks cannot be written to", dest_disks_connect},
    {"the destination's disks cannot be compared with", dest_delta_plan},
    {"the destination's QEMU does not stay paused", step_stay_paused},
    {"the destination's QEMU refuses the migration capabilities", step_set_capabilities},
    {"the destination's QEMU refuses the migration parameters", step_set_parameters},
    {"the destination's QEMU does not listen", step_listen},
    {NULL, NULL},
};

static void
prepared(gpointer owner, GError *error)
{
    LiveDest *self = owner;
    if (error != NULL) {
        dest_fail(self, error);
        return;
    }
    self->channels =
        drv_channel_set_new(drv_services_transfer(self->base.services), 1 + (guint)self->multifd,
                            DRV_CODEC_NONE, DRV_CLASS_CONTROL, NULL, dest_channels_changed, self);
    drv_channel_set_use_codec(self->channels, dest_codec, self);
    drv_channel_set_near(self->channels, dest_numa_node(self->numa));
    JsonObject *ok = json_object_new();
    json_object_set_object_member(ok, "vm", drv_vm_to_json(self->vm));
    JsonArray *exports = dest_disks_prepared(self);
    if (exports != NULL)
        json_object_set_array_member(ok, "disks", exports);
    if (self->delta != NULL)
        json_object_set_int_member(ok, "delta_block", dest_delta_block(self->delta));
    if (self->direct != NULL)
        json_object_set_object_member(ok, "direct", g_steal_pointer(&self->direct));
    else if (self->relay_reason != NULL)
        json_object_set_string_member(ok, "relay_reason", self->relay_reason);
    if (self->memory != NULL)
        json_object_set_array_member(ok, "memory", drv_memory_check_offer(self->memory));
    if (self->shares != NULL)
        json_object_set_object_member(ok, "dedup", g_steal_pointer(&self->shares));
    drv_calls_answer(self->calls, DEST_PREPARE, ok);
    json_object_unref(ok);
    dest_await_begin(self);
}

void
dest_prepare(LiveDest *self)
{
    GError *error = NULL;
    self->cpu_before = drv_process_cpu_seconds();
    if (!drv_job_move(&self->base, DRV_STATE_PREPARING, &error)) {
        dest_fail(self, error);
        return;
    }
    drv_steps_start(&self->steps, prepare_steps, self, prepared);
}
