/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/pool.h"

#include "numa/pages.h"
#include "numa/topology.h"

#include <string.h>

/* The least there is: 144 chunks, half of them for RX, a quarter for each other use. And the first
 * jobs' 80, for RX as well. */
#define SLABS (9 + 5)
#define MOST (72 + 80)

static const guint budgets[DRV_POOL_USES] = {
    [DRV_POOL_TX] = 36, [DRV_POOL_RX] = 72 + 80, [DRV_POOL_IO] = 36};

static DrvPool *
small_pool(void)
{
    return drv_pool_new(1);
}

static guint
take_all(DrvPool *pool, DrvPoolUse use, DrvChunk **chunks)
{
    guint n = 0;
    while ((chunks[n] = drv_pool_take(pool, use)) != NULL) {
        g_assert_cmpuint(chunks[n]->size, ==, DRV_CHUNK_SIZE);
        memset(chunks[n]->data, (int)n, 64);
        g_assert_cmpuint(++n, <=, MOST);
    }
    return n;
}

static void
free_all(DrvChunk **chunks, guint n)
{
    for (guint i = 0; i < n; i++) {
        for (guint b = 0; b < 64; b++)
            g_assert_cmpuint(chunks[i]->data[b], ==, (guint8)i); /* nobody else had it */
        drv_chunk_free(chunks[i]);
    }
}

/* Each use has its own budget: one that is spent leaves the others theirs. */
static void
test_budgets(void)
{
    DrvChunk *chunks[DRV_POOL_USES][MOST + 1];
    DrvPool *pool = small_pool();
    g_assert_cmpuint(drv_pool_bytes(pool), ==, 0);
    for (guint use = 0; use < DRV_POOL_USES; use++)
        g_assert_cmpuint(take_all(pool, use, chunks[use]), ==, budgets[use]);
    g_assert_cmpuint(drv_pool_bytes(pool), ==, SLABS * DRV_SLAB_CHUNKS * DRV_CHUNK_SIZE);
    guint generation = drv_pool_generation(pool);
    g_assert_false(drv_pool_trim(pool));
    g_assert_cmpuint(drv_pool_generation(pool), ==, generation);
    for (guint use = 0; use < DRV_POOL_USES; use++)
        free_all(chunks[use], budgets[use]);
    g_assert_true(drv_pool_trim(pool));
    g_assert_cmpuint(drv_pool_bytes(pool), ==, 0);
    g_assert_cmpuint(drv_pool_generation(pool), !=, generation);
    g_assert_cmpuint(take_all(pool, DRV_POOL_TX, chunks[0]), ==, budgets[DRV_POOL_TX]);
    free_all(chunks[0], budgets[DRV_POOL_TX]);
    drv_pool_free(pool);
}

static void
test_reservations(void)
{
    DrvPool *pool = drv_pool_new((gsize)256 * 1024 * 1024);
    guint promised = 0, granted, last = G_MAXUINT;
    while ((granted = drv_pool_reserve(pool, NULL, 512, 8)) > 0) {
        g_assert_cmpuint(granted, >=, 8);
        g_assert_cmpuint(granted, <=, last); /* late comers get less, but get some */
        last = granted;
        promised += granted;
    }
    g_assert_cmpuint(promised, <, 2048 / 2);
    g_assert_cmpuint(drv_pool_reserve(pool, NULL, 4, 8), ==, 0);
    drv_pool_unreserve(pool, NULL, promised);
    g_assert_cmpuint(drv_pool_reserve(pool, NULL, 10, 8), ==, 10);
    drv_pool_unreserve(pool, NULL, 10);
    drv_pool_free(pool);
}

/* Channels of many migrations at once all find room: a first one does not take it away. */
static void
test_many_reservations(void)
{
    DrvPool *pool = drv_pool_new((gsize)60 << 20);
    guint promised = 0, granted, count = 0;
    for (; (granted = drv_pool_reserve(pool, NULL, 128, 8)) > 0; count++)
        promised += granted;
    g_assert_cmpuint(count, >=, 17);
    drv_pool_unreserve(pool, NULL, promised);
    g_assert_cmpuint(granted = drv_pool_reserve(pool, NULL, 128, 8), >=, 32);
    drv_pool_unreserve(pool, NULL, granted);
    drv_pool_free(pool);
}

static guint
take_for(DrvPool *pool, DrvShare *share, guint want)
{
    guint granted, channels = 0;
    for (; (granted = drv_pool_reserve(pool, share, want, 8)) > 0; channels++)
        g_assert_cmpuint(granted, >=, 8);
    return channels;
}

/* Whatever one host takes, another's first job finds what it needs; and that is not more than the
 * job's own. */
