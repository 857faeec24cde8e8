/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/placement.h"

#include "common/error.h"

/*
 * A guest's memory.
 *
 * Memory comes from the node of the thread that touches it first, unless a policy says otherwise.
 * In direct mode that thread is ours and not QEMU's: without a plan a guest would lie scattered
 * over the nodes that data threads happen to be on, and a policy of QEMU's whole process (numactl)
 * would not be followed, as it is not ours. So every block gets a policy for the threads that place
 * its pages.
 *
 * Whoever started QEMU knows best: a block's own policy stands. Blocks without one go to one node
 * together if that can be, since a guest that sees one node is fastest on one. If no node has room
 * for all, they are its virtual nodes, probably: each, the biggest first, goes to the first node
 * that has room, in the order of preference.
 */

/* Room on a node, as it is used up by the plan. */
typedef struct {
    gint node;
    guint64 room;
    guint rank; /* lower is better liked */
} Room;

static gint
by_liking(gconstpointer a, gconstpointer b)
{
    const Room *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->room != y->room)
        return x->room > y->room ? -1 : 1;
    return x->node - y->node;
}

/* Memory that a node could give: of huge pages those that are free. */
static guint64
room_for(const DrvNode *node, guint64 huge)
{
    for (guint i = 0; i < node->huge->len; i++) {
        const DrvHugePages *pages = &g_array_index(node->huge, DrvHugePages, i);
        if (pages->size == huge)
            return pages->free * pages->size;
    }
    return huge > 0 ? 0 : node->available;
}

static guint64
missing(const DrvGuestMemory *block)
{
    return block->size - MIN(block->present, block->size);
}

/* Shows bytes as people write them in QEMU's options. */
static char *
megabytes(guint64 bytes)
{
    return g_strdup_printf("%" G_GUINT64_FORMAT " MiB", bytes >> 20);
}

/* --- what QEMU was told --- */

static gboolean
check_bound(const DrvTopology *topology, const DrvGuestMemory *blocks, guint n, guint index,
            guint64 mems, GError **error)
{
    const DrvGuestMemory *block = &blocks[index];
    guint64 nodes = block->policy.nodes & mems & drv_topology_memory_nodes(topology);
    guint64 room = 0, needed = 0;
    for (guint i = 0; i < topology->n; i++)
        if ((nodes & DRV_NODE_BIT(topology->nodes[i].id)) != 0)
            room += room_for(&topology->nodes[i], block->huge);
    for (guint i = 0; i < n; i++) /* those that share these nodes, and only these */
        if (blocks[i].policy.mode == DRV_POLICY_BIND && blocks[i].huge == block->huge &&
            (blocks[i].policy.nodes & ~block->policy.nodes) == 0)
            needed += missing(&blocks[i]);
    if (needed <= room)
        return TRUE;
    g_autofree char *list = drv_nodes_format(block->policy.nodes);
    g_autofree char *want = megabytes(needed);
    g_autofree char *have = megabytes(room);
    g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                "RAM block '%s' is bound to NUMA node %s, which has %s of %s left where %s are "
                "needed: start the destination's QEMU with other host-nodes, or make room there",
                block->id, list, have, block->huge > 0 ? "huge pages" : "memory", want);
    return FALSE;
}

/* --- what we choose --- */

/* The one node that all of the guest's CPUs are of, -1: there is none. */
static gint
node_of_cpus(const DrvTopology *topology, const DrvCpus *cpus)
{
    for (guint i = 0; i < topology->n; i++)
        if (!drv_cpus_is_empty(cpus) && drv_cpus_within(cpus, &topology->nodes[i].cpus))
            return (gint)topology->nodes[i].id;
    return -1;
}

/* Of Room: the nodes with memory of that kind that may be used, the best liked first. */
static GArray *
find_rooms(const DrvTopology *topology, guint64 huge, guint64 mems, gint home, gint nic)
{
    GArray *rooms = g_array_new(FALSE, FALSE, sizeof(Room));
    guint64 nodes = mems & drv_topology_memory_nodes(topology);
    for (guint i = 0; i < topology->n; i++) {
        gint node = (gint)topology->nodes[i].id;
        if ((nodes & DRV_NODE_BIT(node)) == 0)
            continue;
        /* Without a home, nodes that have CPUs come before those that are memory only. */
        guint rank = home >= 0 ? drv_topology_distance(topology, home, node)
                     : drv_cpus_is_empty(&topology->nodes[i].cpus) ? 2
                                                                   : node != nic;
        Room room = {node, room_for(&topology->nodes[i], huge), rank};
        g_array_append_val(rooms, room);
    }
    g_array_sort(rooms, by_liking);
    return rooms;
}

