/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/peer.h"

#include "common/error.h"
#include "common/json.h"

#include <string.h>

/* Calls that may be open towards a peer: far above what jobs make. */
#define MAX_CALLS 4096

typedef struct {
    const DrvPeerOps *ops; /* NULL: unlistened while being called */
    gpointer data;
} Listener;

typedef struct {
    DrvPeerReply reply;
    gpointer data;
} Pending;

struct _DrvPeer {
    guint refs;
    DrvSession *session;
    GArray *listeners; /* of Listener */
    GHashTable *calls; /* id → Pending */
    guint64 next_id;
    gboolean connected;
    GError *dead;
    gboolean closed;
};

DrvPeer *
drv_peer_ref(DrvPeer *peer)
{
    peer->refs++;
    return peer;
}

void
drv_peer_unref(DrvPeer *peer)
{
    if (peer == NULL || --peer->refs > 0)
        return;
    drv_peer_close(peer);
    drv_session_unref(peer->session);
    g_array_unref(peer->listeners);
    g_hash_table_unref(peer->calls);
    g_clear_error(&peer->dead);
    g_free(peer);
}

/* --- listeners --- */

void
drv_peer_listen(DrvPeer *peer, const DrvPeerOps *ops, gpointer data)
{
    Listener listener = {ops, data};
    g_array_append_val(peer->listeners, listener);
}

void
drv_peer_unlisten(DrvPeer *peer, gpointer data)
{
    for (guint i = 0; i < peer->listeners->len; i++) {
        Listener *listener = &g_array_index(peer->listeners, Listener, i);
        if (listener->data == data)
            listener->ops = NULL;
    }
}

static void
sweep(DrvPeer *peer)
{
    for (guint i = peer->listeners->len; i > 0; i--)
        if (g_array_index(peer->listeners, Listener, i - 1).ops == NULL)
            g_array_remove_index(peer->listeners, i - 1);
}

/* Runs CALL for every listener that has the function; listeners may come and go meanwhile. */
#define FOR_LISTENERS(PEER, FUNC, ...)                                                             \
    G_STMT_START                                                                                   \
    {                                                                                              \
        drv_peer_ref(PEER);                                                                        \
        for (guint i_ = 0; i_ < (PEER)->listeners->len; i_++) {                                    \
            Listener l_ = g_array_index((PEER)->listeners, Listener, i_);                          \
            if (l_.ops != NULL && l_.ops->FUNC != NULL)                                            \
                l_.ops->FUNC(PEER, ##__VA_ARGS__, l_.data);                                        \
        }                                                                                          \
        sweep(PEER);                                                                               \
        drv_peer_unref(PEER);                                                                      \
    }                                                                                              \
    G_STMT_END

/* --- sending --- */

/* Takes the message. FALSE: it is too long, and was not sent. */
static gboolean
send_object(DrvPeer *peer, JsonObject *message)
{
    g_autofree char *text = drv_json_text(message);
    gsize len = strlen(text);
    json_object_unref(message);
    if (len > DRV_MESSAGE_MAX) {
        g_warning("a message of %" G_GSIZE_FORMAT " bytes to %s was not sent: too long", len,
                  drv_peer_name(peer));
        return FALSE;
    }
    g_autoptr(GBytes) bytes = g_bytes_new(text, len);
    drv_session_send(peer->session, bytes);
    return TRUE;
}

typedef struct {
    DrvPeer *peer;
    DrvPeerReply reply;
    gpointer data;
    GError *error;
} Failure;

static gboolean
tell_failure(gpointer data)
{
    g_autofree Failure *failure = data;
    failure->reply(failure->peer, NULL, failure->error, failure->data);
    g_error_free(failure->error);
    drv_peer_unref(failure->peer);
    return G_SOURCE_REMOVE;
}

/* From the main loop, so that no caller is called back from within its own call. */
static void
fail_later(DrvPeer *peer, DrvPeerReply reply, gpointer data, const GError *error)
{
    Failure *failure = g_new(Failure, 1);
    *failure = (Failure){drv_peer_ref(peer), reply, data, g_error_copy(error)};
    g_autoptr(GSource) source = g_idle_source_new();
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, tell_failure, failure, NULL);
    g_source_attach(source, g_main_context_get_thread_default());
}

