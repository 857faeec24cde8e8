/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/dest.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/channel-set.h"
#include "engine/copy/dest-check.h"
#include "engine/image/convert.h"
#include "engine/image/receive.h"
#include "engine/job/job.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* Each has a channel and threads of its own. */
#define MAX_ENDS 32
/* Ends that are over wait so long to be asked how it went. */
#define KEEP_OVER_S 3600

/*
 * copy.open has a thread open the target, and is answered when that is done; then a socket pair
 * joins the channel to a thread that receives. copy.finish is answered when that thread has ended.
 * Where the source wants the name to be held back, copy.name has one more thread give it.
 * Threads tell the control thread by an idle source, which holds the end.
 *
 * An end that is given up goes off the list at once, but its threads may be in the middle of a
 * write, or its qemu-nbd may be closing the image. So whoever comes next to the same path waits
 * until they have ended. An end is given up only where that is certain to be meant: by the host
 * that began it, over and above that by the same job, or by one that says that the job is over.
 */
typedef struct {
    guint refs;
    DrvCopyEnds *ends;     /* outlives the threads */
    gboolean listed;       /* can be called for */
    char *const *folders;  /* borrowed from the configuration */
    DrvTransfer *transfer; /* borrowed */
    char *job, *from;      /* the source's job, and its host by its certificate */
    JsonObject *args;

    DrvTarget *target; /* the running thread's */
    DrvCopyCount count;
    char *digest;
    GError *error;
    int fd; /* our thread's end of the pair; -1 */

    GThread *thread;
    DrvPeer *peer;                      /* of the session */
    guint64 opening, finishing, naming; /* calls to be answered; 0: none */
    DrvChannelSet *channel;
    gint cancelled;   /* keep nothing; atomic */
    gboolean waiting; /* for those before to end */
    gboolean over;    /* nothing more will come */
    gboolean held;    /* ... and the target waits for its name */
    guint forget;
} End;

struct _DrvCopyEnds {
    DrvServices *services;
    GPtrArray *list; /* of End that can be called for; referenced */
    GPtrArray
        *running; /* of End whose thread runs, on the list or off it; the thread's reference */
};

static void
end_unref(gpointer data)
{
    End *end = data;
    if (--end->refs > 0)
        return;
    g_clear_pointer(&end->channel, drv_channel_set_free);
    drv_target_free(end->target);
    if (end->fd >= 0)
        close(end->fd);
    drv_peer_unref(end->peer);
    json_object_unref(end->args);
    g_clear_error(&end->error);
    g_free(end->digest);
    g_free(end->job);
    g_free(end->from);
    g_free(end);
}

static const char *
path_of(const End *end)
{
    return drv_json_string(end->args, "path", "");
}

static void
drop_held(End *end)
{
    end->held = FALSE;
    drv_target_drop(end->target, !g_atomic_int_get(&end->cancelled));
}

/* Its threads come to their end soon; the file goes or stays as 'cancelled' says. */
static void
stop(End *end)
{
    drv_copy_cancel(&end->count);
    if (end->fd >= 0)
        shutdown(end->fd, SHUT_RDWR);
    if (end->held && end->naming == 0)
        drop_held(end);
}

static void
take_off(End *end)
{
    g_clear_handle_id(&end->forget, g_source_remove);
    if (!end->listed)
        return;
    end->listed = FALSE;
    g_ptr_array_remove_fast(end->ends->list, end);
}

static void
run(End *end, const char *name, GThreadFunc func)
{
    end->refs++;
    g_ptr_array_add(end->ends->running, end);
    end->thread = g_thread_new(name, func, end);
}

/* The thread has said its last. Its reference becomes the caller's. */
static void
join(End *end)
{
    g_thread_join(g_steal_pointer(&end->thread));
    g_ptr_array_remove_fast(end->ends->running, end);
}

static void begin_waiting(DrvCopyEnds *ends);

/* After join(), with all else done: what the end held is free now, if it is over. */
static void
leave(End *end)
{
    DrvCopyEnds *ends = end->ends;
    end_unref(end);
    begin_waiting(ends);
}

static gboolean
forget(gpointer data)
{
    End *end = data;
    end->forget = 0;
    take_off(end);
    return G_SOURCE_REMOVE;
}

char *const *
drv_copy_folders(const DrvServices *services)
{
    static char *const nobody_said[] = {NULL};
    char *const *folders = drv_services_config(services)->images;
    return folders != NULL ? folders : nobody_said;
}

