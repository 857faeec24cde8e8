/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/source.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/channel-set.h"
#include "engine/image/convert.h"
#include "engine/image/send.h"
#include "engine/image/source.h"
#include "engine/job/allow.h"
#include "engine/copy/dest.h"
#include "engine/copy/over.h"
#include "engine/copy/private.h"
#include "engine/copy/view.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 *   open the source (thread) -> connect -> copy.open -> send (thread) -> copy.finish -> done
 *                                  ^----------- the session died: again ----------'
 *
 * A cut link is the session's affair. A session that dies (the other daemon was restarted) is
 * followed by another, and the copy begins again from its first block: the destination tells what
 * it has, so what was sent already is read and hashed but not sent once more. The same goes for a
 * restart of this daemon.
 *
 * One of a group waits after copy.finish until all of the group have got as far (group.h), and
 * tells the destination to give the image its name then (copy.name).
 *
 * Of a disk of a running guest a view is read: source-view.c.
 *
 * Nothing waits for a thread: it holds the job, and when it ends in a job that is over, that is
 * all.
 */
#define RETRY_MS 500
#define TICK_MS 1000

typedef DrvCopy Copy;

static void connect_peer(Copy *self);

/* --- the end --- */

/* Or about to be. */
static gboolean
is_over(Copy *self)
{
    DrvJobState state = drv_job_state(&self->base);
    return drv_state_is_final(state) || state == DRV_STATE_ROLLING_BACK;
}

static void
count_attempt(Copy *self)
{
    DrvChannelTotals totals;
    DrvSessionStats link;
    if (self->channel == NULL)
        return;
    drv_channel_set_totals(self->channel, &totals);
    self->wire += totals.wire;
    drv_session_get_stats(drv_peer_session(self->peer), &link);
    self->reconnects += link.reconnects;
    self->lanes = MAX(self->lanes, link.lanes);
}

void
copy_drop_attempt(Copy *self)
{
    count_attempt(self);
    self->offered = self->held = self->naming = self->checking = FALSE;
    if (self->fd >= 0)
        shutdown(self->fd, SHUT_RDWR);
    g_clear_pointer(&self->channel, drv_channel_set_free);
    if (self->peer == NULL)
        return;
    DrvPeer *peer = g_steal_pointer(&self->peer);
    drv_peer_unlisten(peer, self);
    drv_peers_put(drv_services_peers(self->base.services), peer);
}

static void
give_back(Copy *self)
{
    drv_copy_cancel(&self->count);
    g_clear_handle_id(&self->retry, g_source_remove);
    g_clear_handle_id(&self->tick, g_source_remove);
    copy_drop_attempt(self);
}

static void
aborted(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    drv_peers_put(drv_services_peers(job->services), peer);
}

/* The destination keeps nothing of it, or what it has for another time. The session stays until it
 * has heard of that: when it ends, the destination keeps it. */
static void
abort_far_end(Copy *self, gboolean keep)
{
    if (self->peer == NULL || drv_peer_is_dead(self->peer) || !self->offered)
        return;
    DrvPeer *peer = drv_peers_get(drv_services_peers(self->base.services), self->spec->host,
                                  self->spec->port, 0);
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", self->base.rec->id);
    json_object_set_boolean_member(args, "keep", keep);
    drv_peer_call(peer, "copy.abort", args, aborted, drv_job_ref(&self->base));
}

void
copy_end_as_failed(Copy *self)
{
    gboolean failed = self->base.error != NULL || self->base.rec->error_message != NULL;
    drv_job_end(&self->base, failed ? DRV_STATE_FAILED : DRV_STATE_CANCELLED);
}

static void
take_back(Copy *self)
{
    if (self->view == NULL)
        copy_end_as_failed(self);
    else
        copy_view_take_back(self);
}

/* 'error' is taken. 'keep': what the destination has stays there. */
static void
give_up(Copy *self, GError *error, gboolean keep)
{
    g_autoptr(DrvJob) job = drv_job_ref(&self->base);
    gboolean cancelled = g_error_matches(error, DRV_ERROR, DRV_ERROR_CANCELLED);
    /* What the other end was away for is taken up where it is, another time. */
    gboolean away = g_error_matches(error, DRV_ERROR, DRV_ERROR_TIMEOUT);
    if (!is_over(self)) {
        if (!away)
            abort_far_end(self, keep);
        give_back(self);
        if (!cancelled)
            drv_job_set_error(job, error);
        drv_job_move_anyway(job, DRV_STATE_ROLLING_BACK);
        drv_copy_group_break(self->groups, job, !cancelled);
        take_back(self);
    }
    g_error_free(error);
}