void
drv_peer_call(DrvPeer *peer, const char *op, JsonObject *args, DrvPeerReply reply, gpointer data)
{
    g_autoptr(JsonObject) owned = args;
    if (peer->dead != NULL) {
        fail_later(peer, reply, data, peer->dead);
        return;
    }
    if (g_hash_table_size(peer->calls) >= MAX_CALLS) {
        g_autoptr(GError) error = g_error_new(
            DRV_ERROR, DRV_ERROR_LIMIT, "too many calls to %s are unanswered", drv_peer_name(peer));
        fail_later(peer, reply, data, error);
        return;
    }
    guint64 *id = g_new(guint64, 1);
    *id = ++peer->next_id;
    Pending *pending = g_new(Pending, 1);
    *pending = (Pending){reply, data};
    g_hash_table_insert(peer->calls, id, pending);

    JsonObject *message = json_object_new();
    json_object_set_int_member(message, "id", (gint64)*id);
    json_object_set_string_member(message, "call", op);
    if (owned != NULL)
        json_object_set_object_member(message, "args", g_steal_pointer(&owned));
    if (send_object(peer, message))
        return;
    g_autoptr(GError) error =
        g_error_new(DRV_ERROR, DRV_ERROR_LIMIT, "what %s is to be asked is too long for a message",
                    drv_peer_name(peer));
    fail_later(peer, reply, data, error);
    g_hash_table_remove(peer->calls, id);
}

void
drv_peer_tell(DrvPeer *peer, const char *op, JsonObject *args)
{
    JsonObject *message = json_object_new();
    json_object_set_string_member(message, "tell", op);
    if (args != NULL)
        json_object_set_object_member(message, "args", args);
    send_object(peer, message);
}

void
drv_peer_answer(DrvPeer *peer, guint64 id, JsonObject *ok)
{
    JsonObject *message = json_object_new();
    json_object_set_int_member(message, "id", (gint64)id);
    json_object_set_object_member(message, "ok", ok != NULL ? ok : json_object_new());
    if (send_object(peer, message))
        return;
    g_autoptr(GError) error =
        g_error_new_literal(DRV_ERROR, DRV_ERROR_LIMIT, "its answer is too long for a message");
    drv_peer_refuse(peer, id, error);
}

void
drv_peer_refuse(DrvPeer *peer, guint64 id, const GError *error)
{
    JsonObject *message = json_object_new();
    JsonObject *why = json_object_new();
    json_object_set_string_member(why, "class", drv_error_name(error));
    json_object_set_string_member(why, "message", error->message);
    json_object_set_int_member(message, "id", (gint64)id);
    json_object_set_object_member(message, "error", why);
    if (send_object(peer, message))
        return;
    g_autoptr(GError) same =
        g_error_new_literal(error->domain, error->code, "its reason is too long for a message");
    drv_peer_refuse(peer, id, same);
}

/* --- receiving --- */

static void
take_reply(DrvPeer *peer, guint64 id, JsonObject *message)
{
    g_autofree gpointer key = NULL;
    g_autofree Pending *pending = NULL;
    if (!g_hash_table_steal_extended(peer->calls, &id, &key, (gpointer *)&pending)) {
        g_info("%s answered a call that was not made", drv_peer_name(peer));
        return;
    }
    JsonObject *ok = drv_json_object(message, "ok");
    JsonObject *why = drv_json_object(message, "error");
    g_autoptr(GError) error = NULL;
    if (ok == NULL)
        error = g_error_new_literal(
            DRV_ERROR, (gint)drv_error_code_parse(drv_json_string(why, "class", "")),
            drv_json_string(why, "message", "the peer's answer cannot be understood"));
    pending->reply(peer, ok, error, pending->data);
}

