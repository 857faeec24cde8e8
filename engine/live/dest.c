/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/listener.h"
#include "engine/job/decide.h"
#include "engine/live/dest-private.h"
#include "engine/live/disk-names.h"
#include "engine/job/qemu-identity.h"

#include <glib-unix.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * The destination's half: it makes its QEMU listen, opens the channels that the source asks for,
 * says when QEMU has loaded everything, and starts the guest on COMMIT. Until it has said LOADED it
 * may give up by itself. From then on it keeps the paused guest whatever happens, until the source
 * or a person decides; silence decides nothing.
 */

#define QUIT_MS 5000

static void dest_roll_back(LiveDest *self);

LiveDest *
live_dest(DrvJob *job)
{
    return (LiveDest *)job;
}

DrvTicket *
dest_ticket(LiveDest *self)
{
    return drv_job_ticket(&self->steps);
}

LiveDest *
dest_redeem(gpointer ticket, DrvJob **keep)
{
    return drv_job_redeem(ticket, keep);
}

void
dest_ask(LiveDest *self, const char *command, JsonNode *args, DrvAnswered answered)
{
    drv_job_ask(&self->steps, self->qmp, command, args, QMP_TIMEOUT_MS, answered);
}

void
dest_clear_source(GSource **source)
{
    if (*source != NULL) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

/* --- telling the source --- */

static JsonObject *
error_to_json(const GError *error)
{
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "class", drv_error_name(error));
    json_object_set_string_member(object, "message", error->message);
    return object;
}

static JsonObject *
state_to_json(LiveDest *self)
{
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "state", drv_state_name(drv_job_state(&self->base)));
    json_object_set_double_member(object, "cpu_s", drv_process_cpu_seconds() - self->cpu_before);
    if (self->ran_us > 0)
        json_object_set_int_member(object, "running_ms",
                                   (g_get_monotonic_time() - self->ran_us) / 1000);
    if (self->numa_report != NULL)
        json_object_set_object_member(object, "numa", json_object_ref(self->numa_report));
    if (self->base.error != NULL)
        json_object_set_object_member(object, "error", error_to_json(self->base.error));
    return object;
}

static void
tell(LiveDest *self, const char *op, JsonObject *args)
{
    json_object_set_string_member(args, "job", self->base.rec->id);
    if (self->peer != NULL)
        drv_peer_tell(self->peer, op, args);
    else
        json_object_unref(args);
}

void
dest_tell_news(LiveDest *self)
{
    if (!drv_calls_wait(self->calls, DEST_PREPARE) && !drv_calls_wait(self->calls, DEST_COMMIT) &&
        !drv_calls_wait(self->calls, DEST_ABORT))
        tell(self, "job.news", json_object_new());
}

void
dest_answer(LiveDest *self, DestCall what)
{
    JsonObject *ok = state_to_json(self);
    drv_calls_answer(self->calls, what, ok);
    json_object_unref(ok);
}

/* --- the peer --- */

static gboolean
source_given_up(gpointer data)
{
    LiveDest *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    g_autoptr(GError) error = NULL;
    dest_clear_source(&self->drop);
    DrvAct act = drv_dest_on_silence(drv_job_state(&self->base));
    if (act == DRV_ACT_ROLL_BACK) {
        dest_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                                    "the source was not heard of for %u s, the drop timeout",
                                    self->drop_timeout_s));
    } else if (act == DRV_ACT_DOUBT) {
        g_autoptr(GError) doubt =
            g_error_new(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                        "the guest is loaded here and paused, and the source was not heard of for "
                        "%u s: if it does not come back, see whether the guest runs there, then "
                        "'drover resolve %s --run-on dest' or '--run-on source' here",
                        self->drop_timeout_s, self->base.rec->id);
        drv_job_set_error(&self->base, doubt);
        if (!drv_job_move(&self->base, DRV_STATE_IN_DOUBT, &error))
            g_warning("job %s: %s", self->base.rec->id, error->message);
    }
    return G_SOURCE_REMOVE;
}

static void
start_drop_timer(LiveDest *self)
{
    if (self->drop != NULL)
        return;
    self->drop = g_timeout_source_new(self->drop_timeout_s * 1000);
    g_source_set_callback(self->drop, source_given_up, self, NULL);
    g_source_attach(self->drop, g_main_context_get_thread_default());
}

static void
peer_connected(DrvPeer *peer, gpointer data)
{
    dest_clear_source(&((LiveDest *)data)->drop);
}

static void
peer_lost(DrvPeer *peer, const GError *why, gpointer data)
{
    start_drop_timer(data);
}