/* --- how it went --- */

/* With that it is done with, unless it is held: the list has room for so many. */
static void
answer_finish(End *end)
{
    guint64 call = end->finishing;
    end->finishing = 0;
    if (end->error != NULL) {
        drv_peer_refuse(end->peer, call, end->error);
    } else {
        JsonObject *ok = json_object_new();
        json_object_set_string_member(ok, "digest", end->digest);
        json_object_set_boolean_member(ok, "held", end->held);
        drv_peer_answer(end->peer, call, ok);
    }
    if (!end->held)
        take_off(end);
}

static gboolean
received(gpointer data)
{
    End *end = data;
    join(end);
    end->over = TRUE;
    end->held = end->target != NULL;
    if (end->error != NULL)
        g_message("copy %s from %s: %s", end->job, end->from, end->error->message);
    else
        g_message("copy %s from %s: %s is complete%s", end->job, end->from, path_of(end),
                  end->held ? ", and waits for others to be" : "");
    if (end->held && !end->listed)
        drop_held(end);
    if (end->finishing != 0)
        answer_finish(end);
    else if (end->listed && !end->held)
        end->forget = g_timeout_add_seconds(KEEP_OVER_S, forget, end);
    leave(end);
    return G_SOURCE_REMOVE;
}

static gpointer
receive(gpointer data)
{
    End *end = data;
    guint64 size = (guint64)drv_json_int(end->args, "size", 0);
    gboolean hold = drv_json_flag(end->args, "hold", FALSE);
    end->digest = drv_image_receive(end->target, size, end->fd, &end->count, &end->error);
    gboolean complete = end->digest != NULL;
    if (complete && !hold && !drv_target_name(end->target, &end->error))
        g_clear_pointer(&end->digest, g_free);
    if (end->digest == NULL) {
        /* A stream that just ended may be taken up again, and what only wants its name be named. */
        gboolean cut = g_error_matches(end->error, DRV_ERROR, DRV_ERROR_UNREACHABLE);
        drv_target_drop(end->target, (cut || complete) && !g_atomic_int_get(&end->cancelled));
    }
    if (end->digest == NULL || !hold)
        g_clear_pointer(&end->target, drv_target_free);
    shutdown(end->fd, SHUT_RDWR);
    g_idle_add(received, end);
    return NULL;
}

/* --- opening --- */

static void
channel_changed(DrvChannelSet *set, gpointer data)
{
    End *end = data;
    if (drv_channel_set_error(set) != NULL) /* the session is over */
        stop(end);
}

static gboolean
start_receiving(End *end, GError **error)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "no socket can be made: %s", g_strerror(errno));
        return FALSE;
    }
    end->fd = fds[0];
    end->channel = drv_channel_set_new(end->transfer, 1, DRV_CODEC_AUTO, DRV_CLASS_BULK, NULL,
                                       channel_changed, end);
    JsonObject *ok = drv_channel_set_accept(end->channel, end->peer, fds[1], end->args, error);
    if (ok == NULL)
        return FALSE;
    json_object_set_boolean_member(ok, "base", drv_target_has_base(end->target));
    json_object_set_boolean_member(ok, "hold", drv_json_flag(end->args, "hold", FALSE));
    drv_peer_answer(end->peer, end->opening, ok);
    end->opening = 0;
    run(end, "copy", receive);
    return TRUE;
}

static GError *
called_off(void)
{
    return g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED, "the copy was called off");
}

static gboolean
opened(gpointer data)
{
    End *end = data;
    join(end);
    if (end->error == NULL && drv_copy_is_cancelled(&end->count))
        end->error = called_off();
    if (end->error != NULL || !start_receiving(end, &end->error)) {
        if (end->opening != 0)
            drv_peer_refuse(end->peer, end->opening, end->error);
        drv_target_drop(end->target, !g_atomic_int_get(&end->cancelled));
        take_off(end);
    }
    leave(end);
    return G_SOURCE_REMOVE;
}

static gpointer
open_target(gpointer data)
{
    End *end = data;
    const DrvTargetParams params = {
        .path = drv_json_string(end->args, "path", ""),
        .format = drv_json_string(end->args, "format", ""),
        .folders = end->folders,
        .options = drv_json_string(end->args, "options", NULL),
        .compress = drv_json_flag(end->args, "compress", FALSE),
        .resume = TRUE,
        .delta = drv_json_flag(end->args, "delta", TRUE),
        .size = (guint64)drv_json_int(end->args, "size", 0),
        .users = drv_image_receive_users(),
        .cancelled = &end->count.cancelled,
    };
    if (drv_convert_check(NULL, params.format, params.options, params.compress, &end->error))
        end->target = drv_target_open(&params, &end->error);
    g_idle_add(opened, end);
    return NULL;
}

