/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/digest.h"
#include "engine/image/scan.h"

/* Writing pieces into a target, with their leaves; what both a conversion and the receiving end of
 * a copy do. Any thread, each with its own blocks. */
typedef struct {
    DrvStore *store;
    DrvImageDigest *digest;
    gboolean blank; /* the target was all zeros: those need not be written */
    DrvCopyCount *count;
} DrvWriter;

/* Blocks of zeros among them are made so, not written. */
gboolean drv_write_piece(const DrvWriter *writer, guint user, guint64 first, const guint8 *bytes,
                         guint64 len, GError **error);
gboolean drv_write_zeros(const DrvWriter *writer, guint user, guint64 first, guint64 blocks,
                         GError **error);
