/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "common/json.h"

#include <gio/gio.h>

/*
 * The first phase of an NBD connection, in which the two sides agree on what is served, and how. It
 * is done at either end of a channel by the daemon there, and only what follows, requests and
 * replies, goes over the link: QEMU's main loop stands while a client of its own is in this phase,
 * and its guest with it.
 *
 * (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md)
 */

/* What a server and its client have agreed on. */
typedef struct {
    guint64 size;  /* bytes */
    guint16 flags; /* "transmission flags": what the server can do */
    /* The server's block sizes in bytes; all 0: it does not say. */
    guint32 block_min, block_preferred, block_max;
    gboolean extended;   /* headers are extended: requests of zeroes may be of any size */
    gboolean structured; /* replies are structured, as they are with extended headers */
    gboolean status;     /* block status ("base:allocation") can be asked for, ... */
    guint32 context;     /* ... and has this number in replies */
} DrvNbdExport;

JsonObject *drv_nbd_export_to_json(const DrvNbdExport *export);
/* As a peer sent it. DRV_ERROR_PROTOCOL when it makes no sense. */
gboolean drv_nbd_export_from_json(JsonObject *object, DrvNbdExport *export, GError **error);

/* These two are for a thread: they wait for the other side, 'timeout_ms' in all. Nothing is read
 * beyond the handshake, and the descriptor is as it was, whatever happens: the caller's.
 * DRV_ERROR_TIMEOUT, DRV_ERROR_PROTOCOL, DRV_ERROR_QEMU (it refuses), DRV_ERROR_IO. */

/* As a client, on a socket that is connected to a server: asks for all that drover can carry, and
 * for extended headers only where the client that this is done for will do that, too. */
gboolean drv_nbd_greet(int fd, const char *name, guint timeout_ms, gboolean extended,
                       DrvNbdExport *export, GError **error);

/* As a server, for one that has connected: offers what is in 'export', under 'name' alone. */
gboolean drv_nbd_welcome(int fd, const char *name, guint timeout_ms, const DrvNbdExport *export,
                         GError **error);

/* The same, each on a thread of its own; these take the descriptor. */
void drv_nbd_greet_async(int fd, const char *name, guint timeout_ms, gboolean extended,
                         GAsyncReadyCallback callback, gpointer data);
void drv_nbd_welcome_async(int fd, const char *name, guint timeout_ms, const DrvNbdExport *export,
                           GAsyncReadyCallback callback, gpointer data);
/* Of either: the descriptor, which is the caller's again, and in 'export' (may be NULL) what was
 * agreed on. -1 with an error. */
int drv_nbd_agree_finish(GAsyncResult *result, DrvNbdExport *export, GError **error);
