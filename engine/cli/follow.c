/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/follow.h"

#include <glib-unix.h>
#include <signal.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/display.h"
#include "engine/cli/units.h"

#define RETRY_MS 500

typedef enum {
    CANCEL_NOT_WANTED,
    CANCEL_WANTED,  /* to be asked for, as soon as that is possible */
    CANCEL_ASKED,   /* the request is under way */
    CANCEL_ANSWERED /* the job's state will tell */
} Cancel;

struct _DrvFollow {
    DrvClient *client;
    DrvFollowOptions options;
    DrvDisplay *display;
    GMainLoop *loop;
    GCancellable *cancellable; /* of every request but the watch */
    guint sigint, sigterm;

    DrvFollowTo to;
    char *id;              /* NULL until the job is known */
    JsonObject *job;       /* what was last heard of it, or NULL */
    DrvClientWatch *watch; /* NULL while there is none */
    guint retry, give_up;  /* timers; give_up runs while the daemon is away */
    guint interrupts;
    Cancel cancel;
    GError *error; /* why it ended without the job's end */
};

static void
finish(DrvFollow *f, GError *error)
{
    g_clear_error(&f->error);
    f->error = error;
    g_main_loop_quit(f->loop);
}

static gboolean
is_over(DrvFollow *f)
{
    const char *state = drv_json_string(f->job, "state", "");
    if (drv_json_flag(f->job, "final", FALSE) || g_str_equal(state, "in-doubt"))
        return TRUE;
    if (f->to == DRV_FOLLOW_TO_HELD)
        return drv_json_flag(drv_json_object(f->job, "progress"), "held", FALSE);
    return f->to == DRV_FOLLOW_TO_SERVE && !g_str_equal(state, "queued") &&
           !g_str_equal(state, "preparing");
}

static void
on_cancel_answer(JsonObject *reply, const GError *error, gpointer data)
{
    DrvFollow *f = data;
    f->cancel = CANCEL_ANSWERED;
    if (error == NULL || g_error_matches(error, DRV_ERROR, DRV_ERROR_CANCELLED))
        return;
    /* A daemon that is away is asked again when it is back; twice does no harm. */
    if (g_error_matches(error, DRV_ERROR, DRV_ERROR_UNREACHABLE) ||
        g_error_matches(error, DRV_ERROR, DRV_ERROR_IN_DOUBT))
        f->cancel = CANCEL_WANTED;
    else
        drv_display_note(f->display, "it cannot be cancelled: %s; still watching job %s",
                         error->message, f->id);
}

static void
ask_cancel(DrvFollow *f)
{
    if (f->cancel != CANCEL_WANTED || f->id == NULL)
        return;
    f->cancel = CANCEL_ASKED;
    g_autofree char *path = drv_client_job_path(f->id, "/cancel");
    drv_client_call_async(f->client, "POST", path, NULL, f->cancellable, on_cancel_answer, f);
}

static void
leave(DrvFollow *f)
{
    if (f->id == NULL) {
        g_cancellable_cancel(f->cancellable);
        return;
    }
    finish(f, g_error_new(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                          "no longer watching job %s, which droverd carries on: 'drover watch %s' "
                          "follows it, 'drover cancel %s' ends it",
                          f->id, f->id, f->id));
}

static gboolean
on_signal(gpointer data)
{
    DrvFollow *f = data;
    if (!f->options.cancels || f->interrupts++ > 0) {
        leave(f);
        return G_SOURCE_CONTINUE;
    }
    gboolean moves = g_str_equal(drv_json_string(f->job, "kind", "migrate"), "migrate");
    drv_display_note(f->display, "cancelling%s%s (interrupt again to leave it to droverd)",
                     f->id == NULL || f->give_up != 0 ? " as soon as droverd answers" : "",
                     moves ? "; the VM stays at the source" : "");
    f->cancel = CANCEL_WANTED;
    ask_cancel(f);
    return G_SOURCE_CONTINUE;
}

DrvFollow *
drv_follow_new(DrvClient *client, const DrvFollowOptions *options)
{
    DrvFollow *f = g_new0(DrvFollow, 1);
    f->client = client;
    f->options = *options;
    f->display = drv_display_new();
    f->loop = g_main_loop_new(NULL, FALSE);
    f->cancellable = g_cancellable_new();
    f->sigint = g_unix_signal_add(SIGINT, on_signal, f);
    f->sigterm = g_unix_signal_add(SIGTERM, on_signal, f);
    return f;
}

