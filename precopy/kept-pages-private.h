/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/kept-pages.h"
#include "precopy/page.h"

/* What the batch writers do with it: all under the lock, which comes after a page table's. */

void drv_kept_lock(DrvKeptUser *user);
void drv_kept_unlock(DrvKeptUser *user);

typedef enum {
    DRV_KEPT_NONE,
    DRV_KEPT_THERE,  /* refer to the slot */
    DRV_KEPT_COMING, /* under way in a batch that is not acknowledged yet */
    DRV_KEPT_WAIT,   /* the same, and worth waiting for */
} DrvKeptState;

/* Where the content is. WAIT: what drv_kept_user_wait() would wait for. */
DrvKeptState drv_kept_find(DrvKeptUser *user, const DrvPageHash *hash, guint32 *slot);
/* A slot for a page that is to be sent. FALSE: it is not to be kept. */
gboolean drv_kept_room(DrvKeptUser *user, guint32 *slot);

/* The batch being made brings the page for the slot that drv_kept_room() gave last ... */
void drv_kept_bring(DrvKeptUser *user, guint32 slot, const DrvPageHash *hash);
/* ... or refers to one that is there. */
void drv_kept_refer(DrvKeptUser *user, guint32 slot);

void drv_kept_prefetch(const DrvKeptUser *user, const DrvPageHash *hash);
