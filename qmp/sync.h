/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/client.h"
#include "qmp/features.h"

/*
 * For small tools that do one thing after the other: the client with functions that wait. It has a
 * GMainContext of its own, so it may be used wherever blocking is acceptable, also from within a
 * callback of another loop. Errors are those of the functions it is named after.
 */
typedef struct _QmpSync QmpSync;

QmpSync *qmp_sync_connect(const char *path, guint timeout_ms, GError **error);
/* Closes the connection. NULL is fine. */
void qmp_sync_free(QmpSync *sync);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpSync, qmp_sync_free)

/* 'arguments' is taken over; what is returned is transfer full. */
JsonNode *qmp_sync_execute(QmpSync *sync, const char *command, JsonNode *arguments,
                           guint timeout_ms, GError **error);
QmpFeatures *qmp_sync_probe(QmpSync *sync, guint timeout_ms, GError **error);
char *qmp_sync_human(QmpSync *sync, const char *line, guint timeout_ms, GError **error);

/* The client, owned by 'sync'; its signals are emitted while one of these functions waits. */
QmpClient *qmp_sync_get_client(QmpSync *sync);

/* Waits until something has happened on the connection (a signal may have been emitted). FALSE when
 * it is closed. */
gboolean qmp_sync_wait(QmpSync *sync);
