/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/watch.h"

#include <string.h>

#include "common/error.h"
#include "common/json.h"

/*
 * A watcher is never waited for. Lines that its socket has not taken yet are counted: the regular
 * ones are left out while there is any, and changes of state are queued up to a limit, after which
 * only the newest is kept in mind. So a watcher that reads sees every state, and one that does not
 * costs at most MAX_QUEUED lines, until the connection's timeout ends it.
 */
#define MAX_QUEUED 64

struct _DrvApiWatchers {
    const DrvApiBackend *ops;
    gpointer self;
    GPtrArray *list; /* of Watcher, owned */
};

typedef struct {
    DrvApiWatchers *all;
    SoupServerMessage *msg; /* a reference */
    char *id;
    guint timer;     /* 0: none */
    guint queued;    /* lines given to libsoup and not yet written */
    gboolean behind; /* a change was left out */
    gboolean ended;  /* the body is complete */
} Watcher;

static void
watcher_free(gpointer data)
{
    Watcher *w = data;
    if (w->timer != 0)
        g_source_remove(w->timer);
    g_signal_handlers_disconnect_by_data(w->msg, w);
    g_object_unref(w->msg);
    g_free(w->id);
    g_free(w);
}

DrvApiWatchers *
drv_api_watchers_new(const DrvApiBackend *ops, gpointer self)
{
    DrvApiWatchers *all = g_new0(DrvApiWatchers, 1);
    all->ops = ops;
    all->self = self;
    all->list = g_ptr_array_new_with_free_func(watcher_free);
    return all;
}

void
drv_api_watchers_free(DrvApiWatchers *watchers)
{
    if (watchers == NULL)
        return;
    g_ptr_array_unref(watchers->list);
    g_free(watchers);
}

static void
append_line(Watcher *w, JsonNode *node)
{
    SoupMessageBody *body = soup_server_message_get_response_body(w->msg);
    char *text = drv_json_to_text(node);
    char *line = g_strconcat(text, "\n", NULL);
    g_free(text);
    soup_message_body_append_take(body, (guchar *)line, strlen(line));
    w->queued++;
}

static void
end(Watcher *w)
{
    w->ended = TRUE;
    soup_message_body_complete(soup_server_message_get_response_body(w->msg));
    g_clear_handle_id(&w->timer, g_source_remove);
}

static void
send_node(Watcher *w, JsonNode *node)
{
    append_line(w, node);
    JsonObject *job = json_node_get_object(node);
    if (drv_json_flag(job, "final", FALSE) || drv_json_string(job, "job", NULL) == NULL)
        end(w);
}

static void
send_job(Watcher *w)
{
    if (w->ended)
        return;
    if (w->queued >= MAX_QUEUED) {
        w->behind = TRUE;
        return;
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = drv_api_show_job(w->all->ops, w->all->self, w->id, &error);
    if (node == NULL)
        node = drv_json_error(error); /* the job is gone: the last line says why */
    send_node(w, node);
    soup_server_message_unpause(w->msg);
}

static gboolean
tick(gpointer data)
{
    Watcher *w = data;
    if (w->queued == 0)
        send_job(w); /* which may end the watch, and with it this timer */
    return w->ended ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

static void
on_wrote_chunk(SoupServerMessage *msg, gpointer data)
{
    Watcher *w = data;
    if (w->queued > 0)
        w->queued--;
    if (w->queued == 0 && w->behind) {
        w->behind = FALSE;
        send_job(w);
    }
}

static void
on_gone(SoupServerMessage *msg, gpointer data)
{
    Watcher *w = data;
    g_ptr_array_remove(w->all->list, w);
}

gboolean
drv_api_watchers_add(DrvApiWatchers *watchers, SoupServerMessage *msg, const char *id,
                     guint interval_ms, GError **error)
{
    if (watchers->list->len >= DRV_API_MAX_WATCHERS) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                    "%d watchers are connected already: end one of them and try again",
                    DRV_API_MAX_WATCHERS);
        return FALSE;
    }
    g_autoptr(JsonNode) node = drv_api_show_job(watchers->ops, watchers->self, id, error);
    if (node == NULL)
        return FALSE;
    Watcher *w = g_new0(Watcher, 1);
    w->all = watchers;
    w->msg = g_object_ref(msg);
    w->id = g_strdup(id);
    g_ptr_array_add(watchers->list, w);
    g_signal_connect(msg, "wrote-chunk", G_CALLBACK(on_wrote_chunk), w);
    g_signal_connect(msg, "finished", G_CALLBACK(on_gone), w);
    g_signal_connect(msg, "disconnected", G_CALLBACK(on_gone), w);

    SoupMessageHeaders *headers = soup_server_message_get_response_headers(msg);
    soup_message_headers_set_content_type(headers, "application/x-ndjson", NULL);
    soup_message_headers_set_encoding(headers, SOUP_ENCODING_CHUNKED);
    soup_message_body_set_accumulate(soup_server_message_get_response_body(msg), FALSE);
    soup_server_message_set_status(msg, SOUP_STATUS_OK, NULL);
    w->timer = g_timeout_add(interval_ms, tick, w);
    send_node(w, node);
    return TRUE;
}

void
drv_api_watchers_changed(DrvApiWatchers *watchers, const char *id)
{
    /* Nobody leaves the list meanwhile: libsoup writes from the main loop only. */
    for (guint i = 0; i < watchers->list->len; i++) {
        Watcher *w = g_ptr_array_index(watchers->list, i);
        if (g_str_equal(w->id, id))
            send_job(w);
    }
}
