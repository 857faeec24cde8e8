/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/page.h"

/*
 * What the source knows of the pages that the destination keeps for all guests on their way there
 * (page-store.h at the other end, docs/pages.md). One for each such store, shared by all jobs.
 */
typedef struct _DrvKeptPages DrvKeptPages;

/* 'secret', 'pieces' of every job's page table, is random and never leaves the source. At most
 * DRV_KEPT_MAX slots. NULL when there is no address space. */
#define DRV_KEPT_MAX ((guint32)1 << 30)
DrvKeptPages *drv_kept_pages_new(guint32 slots, const guint8 secret[DRV_PAGE_SECRET]);
DrvKeptPages *drv_kept_pages_ref(DrvKeptPages *kept);
void drv_kept_pages_unref(DrvKeptPages *kept);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvKeptPages, drv_kept_pages_unref)

/* Whether anybody but the caller holds it. */
gboolean drv_kept_pages_is_used(DrvKeptPages *kept);
const guint8 *drv_kept_pages_secret(const DrvKeptPages *kept);

/* Any thread. A job begins to use the store. From the second one on, or if a job 'always' wants it,
 * new pages are kept: for a guest that travels alone it would be of no use. */
void drv_kept_pages_join(DrvKeptPages *kept, gboolean always);

/* Any thread. Users of that job stop waiting, as if what they wait for had come. */
void drv_kept_pages_wake(DrvKeptPages *kept, gconstpointer job);

/* What of it is in use, for reports and tests. */
typedef struct {
    guint32 there;  /* slots with a page that may be referred to */
    guint32 coming; /* ... that is under way */
    guint32 lost;   /* ... of which nobody knows what they hold: never used again */
    guint64 memory; /* bytes, here */
} DrvKeptStats;

void drv_kept_pages_get_stats(DrvKeptPages *kept, DrvKeptStats *stats);

/*
 * What one channel has to do with it: which of its batches, not yet acknowledged, bring a page or
 * refer to one. Used by the channel's thread, beside its batch writer.
 */
typedef struct _DrvKeptUser DrvKeptUser;

/* 'job' tells users of one job from those of others. 'wake' may be called by any thread, under a
 * lock: it only posts. */
DrvKeptUser *drv_kept_user_new(DrvKeptPages *kept, gconstpointer job, void (*wake)(gpointer data),
                               gpointer data);
/* TRUE: it did wait, and wake() will not be called. Nobody knows what the destination has made of
 * what was not acknowledged. */
gboolean drv_kept_user_free(DrvKeptUser *user);

/* The batch that was finished last is sent: delivered when the peer has acknowledged all frames
 * before number 'frames'. */
void drv_kept_user_sent(DrvKeptUser *user, guint64 frames);
/* All frames before this number are: their pages are in place. */
void drv_kept_user_acknowledged(DrvKeptUser *user, guint64 frames);

/* The page that the writer has stopped at (drv_batch_writer_waits()) is under way for another job.
 * TRUE: wake() will be called when it has come, or never will; FALSE: go on at once. */
gboolean drv_kept_user_wait(DrvKeptUser *user);
/* It has waited long enough: it does not for the next some hundred pages. TRUE: it did wait, and
 * wake() will not be called. */
gboolean drv_kept_user_give_up(DrvKeptUser *user);
