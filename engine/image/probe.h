/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* What an image is, by qemu-img's word, and whether it can be copied. Blocks. */
typedef struct {
    char *format;
    guint64 size;       /* of the virtual disk */
    gboolean backed;    /* it has a backing file */
    GPtrArray *bitmaps; /* of char *: those that have recorded every change since they began */
    GPtrArray *files;   /* of char *: every file of its chain, itself first */
} DrvImageInfo;

/* 'format' is the one it must have; NULL: what qemu-img takes it for. DRV_ERROR_QEMU with QEMU's
 * words: not there, not readable, in use by a QEMU that writes, of another format, a backing file
 * missing. */
DrvImageInfo *drv_image_probe(const char *path, const char *format, GError **error);
void drv_image_info_free(DrvImageInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvImageInfo, drv_image_info_free)

/* The same for a source, and that it can be copied whole: neither encrypted nor corrupt by
 * 'qemu-img check'. */
DrvImageInfo *drv_image_probe_source(const char *path, const char *format, GError **error);

/* Formats that can be written to in any order, which a copy does. DRV_ERROR_USAGE names those. */
gboolean drv_image_format_writable(const char *format, GError **error);
/* A format's name as QEMU spells one: no option can hide in it. DRV_ERROR_USAGE. */
gboolean drv_image_format_check(const char *format, GError **error);
/* QEMU would wait for a pipe's other end for ever, and takes a character device for empty: it must
 * be a file or a block device. */
gboolean drv_image_kind_check(const char *path, GError **error);
