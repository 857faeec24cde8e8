/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* The locks by which QEMUs keep out of each other's images, from outside. */

/* Locks the file behind 'fd' as a QEMU does that reads it and wants nobody to write it; held until
 * the file is closed. DRV_ERROR_STATE when one writes it. */
gboolean drv_qemu_lock_reader(int fd, const char *path, GError **error);
/* DRV_ERROR_STATE when any QEMU has the file open. Takes no lock. */
gboolean drv_qemu_lock_unused(int fd, const char *path, GError **error);
/* The same, and locks it as a QEMU does that writes it and wants nobody else to; held until the
 * file is closed. */
gboolean drv_qemu_lock_writer(int fd, const char *path, GError **error);
