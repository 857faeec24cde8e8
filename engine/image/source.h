/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/store.h"

/*
 * Opens an image to be copied: probed, checked, every file of it in the folders that are allowed
 * (NULL: any), and locked as QEMU would lock it, so that neither a QEMU that writes it is there
 * nor one can come. A raw one is read directly, all others through qemu-nbd. 'found' receives its
 * format, owned by the caller. Blocks.
 */
DrvStore *drv_source_open(const char *path, const char *format, char *const *folders, guint users,
                          char **found, GError **error);
