/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"

/*
 * Copies of the disks of one VM, which get their names when all of them are complete, and not
 * before: if one fails, the others are called off. Control thread only.
 */
typedef struct _DrvCopyGroups DrvCopyGroups;

typedef struct {
    /* All are complete: have it named. */
    void (*name)(DrvJob *job);
    /* Another one has failed ('keep': what there is at the destination), or was cancelled. */
    void (*call_off)(DrvJob *job, gboolean keep);
    /* What it waits for: its turn. */
    void (*turn)(DrvJob *job);
} DrvCopyGroupOps;

DrvCopyGroups *drv_copy_groups_new(DrvJournal *journal);
/* When all copies have gone. */
void drv_copy_groups_free(DrvCopyGroups *groups);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvCopyGroups, drv_copy_groups_free)

/* A copy begins, or goes on after a restart: one of 'of'. 'group' and the job are borrowed until it
 * leaves. */
void drv_copy_group_join(DrvCopyGroups *groups, DrvJob *job, const char *group, guint of,
                         const DrvCopyGroupOps *ops);
/* The destination has all of it, or has lost it again. May call back, this one too. */
void drv_copy_group_held(DrvCopyGroups *groups, DrvJob *job, gboolean held);
/* Of what one of a group does at a time: it waits for its turn (giving back the one it has), and
 * has had it. All get a first turn before any gets a second one. May call back, this one too. */
void drv_copy_group_wait_turn(DrvCopyGroups *groups, DrvJob *job);
void drv_copy_group_end_turn(DrvCopyGroups *groups, DrvJob *job);
/* It has its name, or its daemon ends. No harm if it has left, or never joined; the same here: */
void drv_copy_group_leave(DrvCopyGroups *groups, DrvJob *job);
/* It has failed or was cancelled: it leaves, and so do all that are not being named; these are
 * called off. */
void drv_copy_group_break(DrvCopyGroups *groups, DrvJob *job, gboolean keep);