static void
drop_peer(LiveDest *self)
{
    if (self->peer == NULL)
        return;
    g_autoptr(DrvPeer) peer = g_steal_pointer(&self->peer);
    drv_peer_unlisten(peer, self);
    dest_stop_hashing(self);
}

static void
peer_dead(DrvPeer *peer, const GError *why, gpointer data)
{
    LiveDest *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    drv_calls_forget(self->calls, peer);
    drop_peer(self);
    if (drv_dest_on_session_end(drv_job_state(&self->base)) == DRV_ACT_ROLL_BACK)
        dest_fail(self,
                  g_error_new(why->domain, why->code, "the source is lost: %s", why->message));
    else
        start_drop_timer(self);
}

static const DrvPeerOps peer_ops = {
    .connected = peer_connected,
    .lost = peer_lost,
    .dead = peer_dead,
};

/* A call has come over 'peer': after a restart of either daemon it may be another one than before.
 */
void
dest_use_peer(LiveDest *self, DrvPeer *peer)
{
    dest_clear_source(&self->drop);
    if (self->peer == peer)
        return;
    drop_peer(self);
    self->peer = drv_peer_ref(peer);
    drv_peer_listen(peer, &peer_ops, self);
}

/* --- QEMU --- */

void
dest_connect_qmp(LiveDest *self, GAsyncReadyCallback callback, gpointer data)
{
    qmp_client_connect_async(self->dest_qmp, QMP_CONNECT_MS, self->steps.cancellable, callback,
                             data);
}

static void
drop_qmp(LiveDest *self)
{
    if (self->qmp == NULL)
        return;
    g_autoptr(QmpClient) client = g_steal_pointer(&self->qmp);
    g_signal_handlers_disconnect_by_data(client, self);
    qmp_client_close(client);
}

void
dest_check_loaded(LiveDest *self)
{
    g_autoptr(GError) error = NULL;
    if (drv_job_state(&self->base) != DRV_STATE_COPYING || !self->completed ||
        !drv_channel_set_finished(self->channels) || !dest_disks_closed(self))
        return;
    if (self->placer != NULL && !drv_ram_placer_check(self->placer, &error)) {
        dest_fail(self, g_steal_pointer(&error));
        return;
    }
    if (!drv_job_move(&self->base, DRV_STATE_LOADED, &error)) {
        dest_fail(self, g_steal_pointer(&error));
        return;
    }
    JsonObject *args = json_object_new();
    json_object_set_array_member(args, "digests", drv_channel_set_digests(self->channels));
    dest_disks_digests(self, args);
    tell(self, "job.loaded", args);
}

void
dest_channels_changed(DrvChannelSet *set, gpointer data)
{
    LiveDest *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    dest_check_loaded(self);
}

static void
reason_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveDest *self = live_dest(job);
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, NULL);
    /* On its standard error QEMU names the culprit, over QMP often only the error number. */
    g_autofree char *log = dest_last_words(self);
    const char *words = log != NULL ? log : qmp_get_string(qmp_node_object(reply), "error-desc");
    dest_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "its QEMU cannot load the guest%s%s",
                                words != NULL ? ": " : "", words != NULL ? words : ""));
}

static void
on_event(QmpClient *client, const char *name, JsonObject *data, gint64 timestamp_us,
         gpointer user_data)
{
    LiveDest *self = user_data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    const char *status = qmp_get_string(data, "status");
    if (!g_str_equal(name, "MIGRATION") || status == NULL)
        return;
    if (g_str_equal(status, "completed")) {
        self->completed = TRUE;
        dest_check_loaded(self);
    } else if (g_str_equal(status, "failed") && drv_job_state(&self->base) < DRV_STATE_LOADED) {
        qmp_client_execute_async(self->qmp, "query-migrate", NULL, QMP_TIMEOUT_MS, NULL,
                                 reason_known, drv_job_ref(&self->base));
    }
}

static void
on_closed(QmpClient *client, const GError *why, gpointer user_data)
{
    LiveDest *self = user_data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    g_autofree char *words = dest_last_words(self);
    drop_qmp(self);
    /* Once loaded, the guest is there as long as the process is: COMMIT and the roll-back connect
     * again and see. Before that the step at hand is over, too. */
    if (drv_job_state(&self->base) < DRV_STATE_LOADED)
        dest_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU, "its QEMU has ended: %s",
                                    words != NULL ? words : why->message));
}

void
dest_use_qmp(LiveDest *self, QmpClient *client)
{
    self->qmp = client;
    g_signal_connect(client, "event", G_CALLBACK(on_event), self);
    g_signal_connect(client, "closed", G_CALLBACK(on_closed), self);
}

