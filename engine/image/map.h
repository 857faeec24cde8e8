/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/* An extent of an image, as 'qemu-img map' tells it; borrowed. FALSE, with an error: it tells no
 * more. */
typedef gboolean (*DrvMapTake)(JsonObject *extent, gpointer data, GError **error);

/*
 * Has qemu-img tell where an image's data is, an extent at a time: there may be millions, and no
 * more than one is held. FALSE with the error of 'take', with DRV_ERROR_QEMU and its words,
 * DRV_ERROR_TIMEOUT, or, where it says what is not understood, DRV_ERROR_PROTOCOL. Blocks.
 */
gboolean drv_image_map(const char *path, const char *format, guint limit_ms, DrvMapTake take,
                       gpointer data, GError **error);