static gboolean
put_on(GArray *rooms, guint64 bytes, gint *node)
{
    for (guint i = 0; i < rooms->len; i++) {
        Room *room = &g_array_index(rooms, Room, i);
        if (bytes > room->room)
            continue;
        room->room -= bytes;
        *node = room->node;
        return TRUE;
    }
    return FALSE;
}

static gboolean
is_ours(const DrvGuestMemory *block, guint64 huge)
{
    return block->policy.mode == DRV_POLICY_DEFAULT && block->huge == huge;
}

static void
put_block(DrvMemoryPlace *place, gint node, gint home, guint64 all)
{
    if (node < 0)
        *place = (DrvMemoryPlace){{DRV_POLICY_PREFERRED, all}, DRV_WHY_SPREAD};
    else
        *place = (DrvMemoryPlace){{DRV_POLICY_PREFERRED, DRV_NODE_BIT(node)},
                                  node == home ? DRV_WHY_CPUS : DRV_WHY_ROOM};
}

/* Blocks of pages of one kind that QEMU says nothing of. */
static void
place_kind(const DrvTopology *topology, const DrvGuestMemory *blocks, guint n, guint64 huge,
           gint home, guint64 mems, gint nic, DrvMemoryPlace *places)
{
    g_autoptr(GArray) rooms = find_rooms(topology, huge, mems, home, nic);
    guint64 all = mems & drv_topology_memory_nodes(topology), sum = 0;
    gint node = -1;
    for (guint i = 0; i < n; i++)
        sum += is_ours(&blocks[i], huge) ? missing(&blocks[i]) : 0;
    gboolean together = put_on(rooms, sum, &node);
    g_autofree gboolean *done = g_new0(gboolean, n);
    for (;;) {
        guint next = n; /* the biggest that is left */
        for (guint i = 0; i < n; i++)
            if (!done[i] && is_ours(&blocks[i], huge) &&
                (next == n || blocks[i].size > blocks[next].size))
                next = i;
        if (next == n)
            return;
        gboolean found = together || put_on(rooms, missing(&blocks[next]), &node);
        put_block(&places[next], found ? node : -1, home, all);
        done[next] = TRUE;
    }
}

gboolean
drv_place_guest(const DrvTopology *topology, const DrvGuestMemory *blocks, guint n,
                const DrvCpus *cpus, guint64 mems, gint nic, DrvMemoryPlace *places, GError **error)
{
    gint home = node_of_cpus(topology, cpus);
    for (guint i = 0; i < n; i++) {
        const DrvPolicy *policy = &blocks[i].policy;
        if (policy->mode == DRV_POLICY_BIND && !check_bound(topology, blocks, n, i, mems, error))
            return FALSE;
        if (policy->mode != DRV_POLICY_DEFAULT)
            places[i] = (DrvMemoryPlace){*policy, DRV_WHY_POLICY};
        gboolean first = policy->mode == DRV_POLICY_DEFAULT;
        for (guint j = 0; j < i; j++)
            first = first && !is_ours(&blocks[j], blocks[i].huge);
        if (first)
            place_kind(topology, blocks, n, blocks[i].huge, home, mems, nic, places);
    }
    return TRUE;
}

/* --- advice --- */

char *
drv_place_advice(const DrvTopology *topology, const DrvGuestMemory *blocks,
                 const DrvMemoryPlace *places, guint n)
{
    g_autoptr(GString) text = g_string_new(NULL);
    gboolean spread = FALSE;
    if (!drv_place_matters(topology))
        return NULL;
    for (guint i = 0; i < n; i++) {
        if (places[i].why == DRV_WHY_POLICY)
            continue;
        spread = spread || places[i].why == DRV_WHY_SPREAD;
        g_autofree char *nodes = drv_nodes_format(places[i].policy.nodes);
        g_string_append_printf(text, "%s'%s' host-nodes=%s,policy=%s", text->len > 0 ? ", " : "",
                               blocks[i].id, nodes,
                               places[i].why == DRV_WHY_SPREAD ? "interleave" : "bind");
    }
    if (text->len == 0)
        return NULL;
    return g_strdup_printf("%s: to have it so for certain, give QEMU's memory backends %s",
                           spread ? "no NUMA node alone has room for the guest"
                                  : "QEMU was not told which NUMA nodes to use",
                           text->str);
}