/* --- the end --- */

static void
give_back(LiveDest *self)
{
    drv_steps_drop(&self->steps);
    dest_stop_hashing(self);
    g_clear_pointer(&self->memory, drv_memory_check_unref);
    dest_clear_source(&self->drop);
    dest_clear_source(&self->begin);
    dest_clear_source(&self->again);
    dest_clear_source(&self->hangs);
    dest_clear_source(&self->gone);
    g_clear_pointer(&self->channels, drv_channel_set_free);
    g_clear_pointer(&self->delta, dest_delta_free);
    g_clear_pointer(&self->disks, dest_disks_free);
    g_clear_pointer(&self->placer, drv_ram_placer_drop);
    drv_services_keep_off(self->base.services, self, NULL);
    drop_qmp(self);
    if (self->log_fd >= 0)
        close(self->log_fd);
    self->log_fd = -1;
}

void
dest_finish(LiveDest *self, DrvJobState state)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    g_autofree char *path = drv_services_socket_path(self->base.services, self->base.rec->id, "in");
    g_autofree char *disks =
        drv_services_socket_path(self->base.services, self->base.rec->id, DRV_LIVE_DISK_SOCKET);
    give_back(self);
    g_unlink(path); /* QEMU leaves its sockets behind */
    g_unlink(disks);
    drv_job_end(&self->base, state);
    dest_tell_news(self);
    if (state == DRV_STATE_DONE) {
        dest_answer(self, DEST_COMMIT);
    } else {
        if (self->base.error != NULL)
            drv_calls_refuse(self->calls, DEST_PREPARE, self->base.error);
        dest_answer(self, DEST_ABORT);
    }
    drop_peer(self);
}

void
dest_fail(LiveDest *self, GError *error)
{
    g_autoptr(GError) owned = error;
    if (drv_state_is_final(drv_job_state(&self->base)))
        return;
    drv_job_set_error(&self->base, owned);
    if (drv_job_state(&self->base) == DRV_STATE_ROLLING_BACK)
        return;
    if (!drv_calls_wait(self->calls, DEST_PREPARE) && !drv_calls_wait(self->calls, DEST_ABORT)) {
        JsonObject *args = json_object_new();
        json_object_set_object_member(args, "error", error_to_json(self->base.error));
        tell(self, "job.failed", args);
    }
    dest_roll_back(self);
}

/* --- rolling back: the QEMU that was being loaded is ended; one that was not begun with is left as
 * it was --- */

static void
quit_tried(gpointer owner, JsonNode *reply, GError **error)
{
    LiveDest *self = owner;
    self->quits = reply != NULL;
    drv_steps_next(&self->steps);
}

static void
quit_qmp_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, NULL);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (client != NULL && drv_qemu_is_remembered(self->base.detail, client, NULL))
        dest_use_qmp(self, g_steal_pointer(&client));
    drv_steps_next(&self->steps);
}

static void
step_quit_connect(gpointer owner)
{
    LiveDest *self = owner;
    if (self->qmp != NULL || !(self->incoming || dest_disks_served(self)))
        drv_steps_next(&self->steps);
    else
        dest_connect_qmp(self, quit_qmp_connected, dest_ticket(self));
}

static void
step_quit(gpointer owner)
{
    LiveDest *self = owner;
    if (self->qmp == NULL || !self->incoming)
        drv_steps_next(&self->steps);
    else
        drv_job_ask(&self->steps, self->qmp, "quit", NULL, QUIT_MS, quit_tried);
}

typedef struct {
    LiveDest *self;
    int pidfd;
} Gone;

static void
free_gone(gpointer data)
{
    Gone *gone = data;
    close(gone->pidfd);
    g_free(gone);
}

static gboolean
is_gone(int fd, GIOCondition condition, gpointer data)
{
    LiveDest *self = ((Gone *)data)->self;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    dest_clear_source(&self->hangs);
    dest_clear_source(&self->gone);
    drv_steps_next(&self->steps);
    return G_SOURCE_REMOVE;
}

/* It hangs: no guest has run in it, and none ever will. */
static gboolean
end_it(gpointer data)
{
    Gone *gone = data;
    g_warning("job %s: the destination's QEMU does not quit: it is killed",
              gone->self->base.rec->id);
    syscall(SYS_pidfd_send_signal, gone->pidfd, SIGKILL, NULL, 0);
    return G_SOURCE_REMOVE;
}