void
copy_fail(Copy *self, GError *error)
{
    give_up(self, error, FALSE);
}

/* From wherever it is to DONE: what lies between means something for guests only. */
static void
pass_to_done(Copy *self)
{
    static const DrvJobState way[] = {DRV_STATE_SWITCHOVER, DRV_STATE_LOADED, DRV_STATE_COMMITTED,
                                      DRV_STATE_RUNNING};
    for (guint i = 0; i < G_N_ELEMENTS(way); i++) {
        GError *error = NULL;
        if (drv_job_state(&self->base) < way[i] && !drv_job_pass(&self->base, way[i], &error)) {
            g_prefix_error(&error, "the image was copied, but that cannot be recorded: ");
            copy_fail(self, error);
            return;
        }
    }
    if (self->view != NULL)
        copy_view_end(self);
    else
        drv_job_end(&self->base, DRV_STATE_DONE);
}

static void
done(Copy *self)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    give_back(self);
    drv_copy_group_leave(self->groups, &self->base);
    g_autoptr(JsonObject) result = drv_copy_result(self);
    g_free(self->base.rec->result);
    self->base.rec->result = drv_json_text(result);
    pass_to_done(self);
}

/* --- another attempt --- */

static gboolean
retry(gpointer data)
{
    Copy *self = data;
    self->retry = 0;
    connect_peer(self);
    return G_SOURCE_REMOVE;
}

static void
try_again_when_ready(Copy *self)
{
    if (!self->again || self->thread != NULL || self->retry != 0)
        return;
    self->again = FALSE;
    self->retry = g_timeout_add(RETRY_MS, retry, self);
}

/* The session is gone. One that never was there is waited for only by a copy that had begun. */
static void
lose_peer(Copy *self, const GError *why)
{
    if (self->attempts == 0) {
        copy_fail(self, g_error_copy(why));
        return;
    }
    if (self->whole)
        return;
    if (self->view != NULL && copy_view_is_gone(self)) {
        copy_fail(self, copy_view_lost("the other daemon has ended"));
        return;
    }
    g_message("copy %s: the session has ended (%s): beginning again where it was",
              self->base.rec->id, why->message);
    if (self->lost_us == 0)
        self->lost_us = g_get_monotonic_time();
    copy_drop_attempt(self);
    drv_copy_group_held(self->groups, &self->base, FALSE);
    self->again = TRUE;
    try_again_when_ready(self);
    drv_job_changed(&self->base);
}

static gboolean
tick(gpointer data)
{
    Copy *self = data;
    gint64 limit = self->spec->drop_timeout_s * G_USEC_PER_SEC;
    drv_job_changed(&self->base);
    if (self->lost_us == 0 || self->whole || g_get_monotonic_time() - self->lost_us < limit)
        return G_SOURCE_CONTINUE;
    self->tick = 0;
    copy_fail(self,
              g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                          "%s has been away for %d s: what it has of the image stays there, and "
                          "the same copy started again goes on from it",
                          self->spec->to, (int)self->spec->drop_timeout_s));
    return G_SOURCE_REMOVE;
}

/* --- closing --- */

static void
join(Copy *self)
{
    g_thread_join(g_steal_pointer(&self->thread));
    if (self->fd >= 0)
        close(self->fd);
    self->fd = -1;
}

static gboolean
source_closed(gpointer data)
{
    g_autoptr(DrvJob) job = data;
    join((Copy *)job);
    done((Copy *)job);
    return G_SOURCE_REMOVE;
}

static gpointer
close_source(gpointer data)
{
    Copy *self = data;
    drv_store_close(g_steal_pointer(&self->store), NULL);
    g_idle_add(source_closed, self);
    return NULL;
}

/* QEMU's lock on the image is gone before anybody is told of the end: who waited for that may start
 * a VM with it at once. */
static void
conclude(Copy *self)
{
    self->whole = TRUE;
    if (self->view != NULL) {
        done(self);
        return;
    }
    drv_job_ref(&self->base);
    self->thread = g_thread_new("copy-close", close_source, self);
}

/* --- a group of copies --- */

static void
named(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    Copy *self = (Copy *)job;
    if (is_over(self) || peer != self->peer || drv_peer_is_dead(peer))
        return;
    if (error != NULL)
        copy_fail(self, g_error_new(error->domain, error->code, "at the destination: %s",
                                    error->message));
    else
        conclude(self);
}

