/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/client.h"
#include "qmp/wire.h"

/* Shared by client.c (a connection at work) and connect.c (how it comes about). */

typedef enum {
    QMP_CLIENT_GREETING,    /* connecting, waiting for the greeting */
    QMP_CLIENT_NEGOTIATING, /* qmp_capabilities is sent */
    QMP_CLIENT_READY,
    QMP_CLIENT_CLOSED,
} QmpClientState;

struct _QmpClient {
    GObject parent;

    /* Fixed once connected */
    GMainContext *context;
    char *path;  /* NULL: connected by fd */
    char *label; /* who is at the other end, for messages */
    pid_t peer_pid;
    char *package;
    QmpVersion version;

    QmpLimits limits;
    QmpClientState state;
    QmpWire *wire;       /* NULL before and after */
    GError *close_error; /* set exactly when CLOSED */

    /* Connecting only */
    GTask *connecting;
    guint connect_timeout_ms;
    GSource *deadline;
    GSource *retry;
    GSource *cancel;

    /* Commands */
    char *id_prefix; /* random: a reply meant for an earlier client never matches */
    guint64 last_id;
    GQueue commands; /* of Command, oldest first */
};

/* Puts a connected socket (taken over) under the client. */
void qmp_client_set_fd(QmpClient *client, int fd);

/* Ends the connection; the first error (taken over) counts. */
void qmp_client_shut(QmpClient *client, GError *error);

/* In connect.c: what came before the client was ready. */
void qmp_connect_greeting(QmpClient *client, const QmpMessage *message);
void qmp_connect_fail(QmpClient *client, GError *error);

/* A source on the client's context, attached; unref is the caller's. */
GSource *qmp_client_add_source(QmpClient *client, GSource *source, GSourceFunc func, gpointer data);

/* Destroys and clears, NULL is fine. */
void qmp_clear_source(GSource **source);
