/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/server.h"

#include <gio/gio.h>
#include <libsoup/soup.h>

#include "common/error.h"
#include "engine/api/routes.h"
#include "engine/api/socket.h"

/*
 * drover accepts the connections itself and hands them to libsoup, for the sake of three limits
 * that SoupServer does not have: how many there are, how long one may be silent or not read, and
 * how large a body is. A connection beyond the limit gets one answer, which says so; far beyond it,
 * none.
 */
#define HARD_MAX_CONNECTIONS (2 * DRV_API_MAX_CONNECTIONS)
#define IDLE_TIMEOUT_S 60
#define ACCEPT_PAUSE_S 1

struct _DrvApiServer {
    DrvApiSocket sock;
    GSocket *listener;  /* on the same file descriptor */
    GSource *accepting; /* NULL while pausing */
    guint pause;        /* the timer that ends the pause, or 0 */
    SoupServer *soup;
    DrvApiRouter router;
    GHashTable *connections; /* of GObject, not referenced: leave when finalized */
};

/* libsoup wants internet addresses of both ends, and hands the remote one back with each request:
 * it is where a connection beyond the limit carries its mark. */
#define SURPLUS "drv-surplus"

static void
on_connection_gone(gpointer data, GObject *where_it_was)
{
    g_hash_table_remove(data, where_it_was);
}

static void
forget_connections(GHashTable *connections)
{
    GHashTableIter iter;
    gpointer object;
    g_hash_table_iter_init(&iter, connections);
    while (g_hash_table_iter_next(&iter, &object, NULL))
        g_object_weak_unref(object, on_connection_gone, connections);
    g_hash_table_unref(connections);
}

static void
serve(DrvApiServer *server, GSocket *socket)
{
    guint open = g_hash_table_size(server->connections);
    if (open >= HARD_MAX_CONNECTIONS)
        return; /* closed by its last reference */
    g_socket_set_timeout(socket, IDLE_TIMEOUT_S);
    g_autoptr(GSocketConnection) connection = g_socket_connection_factory_create_connection(socket);
    g_autoptr(GSocketAddress) local = g_inet_socket_address_new_from_string("127.0.0.1", 1);
    g_autoptr(GSocketAddress) remote = g_inet_socket_address_new_from_string("127.0.0.1", 1);
    if (open >= DRV_API_MAX_CONNECTIONS)
        g_object_set_data(G_OBJECT(remote), SURPLUS, server);
    drv_api_mark_user(remote, socket);
    g_hash_table_add(server->connections, connection);
    g_object_weak_ref(G_OBJECT(connection), on_connection_gone, server->connections);
    g_autoptr(GError) error = NULL;
    if (!soup_server_accept_iostream(server->soup, G_IO_STREAM(connection), local, remote, &error))
        g_warning("a connection to the API could not be served: %s", error->message);
}

static void start_accepting(DrvApiServer *server);

static gboolean
on_pause_over(gpointer data)
{
    DrvApiServer *server = data;
    server->pause = 0;
    start_accepting(server);
    return G_SOURCE_REMOVE;
}

static gboolean
on_connect(GSocket *listener, GIOCondition condition, gpointer data)
{
    DrvApiServer *server = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GSocket) socket = g_socket_accept(listener, NULL, &error);
    if (socket != NULL) {
        serve(server, socket);
        return G_SOURCE_CONTINUE;
    }
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK))
        return G_SOURCE_CONTINUE;
    /* Out of file descriptors: the connection would be offered again at once, without end. */
    g_warning("the API cannot accept a connection: %s", error->message);
    server->pause = g_timeout_add_seconds(ACCEPT_PAUSE_S, on_pause_over, server);
    g_clear_pointer(&server->accepting, g_source_unref);
    return G_SOURCE_REMOVE;
}

static void
start_accepting(DrvApiServer *server)
{
    server->accepting = g_socket_create_source(server->listener, G_IO_IN, NULL);
    g_source_set_callback(server->accepting, G_SOURCE_FUNC(on_connect), server, NULL);
    g_source_attach(server->accepting, NULL);
}

static void
refuse_body(SoupServerMessage *msg)
{
    g_autoptr(GError) error = NULL;
    g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE,
                "the request's body is too large: it may have %d bytes", DRV_API_MAX_BODY);
    drv_api_refuse(msg, error);
    soup_server_message_set_status(msg, SOUP_STATUS_REQUEST_ENTITY_TOO_LARGE, NULL);
    soup_message_headers_replace(soup_server_message_get_response_headers(msg), "Connection",
                                 "close");
    /* What comes is read, so that the answer is, but not kept. */
    SoupMessageBody *body = soup_server_message_get_request_body(msg);
    soup_message_body_set_accumulate(body, FALSE);
    soup_message_body_truncate(body);
}

