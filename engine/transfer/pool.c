/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/pool.h"

#include "numa/buffer.h"

typedef struct {
    void (*wake)(gpointer data);
    gpointer data;
} Waiter;

/* Chunks that nobody holds are listed by node; those of no certain node come first. */
#define LISTS (DRV_NODES_MAX + 1)
#define LIST_OF(node) ((node) + 1)

struct _DrvPool {
    guint max_slabs; /* fixed */
    guint budget[DRV_POOL_USES];
    gboolean huge_pages;
    guint limits[DRV_NODES_MAX]; /* in slabs; 0: none */

    GMutex lock; /* all that follows */
    DrvBuffer slabs[DRV_POOL_MAX_SLABS];
    guint n_slabs;
    guint lacking;     /* of DrvShort: what was complained of already */
    guint64 exhausted; /* nodes that had nothing left to give */
    guint generation;
    guint used[DRV_POOL_USES];
    guint reserved; /* RX chunks promised to channels */
    guint n_idle;
    GPtrArray *idle[LISTS]; /* of DrvChunk; made when needed */
    GArray *waiters;        /* of Waiter */
};

/* RX chunks never promised to anyone: after a cut, lanes hold frames for a moment that turn out to
 * be duplicates. */
#define RX_SPARE 32
/* So many channels are always opened, if only with the least that they can do with. */
#define LATE_COMERS 16

#define SLAB_BYTES (DRV_SLAB_CHUNKS * DRV_CHUNK_SIZE)
/* For hosts that come when others hold all. */
#define FIRST_JOBS (DRV_POOL_FIRST_JOBS * DRV_POOL_FIRST_JOB)
#define FIRST_JOB_SLABS ((FIRST_JOBS + DRV_SLAB_CHUNKS - 1) / DRV_SLAB_CHUNKS)

DrvPool *
drv_pool_new(gsize limit)
{
    DrvPool *pool = g_new0(DrvPool, 1);
    guint slabs = (guint)CLAMP(limit / SLAB_BYTES, 9, DRV_POOL_MAX_SLABS - FIRST_JOB_SLABS);
    guint chunks = slabs * DRV_SLAB_CHUNKS;
    pool->max_slabs = slabs + FIRST_JOB_SLABS;
    pool->budget[DRV_POOL_TX] = pool->budget[DRV_POOL_IO] = chunks / 4;
    pool->budget[DRV_POOL_RX] = chunks / 2 + FIRST_JOBS;
    g_mutex_init(&pool->lock);
    pool->waiters = g_array_new(FALSE, FALSE, sizeof(Waiter));
    return pool;
}

void
drv_pool_configure(DrvPool *pool, gboolean huge_pages, const gsize limits[DRV_NODES_MAX])
{
    pool->huge_pages = huge_pages;
    for (guint node = 0; node < DRV_NODES_MAX; node++)
        pool->limits[node] = (guint)MIN((limits[node] + SLAB_BYTES - 1) / SLAB_BYTES, G_MAXUINT);
}

static void
drop_slabs(DrvPool *pool)
{
    for (guint i = 0; i < LISTS; i++)
        g_clear_pointer(&pool->idle[i], g_ptr_array_unref);
    for (guint i = 0; i < pool->n_slabs; i++)
        drv_buffer_unmap(&pool->slabs[i]);
    pool->n_slabs = pool->n_idle = 0;
    pool->exhausted = 0;
    pool->generation++;
}

void
drv_pool_free(DrvPool *pool)
{
    if (pool == NULL)
        return;
    g_assert(pool->used[DRV_POOL_TX] + pool->used[DRV_POOL_RX] + pool->used[DRV_POOL_IO] == 0);
    drop_slabs(pool);
    g_array_unref(pool->waiters);
    g_mutex_clear(&pool->lock);
    g_free(pool);
}

/* --- chunks that nobody holds; under the lock --- */

static void
put_idle(DrvPool *pool, DrvChunk *chunk)
{
    GPtrArray **list = &pool->idle[LIST_OF(chunk->node)];
    if (*list == NULL)
        *list = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(*list, chunk);
    pool->n_idle++;
}

static DrvChunk *
pop_idle(DrvPool *pool, guint list)
{
    GPtrArray *idle = pool->idle[list];
    if (idle == NULL || idle->len == 0)
        return NULL;
    pool->n_idle--;
    return g_ptr_array_steal_index_fast(idle, idle->len - 1);
}

static DrvChunk *
pop_any(DrvPool *pool)
{
    DrvChunk *chunk = NULL;
    for (guint list = 0; pool->n_idle > 0 && chunk == NULL && list < LISTS; list++)
        chunk = pop_idle(pool, list);
    return chunk;
}

/* --- slabs; under the lock --- */

/* Each thing that is not as it was wished for is said once. */
static void
complain(DrvPool *pool, guint lacks)
{
    for (guint i = 0; i < DRV_SHORT_COUNT; i++)
        if ((lacks & ~pool->lacking & 1u << i) != 0)
            g_message("%s", drv_short_text((DrvShort)(1u << i)));
    pool->lacking |= lacks;
}

static guint
slabs_on(const DrvPool *pool, gint node)
{
    guint n = 0;
    for (guint i = 0; i < pool->n_slabs; i++)
        n += pool->slabs[i].node == node;
    return n;
}

static gboolean
may_add(const DrvPool *pool, gint node)
{
    if (pool->n_slabs == pool->max_slabs)
        return FALSE;
    if (node < 0)
        return TRUE;
    return (pool->exhausted & DRV_NODE_BIT(node)) == 0 &&
           (pool->limits[node] == 0 || slabs_on(pool, node) < pool->limits[node]);
}