/* No QEMU is left behind with a guest that runs elsewhere. */
static void
step_gone(gpointer owner)
{
    LiveDest *self = owner;
    int pidfd = self->incoming && !self->may_have_run ? drv_qemu_open(self->base.detail) : -1;
    if (pidfd < 0) {
        drv_steps_next(&self->steps);
        return;
    }
    Gone *gone = g_new(Gone, 1);
    *gone = (Gone){self, pidfd};
    self->gone = g_unix_fd_source_new(pidfd, G_IO_IN);
    g_source_set_callback(self->gone, G_SOURCE_FUNC(is_gone), gone, free_gone);
    g_source_attach(self->gone, g_main_context_get_thread_default());
    self->hangs = g_timeout_source_new(self->quits ? QUIT_MS : 0);
    g_source_set_callback(self->hangs, end_it, gone, NULL);
    g_source_attach(self->hangs, g_main_context_get_thread_default());
}

static const DrvStep rollback_steps[] = {
    {"connect", step_quit_connect},
    {"disks", dest_disks_withdraw},
    {"quit", step_quit},
    {"gone", step_gone},
    {NULL, NULL},
};

static void
rolled_back(gpointer owner, GError *error)
{
    LiveDest *self = owner;
    g_clear_error(&error);
    dest_finish(self, self->cancelled ? DRV_STATE_CANCELLED : DRV_STATE_FAILED);
}

static void
dest_roll_back(LiveDest *self)
{
    dest_clear_source(&self->drop);
    dest_clear_source(&self->begin);
    dest_stop_hashing(self);
    if (drv_job_state(&self->base) != DRV_STATE_ROLLING_BACK)
        drv_job_move_anyway(&self->base, DRV_STATE_ROLLING_BACK);
    drv_steps_start(&self->steps, rollback_steps, self, rolled_back);
}

/* --- channels --- */

GError *
dest_not_now(LiveDest *self, const char *does)
{
    const GError *why = self->base.error; /* the source has not heard of it yet */
    return g_error_new(DRV_ERROR, DRV_ERROR_STATE, "job %s %s%s%s", self->base.rec->id, does,
                       why != NULL ? ": " : "", why != NULL ? why->message : "");
}

int
dest_connect_qemu(const char *path, GError **error)
{
    int fd = drv_unix_connect(path, error);
    if (fd < 0)
        g_prefix_error(error, "its QEMU takes no connection, or has ended: ");
    return fd;
}

void
drv_live_dest_channel(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args)
{
    LiveDest *self = live_dest(job);
    g_autoptr(GError) error = NULL;
    JsonObject *ok = NULL;
    gint64 index = drv_json_int(args, "index", -1);
    if (drv_job_state(job) != DRV_STATE_COPYING || self->channels == NULL || self->peer != peer) {
        error = dest_not_now(self, "takes no channels now");
    } else if (index != drv_channel_set_count(self->channels) || index > self->multifd) {
        error = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "channel %" G_GINT64_FORMAT " of job %s is out of order", index,
                            job->rec->id);
    } else {
        g_autofree char *path = drv_services_socket_path(job->services, job->rec->id, "in");
        int fd = dest_connect_qemu(path, &error);
        if (fd >= 0)
            ok = drv_channel_set_accept(self->channels, peer, fd, args, &error);
    }
    if (ok != NULL) {
        dest_has_begun(self);
        drv_peer_answer(peer, call, ok);
    } else {
        drv_peer_refuse(peer, call, error);
    }
}

/* --- life --- */

static void
dest_start(DrvJob *job)
{
    dest_prepare(live_dest(job));
}

static void
dest_resume(DrvJob *job)
{
    LiveDest *self = live_dest(job);
    DrvAct act = drv_dest_on_restart(drv_job_state(job));
    self->cpu_before = drv_process_cpu_seconds();
    self->incoming = drv_json_flag(job->detail, "incoming", FALSE);
    self->may_have_run = drv_json_flag(job->detail, "may_have_run", FALSE);
    if (act == DRV_ACT_RUN_GUEST) {
        dest_run_guest(self);
    } else if (act == DRV_ACT_FINISH) {
        dest_finish(self, DRV_STATE_DONE);
    } else if (act == DRV_ACT_WAIT) {
        start_drop_timer(self);
    } else if (act == DRV_ACT_ROLL_BACK) {
        g_autoptr(GError) error = g_error_new_literal(
            DRV_ERROR, DRV_ERROR_STATE,
            "the destination's droverd was restarted in the middle of the migration");
        drv_job_set_error(job, error);
        dest_roll_back(self);
    }
}