static void
ask_name(DrvJob *job)
{
    Copy *self = (Copy *)job;
    JsonObject *args = json_object_new();
    self->naming = TRUE;
    json_object_set_string_member(args, "job", job->rec->id);
    drv_peer_call(self->peer, "copy.name", args, named, drv_job_ref(job));
}

static void
call_off(DrvJob *job, gboolean keep)
{
    give_up((Copy *)job,
            g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED, "another one of its group ended"),
            keep);
}

static const DrvCopyGroupOps group_ops = {ask_name, call_off, copy_view_turn};

void
copy_hold(Copy *self)
{
    self->held = TRUE;
    drv_job_changed(&self->base);
    drv_copy_group_held(self->groups, &self->base, TRUE);
}

/* --- sending --- */

static void
finished(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    Copy *self = (Copy *)job;
    if (is_over(self) || peer != self->peer || drv_peer_is_dead(peer))
        return;
    const char *theirs = drv_json_string(ok, "digest", "");
    if (error != NULL)
        copy_fail(self, g_error_new(error->domain, error->code, "at the destination: %s",
                                    error->message));
    else if (g_strcmp0(theirs, self->digest) != 0)
        copy_fail(self, self->failure != NULL
                            ? g_error_copy(self->failure)
                            : g_error_new(DRV_ERROR, DRV_ERROR_MISMATCH,
                                          "the destination's image has another digest than ours"));
    else if (self->spec->group == NULL)
        conclude(self);
    else if (self->view != NULL)
        copy_view_part(self);
    else
        copy_hold(self);
}

/* Also after a failure of the socket: the destination knows why it has ended. */
static void
ask_finish(Copy *self)
{
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", self->base.rec->id);
    drv_peer_call(self->peer, "copy.finish", args, finished, drv_job_ref(&self->base));
}

static gboolean
sent(gpointer data)
{
    g_autoptr(DrvJob) job = data;
    Copy *self = (Copy *)job;
    join(self);
    if (is_over(self))
        return G_SOURCE_REMOVE;
    if (self->again)
        try_again_when_ready(self);
    else if (self->failure == NULL ||
             g_error_matches(self->failure, DRV_ERROR, DRV_ERROR_UNREACHABLE))
        ask_finish(self);
    else if (self->view != NULL)
        drv_disk_view_broken(self->view, g_error_copy(self->failure));
    else
        copy_fail(self, g_error_copy(self->failure));
    return G_SOURCE_REMOVE;
}

static gpointer
send_image(gpointer data)
{
    Copy *self = data;
    self->digest = drv_image_send(self->store, drv_scan_threads(), self->fd, self->older,
                                  self->spec->base, &self->count, &self->failure);
    g_idle_add(sent, self);
    return NULL;
}

static void
start_sending(Copy *self, gboolean base)
{
    self->older = base;
    self->count = (DrvCopyCount){.total = self->store->size};
    g_clear_pointer(&self->digest, g_free);
    g_clear_error(&self->failure);
    self->attempts++;
    drv_job_ref(&self->base);
    self->thread = g_thread_new("copy", send_image, self);
}

/* --- opening --- */

static void
opened(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    Copy *self = (Copy *)job;
    GError *why = NULL;
    if (is_over(self) || peer != self->peer || drv_peer_is_dead(peer))
        return;
    if (error != NULL) {
        copy_fail(self, g_error_new(error->domain, error->code, "at the destination: %s",
                                    error->message));
    } else if (self->spec->group != NULL && !drv_json_flag(ok, "hold", FALSE)) {
        copy_fail(self, g_error_new_literal(DRV_ERROR, DRV_ERROR_PROTOCOL,
                                            "the destination's daemon cannot name images together: "
                                            "install the same version of drover at both ends"));
    } else if (!drv_channel_set_accepted(self->channel, ok, &why) ||
               (drv_job_state(job) == DRV_STATE_PREPARING &&
                !drv_job_move(job, DRV_STATE_COPYING, &why))) {
        copy_fail(self, why);
    } else {
        start_sending(self, drv_json_flag(ok, "base", FALSE));
    }
}

JsonObject *
copy_target_args(Copy *self, const char *format)
{
    const DrvCopySpec *spec = self->spec;
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", self->base.rec->id);
    json_object_set_string_member(args, "path", spec->dest);
    json_object_set_string_member(args, "format",
                                  spec->dest_format != NULL ? spec->dest_format : format);
    if (spec->options != NULL)
        json_object_set_string_member(args, "options", spec->options);
    json_object_set_boolean_member(args, "compress", spec->compress);
    return args;
}

