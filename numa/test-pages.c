/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/pages.h"

#include "common/error.h"
#include "numa/topology.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * On the machine at hand, with as many nodes as it has: each of them is asked for memory and is to
 * give it. tests/test_numa.py runs this on machines with several.
 */
#define PAGE ((gsize)4096)
#define PAGES 64u

static guint8 *
new_memory(void)
{
    void *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE);
    return p;
}

/* FALSE: this kernel does not tell, and the test is skipped. */
static gboolean
find(pid_t pid, const void *p, DrvResidency *residency)
{
    g_autoptr(GError) error = NULL;
    *residency = (DrvResidency){0};
    if (drv_residency_sample(pid, (guint64)(guintptr)p, PAGES * PAGE, 1000, residency, &error))
        return TRUE;
    g_assert_error(error, DRV_ERROR, DRV_ERROR_IO);
    g_test_skip(error->message);
    return FALSE;
}

static void
test_absent(void)
{
    DrvResidency residency;
    guint8 *p = new_memory();
    for (guint i = 0; i < PAGES / 2; i++)
        p[i * PAGE] = 1;
    if (find(0, p, &residency)) {
        g_assert_cmpuint(residency.present, ==, PAGES / 2);
        g_assert_cmpuint(residency.absent, ==, PAGES / 2);
        g_assert_cmpint(drv_residency_main(&residency), >=, 0);
    }
    munmap(p, PAGES * PAGE);
    DrvResidency none = {0};
    g_assert_cmpint(drv_residency_main(&none), ==, -1);
}

/* Fewer samples than pages are spread evenly. */
static void
test_samples(void)
{
    DrvResidency residency = {0};
    guint8 *p = new_memory();
    memset(p, 1, PAGES * PAGE / 2);
    if (drv_residency_sample(0, (guint64)(guintptr)p, PAGES * PAGE, 10, &residency, NULL)) {
        g_assert_cmpuint(residency.present, ==, 5);
        g_assert_cmpuint(residency.absent, ==, 5);
    }
    munmap(p, PAGES * PAGE);
}

/* Each node gives what is asked of it, by the mapping's policy and by the thread's. */
static void
test_prefer(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    guint64 nodes = drv_topology_memory_nodes(t);
    DrvResidency residency;
    for (gint node = 0; node < (gint)DRV_NODES_MAX; node++) {
        if ((nodes & DRV_NODE_BIT(node)) == 0)
            continue;
        DrvPolicy policy = {DRV_POLICY_BIND, DRV_NODE_BIT(node)}, plain = {0};
        guint8 *bound = new_memory(), *touched = new_memory();
        int err = drv_memory_prefer(bound, PAGES * PAGE, node);
        if (err == ENOSYS || err == EPERM) {
            g_test_skip("this kernel has no memory policies");
            return;
        }
        g_assert_cmpint(err, ==, 0);
        memset(bound, 1, PAGES * PAGE);
        g_assert_cmpint(drv_thread_prefer(&policy), ==, 0);
        memset(touched, 1, PAGES * PAGE);
        g_assert_cmpint(drv_thread_prefer(&plain), ==, 0);
        if (!find(0, bound, &residency))
            return;
        g_assert_cmpuint(residency.pages[node], ==, PAGES);
        g_assert_true(find(0, touched, &residency));
        g_assert_cmpuint(residency.pages[node], ==, PAGES);
        munmap(bound, PAGES * PAGE);
        munmap(touched, PAGES * PAGE);
    }
}

static void
test_interleave(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    DrvPolicy policy = {DRV_POLICY_INTERLEAVE, drv_topology_memory_nodes(t)}, plain = {0};
    guint n = (guint)__builtin_popcountll(policy.nodes);
    DrvResidency residency;
    guint8 *p = new_memory();
    if (drv_thread_prefer(&policy) != 0) {
        g_test_skip("this kernel has no memory policies");
        return;
    }
    memset(p, 1, PAGES * PAGE);
    g_assert_cmpint(drv_thread_prefer(&plain), ==, 0);
    for (guint node = 0; find(0, p, &residency) && node < DRV_NODES_MAX; node++)
        if ((policy.nodes & DRV_NODE_BIT(node)) != 0) /* PAGES need not be a multiple */
            g_assert_cmpuint(residency.pages[node], >=, PAGES / n - 1);
    munmap(p, PAGES * PAGE);
}

