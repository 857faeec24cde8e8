/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/test-host.h"

#include <glib/gstdio.h>

void
test_host_put(const char *root, const char *path, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *full = g_build_filename(root, path, NULL);
    g_autofree char *folder = g_path_get_dirname(full);
    g_assert_cmpint(g_mkdir_with_parents(folder, 0700), ==, 0);
    g_assert_true(g_file_set_contents(full, text, -1, NULL));
}

static void
put_node(const char *root, guint id, guint n, const TestNode *node)
{
    g_autofree char *folder = g_strdup_printf("sys/devices/system/node/node%u", id);
    g_autofree char *cpus = g_build_filename(folder, "cpulist", NULL);
    g_autofree char *memory = g_build_filename(folder, "meminfo", NULL);
    g_autofree char *distance = g_build_filename(folder, "distance", NULL);
    g_autofree char *pages = g_build_filename(folder, "hugepages/hugepages-2048kB", NULL);
    g_autofree char *total = g_build_filename(pages, "nr_hugepages", NULL);
    g_autofree char *left = g_build_filename(pages, "free_hugepages", NULL);
    g_autoptr(GString) far = g_string_new(NULL);
    for (guint i = 0; i < n; i++) /* in a row: the next is nearer than the one after */
        g_string_append_printf(far, "%s%u", i > 0 ? " " : "", 10 + 10 * (i > id ? i - id : id - i));
    test_host_put(root, cpus, "%s\n", node->cpus);
    test_host_put(root, memory,
                  "\nNode %u MemTotal:       %u kB\nNode %u MemFree:        %u kB\n"
                  "Node %u Active(file):   %u kB\nNode %u Inactive(file): 0 kB\n",
                  id, node->memory * 1024, id, node->available / 2 * 1024, id,
                  (node->available - node->available / 2) * 1024, id);
    test_host_put(root, distance, "%s\n", far->str);
    test_host_put(root, total, "%u\n", node->huge);
    test_host_put(root, left, "%u\n", node->huge);
}

char *
test_host_make(const TestHost *host)
{
    char *root = g_dir_make_tmp("drover-host-XXXXXX", NULL);
    g_assert_nonnull(root);
    guint n = 0;
    while (n < G_N_ELEMENTS(host->nodes) && host->nodes[n].cpus != NULL)
        n++;
    for (guint i = 0; i < n; i++)
        put_node(root, i, n, &host->nodes[i]);
    test_host_put(root, "sys/devices/system/node/online", n > 1 ? "0-%u\n" : "%u\n", n - 1);
    test_host_put(root, "sys/devices/system/cpu/isolated", "%s\n",
                  host->isolated != NULL ? host->isolated : "");
    test_host_put(root, "sys/class/net/lo/mtu", "65536\n");
    test_host_put(root, "sys/class/net/eth0/device/numa_node", "%d\n", host->nic);
    test_host_put(root, "proc/self/status",
                  "Name:\tdroverd\nCpus_allowed:\tff\nCpus_allowed_list:\t%s\n"
                  "Mems_allowed:\t3\nMems_allowed_list:\t%s\n",
                  host->allowed != NULL ? host->allowed : "0-4095",
                  host->mems != NULL ? host->mems : "0-63");
    return root;
}

void
test_host_remove(const char *root)
{
    g_autoptr(GDir) dir = g_dir_open(root, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(root, name, NULL);
        if (g_file_test(path, G_FILE_TEST_IS_DIR) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK))
            test_host_remove(path);
        else
            g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(root), ==, 0);
}

DrvTopology *
test_host_topology(const TestHost *host)
{
    g_autofree char *root = test_host_make(host);
    DrvTopology *topology = drv_topology_read(root);
    test_host_remove(root);
    return topology;
}
