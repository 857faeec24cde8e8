/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/scan.h"

/* Sends an image over a blocking socket, from several threads. With 'base' the other end tells
 * what it has, and only what differs is sent. If that is the image of the digest 'since' (NULL: not
 * known), what the store knows to be unchanged is not even read; else 'since' changes nothing.
 * Gives the digest, owned by the caller; after a failure (DRV_ERROR_UNREACHABLE: the socket's) it
 * may be done again, with the counts set back to nought. The store has one user more than there are
 * threads. Blocks; to end it early shut the socket down. */
char *drv_image_send(DrvStore *store, guint threads, int fd, gboolean base, const char *since,
                     DrvCopyCount *count, GError **error);
