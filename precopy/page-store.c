/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A source that keeps to the rules never has a slot written and used at once. One that does not is
 * to harm its own guests only, so each page is copied under a lock; there are some, so that threads
 * seldom meet.
 */
#include "precopy/page-store.h"

#include "common/error.h"

#include <string.h>
#include <sys/mman.h>

#define LOCKS 64u

struct _DrvPageStore {
    gatomicrefcount refs;
    guint32 slots; /* fixed */
    guint8 *pages;
    GMutex locks[LOCKS]; /* each guards the slots of its number, modulo LOCKS */
};

DrvPageStore *
drv_page_store_new(guint32 slots, GError **error)
{
    gsize bytes = (gsize)MAX(slots, 1) * DRV_PAGE_LEN;
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                    "there is no room to keep %u pages for duplicates across guests", slots);
        return NULL;
    }
    /* Filled from its beginning on; and guests' memory has no place in a daemon's core dump. */
    madvise(pages, bytes, MADV_HUGEPAGE);
    madvise(pages, bytes, MADV_DONTDUMP);
    DrvPageStore *store = g_new0(DrvPageStore, 1);
    g_atomic_ref_count_init(&store->refs);
    store->slots = slots;
    store->pages = pages;
    for (guint i = 0; i < LOCKS; i++)
        g_mutex_init(&store->locks[i]);
    return store;
}

DrvPageStore *
drv_page_store_ref(DrvPageStore *store)
{
    g_atomic_ref_count_inc(&store->refs);
    return store;
}

void
drv_page_store_unref(DrvPageStore *store)
{
    if (store == NULL || !g_atomic_ref_count_dec(&store->refs))
        return;
    munmap(store->pages, (gsize)MAX(store->slots, 1) * DRV_PAGE_LEN);
    for (guint i = 0; i < LOCKS; i++)
        g_mutex_clear(&store->locks[i]);
    g_free(store);
}

gboolean
drv_page_store_is_used(DrvPageStore *store)
{
    return !g_atomic_ref_count_compare(&store->refs, 1);
}

guint32
drv_page_store_slots(const DrvPageStore *store)
{
    return store->slots;
}

static gboolean
have_slots(const DrvPageStore *store, guint32 first, guint32 count, GError **error)
{
    if (first < store->slots && count <= store->slots - first)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "the peer speaks of kept page %" G_GUINT64_FORMAT " where %u are kept",
                (guint64)first + MAX(count, 1) - 1, store->slots);
    return FALSE;
}

static void
copy(DrvPageStore *store, guint32 slot, guint8 *to, const guint8 *from)
{
    GMutex *lock = &store->locks[slot % LOCKS];
    g_mutex_lock(lock);
    memcpy(to, from, DRV_PAGE_LEN);
    g_mutex_unlock(lock);
}

static guint8 *
at(const DrvPageStore *store, guint32 slot)
{
    return store->pages + (gsize)slot * DRV_PAGE_LEN;
}

gboolean
drv_page_store_put(DrvPageStore *store, guint32 first, guint32 count, const guint8 *pages,
                   GError **error)
{
    if (!have_slots(store, first, count, error))
        return FALSE;
    for (guint32 i = 0; i < count; i++)
        copy(store, first + i, at(store, first + i), pages + (gsize)i * DRV_PAGE_LEN);
    return TRUE;
}

gboolean
drv_page_store_get(DrvPageStore *store, guint32 slot, guint8 page[DRV_PAGE_LEN], GError **error)
{
    if (!have_slots(store, slot, 1, error))
        return FALSE;
    copy(store, slot, page, at(store, slot));
    return TRUE;
}
