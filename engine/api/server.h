/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/api/backend.h"

#include <sys/types.h>

/*
 * The control API: HTTP and JSON on a unix socket, as docs/http-api.md describes it. It lives on
 * the default main context, and calls the backend from there only.
 */
typedef struct _DrvApiServer DrvApiServer;

#define DRV_API_MAX_BODY (1024 * 1024)
#define DRV_API_MAX_CONNECTIONS 64

/* Serves on the socket 'path' until freed. 'ops' and 'self' are borrowed and must outlive it. Fails
 * as drv_api_socket_open() does. */
DrvApiServer *drv_api_server_new(const char *path, const DrvApiBackend *ops, gpointer self,
                                 GError **error);

/* Lets the members of a group use it, too, as drv_api_socket_share() does. */
gboolean drv_api_server_share(DrvApiServer *server, gid_t group, GError **error);

/* Ends every connection and removes the socket. NULL is fine. */
void drv_api_server_free(DrvApiServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvApiServer, drv_api_server_free)

/* To be called when a job's state has changed, with the job's object showing the new one: the
 * server asks for it at once, so that no state is missed by those who watch. */
void drv_api_server_job_changed(DrvApiServer *server, const char *id);