static JsonObject *
open_args(Copy *self)
{
    const DrvCopySpec *spec = self->spec;
    JsonObject *args = copy_target_args(self, self->format);
    json_object_set_boolean_member(args, "delta", !spec->whole);
    json_object_set_int_member(args, "size", (gint64)self->store->size);
    json_object_set_boolean_member(args, "hold", spec->group != NULL);
    json_object_set_array_member(
        args, "over", drv_copies_over(drv_services_journal(self->base.services), spec->dest));
    return args;
}

static void
channel_changed(DrvChannelSet *set, gpointer data)
{
    /* The thread finds its socket shut, and the session's end is heard of by itself. */
}

static void
offer(Copy *self)
{
    int fds[2];
    GError *error = NULL;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        copy_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_IO, "no socket can be made: %s",
                                    g_strerror(errno)));
        return;
    }
    self->fd = fds[0];
    self->channel =
        drv_channel_set_new(drv_services_transfer(self->base.services), 1, DRV_CODEC_AUTO,
                            DRV_CLASS_BULK, self->shaper, channel_changed, self);
    JsonObject *args = open_args(self);
    if (!drv_channel_set_offer(self->channel, self->peer, fds[1], args, &error)) {
        json_object_unref(args);
        copy_fail(self, error);
        return;
    }
    drv_peer_call(self->peer, "copy.open", args, opened, drv_job_ref(&self->base));
}

/* --- the session --- */

static void
begin_attempt(Copy *self)
{
    GError *error = NULL;
    self->offered = TRUE;
    if (!drv_allow_to(drv_services_config(self->base.services), drv_peer_name(self->peer), &error))
        copy_fail(self, error);
    else if (self->checking)
        copy_view_ask_check(self);
    else
        offer(self);
}

static void
peer_connected(DrvPeer *peer, gpointer data)
{
    Copy *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    self->lost_us = 0;
    if (!self->offered)
        begin_attempt(self);
    drv_job_changed(&self->base);
}

static void
peer_lost(DrvPeer *peer, const GError *why, gpointer data)
{
    Copy *self = data;
    self->lost_us = g_get_monotonic_time();
    drv_job_changed(&self->base);
}

static void
peer_dead(DrvPeer *peer, const GError *why, gpointer data)
{
    Copy *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    lose_peer(self, why);
}

static const DrvPeerOps peer_ops = {
    .connected = peer_connected,
    .lost = peer_lost,
    .dead = peer_dead,
};

void
copy_connect(Copy *self)
{
    self->peer = drv_peers_get(drv_services_peers(self->base.services), self->spec->host,
                               self->spec->port, (guint)self->spec->lanes);
    drv_peer_listen(self->peer, &peer_ops, self);
    if (drv_peer_is_connected(self->peer))
        peer_connected(self->peer, self);
}

static void
connect_peer(Copy *self)
{
    self->count.total = self->store->size;
    copy_connect(self);
}

/* --- the source --- */

void
copy_go_on(Copy *self)
{
    const char *made = self->spec->dest_format != NULL ? self->spec->dest_format : self->format;
    GError *error = NULL;
    if (drv_convert_check(NULL, made, self->spec->options, self->spec->compress, &error))
        connect_peer(self);
    else
        copy_fail(self, error);
}

static gboolean
source_opened(gpointer data)
{
    g_autoptr(DrvJob) job = data;
    Copy *self = (Copy *)job;
    join(self);
    if (is_over(self))
        return G_SOURCE_REMOVE;
    if (self->failure != NULL)
        copy_fail(self, g_steal_pointer(&self->failure));
    else
        copy_go_on(self);
    return G_SOURCE_REMOVE;
}

guint
copy_users(void)
{
    return drv_scan_threads() + 1;
}

static gpointer
open_source(gpointer data)
{
    Copy *self = data;
    self->store = drv_source_open(self->spec->image, self->spec->format,
                                  drv_copy_folders(self->base.services), copy_users(),
                                  self->spec->since, &self->format, &self->failure);
    g_idle_add(source_opened, self);
    return NULL;
}

static void
start_opening(Copy *self)
{
    drv_job_ref(&self->base);
    self->thread = g_thread_new("copy-open", open_source, self);
}

