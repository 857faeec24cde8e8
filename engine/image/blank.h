/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Blank images, for a VM's disks to be moved into. Each is made beside its place, and gets its name
 * when it is whole and on the disk, but only if nobody else has it: what is there is never touched.
 * It belongs to whom its folder belongs to, and nobody else may read it: who owns the folder is who
 * runs QEMU from it, and could put another file there anyway.
 *
 * Everything here blocks.
 */
typedef enum { DRV_BLANK_ABSENT, DRV_BLANK_THERE, DRV_BLANK_MADE } DrvBlankState;

typedef struct {
    /* What is wanted, owned. */
    char *disk; /* what the disk is called, for messages */
    char *path, *format;
    char *options;                  /* for qemu-img create -o; NULL */
    char *backing, *backing_format; /* NULL: none */
    guint64 size;                   /* that a guest sees, to the byte */
    guint64 data;                   /* of it, about so much will be written */
    gboolean encrypted;             /* it has to be there: nobody here has the key for one */

    /* What is so. */
    DrvBlankState state;
    guint64 used;  /* bytes, of a file that is there */
    gboolean file; /* it is, or will be, one: not a device */
    char *folder, *name;
    int dir;       /* the folder; -1 */
    char *temp;    /* what is being made, in that folder; NULL */
    int temp_fd;   /* -1 */
    guint64 inode; /* of what was made */
} DrvBlank;

DrvBlank *drv_blank_new(void);
void drv_blank_free(DrvBlank *blank);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvBlank, drv_blank_free)

/* Looks what there is under these names ('blanks': of DrvBlank), and whether all that is absent
 * could be made. What is there must be such an image: DRV_ERROR_STATE or _MISMATCH when it is
 * another, and those of drv_allowed_folder(). */
gboolean drv_blanks_look(GPtrArray *blanks, char *const *folders, GError **error);

/* Makes those that were absent: all, or none. 'cancelled' (atomic) may be NULL. */
gboolean drv_blanks_make(GPtrArray *blanks, const gint *cancelled, GError **error);

/* Removes those that were made, unless a QEMU has one open by now. */
void drv_blanks_unmake(GPtrArray *blanks);

/* A sentence for each file system that may get full. Owned by the caller. */
GStrv drv_blanks_doubts(GPtrArray *blanks);
