/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/guest-place.h"
#include "engine/channel/test-guest-fake.h"
#include "numa/topology.h"

#include <string.h>

/*
 * Pages that are written into another process come to be on the nodes that were planned: on the
 * machine at hand, whatever it has. tests/test_numa.py runs this on machines with several nodes.
 */
#define HALF (FAKE_PAGES / 2)

static guint8 bytes[HALF * DRV_GUEST_PAGE];

/* FALSE: this kernel does not tell. */
static gboolean
find(const Fake *fake, guint block, DrvResidency *residency)
{
    g_autoptr(GError) error = NULL;
    *residency = (DrvResidency){0};
    if (drv_residency_sample(fake->pid, fake->blocks[block].hva, FAKE_SIZE, FAKE_PAGES, residency,
                             &error))
        return TRUE;
    g_assert_error(error, DRV_ERROR, DRV_ERROR_IO);
    g_test_skip(error->message);
    return FALSE;
}

static void
write_half(DrvGuestRam *ram, guint block, guint from)
{
    g_autoptr(GError) error = NULL;
    DrvGuestRun run = {block, (guint64)from * DRV_GUEST_PAGE, bytes, sizeof bytes};
    g_assert_true(drv_guest_ram_write(ram, &run, 1, &error));
    g_assert_no_error(error);
}

/* One node after the other, two kinds of memory, two blocks in one call. */
static void
test_nodes(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    guint64 nodes = drv_topology_memory_nodes(t);
    memset(bytes, 7, sizeof bytes);
    for (guint node = 0; node < DRV_NODES_MAX; node++) {
        DrvPolicy policies[FAKE_N] = {0};
        DrvResidency anon, shared;
        Fake fake;
        if ((nodes & DRV_NODE_BIT(node)) == 0)
            continue;
        fake_start(&fake);
        DrvGuestRam *ram = fake_open(&fake);
        for (guint i = 0; i < FAKE_N; i++)
            policies[i] = (DrvPolicy){DRV_POLICY_BIND, DRV_NODE_BIT(node)};
        drv_guest_ram_place(ram, policies);
        DrvGuestRun runs[] = {{FAKE_ANON, 0, bytes, sizeof bytes},
                              {FAKE_MEMFD, 0, bytes, sizeof bytes}};
        g_assert_true(drv_guest_ram_write(ram, runs, 2, NULL));
        gboolean known = find(&fake, FAKE_ANON, &anon) && find(&fake, FAKE_MEMFD, &shared);
        if (known) {
            g_assert_cmpuint(anon.pages[node], ==, HALF);
            g_assert_cmpuint(anon.present, ==, HALF);
            /* Of shared memory the first page is there since it was opened, which reads a byte. */
            g_assert_cmpuint(shared.pages[node], >=, HALF - 1);
        }
        drv_guest_ram_free(ram);
        fake_stop(&fake);
        if (!known)
            return;
    }
}

/* Virtual nodes: each block has its own. */
static void
test_blocks(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    guint64 nodes = drv_topology_memory_nodes(t);
    guint first = (guint)__builtin_ctzll(nodes), last = 63 - (guint)__builtin_clzll(nodes);
    DrvPolicy policies[FAKE_N] = {
        [FAKE_ANON] = {DRV_POLICY_PREFERRED, DRV_NODE_BIT(first)},
        [FAKE_MEMFD] = {DRV_POLICY_PREFERRED, DRV_NODE_BIT(last)},
    };
    DrvResidency residency;
    Fake fake;
    fake_start(&fake);
    DrvGuestRam *ram = fake_open(&fake);
    drv_guest_ram_place(ram, policies);
    for (guint i = 0; i < 2; i++) {
        write_half(ram, FAKE_ANON, i * HALF);
        write_half(ram, FAKE_MEMFD, i * HALF);
    }
    if (find(&fake, FAKE_ANON, &residency)) {
        g_assert_cmpuint(residency.pages[first], ==, FAKE_PAGES);
        g_assert_true(find(&fake, FAKE_MEMFD, &residency));
        g_assert_cmpuint(residency.pages[last], >=, FAKE_PAGES - 1);
    }
    drv_guest_ram_free(ram);
    fake_stop(&fake);
}

/* The writing thread stands on each node in turn, and writes to each: what is local is counted as
 * such, and nothing else. */
static void
count_from(gint node, gint to, gboolean *known)
{
    DrvPolicy policies[FAKE_N];
    DrvGuestPlaced placed;
    Fake fake;
    fake_start(&fake);
    DrvGuestRam *ram = fake_open(&fake);
    for (guint i = 0; i < FAKE_N; i++)
        policies[i] = (DrvPolicy){DRV_POLICY_PREFERRED, DRV_NODE_BIT(to)};
    drv_guest_ram_placed(ram, &placed);
    g_assert_cmpuint(placed.bytes, ==, 0);
    drv_guest_ram_place(ram, policies);
    for (guint i = 0; i < 40; i++)
        write_half(ram, FAKE_ANON, i % 2 * HALF);
    drv_guest_ram_placed(ram, &placed);
    g_assert_cmpuint(placed.bytes, ==, 40 * sizeof bytes);
    *known = placed.sampled > 0;
    if (*known) {
        g_assert_cmpuint(placed.sampled, ==, 3 * sizeof bytes);
        g_assert_cmpuint(placed.pages_local, ==, node == to ? placed.sampled : 0);
    }
    drv_guest_ram_free(ram);
    fake_stop(&fake);
}

static void
test_counts(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    guint64 nodes = drv_topology_memory_nodes(t);
    DrvCpus usable = drv_topology_usable(t), before;
    gboolean known = TRUE;
    g_assert_true(drv_thread_cpus(0, &before));
    for (guint i = 0; i < t->n && known; i++) {
        DrvCpus cpus = drv_cpus_and(&t->nodes[i].cpus, &usable);
        if (drv_cpus_is_empty(&cpus))
            continue;
        g_assert_cmpint(drv_thread_pin(0, &cpus), ==, 0);
        for (guint to = 0; to < DRV_NODES_MAX && known; to++)
            if ((nodes & DRV_NODE_BIT(to)) != 0)
                count_from((gint)t->nodes[i].id, (gint)to, &known);
    }
    g_assert_cmpint(drv_thread_pin(0, &before), ==, 0);
    if (!known)
        g_test_skip("this kernel does not say where memory is");
}

/* What is placed is refused for the same reasons. */
static void
test_refused(void)
{
    DrvPolicy policies[FAKE_N] = {0};
    g_autoptr(GError) error = NULL;
    DrvGuestPlaced placed;
    Fake fake;
    fake_start(&fake);
    DrvGuestRam *ram = fake_open(&fake);
    drv_guest_ram_place(ram, policies);
    DrvGuestRun runs[] = {{FAKE_ANON, 0, bytes, 10}, {FAKE_ANON, FAKE_SIZE - 5, bytes, 10}};
    g_assert_false(drv_guest_ram_write(ram, runs, 2, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    drv_guest_ram_placed(ram, &placed);
    g_assert_cmpuint(placed.bytes, ==, 0);
    g_clear_error(&error);
    fake_kill(&fake);
    g_assert_false(drv_guest_ram_write(ram, runs, 1, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    drv_guest_ram_free(ram);
    fake_stop(&fake);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-place/nodes", test_nodes);
    g_test_add_func("/guest-place/blocks", test_blocks);
    g_test_add_func("/guest-place/counts", test_counts);
    g_test_add_func("/guest-place/refused", test_refused);
    return g_test_run();
}
