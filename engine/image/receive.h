/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/scan.h"
#include "engine/image/target.h"

/* Users that a target to be received into must be opened for. */
guint drv_image_receive_users(void);

/*
 * Receives what drv_image_send() sends, over a blocking socket, into a target: writes it, compares
 * the digests and seals it: the caller gives the image its name. Gives the digest, owned by the
 * caller. Whatever the peer sends is checked. All that was received is brought onto the disk now
 * and then, so that after a crash little need be sent again. Blocks; to end it early shut the
 * socket down.
 */
char *drv_image_receive(DrvTarget *target, guint64 size, int fd, DrvCopyCount *count,
                        GError **error);
