/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/placement.h"

/*
 * Data threads.
 *
 * A thread is pinned to all CPUs of a node that are left for it, not to one: which of them is idle
 * the scheduler knows better. What it touches first (buffers, rings) then is on its node. Threads
 * are dealt out to the nodes in turn, beginning with the card's, so that with fewer threads than
 * nodes those nearest to the card have one.
 *
 * CPUs are left out in two steps, each of which is skipped when nothing would remain: the isolated
 * ones (drv_topology_usable()), then those that guests are pinned to. It is judged for the host as
 * a whole: a node that is all taken by guests gets no thread while another has CPUs left, and is
 * served from there.
 *
 * One node: nothing to choose, and a thread that may run anywhere is moved by the scheduler to
 * where there is room. So it is left alone, unless there are CPUs to keep off.
 */

static DrvCpus
free_cpus(const DrvTopology *topology, const DrvCpus *pinned)
{
    DrvCpus usable = drv_topology_usable(topology);
    DrvCpus left = drv_cpus_without(&usable, pinned);
    return drv_cpus_is_empty(&left) ? usable : left;
}

gboolean
drv_place_matters(const DrvTopology *topology)
{
    return topology->n > 1;
}

typedef struct {
    gint node;
    DrvCpus cpus;
    guint rank; /* lower comes first */
} Home;

static gint
by_rank(gconstpointer a, gconstpointer b)
{
    const Home *x = a, *y = b;
    return x->rank != y->rank ? (x->rank < y->rank ? -1 : 1) : x->node - y->node;
}

/* The nodes that threads can be on, of Home. */
static GArray *
find_homes(const DrvTopology *topology, const DrvCpus *left, gint nic)
{
    GArray *homes = g_array_new(FALSE, FALSE, sizeof(Home));
    for (guint i = 0; i < topology->n; i++) {
        gint node = (gint)topology->nodes[i].id;
        Home home = {node, drv_cpus_and(&topology->nodes[i].cpus, left),
                     nic < 0 ? 0 : drv_topology_distance(topology, nic, node)};
        if (!drv_cpus_is_empty(&home.cpus))
            g_array_append_val(homes, home);
    }
    g_array_sort(homes, by_rank);
    return homes;
}

void
drv_place_threads(const DrvTopology *topology, guint n, gint nic, const DrvCpus *pinned,
                  DrvThreadPlace *places)
{
    DrvCpus left = free_cpus(topology, pinned), all = drv_topology_usable(topology);
    g_autoptr(GArray) homes = find_homes(topology, &left, nic);
    gboolean matters = drv_place_matters(topology) && homes->len > 0;
    for (guint i = 0; i < n; i++) {
        places[i] = (DrvThreadPlace){.node = -1};
        if (matters) {
            const Home *home = &g_array_index(homes, Home, i % homes->len);
            places[i] = (DrvThreadPlace){home->node, home->cpus};
        } else if (!drv_cpus_within(&all, &left)) {
            places[i].cpus = left;
        }
    }
}

guint
drv_place_near(const DrvTopology *topology, const DrvThreadPlace *places, guint n, gint node,
               guint k)
{
    guint best = G_MAXUINT, found = 0;
    for (guint i = 0; i < n && node >= 0; i++)
        best = MIN(best, drv_topology_distance(topology, node, places[i].node));
    for (guint i = 0; i < n && node >= 0; i++)
        found += drv_topology_distance(topology, node, places[i].node) == best;
    if (node < 0 || found == n)
        return k % n;
    k %= found;
    for (guint i = 0; i < n; i++)
        if (drv_topology_distance(topology, node, places[i].node) == best && k-- == 0)
            return i;
    g_return_val_if_reached(0);
}
