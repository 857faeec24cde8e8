/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/kept-pages.h"
#include "precopy/page-store.h"

#include <json-glib/json-glib.h>

/*
 * What guests on their way from one host to another share (docs/pages.md): as the source, what we
 * know of the pages that each destination keeps for us; as the destination, the pages kept for each
 * source. It outlives the last job by a while, for those that come in close succession. Control
 * thread only.
 */
typedef struct _DrvSharedPages DrvSharedPages;

/* How long it is kept when no job uses it. */
#define DRV_SHARED_LINGER_S 60
/* What a source asks for when the user does not say. */
#define DRV_SHARED_DEFAULT ((gint64)256 << 20)

/* 'limit': bytes of pages that are kept for all sources together. */
DrvSharedPages *drv_shared_pages_new(gint64 limit);
/* Jobs may still hold what they were given. */
void drv_shared_pages_free(DrvSharedPages *shared);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvSharedPages, drv_shared_pages_free)

/* The source. What a job to 'to' says in job.prepare's "dedup", asking for so many bytes; owned by
 * the caller. NULL: nothing. */
JsonObject *drv_shared_pages_ask(DrvSharedPages *shared, const char *to, gint64 bytes);
/* The destination's "dedup" (NULL: it keeps none) in its answer to that; referenced, NULL: nothing
 * is shared. */
DrvKeptPages *drv_shared_pages_agree(DrvSharedPages *shared, const char *to, JsonObject *answer);

/* The destination. What it keeps for that source, which has asked with 'asked' (NULL: for nothing),
 * and the answer; both owned by the caller. NULL: nothing, and there is no answer. */
DrvPageStore *drv_shared_pages_serve(DrvSharedPages *shared, const char *peer, JsonObject *asked,
                                     JsonObject **answer);

/* For tests: as if so many seconds had passed. */
void drv_shared_pages_age(DrvSharedPages *shared, gint64 seconds);
