/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How a client comes about: connect, greeting, negotiation, all under one deadline.
 *
 * QEMU listens with a backlog and serves one client a socket. To the next one connect() succeeds,
 * and nothing is ever said: silence until the deadline is how "busy" looks. When the backlog is
 * full as well, connect() has nothing to wait for and is repeated.
 *
 * While it connects, the client belongs to its task, and the task to the client. Every way out goes
 * through take_task(), which unties them.
 */
#include "qmp/client-private.h"

#include "qmp/json.h"
#include "qmp/socket.h"

#include <unistd.h>

#define RETRY_MS 20

/* The task, now the caller's; it holds the client. NULL when it has been answered already. */
static GTask *
take_task(QmpClient *client)
{
    qmp_clear_source(&client->deadline);
    qmp_clear_source(&client->retry);
    qmp_clear_source(&client->cancel);
    return g_steal_pointer(&client->connecting);
}

static void
give_up(QmpClient *client, GError *error)
{
    g_autoptr(GTask) task = take_task(client);
    qmp_client_shut(client, g_error_copy(error));
    g_task_return_error(task, error);
}

/* What went wrong on the wire, as the user should see it at this stage. */
void
qmp_connect_fail(QmpClient *client, GError *error)
{
    g_autoptr(GError) owned = error;
    gboolean greeted = client->state != QMP_CLIENT_GREETING;

    if (!greeted && (g_error_matches(error, QMP_ERROR, QMP_ERROR_PROTOCOL) ||
                     (g_error_matches(error, QMP_ERROR, QMP_ERROR_CLOSED) &&
                      qmp_wire_has_received(client->wire)))) {
        g_autofree char *what = client->path != NULL ? g_strdup_printf("'%s'", client->path)
                                                     : g_strdup("the given socket");
        give_up(client, g_error_new(QMP_ERROR, QMP_ERROR_NOT_QMP,
                                    "%s is not a QMP socket of QEMU (%s): check that it is not "
                                    "the human monitor's, a guest agent's or a serial port's",
                                    what, error->message));
    } else if (!greeted && g_error_matches(error, QMP_ERROR, QMP_ERROR_CLOSED)) {
        give_up(client, g_error_new(QMP_ERROR, QMP_ERROR_CLOSED,
                                    "%s closed the connection before its greeting: it is quitting",
                                    client->label));
    } else {
        give_up(client, g_error_new(error->domain, error->code, "connecting to %s failed: %s",
                                    client->label, error->message));
    }
}

/* ---- Negotiation ---- */

/* The caller of connect has been told and could connect its signals: let events come. */
static void
on_told(GTask *task, GParamSpec *pspec, gpointer user_data)
{
    QmpClient *client = user_data;
    if (client->wire != NULL)
        qmp_wire_set_paused(client->wire, FALSE);
}

static void
on_negotiated(GObject *object, GAsyncResult *result, gpointer user_data)
{
    QmpClient *client = QMP_CLIENT(object);
    GError *error = NULL;
    g_autoptr(JsonNode) value = qmp_client_execute_finish(client, result, &error);
    if (client->connecting == NULL) {
        g_clear_error(&error); /* the deadline was first */
        return;
    }
    if (value == NULL) {
        give_up(client, error);
        return;
    }
    client->state = QMP_CLIENT_READY;
    qmp_wire_set_paused(client->wire, TRUE);
    g_autoptr(GTask) task = take_task(client);
    g_signal_connect_data(task, "notify::completed", G_CALLBACK(on_told), g_object_ref(client),
                          (GClosureNotify)(void (*)(void))g_object_unref, 0);
    g_task_return_pointer(task, g_object_ref(client), g_object_unref);
}

static int
version_number(JsonObject *version, const char *name)
{
    gint64 number;
    return qmp_get_int(version, name, &number) && number >= 0 && number < 10000 ? (int)number : 0;
}

void
qmp_connect_greeting(QmpClient *client, const QmpMessage *message)
{
    JsonObject *version = qmp_get_object(message->greeting, "version");
    JsonObject *qemu = qmp_get_object(version, "qemu");
    const char *package = qmp_get_string(version, "package");
    client->package = g_strdup(package != NULL ? package : "");
    client->version = (QmpVersion){.major = version_number(qemu, "major"),
                                   .minor = version_number(qemu, "minor"),
                                   .micro = version_number(qemu, "micro"),
                                   .package = client->package};
    client->state = QMP_CLIENT_NEGOTIATING;
    qmp_client_execute_async(client, "qmp_capabilities", NULL, 0, NULL, on_negotiated, NULL);
}