static gboolean
dest_cancel(DrvJob *job, GError **error)
{
    LiveDest *self = live_dest(job);
    if (drv_job_state(job) >= DRV_STATE_LOADED) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "job %s is '%s' here: cancel it at the source", job->rec->id,
                    drv_state_name(drv_job_state(job)));
        return FALSE;
    }
    self->cancelled = TRUE;
    dest_fail(self,
              g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED, "cancelled at the destination"));
    return TRUE;
}

static gboolean
dest_resolve(DrvJob *job, gboolean run_on_source, GError **error)
{
    LiveDest *self = live_dest(job);
    if (drv_job_state(job) != DRV_STATE_IN_DOUBT) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "job %s is '%s', not in doubt: there is nothing to resolve", job->rec->id,
                    drv_state_name(drv_job_state(job)));
        return FALSE;
    }
    if (!run_on_source) {
        dest_run_guest(self);
        return TRUE;
    }
    g_autoptr(GError) why = g_error_new_literal(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                                                "resolved: the VM runs on at the source");
    g_clear_error(&job->error);
    drv_job_set_error(job, why);
    if (!drv_job_move(job, DRV_STATE_ROLLING_BACK, error))
        return FALSE;
    dest_roll_back(self);
    return TRUE;
}

static void
dest_free(DrvJob *job)
{
    LiveDest *self = live_dest(job);
    give_back(self);
    drop_peer(self);
    drv_calls_free(self->calls);
    drv_vm_free(self->vm);
    drv_vm_free(self->source_vm);
    g_clear_pointer(&self->asked, json_object_unref);
    g_clear_pointer(&self->direct, json_object_unref);
    g_clear_pointer(&self->numa_report, json_object_unref);
    dest_numa_free(self->numa);
    g_clear_pointer(&self->shares, json_object_unref);
    g_free(self->relay_reason);
    g_free(self->dest_qmp);
    g_free(self);
}

static const DrvJobOps dest_ops = {
    .kind = "migrate",
    .start = dest_start,
    .resume = dest_resume,
    .cancel = dest_cancel,
    .resolve = dest_resolve,
    .free = dest_free,
};

/* 'spec' is what the source said in job.prepare; it is kept in the journal as it came. */
static LiveDest *
new_dest(DrvServices *services, DrvJobRecord *rec, JsonObject *spec)
{
    LiveDest *self = g_new0(LiveDest, 1);
    self->dest_qmp = g_strdup(drv_json_string(spec, "dest_qmp", ""));
    self->multifd = CLAMP(drv_json_int(spec, "multifd", 0), 0, 255);
    self->mode = (DrvSpecMode)CLAMP(drv_json_int(spec, "mode", DRV_SPEC_MODE_RELAY),
                                    DRV_SPEC_MODE_AUTO, DRV_SPEC_MODE_DIRECT);
    self->verify_memory = drv_json_flag(spec, "verify_memory", FALSE);
    self->drop_timeout_s = (guint)CLAMP(drv_json_int(spec, "drop_timeout_s", 60), 1, 86400);
    self->was_running = drv_json_flag(spec, "was_running", TRUE);
    self->asked = spec != NULL ? json_object_ref(spec) : NULL;
    self->source_vm = drv_vm_from_json(drv_json_object(spec, "vm"));
    self->log_fd = -1;
    self->calls = drv_calls_new();
    drv_job_init(&self->base, &dest_ops, services, rec, TRUE);
    return self;
}

DrvJob *
drv_live_dest_new(DrvServices *services, DrvPeer *peer, guint64 call, JsonObject *args,
                  GError **error)
{
    const char *id = drv_json_string(args, "job", "");
    const char *name = drv_json_string(args, "name", id);
    if (!drv_job_valid_id(id) || drv_json_object(args, "vm") == NULL ||
        !g_path_is_absolute(drv_json_string(args, "dest_qmp", ""))) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "the source's request makes no sense");
        return NULL;
    }
    g_autofree char *spec = drv_json_text(args);
    DrvJobRecord *rec = drv_job_record_new(id, DRV_ROLE_DEST, spec);
    rec->vm = g_strdup(name);
    rec->peer = g_strdup(drv_peer_name(peer));
    LiveDest *self = new_dest(services, rec, args);
    dest_use_peer(self, peer);
    drv_calls_add(self->calls, DEST_PREPARE, peer, call);
    return &self->base;
}

DrvJob *
drv_live_dest_restored(DrvServices *services, DrvJobRecord *rec)
{
    g_autoptr(JsonObject) spec = drv_json_parse_object(rec->spec, strlen(rec->spec), NULL);
    return &new_dest(services, rec, spec)->base;
}
