/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/client.h"

#include <gio/gunixsocketaddress.h>
#include <libsoup/soup.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/api/socket.h"

struct _DrvClient {
    char *path;
    SoupSession *session;
    guint pending; /* calls and watches that libsoup has not ended yet */
};

/* No reply of ours is as large; what comes beyond it is no droverd's. */
#define MAX_REPLY (16 * 1024 * 1024)
#define MAX_LINE (1024 * 1024)
#define READ_SIZE 16384

DrvClient *
drv_client_new(const char *socket_path, guint timeout_s, GError **error)
{
    if (!drv_api_socket_check_path(socket_path, error))
        return NULL;
    DrvClient *client = g_new0(DrvClient, 1);
    client->path = g_strdup(socket_path);
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(socket_path);
    client->session =
        soup_session_new_with_options("remote-connectable", address, "timeout", timeout_s, NULL);
    return client;
}

void
drv_client_free(DrvClient *client)
{
    if (client == NULL)
        return;
    soup_session_abort(client->session);
    while (client->pending > 0)
        g_main_context_iteration(NULL, TRUE);
    g_object_unref(client->session);
    g_free(client->path);
    g_free(client);
}

const char *
drv_client_socket(DrvClient *client)
{
    return client->path;
}

char *
drv_client_job_path(const char *id, const char *rest)
{
    g_autofree char *escaped = g_uri_escape_string(id, NULL, FALSE);
    return g_strconcat("/v1/jobs/", escaped, rest, NULL);
}

/* What a failed exchange means to a user. 'changes': the request was more than a question. */
static GError *
explain(DrvClient *client, const GError *why, gboolean changes)
{
    if (g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CANCELLED))
        return g_error_new(DRV_ERROR, DRV_ERROR_CANCELLED, "interrupted");
    if (g_error_matches(why, G_IO_ERROR, G_IO_ERROR_NOT_FOUND))
        return g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                           "droverd is not running here, or its API is elsewhere: there is no "
                           "socket %s (start droverd, or name its socket with --api)",
                           client->path);
    if (g_error_matches(why, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED))
        return g_error_new(DRV_ERROR, DRV_ERROR_USAGE,
                           "not permitted to use the API socket %s: run drover as the user that "
                           "droverd runs as, or as root",
                           client->path);
    if (g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED))
        return g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                           "droverd is not running: nobody serves %s (start droverd, or name its "
                           "socket with --api)",
                           client->path);
    if (changes)
        return g_error_new(DRV_ERROR, DRV_ERROR_IN_DOUBT,
                           "droverd at %s gave no answer (%s), so that it is not known whether it "
                           "did what was asked: look with 'drover jobs'",
                           client->path, why->message);
    return g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                       "droverd at %s gave no answer: %s (look at its log)", client->path,
                       why->message);
}

static SoupMessage *
message_new(const char *method, const char *path, JsonObject *body)
{
    g_autofree char *uri = g_strconcat("http://localhost", path, NULL);
    SoupMessage *msg = soup_message_new(method, uri);
    g_assert(msg != NULL); /* paths are ours, ids in them escaped */
    soup_message_add_flags(msg, SOUP_MESSAGE_NEW_CONNECTION | SOUP_MESSAGE_NO_REDIRECT);
    soup_message_headers_replace(soup_message_get_request_headers(msg), "Connection", "close");
    if (body != NULL) {
        g_autoptr(JsonNode) node = drv_json_take_object(json_object_ref(body));
        char *text = drv_json_to_text(node);
        g_autoptr(GBytes) bytes = g_bytes_new_take(text, strlen(text));
        soup_message_set_request_body_from_bytes(msg, "application/json", bytes);
    }
    return msg;
}

/* The object that a reply holds; the error it describes where it is none of success. */
static JsonObject *
decode(DrvClient *client, guint status, const char *text, gsize len, GError **error)
{
    g_autoptr(JsonObject) object =
        len <= MAX_REPLY ? drv_json_parse_object(text != NULL ? text : "", len, NULL) : NULL;
    if (object != NULL && SOUP_STATUS_IS_SUCCESSFUL(status))
        return g_steal_pointer(&object);
    if (object != NULL && drv_json_get_error(object, error))
        return NULL;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "what serves %s does not answer as droverd does (HTTP status %u): name droverd's "
                "socket with --api",
                client->path, status);
    return NULL;
}

typedef struct {
    DrvClient *client;
    SoupMessage *msg;
    DrvClientFunc func;
    gpointer data;
} Call;

/* libsoup takes the end of the connection for the end of the reply. */
static gboolean
is_cut(SoupMessage *msg, gsize len)
{
    SoupMessageHeaders *headers = soup_message_get_response_headers(msg);
    return soup_message_headers_get_encoding(headers) == SOUP_ENCODING_CONTENT_LENGTH &&
           (goffset)len < soup_message_headers_get_content_length(headers);
}

static void
on_reply(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autofree Call *call = data;
    g_autoptr(SoupMessage) msg = call->msg;
    g_autoptr(GError) why = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) reply = NULL;
    g_autoptr(GBytes) bytes = soup_session_send_and_read_finish(SOUP_SESSION(source), result, &why);
    gsize len = 0;
    const char *text = bytes != NULL ? g_bytes_get_data(bytes, &len) : NULL;
    if (bytes != NULL && is_cut(msg, len))
        why = g_error_new(G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT, "its reply was cut short");
    if (why != NULL)
        error = explain(call->client, why, !g_str_equal(soup_message_get_method(msg), "GET"));
    else
        reply = decode(call->client, soup_message_get_status(msg), text, len, &error);
    call->client->pending--;
    call->func(reply, error, call->data);
}