static void
test_first_jobs(void)
{
    DrvPool *pool = drv_pool_new((gsize)60 << 20);
    DrvShare greedy = {0}, other = {0}, third = {0}, late = {0};
    g_assert_cmpuint(take_for(pool, &greedy, 1024), >=, 17);
    g_assert_cmpuint(take_for(pool, &other, 1024), ==, DRV_POOL_FIRST_JOB / 8);
    g_assert_cmpuint(other.chunks, ==, DRV_POOL_FIRST_JOB);
    g_assert_cmpuint(take_for(pool, &greedy, 8), ==, 0);
    g_assert_cmpuint(take_for(pool, &third, 8), ==, DRV_POOL_FIRST_JOB / 8);
    g_assert_cmpuint(take_for(pool, &late, 8), ==, 0); /* for so many it is kept */

    /* What the greedy one gives back is for all again, but for what is kept. */
    drv_pool_unreserve(pool, &third, third.chunks);
    drv_pool_unreserve(pool, &greedy, 16);
    g_assert_cmpuint(take_for(pool, &greedy, 8), ==, 0);
    g_assert_cmpuint(take_for(pool, &late, 8), ==, DRV_POOL_FIRST_JOB / 8);
    drv_pool_unreserve(pool, &other, other.chunks);
    drv_pool_unreserve(pool, &late, late.chunks);
    g_assert_cmpuint(take_for(pool, &greedy, 8), ==, 2);
    drv_pool_unreserve(pool, &greedy, greedy.chunks);
    drv_pool_free(pool);
}

static void
test_charged(void)
{
    DrvAccount above = {0}, account = {0, &above}, beside = {0, &above};
    g_autoptr(DrvChunk) free_of_charge = drv_chunk_new_heap(100);
    DrvChunk *one = drv_chunk_new_charged(100, &account);
    DrvChunk *two = drv_chunk_new_charged(10, &beside);
    g_assert_cmpint(account.bytes, ==, 100);
    g_assert_cmpint(above.bytes, ==, 110);
    drv_chunk_free(one);
    g_assert_cmpint(account.bytes, ==, 0);
    g_assert_cmpint(above.bytes, ==, 10);
    drv_chunk_free(two);
    g_assert_cmpint(above.bytes, ==, 0);
}

static void
count(gpointer data)
{
    ++*(guint *)data;
}

static void
test_waiters(void)
{
    DrvChunk *tx[MOST + 1];
    DrvPool *pool = small_pool();
    guint first = 0, second = 0;
    drv_pool_wait(pool, count, &first); /* there is room: at once */
    g_assert_cmpuint(first, ==, 1);
    g_assert_cmpuint(take_all(pool, DRV_POOL_TX, tx), ==, budgets[DRV_POOL_TX]);
    drv_pool_wait(pool, count, &first);
    drv_pool_wait(pool, count, &second);
    DrvChunk *io = drv_pool_take(pool, DRV_POOL_IO);
    drv_chunk_free(io); /* of another budget */
    g_assert_cmpuint(first, ==, 1);
    drv_chunk_free(tx[0]);
    g_assert_cmpuint(first, ==, 2);
    g_assert_cmpuint(second, ==, 1);
    drv_chunk_free(tx[1]); /* once only */
    g_assert_cmpuint(first, ==, 2);
    for (guint i = 2; i < budgets[DRV_POOL_TX]; i++)
        drv_chunk_free(tx[i]);
    drv_pool_free(pool);
}

static void
test_heap(void)
{
    g_autoptr(DrvChunk) chunk = drv_chunk_new_heap(5);
    g_assert_cmpuint(chunk->size, ==, 5);
    g_assert_cmpuint(chunk->slab, ==, DRV_SLAB_NONE);
    memset(chunk->data, 1, 5);
    drv_chunk_free(NULL);
}

static gpointer
churn(gpointer data)
{
    DrvPool *pool = data;
    DrvChunk *held[8] = {NULL};
    for (guint i = 0; i < 20000; i++) {
        guint at = i * 7 % G_N_ELEMENTS(held);
        drv_chunk_free(held[at]);
        held[at] = drv_pool_take(pool, i % DRV_POOL_USES);
    }
    for (guint i = 0; i < G_N_ELEMENTS(held); i++)
        drv_chunk_free(held[i]);
    return NULL;
}

static void
test_threads(void)
{
    DrvPool *pool = small_pool();
    GThread *threads[4];
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("churn", churn, pool);
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    g_assert_true(drv_pool_trim(pool));
    drv_pool_free(pool);
}

/* --- nodes: those of the machine at hand, however many --- */

static guint64
memory_nodes(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    return drv_topology_memory_nodes(t);
}

/* FALSE: this kernel does not say where memory is. */
static gboolean
knows_nodes(void)
{
    guint8 here = 1;
    guint64 address = (guint64)(guintptr)&here;
    gint node;
    return drv_residency_nodes(0, &address, 1, &node, NULL);
}

