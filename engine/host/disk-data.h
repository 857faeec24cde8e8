/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <gio/gio.h>

/*
 * Whether a disk that is exported over NBD on the unix socket 'socket' holds anything but zeroes.
 * Asks qemu-img, which knows the protocol, passes over what is not allocated, reads the rest, and
 * stops at the first byte.
 */
void drv_disk_data_async(const char *socket, const char *export, guint64 size,
                         GCancellable *cancellable, GAsyncReadyCallback callback,
                         gpointer user_data);
/* 1: it does, 0: it does not, -1: that cannot be found out (DRV_ERROR_QEMU). */
int drv_disk_data_finish(GAsyncResult *result, GError **error);
