/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/job/allow.h"
#include "engine/job/qemu-identity.h"
#include "engine/job/settings.h"

/* --- QMP --- */

void
live_connect_qmp(LiveSource *self, GAsyncReadyCallback callback, gpointer data)
{
    qmp_client_connect_async(self->spec->qmp, QMP_CONNECT_MS, self->steps.cancellable, callback,
                             data);
}

static void
on_event(QmpClient *client, const char *name, JsonObject *data, gint64 timestamp_us,
         gpointer user_data)
{
    live_on_event(user_data, name, data, timestamp_us);
}

void
live_qmp_closed(LiveSource *self, const GError *why)
{
    /* A source that has completed has nothing more to say; the guest is with the destination's QEMU
     * by then. Before that the step at hand is over, too: it may wait for the destination, and the
     * next one would have no QEMU to speak to. */
    gboolean forward = drv_job_state(&self->base) < DRV_STATE_LOADED;
    if (!self->completed && (forward || !drv_steps_running(&self->steps)))
        live_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU,
                                    "the source's QEMU has ended or closed its QMP socket: %s",
                                    why->message));
}

static void
on_closed(QmpClient *client, const GError *why, gpointer user_data)
{
    LiveSource *self = user_data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_drop_qmp(self);
    live_qmp_closed(self, why);
}

void
live_use_qmp(LiveSource *self, QmpClient *client)
{
    self->qmp = client;
    g_signal_connect(client, "event", G_CALLBACK(on_event), self);
    g_signal_connect(client, "closed", G_CALLBACK(on_closed), self);
}

void
live_drop_qmp(LiveSource *self)
{
    if (self->qmp == NULL)
        return;
    g_autoptr(QmpClient) client = g_steal_pointer(&self->qmp);
    g_signal_handlers_disconnect_by_data(client, self);
    qmp_client_close(client);
}

static void
qmp_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (client == NULL) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    live_use_qmp(self, g_steal_pointer(&client));
    drv_steps_next(&self->steps);
}

static void
step_connect_qmp(gpointer owner)
{
    live_connect_qmp(owner, qmp_connected, live_ticket(owner));
}

static gboolean
can_migrate(const DrvVm *vm, GError **error)
{
    static const char *const idle[] = {"none", "completed", "failed", "cancelled", NULL};
    if (!g_strv_contains(idle, vm->migration)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "this VM is already migrating (QEMU says '%s'): wait for it to end, or cancel "
                    "it where it was started",
                    vm->migration);
        return FALSE;
    }
    static const char *const movable[] = {"running", "paused", "suspended", "prelaunch", NULL};
    if (!g_strv_contains(movable, vm->status)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "the source's QEMU is in state '%s', which cannot be migrated: %s", vm->status,
                    g_str_equal(vm->status, "inmigrate")
                        ? "it waits for an incoming migration itself; are --qmp and --dest-qmp "
                          "mixed up?"
                    : g_str_equal(vm->status, "postmigrate")
                        ? "its guest has been migrated away already"
                    : g_str_equal(vm->status, "shutdown")
                        ? "its guest has shut down: end it, and move its disks with 'drover "
                          "migrate --off'"
                        : "bring it to 'running' or 'paused' first");
        return FALSE;
    }
    return TRUE;
}

static void
described(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvVm) vm = drv_vm_describe_finish(result, &error);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (vm == NULL || !can_migrate(vm, &error)) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    self->was_running = vm->running;
    json_object_set_boolean_member(self->base.detail, "was_running", vm->running);
    drv_qemu_remember(self->base.detail, self->qmp);
    if (self->base.rec->vm == NULL)
        self->base.rec->vm = g_strdup(*vm->name != '\0' ? vm->name : self->base.rec->id);
    self->vm = g_steal_pointer(&vm);
    drv_steps_next(&self->steps);
}

static void
step_describe(gpointer owner)
{
    LiveSource *self = owner;
    drv_vm_describe_async(self->qmp, QMP_TIMEOUT_MS, self->steps.cancellable, described,
                          live_ticket(self));
}

/* --- the settings to be put back --- */

static void
remember(LiveSource *self, const char *member, JsonNode *reply, GError **error)
{
    if (reply != NULL)
        json_object_set_member(self->base.detail, member, json_node_ref(reply));
    drv_steps_over(&self->steps, g_steal_pointer(error));
}

