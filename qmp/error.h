/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Everything that libqmp reports. A message is one sentence without a final full stop that names
 * what was wrong and, where the user can do something, what. Only a cancelled operation is reported
 * otherwise: as G_IO_ERROR_CANCELLED, as everywhere in GLib.
 */
#define QMP_ERROR (qmp_error_quark())

typedef enum {
    /* Connecting */
    QMP_ERROR_NOT_FOUND,  /* nothing exists at the socket's path */
    QMP_ERROR_PATH,       /* the path is empty or longer than a unix socket's may be */
    QMP_ERROR_NOT_SOCKET, /* what exists there is not a stream socket */
    QMP_ERROR_REFUSED,    /* a socket nobody listens on: left behind by a QEMU that is gone */
    QMP_ERROR_PERMISSION, /* the file system does not let this user connect */
    QMP_ERROR_BUSY,       /* connected, but no greeting: another client holds the socket */
    QMP_ERROR_NOT_QMP,    /* whoever answered is not a QMP server */
    /* At any time */
    QMP_ERROR_PROTOCOL, /* QEMU's side broke the protocol; the connection is closed */
    QMP_ERROR_CLOSED,   /* QEMU went away, or this side called qmp_client_close() */
    QMP_ERROR_IO,       /* another error of the operating system */
    /* Of one command; the connection goes on */
    QMP_ERROR_TIMEOUT,    /* no reply in time: whether QEMU executes the command is not known */
    QMP_ERROR_COMMAND,    /* QEMU refused it: see qmp_error_get_class() and qmp_error_get_desc() */
    QMP_ERROR_LIMIT,      /* too much is unanswered or unsent already; it was not sent */
    QMP_ERROR_ARGUMENT,   /* it cannot be written as JSON; it was not sent */
    QMP_ERROR_UNEXPECTED, /* QEMU's reply is valid, but has not the shape this command promises */
} QmpErrorCode;

GQuark qmp_error_quark(void);

/*
 * QEMU's own class ("GenericError", "CommandNotFound", "DeviceNotFound" ...) and description, word
 * for word, when 'error' is QMP_ERROR_COMMAND; NULL otherwise. They survive g_error_copy(),
 * g_propagate_error() and g_prefix_error(). Owned by the error.
 */
const char *qmp_error_get_class(const GError *error);
const char *qmp_error_get_desc(const GError *error);

/* Whether QEMU refused a command with this class. NULL errors are welcome. */
gboolean qmp_error_is_class(const GError *error, const char *error_class);

/* For libqmp itself and for test doubles: QEMU's answer to 'command'. */
GError *qmp_error_new_command(const char *command, const char *error_class, const char *desc);