static void
on_chunk(SoupServerMessage *msg, GBytes *chunk, gpointer data)
{
    if (soup_server_message_get_status(msg) == 0 &&
        soup_server_message_get_request_body(msg)->length > DRV_API_MAX_BODY)
        refuse_body(msg);
}

/* Runs when a request's head has been read, before its body. A status that is set here is final. */
static void
on_head(SoupServer *soup, SoupServerMessage *msg, const char *path, GHashTable *query,
        gpointer data)
{
    GSocketAddress *remote = soup_server_message_get_remote_address(msg);
    SoupMessageHeaders *headers = soup_server_message_get_request_headers(msg);
    if (remote != NULL && g_object_get_data(G_OBJECT(remote), SURPLUS) != NULL) {
        g_autoptr(GError) error = NULL;
        g_set_error(&error, DRV_ERROR, DRV_ERROR_LIMIT,
                    "%d connections to the API are open already: close some and try again",
                    DRV_API_MAX_CONNECTIONS);
        drv_api_refuse(msg, error);
        soup_message_headers_replace(soup_server_message_get_response_headers(msg), "Connection",
                                     "close");
    } else if (soup_message_headers_get_encoding(headers) == SOUP_ENCODING_CONTENT_LENGTH &&
               soup_message_headers_get_content_length(headers) > DRV_API_MAX_BODY) {
        refuse_body(msg);
    } else {
        g_signal_connect(msg, "got-chunk", G_CALLBACK(on_chunk), NULL);
    }
}

/* What libsoup refuses by itself (a path with "..", say) gets words, too. */
static void
on_read(SoupServer *soup, SoupServerMessage *msg, gpointer data)
{
    guint status = soup_server_message_get_status(msg);
    if (status == 0 || soup_server_message_get_response_body(msg)->length > 0)
        return;
    g_autoptr(GError) error = NULL;
    g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE, "the request is malformed");
    drv_api_refuse(msg, error);
    soup_server_message_set_status(msg, status, NULL);
}

static void
on_request(SoupServer *soup, SoupServerMessage *msg, const char *path, GHashTable *query,
           gpointer data)
{
    DrvApiServer *server = data;
    drv_api_route(&server->router, msg, path, query);
}

DrvApiServer *
drv_api_server_new(const char *path, const DrvApiBackend *ops, gpointer self, GError **error)
{
    g_autoptr(DrvApiServer) server = g_new0(DrvApiServer, 1);
    if (!drv_api_socket_open(&server->sock, path, error))
        return NULL;
    server->listener = g_socket_new_from_fd(server->sock.fd, error);
    if (server->listener == NULL)
        return NULL;
    server->sock.fd = -1; /* it is the GSocket's now */
    server->connections = g_hash_table_new(NULL, NULL);
    server->soup = soup_server_new(NULL, NULL);
    server->router = (DrvApiRouter){ops, self, drv_api_watchers_new(ops, self)};
    soup_server_add_early_handler(server->soup, NULL, on_head, server, NULL);
    soup_server_add_handler(server->soup, NULL, on_request, server, NULL);
    g_signal_connect(server->soup, "request-read", G_CALLBACK(on_read), NULL);
    start_accepting(server);
    return g_steal_pointer(&server);
}

gboolean
drv_api_server_share(DrvApiServer *server, gid_t group, GError **error)
{
    return drv_api_socket_share(&server->sock, group, error);
}

void
drv_api_server_free(DrvApiServer *server)
{
    if (server == NULL)
        return;
    drv_api_socket_close(&server->sock);
    if (server->accepting != NULL) {
        g_source_destroy(server->accepting);
        g_source_unref(server->accepting);
    }
    if (server->pause != 0)
        g_source_remove(server->pause);
    g_clear_object(&server->listener);
    drv_api_watchers_free(server->router.watchers);
    if (server->soup != NULL) {
        soup_server_disconnect(server->soup);
        g_object_unref(server->soup);
    }
    if (server->connections != NULL)
        forget_connections(server->connections);
    g_free(server);
}

void
drv_api_server_job_changed(DrvApiServer *server, const char *id)
{
    drv_api_watchers_changed(server->router.watchers, id);
}
