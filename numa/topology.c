/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/topology.h"

#include <string.h>

#define NODES "sys/devices/system/node"
#define NICS "sys/class/net"
/* Bridges on bonds on VLANs: deeper than anybody stacks them. */
#define MAX_STACK 6
#define UNKNOWN_DISTANCE 255u

/* --- files --- */

/* The content of a file below the root, NULL when it cannot be read. */
static char *read_file(const char *root, const char *format, ...) G_GNUC_PRINTF(2, 3);

static char *
read_file(const char *root, const char *format, ...)
{
    va_list args;
    char *text = NULL;
    va_start(args, format);
    g_autofree char *path = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *full = g_build_filename(root, path, NULL);
    g_file_get_contents(full, &text, NULL, NULL);
    return text;
}

static guint64
read_number(const char *text)
{
    return text != NULL ? g_ascii_strtoull(text, NULL, 10) : 0;
}

/* "Node 0 MemFree:  123 kB" in a node's meminfo, "MemFree: 123 kB" in the machine's: in bytes. */
static guint64
meminfo(const char *text, const char *name)
{
    g_autofree char *key = g_strdup_printf(" %s:", name);
    g_autofree char *first = g_strdup_printf("\n%s:", name);
    const char *at = strstr(text, key);
    if (at == NULL)
        at = strstr(text, first);
    if (at == NULL && g_str_has_prefix(text, first + 1))
        at = text - 1;
    return at != NULL ? g_ascii_strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

/* --- nodes --- */

static gint
by_size(gconstpointer a, gconstpointer b)
{
    guint64 x = ((const DrvHugePages *)a)->size, y = ((const DrvHugePages *)b)->size;
    return x < y ? -1 : x > y;
}

static void
read_huge(const char *root, DrvNode *node, const char *folder)
{
    g_autofree char *path = g_build_filename(root, folder, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        guint64 size = 0;
        if (g_str_has_prefix(name, "hugepages-"))
            size = g_ascii_strtoull(name + strlen("hugepages-"), NULL, 10) * 1024;
        if (size == 0)
            continue;
        g_autofree char *total = read_file(root, "%s/%s/nr_hugepages", folder, name);
        g_autofree char *left = read_file(root, "%s/%s/free_hugepages", folder, name);
        DrvHugePages pages = {size, read_number(total), read_number(left)};
        g_array_append_val(node->huge, pages);
    }
    g_array_sort(node->huge, by_size);
}

static void
read_memory(DrvNode *node, const char *text)
{
    node->memory = meminfo(text, "MemTotal");
    node->free = meminfo(text, "MemFree");
    node->available =
        MIN(node->memory, node->free + meminfo(text, "Active(file)") +
                              meminfo(text, "Inactive(file)") + meminfo(text, "SReclaimable"));
}

/* The distances are in the order of the nodes that are online. */
static void
read_distances(DrvNode *node, const char *text, guint64 online)
{
    char *at = (char *)text;
    for (guint other = 0; at != NULL && other < DRV_NODES_MAX; other++) {
        if ((online & DRV_NODE_BIT(other)) == 0)
            continue;
        char *end;
        guint64 distance = g_ascii_strtoull(at, &end, 10);
        if (end == at)
            return;
        node->distance[other] = (guint)MIN(distance, UNKNOWN_DISTANCE);
        at = end;
    }
}

static void
read_node(const char *root, DrvNode *node, guint id, guint64 online)
{
    g_autofree char *cpus = read_file(root, NODES "/node%u/cpulist", id);
    g_autofree char *memory = read_file(root, NODES "/node%u/meminfo", id);
    g_autofree char *distances = read_file(root, NODES "/node%u/distance", id);
    g_autofree char *huge = g_strdup_printf(NODES "/node%u/hugepages", id);
    node->id = id;
    node->huge = g_array_new(FALSE, FALSE, sizeof(DrvHugePages));
    if (cpus != NULL)
        drv_cpus_parse(cpus, &node->cpus);
    if (memory != NULL)
        read_memory(node, memory);
    read_distances(node, distances, online);
    read_huge(root, node, huge);
}

/* A kernel that knows nothing of nodes. */
static void
make_only_node(const char *root, DrvTopology *topology)
{
    g_autofree char *cpus = read_file(root, "sys/devices/system/cpu/online");
    g_autofree char *memory = read_file(root, "proc/meminfo");
    topology->n = 1;
    topology->nodes = g_new0(DrvNode, 1);
    DrvNode *node = &topology->nodes[0];
    node->huge = g_array_new(FALSE, FALSE, sizeof(DrvHugePages));
    node->distance[0] = 10;
    if (cpus == NULL || !drv_cpus_parse(cpus, &node->cpus))
        node->cpus = topology->allowed;
    if (memory != NULL)
        read_memory(node, memory);
    read_huge(root, node, "sys/kernel/mm/hugepages");
}

static void
read_nodes(const char *root, DrvTopology *topology)
{
    g_autofree char *text = read_file(root, NODES "/online");
    guint64 online = 0;
    if (text == NULL || !drv_nodes_parse(text, &online) || online == 0) {
        make_only_node(root, topology);
        return;
    }
    topology->nodes = g_new0(DrvNode, (gsize)__builtin_popcountll(online));
    for (guint id = 0; id < DRV_NODES_MAX; id++)
        if ((online & DRV_NODE_BIT(id)) != 0)
            read_node(root, &topology->nodes[topology->n++], id, online);
}

/* --- network cards --- */

static gint nic_node(const char *root, const char *name, guint depth);

/* A bridge, bond or VLAN is where the first is that it stands upon. */
static gint
lower_node(const char *root, const char *name, guint depth)
{
    g_autofree char *path = g_build_filename(root, NICS, name, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *entry;
    gint node = -1;
    while (dir != NULL && node < 0 && (entry = g_dir_read_name(dir)) != NULL)
        if (g_str_has_prefix(entry, "lower_"))
            node = nic_node(root, entry + strlen("lower_"), depth + 1);
    return node;
}

static gint
nic_node(const char *root, const char *name, guint depth)
{
    g_autofree char *text = read_file(root, NICS "/%s/device/numa_node", name);
    if (text != NULL) {
        gint64 node = g_ascii_strtoll(text, NULL, 10);
        return node >= 0 && node < DRV_NODES_MAX ? (gint)node : -1;
    }
    return depth < MAX_STACK ? lower_node(root, name, depth) : -1;
}

static void
clear_nic(gpointer data)
{
    g_free(((DrvNic *)data)->name);
}

static gint
by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(((const DrvNic *)a)->name, ((const DrvNic *)b)->name);
}

static void
read_nics(const char *root, DrvTopology *topology)
{
    g_autofree char *path = g_build_filename(root, NICS, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *folder = g_build_filename(path, name, NULL);
        if (g_str_equal(name, "lo") || !g_file_test(folder, G_FILE_TEST_IS_DIR))
            continue; /* such as bonding_masters, a file */
        DrvNic nic = {g_strdup(name), nic_node(root, name, 0)};
        g_array_append_val(topology->nics, nic);
    }
    g_array_sort(topology->nics, by_name);
}

/* --- what is allowed --- */

/* What follows "\nNAME:" in a status; NULL when it is not there. */
static const char *
status_line(const char *status, const char *name)
{
    g_autofree char *key = g_strdup_printf("\n%s:", name);
    const char *at = strstr(status, key);
    return at != NULL ? at + strlen(key) : NULL;
}

gboolean
drv_status_cpus(const char *status, DrvCpus *cpus)
{
    const char *line = status_line(status, "Cpus_allowed_list");
    return line != NULL && drv_cpus_parse(line, cpus);
}

gboolean
drv_status_mems(const char *status, guint64 *nodes)
{
    const char *line = status_line(status, "Mems_allowed_list");
    return line != NULL && drv_nodes_parse(line, nodes);
}

static void
read_allowed(const char *root, DrvTopology *topology)
{
    g_autofree char *status = read_file(root, "proc/self/status");
    g_autofree char *isolated = read_file(root, "sys/devices/system/cpu/isolated");
    if (status == NULL || !drv_status_cpus(status, &topology->allowed))
        memset(&topology->allowed, 0xff, sizeof topology->allowed);
    if (status == NULL || !drv_status_mems(status, &topology->memory_allowed))
        topology->memory_allowed = G_MAXUINT64;
    if (isolated != NULL)
        drv_cpus_parse(isolated, &topology->isolated);
}

/* --- all --- */

DrvTopology *
drv_topology_read(const char *root)
{
    DrvTopology *topology = g_new0(DrvTopology, 1);
    topology->nics = g_array_new(FALSE, FALSE, sizeof(DrvNic));
    g_array_set_clear_func(topology->nics, clear_nic);
    root = root != NULL ? root : "/";
    topology->root = g_strdup(root);
    read_allowed(root, topology);
    read_nodes(root, topology);
    read_nics(root, topology);
    return topology;
}

DrvTopology *
drv_topology_again(const DrvTopology *topology)
{
    return drv_topology_read(topology->root);
}

void
drv_topology_free(DrvTopology *topology)
{
    if (topology == NULL)
        return;
    for (guint i = 0; i < topology->n; i++)
        g_array_unref(topology->nodes[i].huge);
    g_free(topology->nodes);
    g_array_unref(topology->nics);
    g_free(topology->root);
    g_free(topology);
}

const DrvNode *
drv_topology_node(const DrvTopology *topology, gint id)
{
    for (guint i = 0; i < topology->n; i++)
        if ((gint)topology->nodes[i].id == id)
            return &topology->nodes[i];
    return NULL;
}

gint
drv_topology_node_of(const DrvTopology *topology, guint cpu)
{
    for (guint i = 0; i < topology->n; i++)
        if (drv_cpus_has(&topology->nodes[i].cpus, cpu))
            return (gint)topology->nodes[i].id;
    return -1;
}

gint
drv_topology_nic_node(const DrvTopology *topology, const char *name)
{
    for (guint i = 0; i < topology->nics->len; i++) {
        const DrvNic *nic = &g_array_index(topology->nics, DrvNic, i);
        if (g_str_equal(nic->name, name))
            return drv_topology_node(topology, nic->node) != NULL ? nic->node : -1;
    }
    return -1;
}

guint64
drv_topology_memory_nodes(const DrvTopology *topology)
{
    guint64 nodes = 0;
    for (guint i = 0; i < topology->n; i++)
        if (topology->nodes[i].memory > 0)
            nodes |= DRV_NODE_BIT(topology->nodes[i].id);
    return nodes & topology->memory_allowed;
}

DrvCpus
drv_topology_usable(const DrvTopology *topology)
{
    DrvCpus online = {0};
    for (guint i = 0; i < topology->n; i++)
        online = drv_cpus_or(&online, &topology->nodes[i].cpus);
    DrvCpus allowed = drv_cpus_and(&online, &topology->allowed);
    DrvCpus usable = drv_cpus_without(&allowed, &topology->isolated);
    return drv_cpus_is_empty(&usable) ? allowed : usable;
}

guint
drv_topology_distance(const DrvTopology *topology, gint a, gint b)
{
    const DrvNode *node = drv_topology_node(topology, a);
    if (a == b)
        return 0;
    if (node == NULL || b < 0 || b >= (gint)DRV_NODES_MAX || node->distance[b] == 0)
        return UNKNOWN_DISTANCE;
    return node->distance[b];
}
