/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <gio/gio.h>

/*
 * A unix socket that hands out its connections in the order in which they were made, for QEMU's
 * channels and for tunnels. Control thread only.
 */
typedef struct _DrvListener DrvListener;

typedef void (*DrvListenerTake)(int fd, gpointer data); /* takes the descriptor */

/* Listens at 'path' (absolute; mode 0600). An abandoned socket there is replaced, anything else is
 * not. Errors name the path and what to do. */
DrvListener *drv_listener_new(const char *path, DrvListenerTake take, gpointer data,
                              GError **error);
/* Stops and removes the socket. */
void drv_listener_free(DrvListener *listener);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvListener, drv_listener_free)

/* Connects to a unix socket; the descriptor is the caller's, blocking as io_uring wants it. -1 on
 * error. A unix socket's connect ends at once or not at all, so this does not block. */
int drv_unix_connect(const char *path, GError **error);
/* The same for a socket that errors are to call otherwise. */
int drv_unix_connect_named(const char *path, const char *name, GError **error);