void
drv_follow_free(DrvFollow *f)
{
    if (f == NULL)
        return;
    g_source_remove(f->sigint);
    g_source_remove(f->sigterm);
    drv_client_unwatch(f->watch);
    g_clear_handle_id(&f->retry, g_source_remove);
    g_clear_handle_id(&f->give_up, g_source_remove);
    g_cancellable_cancel(f->cancellable);
    while (f->cancel == CANCEL_ASKED)
        g_main_context_iteration(NULL, TRUE);
    drv_display_free(f->display);
    g_main_loop_unref(f->loop);
    g_object_unref(f->cancellable);
    g_clear_pointer(&f->job, json_object_unref);
    g_clear_error(&f->error);
    g_free(f->id);
    g_free(f);
}

gboolean
drv_follow_interrupted(const DrvFollow *f)
{
    return f->interrupts > 0;
}

char *
drv_follow_submit(DrvFollow *f, const char *path, JsonObject *spec, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(JsonObject) reply =
        drv_client_call(f->client, "POST", path, spec, f->cancellable, &why);
    if (g_error_matches(why, DRV_ERROR, DRV_ERROR_CANCELLED)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IN_DOUBT,
                    "interrupted before droverd answered: 'drover jobs' tells whether a job has "
                    "begun");
        return NULL;
    }
    if (reply == NULL) {
        g_propagate_error(error, g_steal_pointer(&why));
        return NULL;
    }
    const char *id = drv_json_string(reply, "job", NULL);
    if (id == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "droverd at %s did not name the job that it began: look with 'drover jobs'",
                    drv_client_socket(f->client));
    return g_strdup(id);
}

static gboolean
on_give_up(gpointer data)
{
    DrvFollow *f = data;
    f->give_up = 0;
    g_autofree char *state = drv_format_text(drv_json_string(f->job, "state", "queued"), 20);
    finish(f,
           g_error_new(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                       "droverd at %s went away while job %s was %s, and was not back within "
                       "%u s: start it again, and 'drover watch %s' tells how the job ends",
                       drv_client_socket(f->client), f->id, state, f->options.reconnect_s, f->id));
    return G_SOURCE_REMOVE;
}

static void
on_line(JsonObject *job, gpointer data)
{
    DrvFollow *f = data;
    if (f->give_up != 0) {
        g_clear_handle_id(&f->give_up, g_source_remove);
        drv_display_note(f->display, "droverd is back");
    }
    g_clear_pointer(&f->job, json_object_unref);
    f->job = json_object_ref(job);
    if (!f->options.quiet)
        drv_display_update(f->display, job);
    if (is_over(f))
        finish(f, NULL);
    else
        ask_cancel(f);
}

static void start_watch(DrvFollow *f);

static gboolean
on_retry(gpointer data)
{
    DrvFollow *f = data;
    f->retry = 0;
    start_watch(f);
    return G_SOURCE_REMOVE;
}

static void
on_end(const GError *error, gpointer data)
{
    DrvFollow *f = data;
    f->watch = NULL;
    if (g_error_matches(error, DRV_ERROR, DRV_ERROR_NOT_FOUND)) {
        finish(f, g_error_new(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                              "droverd does not know job %s any more (%s): look at both hosts "
                              "where the VM runs",
                              f->id, error->message));
        return;
    }
    if (g_error_matches(error, DRV_ERROR, DRV_ERROR_USAGE)) {
        finish(f, g_error_copy(error));
        return;
    }
    if (f->give_up == 0) {
        drv_display_note(f->display,
                         "droverd at %s went away%s%s; its jobs go on, waiting %u s for it",
                         drv_client_socket(f->client), error != NULL ? ": " : "",
                         error != NULL ? error->message : "", f->options.reconnect_s);
        f->give_up = g_timeout_add_seconds(f->options.reconnect_s, on_give_up, f);
    }
    f->retry = g_timeout_add(RETRY_MS, on_retry, f);
}

static void
start_watch(DrvFollow *f)
{
    f->watch = drv_client_watch(f->client, f->id, on_line, on_end, f);
}

JsonObject *
drv_follow_run(DrvFollow *f, const char *id, DrvFollowTo to, JsonObject **last, GError **error)
{
    if (g_strcmp0(f->id, id) != 0)
        g_clear_pointer(&f->job, json_object_unref);
    g_free(f->id);
    f->id = g_strdup(id);
    f->to = to;
    ask_cancel(f); /* where the interrupt came before the id */
    start_watch(f);
    g_main_loop_run(f->loop);
    drv_client_unwatch(g_steal_pointer(&f->watch));
    drv_display_clear(f->display);
    JsonObject *job = f->job != NULL ? json_object_ref(f->job) : NULL;
    if (f->error == NULL)
        return job;
    *last = job;
    g_propagate_error(error, g_steal_pointer(&f->error));
    return NULL;
}
