/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "numa/test-host.h"
#include "numa/to-json.h"

#include <glib/gstdio.h>
#include <unistd.h>

#define MIB ((guint64)1 << 20)

static void
assert_cpus(const DrvCpus *cpus, const char *expected)
{
    g_autofree char *text = drv_cpus_format(cpus);
    g_assert_cmpstr(text, ==, expected);
}

static void
test_one(void)
{
    const TestHost host = {.nodes = {{"0-3", 8000, 4000, 7}}, .nic = 0};
    g_autoptr(DrvTopology) t = test_host_topology(&host);
    g_assert_cmpuint(t->n, ==, 1);
    g_assert_cmpuint(t->nodes[0].memory, ==, 8000 * MIB);
    g_assert_cmpuint(t->nodes[0].free, ==, 2000 * MIB);
    g_assert_cmpuint(t->nodes[0].available, ==, 4000 * MIB);
    g_assert_cmpuint(t->nodes[0].huge->len, ==, 1);
    const DrvHugePages *huge = &g_array_index(t->nodes[0].huge, DrvHugePages, 0);
    g_assert_cmpuint(huge->size, ==, 2 * MIB);
    g_assert_cmpuint(huge->free, ==, 7);
    assert_cpus(&t->nodes[0].cpus, "0-3");
    g_assert_cmpint(drv_topology_nic_node(t, "eth0"), ==, 0);
    g_assert_cmpint(drv_topology_nic_node(t, "lo"), ==, -1);
    g_assert_cmphex(drv_topology_memory_nodes(t), ==, 1);
}

/* Sizes that differ, memory without CPUs, CPUs without memory. */
static void
test_four(void)
{
    const TestHost host = {
        .nodes = {{"0-1", 8000, 4000}, {"2-3,8", 4000, 1000}, {"", 2000, 2000}, {"4-5", 0}},
        .nic = 1,
    };
    g_autoptr(DrvTopology) t = test_host_topology(&host);
    g_assert_cmpuint(t->n, ==, 4);
    assert_cpus(&t->nodes[1].cpus, "2-3,8");
    g_assert_true(drv_cpus_is_empty(&t->nodes[2].cpus));
    g_assert_cmpuint(t->nodes[3].memory, ==, 0);
    g_assert_cmphex(drv_topology_memory_nodes(t), ==, 0x7);
    g_assert_cmpint(drv_topology_node_of(t, 8), ==, 1);
    g_assert_cmpint(drv_topology_node_of(t, 9), ==, -1);
    g_assert_cmpuint(drv_topology_distance(t, 0, 3), ==, 40);
    g_assert_cmpuint(drv_topology_distance(t, 2, 2), ==, 0);
    g_assert_cmpuint(drv_topology_distance(t, 0, 9), ==, 255);
    g_assert_cmpuint(drv_topology_distance(t, -1, 0), ==, 255);
    g_assert_null(drv_topology_node(t, 4));
}

/* A cpuset that leaves out a node; CPUs kept free by the kernel. */
static void
test_allowed(void)
{
    TestHost host = {
        .nodes = {{"0-3", 8000, 8000}, {"4-7", 8000, 8000}},
        .allowed = "0-3",
        .mems = "0",
        .isolated = "2-3,6-7",
        .nic = -1,
    };
    g_autoptr(DrvTopology) t = test_host_topology(&host);
    DrvCpus usable = drv_topology_usable(t);
    assert_cpus(&usable, "0-1");
    g_assert_cmphex(drv_topology_memory_nodes(t), ==, 1);
    g_assert_cmpint(drv_topology_nic_node(t, "eth0"), ==, -1);
    host.isolated = "0-7"; /* then it must run on these */
    g_autoptr(DrvTopology) all = test_host_topology(&host);
    usable = drv_topology_usable(all);
    assert_cpus(&usable, "0-3");
}

/* A card under a bond under a bridge, one that claims a node that is not there, and files that are
 * no cards. */
static void
test_nics(void)
{
    const TestHost host = {.nodes = {{"0", 1000, 500}, {"1", 1000, 500}}, .nic = 1};
    g_autofree char *root = test_host_make(&host);
    test_host_put(root, "sys/class/net/bond0/lower_eth0/x", "1");
    test_host_put(root, "sys/class/net/br0/lower_bond0/x", "1");
    test_host_put(root, "sys/class/net/tap0/mtu", "1500");
    test_host_put(root, "sys/class/net/eth9/device/numa_node", "9\n");
    test_host_put(root, "sys/class/net/bonding_masters", "bond0\n");
    test_host_put(root, "sys/class/net/loop/lower_loop/x", "1"); /* round and round */
    g_autoptr(DrvTopology) t = drv_topology_read(root);
    g_assert_cmpint(drv_topology_nic_node(t, "bond0"), ==, 1);
    g_assert_cmpint(drv_topology_nic_node(t, "br0"), ==, 1);
    g_assert_cmpint(drv_topology_nic_node(t, "tap0"), ==, -1);
    g_assert_cmpint(drv_topology_nic_node(t, "eth9"), ==, -1);
    g_assert_cmpint(drv_topology_nic_node(t, "loop"), ==, -1);
    g_assert_cmpuint(t->nics->len, ==, 6);
    test_host_put(root, "sys/class/net/late/mtu", "1500");
    g_autoptr(DrvTopology) now = drv_topology_again(t);
    g_assert_cmpuint(now->nics->len, ==, 7);
    test_host_remove(root);
}