static End *
find(DrvCopyEnds *ends, const char *job, DrvPeer *peer)
{
    for (guint i = 0; i < ends->list->len; i++) {
        End *end = ends->list->pdata[i];
        if (g_str_equal(end->job, job) && g_str_equal(end->from, drv_peer_name(peer)))
            return end;
    }
    return NULL;
}

/* Its source is done with it: it went away, or comes back over another session. */
static void
supersede(End *end)
{
    stop(end);
    take_off(end);
}

/* Whether one that was given up may still be writing there. */
static gboolean
is_written(const End *end)
{
    const GPtrArray *running = end->ends->running;
    for (guint i = 0; i < running->len; i++) {
        const End *other = running->pdata[i];
        if (!other->listed && g_str_equal(path_of(other), path_of(end)))
            return TRUE;
    }
    return FALSE;
}

static void
begin_when_free(End *end)
{
    end->waiting = is_written(end);
    if (!end->waiting)
        run(end, "copy-open", open_target);
}

static void
begin_waiting(DrvCopyEnds *ends)
{
    for (guint i = 0; i < ends->list->len; i++) {
        End *end = ends->list->pdata[i];
        if (end->waiting)
            begin_when_free(end);
    }
}

/* What this job began before, and copies of the same host that are over there. */
static void
supersede_all(DrvCopyEnds *ends, DrvPeer *peer, JsonObject *args)
{
    JsonArray *over = drv_json_array(args, "over");
    guint n = over != NULL ? MIN(json_array_get_length(over), MAX_ENDS) : 0;
    End *before = find(ends, drv_json_string(args, "job", ""), peer);
    if (before != NULL)
        supersede(before);
    for (guint i = 0; i < n; i++) {
        JsonNode *node = json_array_get_element(over, i);
        const char *job = JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;
        before = job != NULL ? find(ends, job, peer) : NULL;
        if (before == NULL)
            continue;
        g_message("copy %s from %s is over there: its place is free", before->job, before->from);
        supersede(before);
    }
}

/* A copy of the same host that goes on, as far as can be told by the path; who else writes there
 * is seen by the lock on the file. */
static const End *
find_rival(DrvCopyEnds *ends, DrvPeer *peer, JsonObject *args)
{
    for (guint i = 0; i < ends->list->len; i++) {
        const End *end = ends->list->pdata[i];
        if ((!end->over || end->held) && g_str_equal(end->from, drv_peer_name(peer)) &&
            g_str_equal(path_of(end), drv_json_string(args, "path", "")))
            return end;
    }
    return NULL;
}

static void
copy_open(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, JsonObject *args)
{
    g_autoptr(GError) error = NULL;
    const char *job = drv_json_string(args, "job", "");
    supersede_all(ends, peer, args);
    const End *rival = find_rival(ends, peer, args);
    gint64 size = drv_json_int(args, "size", -1);
    if (!drv_job_valid_id(job) || size < 0 || (guint64)size > DRV_IMAGE_SIZE_MAX)
        error = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL, "the copy's job or size makes no sense");
    else if (ends->list->len >= MAX_ENDS)
        error = g_error_new(DRV_ERROR, DRV_ERROR_LIMIT,
                            "%d images are being copied to this host already: try again later",
                            MAX_ENDS);
    else if (rival != NULL)
        error = g_error_new(DRV_ERROR, DRV_ERROR_STATE,
                            "%s is being written by another copy of yours, %s: wait for its end, "
                            "or end it with 'drover cancel %s'",
                            path_of(rival), rival->job, rival->job);
    if (error != NULL) {
        drv_peer_refuse(peer, call, error);
        return;
    }
    End *end = g_new0(End, 1);
    end->refs = 1; /* the list's */
    end->ends = ends;
    end->listed = TRUE;
    end->folders = drv_copy_folders(ends->services);
    end->transfer = drv_services_transfer(ends->services);
    end->job = g_strdup(job);
    end->from = g_strdup(drv_peer_name(peer));
    end->args = json_object_ref(args);
    end->fd = -1;
    end->peer = drv_peer_ref(peer);
    end->opening = call;
    g_ptr_array_add(ends->list, end);
    begin_when_free(end);
}

