/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The destination's side of a disk's delta, without I/O: what QEMU's NBD server is told, so that it
 * does not write what the disk holds already.
 */
typedef struct _DrvDeltaSkip DrvDeltaSkip;

DrvDeltaSkip *drv_delta_skip_new(void);
void drv_delta_skip_free(DrvDeltaSkip *skip);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDeltaSkip, drv_delta_skip_free)

#define DRV_DELTA_NOWHERE G_MAXUINT64

/* What QEMU's NBD client says goes on with 'bytes', and what is to be told of it is appended to
 * 'out'. 'at': the disk holds them from this byte on; DRV_DELTA_NOWHERE: they came as they are. */
void drv_delta_skip_feed(DrvDeltaSkip *skip, const guint8 *bytes, gsize len, guint64 at,
                         GByteArray *out);