/* A thread runs where it is pinned to, and each node's CPUs are its own. */
static void
test_pin(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    DrvCpus before, usable = drv_topology_usable(t), seen;
    g_assert_true(drv_thread_cpus(0, &before));
    for (guint i = 0; i < t->n; i++) {
        DrvCpus cpus = drv_cpus_and(&t->nodes[i].cpus, &usable);
        if (drv_cpus_is_empty(&cpus))
            continue;
        g_assert_cmpint(drv_thread_pin(0, &cpus), ==, 0);
        g_assert_true(drv_thread_cpus(0, &seen));
        g_assert_true(drv_cpus_within(&seen, &cpus));
        g_assert_cmpint(drv_thread_node(), ==, t->n > 1 ? (gint)t->nodes[i].id : drv_thread_node());
    }
    DrvCpus nowhere = {0};
    drv_cpus_add(&nowhere, DRV_CPUS_MAX - 1);
    g_assert_cmpint(drv_thread_pin(0, &nowhere), ==, EINVAL);
    g_assert_cmpint(drv_thread_pin(0, &before), ==, 0);
}

static void
test_gone(void)
{
    g_autoptr(GError) error = NULL;
    DrvResidency residency = {0};
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    g_assert_false(drv_residency_sample(pid, 0x1000, PAGE, 1, &residency, &error));
    if (g_error_matches(error, DRV_ERROR, DRV_ERROR_IO))
        g_test_skip(error->message);
    else
        g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
}

static void
test_numa_maps(void)
{
    static const struct {
        const char *line;
        DrvPolicyMode mode;
        guint64 nodes, page;
        gboolean huge;
    } cases[] = {
        {"7f0c2c000000 default anon=3 dirty=3 N0=3 kernelpagesize_kB=4", DRV_POLICY_DEFAULT, 0,
         4096, FALSE},
        {"7f0c2c000000 local", DRV_POLICY_DEFAULT, 0, 4096, FALSE},
        {"7f0c2c000000 bind:1 anon=3 N1=3 kernelpagesize_kB=4\n", DRV_POLICY_BIND, 2, 4096, FALSE},
        {"7f0c2c000000 bind=static:0-1 file=/x", DRV_POLICY_BIND, 3, 4096, FALSE},
        {"7f0c2c000000 prefer:3 anon=1", DRV_POLICY_PREFERRED, 8, 4096, FALSE},
        {"7f0c2c000000 prefer (many):0,2 anon=1", DRV_POLICY_PREFERRED, 5, 4096, FALSE},
        {"7f0c2c000000 interleave:0-3", DRV_POLICY_INTERLEAVE, 15, 4096, FALSE},
        {"7f0c2c000000 bind:0 file=/memfd:x\\040(deleted) huge dirty=2 N0=2 "
         "kernelpagesize_kB=2048",
         DRV_POLICY_BIND, 1, 2048 * 1024, TRUE},
        {"7f0c2c000000 default file=/huge/pages huge\n", DRV_POLICY_DEFAULT, 0, 4096, TRUE},
        {"7f0c2c000000 default file=/a\\040hugely anon=1\n", DRV_POLICY_DEFAULT, 0, 4096, FALSE},
    };
    static const char *const bad[] = {"",
                                      "default",
                                      "zzz default",
                                      "7f00",
                                      "7f00 nonsense:1",
                                      "7f00 bind",
                                      "7f00 bind:",
                                      "7f00 bind:x",
                                      "7f00 bind=static",
                                      "7f00 default kernelpagesize_kB=0 kernelpagesize_kB=0"};
    DrvNumaMap map;
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_assert_true(drv_numa_map_parse(cases[i].line, &map));
        g_assert_cmphex(map.start, ==, 0x7f0c2c000000);
        g_assert_cmpint(map.policy.mode, ==, cases[i].mode);
        g_assert_cmphex(map.policy.nodes, ==, cases[i].nodes);
        g_assert_cmpuint(map.page_size, ==, cases[i].page);
        g_assert_cmpint(map.huge, ==, cases[i].huge);
    }
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        if (drv_numa_map_parse(bad[i], &map))
            g_error("'%s' was taken for a mapping", bad[i]);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pages/absent", test_absent);
    g_test_add_func("/pages/samples", test_samples);
    g_test_add_func("/pages/prefer", test_prefer);
    g_test_add_func("/pages/interleave", test_interleave);
    g_test_add_func("/pages/pin", test_pin);
    g_test_add_func("/pages/gone", test_gone);
    g_test_add_func("/pages/numa-maps", test_numa_maps);
    return g_test_run();
}