static void
begin(Copy *self)
{
    self->tick = g_timeout_add(TICK_MS, tick, self);
    if (self->spec->group != NULL)
        drv_copy_group_join(self->groups, &self->base, self->spec->group, (guint)self->spec->of,
                            &group_ops);
    if (self->view != NULL)
        copy_view_begin(self);
    else
        start_opening(self);
}

/* --- the job --- */

static void
copy_start(DrvJob *job)
{
    GError *error = NULL;
    if (drv_job_move(job, DRV_STATE_PREPARING, &error))
        begin((Copy *)job);
    else
        copy_fail((Copy *)job, error);
}

static void
copy_resume(DrvJob *job)
{
    Copy *self = (Copy *)job;
    g_autoptr(DrvJob) keep = drv_job_ref(job);
    DrvJobState state = drv_job_state(job);
    gboolean alone = self->spec->group == NULL;
    if (self->view != NULL && (state == DRV_STATE_PREPARING || state == DRV_STATE_COPYING ||
                               (state == DRV_STATE_QUEUED && !alone))) {
        copy_fail(self, copy_view_lost("droverd has ended"));
    } else if (state == DRV_STATE_QUEUED) {
        copy_start(job);
    } else if (state == DRV_STATE_PREPARING || state == DRV_STATE_COPYING) {
        self->attempts = 1; /* the other end may be on its way back, too */
        self->lost_us = g_get_monotonic_time();
        begin(self);
    } else if (state == DRV_STATE_ROLLING_BACK) {
        take_back(self);
    } else {
        pass_to_done(self);
    }
}

static gboolean
copy_cancel(DrvJob *job, GError **error)
{
    if (((Copy *)job)->whole || ((Copy *)job)->naming) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "copy %s cannot be cancelled any more: the destination has the image",
                    job->rec->id);
        return FALSE;
    }
    copy_fail((Copy *)job, g_error_new(DRV_ERROR, DRV_ERROR_CANCELLED, "the copy was cancelled"));
    return TRUE;
}

static gpointer
close_store(gpointer store)
{
    drv_store_close(store, NULL);
    return NULL;
}

static void
copy_free(DrvJob *job)
{
    Copy *self = (Copy *)job;
    drv_copy_group_leave(self->groups, job);
    give_back(self);
    /* That waits for a program to end. */
    if (self->store != NULL && self->view == NULL)
        g_thread_unref(g_thread_new("copy-close", close_store, self->store));
    drv_shaper_unref(self->shaper);
    drv_disk_view_free(self->view);
    drv_copy_spec_free(self->spec);
    g_clear_error(&self->failure);
    if (self->fd >= 0)
        close(self->fd);
    g_free(self->digest);
    g_free(self->format);
    g_free(self->left);
    g_free(self);
}

static const DrvJobOps copy_ops = {
    .kind = "copy",
    .start = copy_start,
    .resume = copy_resume,
    .cancel = copy_cancel,
    .progress = drv_copy_progress,
    .free = copy_free,
    .goes_on = TRUE,
};

/* The view does not outlive this daemon. */
static const DrvJobOps view_copy_ops = {
    .kind = "copy",
    .start = copy_start,
    .resume = copy_resume,
    .cancel = copy_cancel,
    .progress = drv_copy_progress,
    .free = copy_free,
};

DrvJob *
drv_copy_new(DrvServices *services, DrvCopyGroups *groups, DrvJobRecord *rec, DrvCopySpec *spec)
{
    Copy *self = g_new0(Copy, 1);
    self->groups = groups;
    self->spec = spec;
    self->fd = -1;
    self->shaper = drv_shaper_new((guint64)spec->bandwidth, g_get_monotonic_time());
    if (rec->vm == NULL)
        rec->vm = spec->qmp != NULL ? g_strdup(spec->disk) : g_path_get_basename(spec->image);
    if (rec->peer == NULL)
        rec->peer = g_strdup(spec->to);
    drv_job_init(&self->base, spec->qmp != NULL ? &view_copy_ops : &copy_ops, services, rec, TRUE);
    if (spec->qmp != NULL)
        self->view = drv_disk_view_new(&self->base, spec, &copy_view_ops);
    return &self->base;
}

DrvJob *
drv_copy_restored(DrvServices *services, DrvCopyGroups *groups, DrvJobRecord *rec, GError **error)
{
    DrvCopySpec *spec = drv_copy_spec_parse(rec->spec, error);
    if (spec == NULL) {
        drv_job_record_free(rec);
        return NULL;
    }
    return drv_copy_new(services, groups, rec, spec);
}