static void
capabilities_known(gpointer owner, JsonNode *reply, GError **error)
{
    remember(owner, "capabilities", reply, error);
}

static void
step_remember_capabilities(gpointer owner)
{
    live_ask(owner, "query-migrate-capabilities", NULL, capabilities_known);
}

static void
parameters_known(gpointer owner, JsonNode *reply, GError **error)
{
    remember(owner, "parameters", reply, error);
}

static void
step_remember_parameters(gpointer owner)
{
    live_ask(owner, "query-migrate-parameters", NULL, parameters_known);
}

/* --- the peer --- */

static void
step_connect_peer(gpointer owner)
{
    LiveSource *self = owner;
    live_use_peer(self);
    if (drv_peer_is_connected(self->peer))
        drv_steps_next(&self->steps);
    /* Else 'connected' or 'dead' is told: source.c. */
}

static void
peer_prepared(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    GError *wrong = error != NULL ? g_error_copy(error) : NULL;
    if (wrong != NULL || !live_choose_mode(self, ok, &wrong) ||
        !live_disks_agreed(self, ok, &wrong) || !live_agree_memory(self, ok, &wrong)) {
        drv_steps_fail(&self->steps, wrong);
        return;
    }
    g_free(self->base.rec->peer);
    self->base.rec->peer = g_strdup_printf("%s (%s)", drv_peer_name(peer), self->spec->to);
    drv_steps_next(&self->steps);
}

static void
step_prepare_peer(gpointer owner)
{
    LiveSource *self = owner;
    GError *denied = NULL;
    if (!drv_allow_to(drv_services_config(self->base.services), drv_peer_name(self->peer),
                      &denied)) {
        drv_steps_fail(&self->steps, denied);
        return;
    }
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", self->base.rec->id);
    json_object_set_string_member(args, "name", self->base.rec->vm);
    json_object_set_string_member(args, "dest_qmp", self->spec->dest_qmp);
    json_object_set_int_member(args, "multifd", self->spec->multifd);
    json_object_set_int_member(args, "mode", self->spec->mode);
    json_object_set_boolean_member(args, "verify_memory",
                                   self->spec->verify == DRV_SPEC_VERIFY_MEMORY);
    json_object_set_int_member(args, "drop_timeout_s", self->spec->drop_timeout_s);
    json_object_set_boolean_member(args, "was_running", self->was_running);
    json_object_set_object_member(args, "vm", drv_vm_to_json(self->vm));
    live_disks_ask(self, args);
    live_ask_to_share(self, args);
    self->prepared = TRUE; /* from here on it may have begun, whatever we hear */
    drv_peer_call(self->peer, "job.prepare", args, peer_prepared, live_ticket(self));
}

/* --- setting up and starting QEMU --- */

static DrvSettings
settings_of(LiveSource *self)
{
    return (DrvSettings){.multifd = self->spec->multifd,
                         .downtime_ms = self->spec->downtime_ms,
                         .throttle = self->spec->converge == DRV_SPEC_CONVERGE_THROTTLE,
                         .pause = live_disks_any(self)};
}

static void
step_set_capabilities(gpointer owner)
{
    LiveSource *self = owner;
    const DrvSettings settings = settings_of(self);
    GError *error = NULL;
    /* The settings to be put back must outlive this daemon before they are changed. */
    if (!drv_job_save(&self->base, &error)) {
        drv_steps_fail(&self->steps, error);
        return;
    }
    self->touched = TRUE;
    live_ask(self, "migrate-set-capabilities",
             drv_settings_capabilities(json_object_get_member(self->base.detail, "capabilities"),
                                       &settings),
             NULL);
}

static void
step_set_parameters(gpointer owner)
{
    LiveSource *self = owner;
    const DrvSettings settings = settings_of(self);
    live_ask(
        self, "migrate-set-parameters",
        drv_settings_parameters(json_object_get_member(self->base.detail, "parameters"), &settings),
        NULL);
}

DrvCodec
live_frame_codec(LiveSource *self)
{
    static const DrvCodec codecs[] = {
        [DRV_SPEC_CODEC_AUTO] = DRV_CODEC_AUTO,
        [DRV_SPEC_CODEC_NONE] = DRV_CODEC_NONE,
        [DRV_SPEC_CODEC_LZ4] = DRV_CODEC_LZ4,
        [DRV_SPEC_CODEC_ZSTD] = DRV_CODEC_ZSTD,
    };
    return codecs[self->spec->codec];
}

