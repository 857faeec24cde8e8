/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <string.h>

/* Big-endian integers at any address, for bytes whose bounds were checked before. */

static inline guint32
drv_be32(const guint8 *p)
{
    guint32 value;
    memcpy(&value, p, sizeof value);
    return GUINT32_FROM_BE(value);
}

static inline guint64
drv_be64(const guint8 *p)
{
    guint64 value;
    memcpy(&value, p, sizeof value);
    return GUINT64_FROM_BE(value);
}