void
drv_client_call_async(DrvClient *client, const char *method, const char *path, JsonObject *body,
                      GCancellable *cancellable, DrvClientFunc func, gpointer data)
{
    Call *call = g_new0(Call, 1);
    *call = (Call){client, message_new(method, path, body), func, data};
    client->pending++;
    soup_session_send_and_read_async(client->session, call->msg, G_PRIORITY_DEFAULT, cancellable,
                                     on_reply, call);
}

typedef struct {
    JsonObject *reply;
    GError *error;
    gboolean done;
} Answer;

static void
on_answer(JsonObject *reply, const GError *error, gpointer data)
{
    Answer *answer = data;
    answer->reply = reply != NULL ? json_object_ref(reply) : NULL;
    answer->error = error != NULL ? g_error_copy(error) : NULL;
    answer->done = TRUE;
}

JsonObject *
drv_client_call(DrvClient *client, const char *method, const char *path, JsonObject *body,
                GCancellable *cancellable, GError **error)
{
    Answer answer = {0};
    drv_client_call_async(client, method, path, body, cancellable, on_answer, &answer);
    while (!answer.done)
        g_main_context_iteration(NULL, TRUE);
    if (answer.error != NULL)
        g_propagate_error(error, answer.error);
    return answer.reply;
}

struct _DrvClientWatch {
    DrvClient *client;
    SoupMessage *msg;
    GInputStream *in;
    GCancellable *cancellable;
    GString *text; /* received, and not yet a whole line */
    DrvClientLineFunc line;
    DrvClientEndFunc end; /* NULL once unwatched */
    gpointer data;
};

static void
watch_free(DrvClientWatch *w)
{
    w->client->pending--;
    g_clear_object(&w->in);
    g_object_unref(w->msg);
    g_object_unref(w->cancellable);
    g_string_free(w->text, TRUE);
    g_free(w);
}

void
drv_client_unwatch(DrvClientWatch *watch)
{
    if (watch == NULL)
        return;
    watch->end = NULL;
    g_cancellable_cancel(watch->cancellable); /* what is pending ends, and frees it */
}

/* The last thing that is done with a watch. */
static void
watch_end(DrvClientWatch *w, const GError *error)
{
    if (w->end != NULL)
        w->end(error, w->data);
    watch_free(w);
}

/* Hands on every whole line. FALSE once one was not a job. */
static gboolean
take_lines(DrvClientWatch *w, GError **error)
{
    char *newline;
    while (w->end != NULL && (newline = memchr(w->text->str, '\n', w->text->len)) != NULL) {
        gsize len = (gsize)(newline - w->text->str);
        g_autoptr(GError) why = NULL;
        g_autoptr(JsonObject) job = drv_json_parse_object(w->text->str, len, &why);
        if (job == NULL) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "droverd at %s sent what is %s",
                        w->client->path, why->message);
            return FALSE;
        }
        g_string_erase(w->text, 0, (gssize)len + 1);
        /* Jobs may have an error of their own; without a job it is about the watch. */
        if (drv_json_string(job, "job", NULL) == NULL && drv_json_get_error(job, error))
            return FALSE;
        w->line(job, w->data);
    }
    if (w->text->len <= MAX_LINE)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "droverd at %s sent a line without end",
                w->client->path);
    return FALSE;
}

static void watch_read(DrvClientWatch *w);

static void
on_bytes(GObject *source, GAsyncResult *result, gpointer data)
{
    DrvClientWatch *w = data;
    g_autoptr(GError) why = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) bytes =
        g_input_stream_read_bytes_finish(G_INPUT_STREAM(source), result, &why);
    guint status = soup_message_get_status(w->msg);
    if (bytes == NULL) {
        error = explain(w->client, why, FALSE);
        watch_end(w, error);
    } else if (g_bytes_get_size(bytes) == 0) {
        g_autoptr(JsonObject) ignored = NULL;
        if (!SOUP_STATUS_IS_SUCCESSFUL(status))
            ignored = decode(w->client, status, w->text->str, w->text->len, &error);
        watch_end(w, error);
    } else {
        g_string_append_len(w->text, g_bytes_get_data(bytes, NULL),
                            (gssize)g_bytes_get_size(bytes));
        if (w->end != NULL && SOUP_STATUS_IS_SUCCESSFUL(status) && !take_lines(w, &error))
            watch_end(w, error);
        else if (w->text->len > MAX_REPLY)
            watch_end(w, NULL);
        else
            watch_read(w);
    }
}

static void
watch_read(DrvClientWatch *w)
{
    g_input_stream_read_bytes_async(w->in, READ_SIZE, G_PRIORITY_DEFAULT, w->cancellable, on_bytes,
                                    w);
}

static void
on_watch_open(GObject *source, GAsyncResult *result, gpointer data)
{
    DrvClientWatch *w = data;
    g_autoptr(GError) why = NULL;
    w->in = soup_session_send_finish(SOUP_SESSION(source), result, &why);
    if (w->in == NULL) {
        g_autoptr(GError) error = explain(w->client, why, FALSE);
        watch_end(w, error);
        return;
    }
    watch_read(w);
}

DrvClientWatch *
drv_client_watch(DrvClient *client, const char *id, DrvClientLineFunc line, DrvClientEndFunc end,
                 gpointer data)
{
    g_autofree char *path = drv_client_job_path(id, "/watch");
    DrvClientWatch *w = g_new0(DrvClientWatch, 1);
    *w = (DrvClientWatch){
        .client = client,
        .msg = message_new("GET", path, NULL),
        .cancellable = g_cancellable_new(),
        .text = g_string_new(NULL),
        .line = line,
        .end = end,
        .data = data,
    };
    client->pending++;
    soup_session_send_async(client->session, w->msg, G_PRIORITY_DEFAULT, w->cancellable,
                            on_watch_open, w);
    return w;
}