/* A kernel without NUMA; then one that says next to nothing, and one that says nonsense. */
static void
test_little(void)
{
    g_autofree char *root = g_dir_make_tmp("drover-host-XXXXXX", NULL);
    test_host_put(root, "sys/devices/system/cpu/online", "0-5\n");
    test_host_put(root, "proc/meminfo", "MemTotal:  2048 kB\nMemFree:  1024 kB\n");
    g_autoptr(DrvTopology) t = drv_topology_read(root);
    g_assert_cmpuint(t->n, ==, 1);
    assert_cpus(&t->nodes[0].cpus, "0-5");
    g_assert_cmpuint(t->nodes[0].memory, ==, 2 * MIB);
    g_assert_cmpuint(t->nodes[0].free, ==, MIB);
    g_assert_cmphex(drv_topology_memory_nodes(t), ==, 1);

    g_autoptr(DrvTopology) none = drv_topology_read("/nowhere");
    g_assert_cmpuint(none->n, ==, 1);
    g_assert_cmpuint(none->nics->len, ==, 0);

    test_host_put(root, "sys/devices/system/node/online", "0-1\n");
    test_host_put(root, "sys/devices/system/node/node0/cpulist", "three\n");
    test_host_put(root, "sys/devices/system/node/node0/distance", "ten");
    test_host_put(root, "sys/devices/system/node/node0/meminfo", "MemTotal");
    g_autoptr(DrvTopology) odd = drv_topology_read(root);
    g_assert_cmpuint(odd->n, ==, 2);
    g_assert_true(drv_cpus_is_empty(&odd->nodes[0].cpus));
    g_assert_cmpuint(odd->nodes[0].memory, ==, 0);
    g_assert_cmpuint(drv_topology_distance(odd, 0, 1), ==, 255);
    test_host_remove(root);
}

static void
test_status(void)
{
    DrvCpus cpus;
    guint64 nodes;
    const char *text = "Name:\tqemu\nCpus_allowed:\tff\nCpus_allowed_list:\t2-3\n"
                       "Mems_allowed_list:\t1\n";
    g_assert_true(drv_status_cpus(text, &cpus));
    assert_cpus(&cpus, "2-3");
    g_assert_true(drv_status_mems(text, &nodes));
    g_assert_cmphex(nodes, ==, 2);
    g_assert_false(drv_status_cpus("Name:\tqemu\n", &cpus));
    g_assert_false(drv_status_mems("\nMems_allowed_list:\tall\n", &nodes));
}

static void
test_json(void)
{
    const TestHost host = {
        .nodes = {{"0-1", 8000, 4000, 3}, {"", 2000, 2000}},
        .allowed = "0",
        .isolated = "1",
        .nic = 1,
    };
    g_autoptr(DrvTopology) t = test_host_topology(&host);
    g_autoptr(JsonObject) json = drv_topology_to_json(t);
    g_autofree char *text = drv_json_text(json);
    g_assert_cmpstr(
        text, ==,
        "{\"nodes\":[{\"node\":0,\"cpus\":\"0-1\",\"memory\":8388608000,\"free\":2097152000,"
        "\"available\":4194304000,\"huge_pages\":[{\"size\":2097152,\"total\":3,\"free\":3}],"
        "\"distances\":{\"0\":10,\"1\":20}},{\"node\":1,\"cpus\":\"\",\"memory\":2097152000,"
        "\"free\":1048576000,\"available\":2097152000,\"huge_pages\":[{\"size\":2097152,"
        "\"total\":0,\"free\":0}],\"distances\":{\"0\":20,\"1\":10}}],"
        "\"nics\":[{\"name\":\"eth0\",\"node\":1}],"
        "\"usable\":{\"cpus\":\"0\",\"memory_nodes\":\"0-1\"},\"isolated\":\"1\"}");
}

/* This machine, whatever it is. */
static void
test_here(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    DrvCpus usable = drv_topology_usable(t);
    guint64 memory = 0;
    for (guint i = 0; i < t->n; i++)
        memory += t->nodes[i].memory;
    g_assert_cmpuint(drv_cpus_count(&usable), >=, 1);
    g_assert_cmpuint(drv_cpus_count(&usable), <=, (guint)sysconf(_SC_NPROCESSORS_CONF));
    g_assert_cmpuint(memory, >, 16 * MIB);
    g_assert_cmphex(drv_topology_memory_nodes(t), !=, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/topology/one", test_one);
    g_test_add_func("/topology/four", test_four);
    g_test_add_func("/topology/allowed", test_allowed);
    g_test_add_func("/topology/nics", test_nics);
    g_test_add_func("/topology/little", test_little);
    g_test_add_func("/topology/status", test_status);
    g_test_add_func("/topology/json", test_json);
    g_test_add_func("/topology/here", test_here);
    return g_test_run();
}