/* ---- Deadline and cancellation ---- */

static GError *
late_error(const QmpClient *client)
{
    guint ms = client->connect_timeout_ms;
    if (client->state == QMP_CLIENT_NEGOTIATING)
        return g_error_new(QMP_ERROR, QMP_ERROR_TIMEOUT,
                           "%s sent its greeting and then nothing within %u ms: it hangs or is "
                           "overloaded",
                           client->label, ms);
    if (client->wire != NULL && qmp_wire_has_received(client->wire))
        return g_error_new(QMP_ERROR, QMP_ERROR_NOT_QMP,
                           "%s sent something, but no QMP greeting within %u ms: check that this "
                           "is QEMU's QMP socket",
                           client->label, ms);
    return g_error_new(QMP_ERROR, QMP_ERROR_BUSY,
                       "%s sent no greeting within %u ms: the socket is busy with another client, "
                       "as QEMU serves one at a time (or it hangs); close the other one, or give "
                       "QEMU a second -qmp socket",
                       client->label, ms);
}

static gboolean
on_deadline(gpointer user_data)
{
    QmpClient *client = user_data;
    give_up(client, late_error(client));
    return G_SOURCE_REMOVE;
}

static gboolean
on_cancelled(GCancellable *cancellable, gpointer user_data)
{
    QmpClient *client = user_data;
    give_up(client, g_error_new(G_IO_ERROR, G_IO_ERROR_CANCELLED, "connecting to %s was cancelled",
                                client->label));
    return G_SOURCE_REMOVE;
}

/* ---- Connecting ---- */

static gboolean
try_connect(gpointer user_data)
{
    QmpClient *client = user_data;
    GError *error = NULL;
    int fd = qmp_socket_connect(client->path, &error);
    if (fd < 0 && g_error_matches(error, QMP_ERROR, QMP_ERROR_BUSY)) {
        g_error_free(error);
        if (client->retry == NULL)
            client->retry =
                qmp_client_add_source(client, g_timeout_source_new(RETRY_MS), try_connect, client);
        return G_SOURCE_CONTINUE;
    }
    qmp_clear_source(&client->retry);
    if (fd < 0)
        give_up(client, error);
    else
        qmp_client_set_fd(client, fd);
    return G_SOURCE_REMOVE;
}

/* A client that is tied to a new task. NULL when that was cancelled before it began. */
static QmpClient *
begin(guint timeout_ms, GCancellable *cancellable, GAsyncReadyCallback callback, gpointer user_data)
{
    g_autoptr(GTask) task = g_task_new(NULL, cancellable, callback, user_data);
    g_task_set_source_tag(task, qmp_client_connect_finish);
    if (g_task_return_error_if_cancelled(task))
        return NULL;
    /* A client is not thrown away because of a cancellation that comes too late. */
    g_task_set_check_cancellable(task, FALSE);

    QmpClient *client = g_object_new(QMP_TYPE_CLIENT, NULL);
    g_task_set_task_data(task, client, g_object_unref);
    client->connecting = g_steal_pointer(&task);
    client->connect_timeout_ms = timeout_ms;
    if (timeout_ms > 0)
        client->deadline =
            qmp_client_add_source(client, g_timeout_source_new(timeout_ms), on_deadline, client);
    if (cancellable != NULL)
        client->cancel = qmp_client_add_source(client, g_cancellable_source_new(cancellable),
                                               G_SOURCE_FUNC(on_cancelled), client);
    return client;
}

void
qmp_client_connect_async(const char *path, guint timeout_ms, GCancellable *cancellable,
                         GAsyncReadyCallback callback, gpointer user_data)
{
    g_return_if_fail(path != NULL);
    QmpClient *client = begin(timeout_ms, cancellable, callback, user_data);
    if (client == NULL)
        return;
    client->path = g_strdup(path);
    g_free(client->label);
    client->label = g_strdup_printf("QEMU at '%s'", path);
    try_connect(client);
}

void
qmp_client_connect_fd_async(int fd, guint timeout_ms, GCancellable *cancellable,
                            GAsyncReadyCallback callback, gpointer user_data)
{
    g_return_if_fail(fd >= 0);
    QmpClient *client = begin(timeout_ms, cancellable, callback, user_data);
    if (client == NULL)
        close(fd);
    else
        qmp_client_set_fd(client, fd);
}

QmpClient *
qmp_client_connect_finish(GAsyncResult *result, GError **error)
{
    g_return_val_if_fail(g_async_result_is_tagged(result, qmp_client_connect_finish), NULL);
    return g_task_propagate_pointer(G_TASK(result), error);
}