/* --- the other calls --- */

static void
refuse_unknown(DrvPeer *peer, guint64 call, const char *job)
{
    g_autoptr(GError) error =
        g_error_new(DRV_ERROR, DRV_ERROR_NOT_FOUND, "copy '%.32s' is not known here", job);
    drv_peer_refuse(peer, call, error);
}

static void
copy_finish(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, JsonObject *args)
{
    const char *job = drv_json_string(args, "job", "");
    End *end = find(ends, job, peer);
    if (end == NULL || end->finishing != 0 || end->peer != peer) {
        refuse_unknown(peer, call, job);
        return;
    }
    end->finishing = call;
    if (end->over)
        answer_finish(end);
}

static gboolean
named(gpointer data)
{
    End *end = data;
    guint64 call = end->naming;
    join(end);
    end->naming = 0;
    end->held = FALSE;
    if (end->error != NULL) {
        g_message("copy %s from %s: %s", end->job, end->from, end->error->message);
        drv_peer_refuse(end->peer, call, end->error);
    } else {
        drv_peer_answer(end->peer, call, json_object_new());
    }
    take_off(end);
    leave(end);
    return G_SOURCE_REMOVE;
}

/* One that cannot be given its name is kept: it is complete. */
static gpointer
name_target(gpointer data)
{
    End *end = data;
    if (!drv_target_name(end->target, &end->error))
        drv_target_drop(end->target, TRUE);
    g_clear_pointer(&end->target, drv_target_free);
    g_idle_add(named, end);
    return NULL;
}

static void
copy_name(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, JsonObject *args)
{
    const char *job = drv_json_string(args, "job", "");
    End *end = find(ends, job, peer);
    if (end == NULL || !end->held || end->naming != 0 || end->peer != peer) {
        refuse_unknown(peer, call, job);
        return;
    }
    end->naming = call;
    run(end, "copy-name", name_target);
}

static void
copy_abort(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, JsonObject *args)
{
    End *end = find(ends, drv_json_string(args, "job", ""), peer);
    if (end != NULL) {
        g_atomic_int_set(&end->cancelled, !drv_json_flag(args, "keep", FALSE));
        if (end->waiting) {
            g_autoptr(GError) error = called_off();
            drv_peer_refuse(end->peer, end->opening, error);
        }
        supersede(end);
    }
    drv_peer_answer(peer, call, json_object_new());
}

static void
copy_check(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, JsonObject *args)
{
    drv_copy_check(drv_copy_folders(ends->services), peer, call, args);
}

gboolean
drv_copy_ends_call(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, const char *op, JsonObject *args)
{
    static const struct {
        const char *op;
        void (*run)(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, JsonObject *args);
    } calls[] = {
        {"copy.check", copy_check}, {"copy.open", copy_open},   {"copy.finish", copy_finish},
        {"copy.name", copy_name},   {"copy.abort", copy_abort},
    };
    for (guint i = 0; i < G_N_ELEMENTS(calls); i++) {
        if (g_str_equal(calls[i].op, op)) {
            calls[i].run(ends, peer, call, args);
            return TRUE;
        }
    }
    return FALSE;
}

void
drv_copy_ends_peer_dead(DrvCopyEnds *ends, DrvPeer *peer)
{
    for (guint i = ends->list->len; i > 0; i--) {
        End *end = ends->list->pdata[i - 1];
        if (end->peer == peer)
            supersede(end);
    }
}

/* --- life --- */

DrvCopyEnds *
drv_copy_ends_new(DrvServices *services)
{
    DrvCopyEnds *ends = g_new0(DrvCopyEnds, 1);
    ends->services = services;
    ends->list = g_ptr_array_new_with_free_func(end_unref);
    ends->running = g_ptr_array_new();
    return ends;
}

void
drv_copy_ends_free(DrvCopyEnds *ends)
{
    if (ends == NULL)
        return;
    while (ends->list->len > 0)
        supersede(ends->list->pdata[ends->list->len - 1]);
    while (ends->running->len > 0) {
        End *end = ends->running->pdata[0];
        join(end);
        g_idle_remove_by_data(end); /* its last word */
        drv_target_drop(end->target, TRUE);
        end_unref(end);
    }
    g_ptr_array_unref(ends->running);
    g_ptr_array_unref(ends->list);
    g_free(ends);
}
