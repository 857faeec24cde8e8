/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/api/watch.h"

/* What a request needs to be answered. All borrowed. */
typedef struct {
    const DrvApiBackend *ops;
    gpointer self;
    DrvApiWatchers *watchers;
} DrvApiRouter;

/* Answers a request whose body has been read: with the reply of the route that fits, or with an
 * error. 'query' may be NULL. */
void drv_api_route(const DrvApiRouter *router, SoupServerMessage *msg, const char *path,
                   GHashTable *query);

/* Has a connection's requests carry who opened its socket: libsoup hands 'remote' back with each.
 */
void drv_api_mark_user(GSocketAddress *remote, GSocket *socket);

/* Answers with an error's JSON and the HTTP status that fits its code. */
void drv_api_refuse(SoupServerMessage *msg, const GError *error);
