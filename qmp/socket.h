/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* Private to libqmp: the operating system's side of a QMP socket. */

/*
 * Connects to the unix stream socket at 'path', without waiting. A non-blocking fd, or -1 with
 * QMP_ERROR_NOT_FOUND, _PATH, _NOT_SOCKET, _REFUSED, _PERMISSION or _IO; with _BUSY when even the
 * listener's backlog is full, which may pass.
 */
int qmp_socket_connect(const char *path, GError **error);

/* The process at the other end of a unix socket, 0 when that cannot be known. */
pid_t qmp_socket_peer_pid(int fd);
