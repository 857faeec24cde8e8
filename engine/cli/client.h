/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>

/*
 * A client of the daemon's API, on the default main context. Every call has its own connection, so
 * that a daemon that was restarted in between is not noticed.
 *
 * Errors are the daemon's own (class and message as it sent them), or:
 *   DRV_ERROR_USAGE        the socket's path is too long, or it is not permitted to use it
 *   DRV_ERROR_UNREACHABLE  nobody serves the socket, or no answer came in time: nothing was sent,
 * or what was sent changes nothing DRV_ERROR_IN_DOUBT     the daemon went away between request and
 * answer, so that it is not known whether it did what was asked DRV_ERROR_CANCELLED    by the
 * GCancellable DRV_ERROR_PROTOCOL     what answers is not droverd
 */
typedef struct _DrvClient DrvClient;

/* 'timeout_s' is how long the daemon may be silent, in seconds. */
DrvClient *drv_client_new(const char *socket_path, guint timeout_s, GError **error);
/* Ends what is under way: calls with DRV_ERROR_CANCELLED, watches likewise unless unwatched. */
void drv_client_free(DrvClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvClient, drv_client_free)

/* The socket's path, for messages. */
const char *drv_client_socket(DrvClient *client);

/* 'reply' is NULL when there is an error; both are borrowed. */
typedef void (*DrvClientFunc)(JsonObject *reply, const GError *error, gpointer data);

/* Asks, and calls 'func' exactly once, later. 'body' may be NULL and is borrowed. */
void drv_client_call_async(DrvClient *client, const char *method, const char *path,
                           JsonObject *body, GCancellable *cancellable, DrvClientFunc func,
                           gpointer data);

/* The same, running the main context until the answer is there. Owned by the caller. */
JsonObject *drv_client_call(DrvClient *client, const char *method, const char *path,
                            JsonObject *body, GCancellable *cancellable, GError **error);

/* "/v1/jobs/ID" and what comes after it ("" or "/watch" ...). Owned by the caller. */
char *drv_client_job_path(const char *id, const char *rest);

/*
 * Follows a job: 'line' for every object that the daemon sends, then 'end' once, with an error or,
 * where the daemon ended it, with NULL. None of the two is called after drv_client_unwatch(), which
 * may be called from either.
 */
typedef struct _DrvClientWatch DrvClientWatch;
typedef void (*DrvClientLineFunc)(JsonObject *job, gpointer data);
typedef void (*DrvClientEndFunc)(const GError *error, gpointer data);

DrvClientWatch *drv_client_watch(DrvClient *client, const char *id, DrvClientLineFunc line,
                                 DrvClientEndFunc end, gpointer data);
void drv_client_unwatch(DrvClientWatch *watch);
