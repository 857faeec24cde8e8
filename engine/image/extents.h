/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* Where each byte of a virtual disk is: a GArray of extents, from its start on and without gaps. */
typedef enum {
    DRV_EXTENT_ZERO,  /* nowhere */
    DRV_EXTENT_PLAIN, /* in the image's file as it is */
    DRV_EXTENT_OTHER, /* only QEMU knows */
} DrvExtentKind;

typedef struct {
    guint64 start, end; /* in the virtual disk */
    guint64 offset;     /* in the file: of what is PLAIN */
    DrvExtentKind kind;
} DrvExtent;

GArray *drv_extents_new(void);
/* What follows the last. FALSE: there are too many pieces. */
gboolean drv_extents_add(GArray *extents, DrvExtentKind kind, guint64 len, guint64 offset);
/* Up to where they are known. */
guint64 drv_extents_end(const GArray *extents);
/* The one with that byte, which is before the end. */
const DrvExtent *drv_extents_find(const GArray *extents, guint64 at);
gboolean drv_extents_have(const GArray *extents, DrvExtentKind kind);
