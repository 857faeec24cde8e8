/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/placement.h"

/* Says what this machine is, for tests/test_numa.py to see that it is the one that was asked for.
 */
int
main(int argc, char **argv)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    DrvCpus usable = drv_topology_usable(t);
    g_autofree char *cpus = drv_cpus_format(&usable);
    g_autofree char *nodes = drv_nodes_format(drv_topology_memory_nodes(t));
    g_print("# %u node%s\n# usable: CPUs %s, memory of nodes %s\n", t->n, t->n > 1 ? "s" : "", cpus,
            nodes);
    for (guint i = 0; i < t->n; i++) {
        const DrvNode *node = &t->nodes[i];
        g_autofree char *list = drv_cpus_format(&node->cpus);
        g_print("# node %u: CPUs %s, %" G_GUINT64_FORMAT " MiB, %" G_GUINT64_FORMAT " available\n",
                node->id, *list != '\0' ? list : "none", node->memory >> 20, node->available >> 20);
        for (guint k = 0; k < node->huge->len; k++) {
            const DrvHugePages *huge = &g_array_index(node->huge, DrvHugePages, k);
            g_print("# node %u: %" G_GUINT64_FORMAT " huge pages of %" G_GUINT64_FORMAT " MiB\n",
                    node->id, huge->free, huge->size >> 20);
        }
    }
    return 0;
}