static void
step_listen(gpointer owner)
{
    LiveSource *self = owner;
    GError *error = NULL;
    g_autofree char *path =
        drv_services_socket_path(self->base.services, self->base.rec->id, "out");
    self->shaper = drv_shaper_new((guint64)self->spec->bandwidth, g_get_monotonic_time());
    self->channels = drv_channel_set_new(drv_services_transfer(self->base.services),
                                         1 + (guint)self->spec->multifd, live_frame_codec(self),
                                         DRV_CLASS_RAM, self->shaper, live_channels_changed, self);
    drv_channel_set_use_codec(self->channels, live_codec, self);
    drv_channel_set_near(self->channels, self->near);
    self->listener = drv_listener_new(path, live_on_connection, self, &error);
    if (self->listener == NULL)
        drv_steps_fail(&self->steps, error);
    else
        drv_steps_next(&self->steps);
}

/* Whether QEMU's migration is ours: one that it refused to begin may be somebody else's, which is
 * not to be cancelled, and whose stopped guest is not to be run. */
static void
set_migrating(LiveSource *self, gboolean migrating)
{
    self->migrating = migrating;
    json_object_set_boolean_member(self->base.detail, "migrating", migrating);
}

static void
migrate_begun(gpointer owner, JsonNode *reply, GError **error)
{
    LiveSource *self = owner;
    if (g_error_matches(*error, QMP_ERROR, QMP_ERROR_COMMAND))
        set_migrating(self, FALSE);
    drv_steps_over(&self->steps, g_steal_pointer(error));
}

static void
step_migrate(gpointer owner)
{
    LiveSource *self = owner;
    GError *error = NULL;
    set_migrating(self, TRUE);
    /* Where there are disks, they are being copied already. */
    gboolean copying = drv_job_state(&self->base) == DRV_STATE_COPYING;
    if (copying ? !drv_job_save(&self->base, &error)
                : !drv_job_move(&self->base, DRV_STATE_COPYING, &error)) {
        set_migrating(self, FALSE);
        drv_steps_fail(&self->steps, error);
        return;
    }
    g_autofree char *path =
        drv_services_socket_path(self->base.services, self->base.rec->id, "out");
    g_autofree char *uri = g_strconcat("unix:", path, NULL);
    live_ask(self, "migrate", qmp_args("uri", "s", uri, NULL), migrate_begun);
}

static const DrvStep prepare_steps[] = {
    {"the source's QMP socket cannot be used", step_connect_qmp},
    {"the source's VM cannot be migrated", step_describe},
    {"the source's disks cannot be mirrored", live_disks_describe},
    {"the source's place on the host cannot be found", live_find_node},
    {"the source's guest memory cannot be compared", live_open_memory},
    {"the source's migration settings cannot be read", step_remember_capabilities},
    {"the source's migration settings cannot be read", step_remember_parameters},
    {"the destination's daemon cannot be used", step_connect_peer},
    {"the destination refuses", step_prepare_peer},
    {"the source's QEMU refuses the migration capabilities", step_set_capabilities},
    {"the source's QEMU refuses the migration parameters", step_set_parameters},
    {"the source's QEMU has no socket to migrate to", step_listen},
    {"the destination's disks cannot be compared with", live_delta_fetch},
    {"the source's QEMU has no socket to mirror its disks to", live_disks_listen},
    {"the source's QEMU does not mirror its disks", live_disks_connect},
    {"the source's QEMU does not mirror its disks", live_disks_mirror},
    {"the source's QEMU does not mirror its disks", live_disks_wait},
    {"the source's QEMU refuses to migrate", step_migrate},
    {NULL, NULL},
};

static void
prepared(gpointer owner, GError *error)
{
    if (error != NULL)
        live_fail(owner, error);
    else
        live_copy_started(owner);
}

void
live_prepare(LiveSource *self)
{
    GError *error = NULL;
    self->cpu_before = drv_process_cpu_seconds();
    self->begin_us = g_get_monotonic_time();
    if (!drv_job_move(&self->base, DRV_STATE_PREPARING, &error)) {
        live_fail(self, error);
        return;
    }
    drv_steps_start(&self->steps, prepare_steps, self, prepared);
}