/* FALSE when there may be no more, or the system has no memory to give: the caller behaves as at
 * its budget's end. */
static gboolean
add_slab(DrvPool *pool, gint node)
{
    DrvBufferWish wish = {node, pool->huge_pages};
    DrvBuffer slab;
    if (pool->n_slabs == pool->max_slabs || !drv_buffer_map(SLAB_BYTES, &wish, &slab))
        return FALSE;
    complain(pool, slab.lacks);
    if (node >= 0 && slab.node != node)
        pool->exhausted |= DRV_NODE_BIT(node);
    guint index = pool->n_slabs++;
    pool->slabs[index] = slab;
    for (guint i = 0; i < DRV_SLAB_CHUNKS; i++) {
        DrvChunk *chunk = g_new0(DrvChunk, 1);
        /* Handed out from the array's end: lowest address first, so that few chunks touch few
         * pages. */
        chunk->data = (guint8 *)slab.data + (DRV_SLAB_CHUNKS - 1 - i) * DRV_CHUNK_SIZE;
        chunk->size = DRV_CHUNK_SIZE;
        chunk->slab = index;
        chunk->node = slab.node;
        chunk->pool = pool;
        put_idle(pool, chunk);
    }
    return TRUE;
}

/* One of the node; else any that is there, which is better than memory beyond what the node may
 * give; else one of new memory wherever that is. */
static DrvChunk *
find_chunk(DrvPool *pool, gint node)
{
    DrvChunk *chunk = pop_idle(pool, LIST_OF(node));
    if (chunk == NULL && node >= 0 && may_add(pool, node) && add_slab(pool, node))
        chunk = pop_idle(pool, LIST_OF(node));
    if (chunk == NULL)
        chunk = pop_any(pool);
    if (chunk == NULL && add_slab(pool, -1))
        chunk = pop_any(pool);
    return chunk;
}

DrvChunk *
drv_pool_take(DrvPool *pool, DrvPoolUse use)
{
    return drv_pool_take_on(pool, use, -1);
}

DrvChunk *
drv_pool_take_on(DrvPool *pool, DrvPoolUse use, gint node)
{
    DrvChunk *chunk = NULL;
    g_mutex_lock(&pool->lock);
    if (pool->used[use] < pool->budget[use])
        chunk = find_chunk(pool, node);
    if (chunk != NULL) {
        chunk->use = use;
        pool->used[use]++;
    }
    g_mutex_unlock(&pool->lock);
    return chunk;
}

DrvChunk *
drv_chunk_new_heap(gsize size)
{
    return drv_chunk_new_charged(size, NULL);
}

DrvChunk *
drv_chunk_new_charged(gsize size, DrvAccount *account)
{
    DrvChunk *chunk = g_malloc(sizeof *chunk + size);
    *chunk = (DrvChunk){.data = (guint8 *)(chunk + 1),
                        .size = size,
                        .slab = DRV_SLAB_NONE,
                        .node = -1,
                        .account = account};
    drv_account_add(account, size);
    return chunk;
}

void
drv_chunk_free(DrvChunk *chunk)
{
    if (chunk == NULL)
        return;
    DrvPool *pool = chunk->pool;
    if (pool == NULL) {
        drv_account_take(chunk->account, chunk->size);
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
    put_idle(pool, chunk);
    g_mutex_unlock(&pool->lock);
    for (guint i = 0; waiters != NULL && i < waiters->len; i++) {
        Waiter *w = &g_array_index(waiters, Waiter, i);
        w->wake(w->data);
    }
}

/* Under the lock. Of what is for all. */
static guint
grant(const DrvPool *pool, guint left, guint want, guint least)
{
    guint kept = MIN(LATE_COMERS * least, (pool->budget[DRV_POOL_RX] - FIRST_JOBS) / 2);
    guint granted = MIN(want, MAX((left - MIN(kept, left)) / 2, MIN(least, left)));
    return granted >= least ? granted : 0;
}

guint
drv_pool_reserve(DrvPool *pool, DrvShare *share, guint want, guint least)
{
    g_mutex_lock(&pool->lock);
    guint promised = pool->reserved + RX_SPARE;
    guint left = pool->budget[DRV_POOL_RX] - MIN(promised, pool->budget[DRV_POOL_RX]);
    guint granted = grant(pool, left - MIN(FIRST_JOBS, left), want, least);
    if (granted == 0 && share != NULL && share->chunks + least <= DRV_POOL_FIRST_JOB &&
        left >= least)
        granted = least;
    pool->reserved += granted;
    if (share != NULL)
        share->chunks += granted;
    g_mutex_unlock(&pool->lock);
    return granted;
}

void
drv_pool_unreserve(DrvPool *pool, DrvShare *share, guint chunks)
{
    g_mutex_lock(&pool->lock);
    g_assert(pool->reserved >= chunks && (share == NULL || share->chunks >= chunks));
    pool->reserved -= chunks;
    if (share != NULL)
        share->chunks -= chunks;
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
    *address = pool->slabs[slab].data;
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
    gboolean idle = pool->n_idle == pool->n_slabs * DRV_SLAB_CHUNKS;
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

void
drv_pool_get_stats(DrvPool *pool, DrvPoolStats *stats)
{
    *stats = (DrvPoolStats){0};
    g_mutex_lock(&pool->lock);
    for (guint i = 0; i < pool->n_slabs; i++) {
        gint node = pool->slabs[i].node;
        if (node >= 0)
            stats->bytes[node] += SLAB_BYTES;
        else
            stats->anywhere += SLAB_BYTES;
    }
    g_mutex_unlock(&pool->lock);
}
