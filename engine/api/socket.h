/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/*
 * The API's unix socket in the file system. Who may open the file may move guests, so that it is
 * its owner's alone (0600) from the moment it exists, until it is shared.
 */
typedef struct {
    char *path; /* NULL while closed */
    int fd;     /* listening, non-blocking */
    dev_t dev;  /* which file it is, so that only this one is removed */
    ino_t ino;
} DrvApiSocket;

/*
 * Listens on 'path'. A socket left there by a process that has ended is replaced; one that is still
 * served is not (DRV_ERROR_STATE), and neither is any other kind of file (DRV_ERROR_USAGE). Fails
 * with DRV_ERROR_USAGE or DRV_ERROR_IO otherwise. On failure the socket is closed.
 */
gboolean drv_api_socket_open(DrvApiSocket *sock, const char *path, GError **error);

/* Lets the members of a group open it, too (0660). DRV_ERROR_IO. */
gboolean drv_api_socket_share(const DrvApiSocket *sock, gid_t group, GError **error);

/* Stops listening and removes the file, if it is still the one that was made. May run twice. */
void drv_api_socket_close(DrvApiSocket *sock);

/* Whether a path fits a unix socket's address. DRV_ERROR_USAGE. */
gboolean drv_api_socket_check_path(const char *path, GError **error);
