/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * The image that a VM's disk is in, as its QEMU describes it (query-block): its files, what another
 * image must be made with to be like it, and what of it no mirror carries. Nothing here asks QEMU
 * itself.
 */
typedef struct {
    char *path;       /* as QEMU names it; where that is a whole description, the file in it */
    char *format;     /* "qcow2", "raw" ... */
    gint64 allocated; /* bytes it takes up; -1: QEMU does not say */
} DrvDiskFile;

typedef struct {
    GPtrArray *files; /* of DrvDiskFile: itself, then its backing files; empty without a medium */
    guint snapshots;  /* inside it */
    guint bitmaps;    /* that QEMU has for it, or that are kept in it */
    /* What differs from what qemu-img gives a qcow2, for its option -o; NULL: nothing. */
    char *options;
} DrvDiskImage;

void drv_disk_image_free(DrvDiskImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDiskImage, drv_disk_image_free)

/* The answer to query-block as an array of DrvDiskImage, as long and in the same order as
 * drv_disks_parse()'s. What is missing or odd in it is left out. */
GPtrArray *drv_disk_images_parse(JsonNode *answer);

/* What a mirror does not bring along, a phrase each; often none. Owned by the caller. */
GStrv drv_disk_image_left(const DrvDiskImage *image, gboolean encrypted);

/* Bytes that the disk takes up, with its backing files ('chain') or without. */
guint64 drv_disk_image_allocated(const DrvDiskImage *image, gboolean chain);
