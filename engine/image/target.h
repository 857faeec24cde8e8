/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/digest.h"
#include "engine/image/store.h"

/*
 * The image that is being made. It is written beside its place, under the name
 * ".NAME.drover-SUM", and gets its own name when it is whole and on the disk, replacing what had
 * it before. A block device is written in place: it has no other.
 *
 * SUM stands for format, size and options. What a copy that was cut short has left is taken up by
 * the next that asks for the same; it is the caller's to compare what is in it. What others have
 * left is removed.
 */
typedef struct _DrvTarget DrvTarget;

typedef struct {
    const char *path;
    const char *format;
    char *const *folders; /* allowed; NULL: any */
    const char *options;  /* for qemu-img create -o; NULL: none */
    gboolean compress;    /* qcow2: every cluster */
    gboolean resume;      /* take up what was left */
    gboolean delta;       /* begin with what has the name now, if it fits */
    guint64 size;
    guint users;
    const gint *cancelled; /* atomic; looked at while an older version is copied. NULL: none */
} DrvTargetParams;

/* Opens it; blocks, for the copying of an older version too where the file system cannot share its
 * blocks. DRV_ERROR_STATE when another copy writes it, or a VM runs from what it would replace. */
DrvTarget *drv_target_open(const DrvTargetParams *params, GError **error);
DrvStore *drv_target_store(DrvTarget *target);
/* Whether there may be something in it: left of another copy, an older version, a device. */
gboolean drv_target_has_base(const DrvTarget *target);

/* The end, when all is written. First onto the disk, where nothing can be written to it any more;
 * it is still locked, and may be dropped and taken up again. Then under its name. */
gboolean drv_target_seal(DrvTarget *target, GError **error);
gboolean drv_target_name(DrvTarget *target, GError **error);
/* Both. */
gboolean drv_target_commit(DrvTarget *target, GError **error);
/* Gives up. 'keep': leaves what there is for another time. NULL is allowed. */
void drv_target_drop(DrvTarget *target, gboolean keep);
/* After _name() or _drop() nothing but this; gives up without keeping where neither was called.
 */
void drv_target_free(DrvTarget *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvTarget, drv_target_free)

/* Removes files that begin with 'prefix' and that nobody has locked, as those do who write them;
 * 'but': not this one (NULL: all). 'dir' is the folder, open. */
void drv_target_clean(int dir, const char *folder, const char *prefix, const char *but);
