/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/error.h"
#include "qmp/limits.h"

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <sys/types.h>

/*
 * A connection to a QMP server: QEMU, or qemu-storage-daemon.
 *
 * A client belongs to the GMainContext that was the thread's default when it was connected. All of
 * its functions are called from the thread that runs this context, and all callbacks and signals
 * come from there. Nothing blocks, and no callback is called from within a function of this header.
 * A callback may call anything here, also close or unref the client; it must not run the context
 * itself to wait for something (that is what QmpSync has a context of its own for).
 *
 * Timeouts are in milliseconds; 0 waits forever.
 *
 * Signals:
 *   "event::NAME" (QmpClient *, const char *name, JsonObject *data, gint64 timestamp_us, gpointer)
 *       An event from QEMU; connect without "::NAME" for all of them. 'data' may be NULL, the
 *       timestamp is QEMU's real time in microseconds, or -1. None is lost between connecting and
 *       the return of connect's callback: connect to the signal there.
 *   "closed" (QmpClient *, const GError *error, gpointer)
 *       Once, when the connection is over for whatever reason, after all pending commands have
 *       failed with the same error.
 *
 * Pending commands keep the client alive. QEMU serves one client at a time, so when the connection
 * has done its work, qmp_client_close() it.
 */
#define QMP_TYPE_CLIENT (qmp_client_get_type())
G_DECLARE_FINAL_TYPE(QmpClient, qmp_client, QMP, CLIENT, GObject)

/* ---- Connecting ---- */

/*
 * Connects to the unix socket at 'path', waits for the greeting and negotiates, all within
 * 'timeout_ms' (be generous: QEMU may be busy for seconds while a machine starts).
 *
 * Errors: QMP_ERROR_NOT_FOUND, _PATH, _NOT_SOCKET, _REFUSED, _PERMISSION, _IO; _BUSY when the
 * greeting does not come in time; _NOT_QMP when something else comes; _TIMEOUT when QEMU hangs
 * after its greeting; _CLOSED, _COMMAND when it closes or refuses; G_IO_ERROR_CANCELLED.
 */
void qmp_client_connect_async(const char *path, guint timeout_ms, GCancellable *cancellable,
                              GAsyncReadyCallback callback, gpointer user_data);

/* The same over a connected stream socket, which is taken over, also on error. */
void qmp_client_connect_fd_async(int fd, guint timeout_ms, GCancellable *cancellable,
                                 GAsyncReadyCallback callback, gpointer user_data);

/* The client, ready for commands; transfer full. NULL on error. For both of the above. */
QmpClient *qmp_client_connect_finish(GAsyncResult *result, GError **error);

/*
 * Closes the socket at once, so that QEMU can serve the next client. Pending commands fail with
 * QMP_ERROR_CLOSED and "closed" is emitted, both from the main loop. Does nothing the second time.
 */
void qmp_client_close(QmpClient *client);

/* ---- Commands ---- */

/*
 * Sends a command. 'arguments' is a JSON object or NULL, and taken over: see qmp_args(). Any number
 * may be under way up to the limits; QEMU executes them in order.
 *
 * After a timeout or a cancellation QEMU may still execute the command, its reply is dropped; only
 * when not a byte had been sent it is taken back and never executed.
 *
 * Errors: QMP_ERROR_COMMAND, _TIMEOUT, _LIMIT, _ARGUMENT; G_IO_ERROR_CANCELLED; and when the
 * connection is over, what "closed" says.
 */
void qmp_client_execute_async(QmpClient *client, const char *command, JsonNode *arguments,
                              guint timeout_ms, GCancellable *cancellable,
                              GAsyncReadyCallback callback, gpointer user_data);

/*
 * The same with a file descriptor for QEMU, for commands like getfd and add-fd. 'fd' is duplicated
 * before this returns and stays the caller's. Several may be under way: QEMU reads its next command
 * when it has executed the one before, and the descriptor comes with the command's first byte.
 */
void qmp_client_execute_with_fd_async(QmpClient *client, const char *command, JsonNode *arguments,
                                      int fd, guint timeout_ms, GCancellable *cancellable,
                                      GAsyncReadyCallback callback, gpointer user_data);

/* What QEMU returned, for both of the above; transfer full. NULL on error. */
JsonNode *qmp_client_execute_finish(QmpClient *client, GAsyncResult *result, GError **error);

/* Runs a line of the human monitor ("info ramblock"). Its output is meant for people and mostly
 * holds the error, too, when there is one: QEMU then still calls it a success. */
void qmp_client_human_async(QmpClient *client, const char *line, guint timeout_ms,
                            GCancellable *cancellable, GAsyncReadyCallback callback,
                            gpointer user_data);

/* The output; g_free() it. NULL on error. */
char *qmp_client_human_finish(QmpClient *client, GAsyncResult *result, GError **error);

/* ---- About the other side ---- */

typedef struct {
    int major, minor, micro;
    const char *package; /* of the distribution; may be "" */
} QmpVersion;

/* From the greeting, to show to people; to decide what QEMU can do there is qmp_features. Owned by
 * the client. */
const QmpVersion *qmp_client_get_version(QmpClient *client);

/*
 * The process that listens on the socket; 0 when it cannot be known (not a unix socket, another
 * PID namespace). It is QEMU, unless QEMU was handed a socket that listened already: then it is
 * the one who made it.
 */
pid_t qmp_client_get_peer_pid(QmpClient *client);

/* The path as given; NULL for a client on an fd. */
const char *qmp_client_get_path(QmpClient *client);

gboolean qmp_client_is_closed(QmpClient *client);

/* Other bounds than QMP_LIMITS_DEFAULT. */
void qmp_client_set_limits(QmpClient *client, const QmpLimits *limits);