static void
on_message(DrvSession *session, GBytes *bytes, gpointer data)
{
    DrvPeer *peer = data;
    gsize len;
    const char *text = g_bytes_get_data(bytes, &len);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) message = drv_json_parse_object(text, len, &error);
    if (message == NULL) {
        g_warning("%s sent a message that cannot be read: %s", drv_peer_name(peer), error->message);
        return;
    }
    gint64 id = drv_json_int(message, "id", 0);
    const char *call = drv_json_string(message, "call", NULL);
    const char *tell = drv_json_string(message, "tell", NULL);
    JsonObject *args = drv_json_object(message, "args");
    g_autoptr(JsonObject) none = json_object_new();
    if (args == NULL)
        args = none;
    if (call != NULL)
        FOR_LISTENERS(peer, call, (guint64)id, call, args);
    else if (tell != NULL)
        FOR_LISTENERS(peer, tell, tell, args);
    else
        take_reply(peer, (guint64)id, message);
}

static void
on_connected(DrvSession *session, gpointer data)
{
    DrvPeer *peer = data;
    peer->connected = TRUE;
    FOR_LISTENERS(peer, connected);
}

static void
on_lost(DrvSession *session, const GError *why, gpointer data)
{
    DrvPeer *peer = data;
    peer->connected = FALSE;
    FOR_LISTENERS(peer, lost, why);
}

static void
fail_calls(DrvPeer *peer, const GError *why)
{
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, peer->calls);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Pending *pending = value;
        fail_later(peer, pending->reply, pending->data, why);
    }
    g_hash_table_remove_all(peer->calls);
}

static void
on_dead(DrvSession *session, const GError *why, gpointer data)
{
    g_autoptr(DrvPeer) peer = drv_peer_ref(data);
    peer->connected = FALSE;
    if (peer->dead == NULL)
        peer->dead = g_error_copy(why);
    fail_calls(peer, why);
    FOR_LISTENERS(peer, dead, why);
}

static const DrvSessionOps session_ops = {
    .connected = on_connected,
    .lost = on_lost,
    .message = on_message,
    .dead = on_dead,
};

/* --- the beginning and the end --- */

static DrvPeer *
new_peer(void)
{
    DrvPeer *peer = g_new0(DrvPeer, 1);
    peer->refs = 1;
    peer->listeners = g_array_new(FALSE, FALSE, sizeof(Listener));
    peer->calls = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    return peer;
}

DrvPeer *
drv_peer_connect(DrvTransfer *transfer, const char *host, guint16 port, guint lanes)
{
    DrvPeer *peer = new_peer();
    peer->session = drv_session_connect(transfer, host, port, lanes, &session_ops, peer);
    return peer;
}

DrvPeer *
drv_peer_accept(DrvSession *session)
{
    DrvPeer *peer = new_peer();
    peer->session = drv_session_ref(session);
    drv_session_set_ops(session, &session_ops, peer);
    return peer;
}

void
drv_peer_close(DrvPeer *peer)
{
    if (peer->closed)
        return;
    peer->closed = TRUE;
    peer->connected = FALSE;
    if (peer->dead == NULL)
        peer->dead = g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED, "the session was closed");
    g_array_set_size(peer->listeners, 0);
    if (peer->refs > 0)
        fail_calls(peer, peer->dead);
    drv_session_set_ops(peer->session, NULL, NULL);
    drv_session_close(peer->session);
}

DrvSession *
drv_peer_session(DrvPeer *peer)
{
    return peer->session;
}

gboolean
drv_peer_is_connected(DrvPeer *peer)
{
    return peer->connected;
}

gboolean
drv_peer_is_dead(DrvPeer *peer)
{
    return peer->dead != NULL;
}

const char *
drv_peer_name(DrvPeer *peer)
{
    return drv_session_peer_name(peer->session);
}
