/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/store.h"

/*
 * Opens an image to be copied: probed, checked, every file of it in the folders that are allowed
 * (NULL: any), and locked as QEMU would lock it, so that neither a QEMU that writes it is there
 * nor one can come. Raw ones and plain qcow2 are looked at and read directly, all others by QEMU's
 * programs, and what is wrong with any is said in QEMU's words. 'found' receives its format, owned
 * by the caller. 'bitmap' (NULL: none) is one of the image's own that tells what was changed.
 * Blocks.
 */
DrvStore *drv_source_open(const char *path, const char *format, char *const *folders, guint users,
                          const char *bitmap, char **found, GError **error);
