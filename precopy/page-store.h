/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/page.h"

/*
 * Pages that the destination keeps for one source host, so that other guests' batches can refer to
 * them (docs/pages.md). It obeys: which page is in which slot, and when that is given to another
 * one, is the source's business (kept-pages.h). Any thread.
 */
typedef struct _DrvPageStore DrvPageStore;

/* For so many pages; takes address space, memory as it is filled. DRV_ERROR_LIMIT when there is no
 * room. */
DrvPageStore *drv_page_store_new(guint32 slots, GError **error);
DrvPageStore *drv_page_store_ref(DrvPageStore *store);
void drv_page_store_unref(DrvPageStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvPageStore, drv_page_store_unref)

/* Whether anybody but the caller holds it. */
gboolean drv_page_store_is_used(DrvPageStore *store);
guint32 drv_page_store_slots(const DrvPageStore *store);

/* Puts 'count' pages into as many slots. DRV_ERROR_PROTOCOL: there are no such slots, nothing was
 * put. */
gboolean drv_page_store_put(DrvPageStore *store, guint32 first, guint32 count, const guint8 *pages,
                            GError **error);
/* The content of a slot, zeros if there was never any. DRV_ERROR_PROTOCOL: no such slot. */
gboolean drv_page_store_get(DrvPageStore *store, guint32 slot, guint8 page[DRV_PAGE_LEN],
                            GError **error);