/* Each node's chunks are there, all of them, before anybody has touched them. */
static void
test_nodes(void)
{
    static const gsize no_limits[DRV_NODES_MAX];
    guint64 nodes = memory_nodes();
    DrvPool *pool = drv_pool_new((gsize)256 << 20);
    DrvPoolStats stats;
    if (!knows_nodes()) {
        g_test_skip("this kernel does not say where memory is");
        drv_pool_free(pool);
        return;
    }
    drv_pool_configure(pool, FALSE, no_limits);
    for (gint node = 0; node < (gint)DRV_NODES_MAX; node++) {
        DrvChunk *chunks[DRV_SLAB_CHUNKS + 1];
        if ((nodes & DRV_NODE_BIT(node)) == 0)
            continue;
        for (guint i = 0; i < G_N_ELEMENTS(chunks); i++) {
            DrvResidency residency = {0};
            chunks[i] = drv_pool_take_on(pool, DRV_POOL_TX, node);
            g_assert_cmpint(chunks[i]->node, ==, node);
            g_assert_true(drv_residency_sample(0, (guint64)(guintptr)chunks[i]->data,
                                               DRV_CHUNK_SIZE, 32, &residency, NULL));
            g_assert_cmpuint(residency.pages[node], ==, 32);
        }
        for (guint i = 0; i < G_N_ELEMENTS(chunks); i++)
            drv_chunk_free(chunks[i]);
        drv_pool_get_stats(pool, &stats);
        g_assert_cmpuint(stats.bytes[node], ==, 2 * DRV_SLAB_CHUNKS * DRV_CHUNK_SIZE);
    }
    /* What is there is taken by whoever has no node of his own. */
    DrvChunk *any = drv_pool_take(pool, DRV_POOL_IO);
    g_assert_cmpint(any->node, >=, 0);
    drv_chunk_free(any);
    g_assert_true(drv_pool_trim(pool));
    drv_pool_get_stats(pool, &stats);
    for (guint node = 0; node < DRV_NODES_MAX; node++)
        g_assert_cmpuint(stats.bytes[node], ==, 0);
    drv_pool_free(pool);
}

/* A node gives as much as it may, and the budget is kept all the same: of other nodes' memory. */
static void
test_node_limit(void)
{
    gsize limits[DRV_NODES_MAX];
    gint node = (gint)__builtin_ctzll(memory_nodes());
    DrvPool *pool = small_pool();
    DrvChunk *chunks[MOST + 1];
    DrvPoolStats stats;
    guint n = 0;
    for (guint i = 0; i < DRV_NODES_MAX; i++)
        limits[i] = 1; /* a byte is a slab */
    drv_pool_configure(pool, FALSE, limits);
    while ((chunks[n] = drv_pool_take_on(pool, DRV_POOL_TX, node)) != NULL)
        memset(chunks[n]->data, (int)n, 64), n++;
    g_assert_cmpuint(n, ==, budgets[DRV_POOL_TX]);
    drv_pool_get_stats(pool, &stats);
    if (knows_nodes())
        g_assert_cmpuint(stats.bytes[node], ==, DRV_SLAB_CHUNKS * DRV_CHUNK_SIZE);
    g_assert_cmpuint(drv_pool_bytes(pool), ==, 3 * DRV_SLAB_CHUNKS * DRV_CHUNK_SIZE);
    free_all(chunks, n);
    drv_pool_free(pool);
}

/* A node without memory, or one that does not exist: others' is used, and not more of it. */
static void
test_no_such_node(void)
{
    DrvPool *pool = small_pool();
    DrvChunk *chunks[40];
    for (guint i = 0; i < 36; i++) {
        chunks[i] = drv_pool_take_on(pool, DRV_POOL_TX, 63);
        memset(chunks[i]->data, (int)i, 64);
        g_assert_cmpint(chunks[i]->node, !=, 63);
    }
    g_assert_null(drv_pool_take_on(pool, DRV_POOL_TX, 63));
    g_assert_cmpuint(drv_pool_bytes(pool), ==, 3 * DRV_SLAB_CHUNKS * DRV_CHUNK_SIZE);
    free_all(chunks, 36);
    drv_pool_free(pool);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/budgets", test_budgets);
    g_test_add_func("/pool/reservations", test_reservations);
    g_test_add_func("/pool/many-reservations", test_many_reservations);
    g_test_add_func("/pool/first-jobs", test_first_jobs);
    g_test_add_func("/pool/charged", test_charged);
    g_test_add_func("/pool/waiters", test_waiters);
    g_test_add_func("/pool/heap", test_heap);
    g_test_add_func("/pool/threads", test_threads);
    g_test_add_func("/pool/nodes", test_nodes);
    g_test_add_func("/pool/node-limit", test_node_limit);
    g_test_add_func("/pool/no-such-node", test_no_such_node);
    return g_test_run();
}
