/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/scan.h"

/* An image made of another, on one host. */
typedef struct {
    const char *in, *out;    /* absolute paths */
    const char *format;      /* of 'in'; NULL: as QEMU sees it */
    const char *dest_format; /* NULL: the same */
    const char *options;     /* as qemu-img create -o takes them; NULL: none */
    gboolean compress;       /* qcow2 only */
} DrvConvertParams;

/* Blocks. Gives the digest of what was written, as text owned by the caller; on failure nothing is
 * left of it. */
char *drv_convert(const DrvConvertParams *params, DrvCopyCount *count, GError **error);

/* Format and options as they are given to a conversion or a copy, judged by themselves: what
 * qemu-img would take for something else, and compression that the format has not.
 * DRV_ERROR_USAGE. */
gboolean drv_convert_check(const char *format, const char *dest_format, const char *options,
                           gboolean compress, GError **error);
