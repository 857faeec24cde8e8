/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/pool.h"

#include <errno.h>
#include <sys/mman.h>

typedef struct {
    void (*wake)(gpointer data);
    gpointer data;
} Waiter;

struct _DrvPool {
    guint max_slabs; /* fixed */
    guint budget[DRV_POOL_USES];

    GMutex lock; /* all that follows */
    guint8 *slabs[DRV_POOL_MAX_SLABS];
    guint n_slabs;
    guint generation;
    guint used[DRV_POOL_USES];
    guint reserved;  /* RX chunks promised to channels */
    GPtrArray *idle; /* of DrvChunk */
    GArray *waiters; /* of Waiter */
};

/* RX chunks never promised to anyone: after a cut, lanes hold frames for a moment that turn out to
 * be duplicates. */
#define RX_SPARE 32

#define SLAB_BYTES (DRV_SLAB_CHUNKS * DRV_CHUNK_SIZE)

DrvPool *
drv_pool_new(gsize limit)
{
    DrvPool *pool = g_new0(DrvPool, 1);
    pool->max_slabs = CLAMP(limit / SLAB_BYTES, 9, DRV_POOL_MAX_SLABS);
    guint chunks = pool->max_slabs * DRV_SLAB_CHUNKS;
    pool->budget[DRV_POOL_TX] = pool->budget[DRV_POOL_IO] = chunks / 4;
    pool->budget[DRV_POOL_RX] = chunks / 2;
    g_mutex_init(&pool->lock);
    pool->idle = g_ptr_array_new_with_free_func(g_free);
    pool->waiters = g_array_new(FALSE, FALSE, sizeof(Waiter));
    return pool;
}

static void
drop_slabs(DrvPool *pool)
{
    g_ptr_array_set_size(pool->idle, 0);
    for (guint i = 0; i < pool->n_slabs; i++)
        munmap(pool->slabs[i], SLAB_BYTES);
    pool->n_slabs = 0;
    pool->generation++;
}

void
drv_pool_free(DrvPool *pool)
{
    if (pool == NULL)
        return;
    g_assert(pool->used[DRV_POOL_TX] + pool->used[DRV_POOL_RX] + pool->used[DRV_POOL_IO] == 0);
    drop_slabs(pool);
    g_ptr_array_unref(pool->idle);
    g_array_unref(pool->waiters);
    g_mutex_clear(&pool->lock);
    g_free(pool);
}

/* Under the lock. FALSE when the system has no memory to give: the caller behaves as at its
 * budget's end. */
static gboolean
add_slab(DrvPool *pool)
{
    if (pool->n_slabs == pool->max_slabs)
        return FALSE;
    guint8 *slab =
        mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slab == MAP_FAILED)
        return FALSE;
    guint index = pool->n_slabs++;
    pool->slabs[index] = slab;
    for (guint i = 0; i < DRV_SLAB_CHUNKS; i++) {
        DrvChunk *chunk = g_new0(DrvChunk, 1);
        /* Handed out from the array's end: lowest address first, so that few chunks touch few
         * pages. */
        chunk->data = slab + (DRV_SLAB_CHUNKS - 1 - i) * DRV_CHUNK_SIZE;
        chunk->size = DRV_CHUNK_SIZE;
        chunk->slab = index;
        chunk->pool = pool;
        g_ptr_array_add(pool->idle, chunk);
    }
    return TRUE;
}

DrvChunk *
drv_pool_take(DrvPool *pool, DrvPoolUse use)
{
    DrvChunk *chunk = NULL;
    g_mutex_lock(&pool->lock);
    if (pool->used[use] < pool->budget[use] && (pool->idle->len > 0 || add_slab(pool))) {
        chunk = g_ptr_array_steal_index_fast(pool->idle, pool->idle->len - 1);
        chunk->use = use;
        pool->used[use]++;
    }
    g_mutex_unlock(&pool->lock);
    return chunk;
}

DrvChunk *
drv_chunk_new_heap(gsize size)
{
    DrvChunk *chunk = g_malloc(sizeof *chunk + size);
    *chunk = (DrvChunk){.data = (guint8 *)(chunk + 1), .size = size, .slab = DRV_SLAB_NONE};
    return chunk;
}

void
drv_chunk_free(DrvChunk *chunk)
{
    if (chunk == NULL)
        return;
    DrvPool *pool = chunk->pool;
    if (pool == NULL) {
        g_free(chunk);
        return;
    }
    g_autoptr(GArray) waiters = NULL;
    g_mutex_lock(&pool->lock);
    pool->used[chunk->use]--;
    if (chunk->use == DRV_POOL_TX && pool->waiters->len > 0) {
        waiters = pool->waiters;
        pool->waiters = g_array_new(FALSE, FALSE, sizeof(Waiter));
    }
    g_ptr_array_add(pool->idle, chunk);
    g_mutex_unlock(&pool->lock);
    for (guint i = 0; waiters != NULL && i < waiters->len; i++) {
        Waiter *w = &g_array_index(waiters, Waiter, i);
        w->wake(w->data);
    }
}

guint
drv_pool_reserve(DrvPool *pool, guint want, guint least)
{
    g_mutex_lock(&pool->lock);
    guint promised = pool->reserved + RX_SPARE;
    guint left = pool->budget[DRV_POOL_RX] - MIN(promised, pool->budget[DRV_POOL_RX]);
    guint granted = MIN(want, MAX(left / 2, MIN(least, left)));
    if (granted < least)
        granted = 0;
    pool->reserved += granted;
    g_mutex_unlock(&pool->lock);
    return granted;
}

void
drv_pool_unreserve(DrvPool *pool, guint chunks)
{
    g_mutex_lock(&pool->lock);
    g_assert(pool->reserved >= chunks);
    pool->reserved -= chunks;
    g_mutex_unlock(&pool->lock);
}

void
drv_pool_wait(DrvPool *pool, void (*wake)(gpointer data), gpointer data)
{
    Waiter waiter = {wake, data};
    g_mutex_lock(&pool->lock);
    gboolean free_now = pool->used[DRV_POOL_TX] < pool->budget[DRV_POOL_TX];
    if (!free_now)
        g_array_append_val(pool->waiters, waiter);
    g_mutex_unlock(&pool->lock);
    if (free_now) /* one came back since the caller's take failed: nobody else would wake it */
        wake(data);
}

void
drv_pool_slab(DrvPool *pool, guint slab, void **address, gsize *len)
{
    g_mutex_lock(&pool->lock);
    g_assert(slab < pool->n_slabs);
    *address = pool->slabs[slab];
    *len = SLAB_BYTES;
    g_mutex_unlock(&pool->lock);
}

guint
drv_pool_generation(DrvPool *pool)
{
    g_mutex_lock(&pool->lock);
    guint generation = pool->generation;
    g_mutex_unlock(&pool->lock);
    return generation;
}

gboolean
drv_pool_trim(DrvPool *pool)
{
    g_mutex_lock(&pool->lock);
    gboolean idle = pool->idle->len == pool->n_slabs * DRV_SLAB_CHUNKS;
    if (idle && pool->n_slabs > 0)
        drop_slabs(pool);
    g_mutex_unlock(&pool->lock);
    return idle;
}

gsize
drv_pool_bytes(DrvPool *pool)
{
    g_mutex_lock(&pool->lock);
    gsize bytes = pool->n_slabs * SLAB_BYTES;
    g_mutex_unlock(&pool->lock);
    return bytes;
}
