/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/copy/spec.h"
#include "engine/image/store.h"
#include "engine/job/job.h"

/*
 * A disk of a running guest, as it was at one moment: made in the guest's QEMU, read through an NBD
 * server of it, and taken back. What there is to take back is in the job's detail, so that a
 * restarted daemon can. QEMU's QMP socket is held all the time. Control thread only, unless said
 * otherwise.
 */
typedef struct _DrvDiskView DrvDiskView;

/* What a view tells its job. */
typedef struct {
    /* The disk is there, and can be copied as far as that can be known beforehand. */
    void (*looked)(DrvJob *job);
    /* It can be read now. */
    void (*opened)(DrvJob *job);
    /* It cannot be made, or is no more; takes the error. It is to be taken back now. */
    void (*failed)(DrvJob *job, GError *error);
    /* All is taken back, and the QMP socket free; 'left' (borrowed) says what had to be left in
     * QEMU and what to do about it; NULL: nothing. */
    void (*undone)(DrvJob *job, const char *left);
} DrvDiskViewOps;

/* Asks nothing of QEMU yet. The three are borrowed for its life. */
DrvDiskView *drv_disk_view_new(DrvJob *job, const DrvCopySpec *spec, const DrvDiskViewOps *ops);
/* Leaves in QEMU what is there. */
void drv_disk_view_free(DrvDiskView *view);

/* Asks QEMU, and gives the QMP socket back; 'looked' or 'failed' follows. */
void drv_disk_view_look(DrvDiskView *view);
/* For 'users' that read it at the same time. */
void drv_disk_view_open(DrvDiskView *view, guint users);
/* In whatever state it is, also that of a daemon before this one. 'undone' follows, not before this
 * returns. The bitmap that was begun with it stays only with 'keep_bitmap', and only until it is
 * undone again, without. */
void drv_disk_view_undo(DrvDiskView *view, gboolean keep_bitmap);
/* What to make of the disk at the destination if nobody says. Once it was looked at, or is open. */
const char *drv_disk_view_format(const DrvDiskView *view);
/* The disk, once it is open; borrowed. When the view is undone its readers hang up. */
DrvStore *drv_disk_view_store(const DrvDiskView *view);
/* It cannot be read: 'failed' follows and says what lies behind. Takes the error. */
void drv_disk_view_broken(DrvDiskView *view, GError *error);
