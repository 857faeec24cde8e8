/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/to-json.h"

static void
set_cpus(JsonObject *o, const char *name, const DrvCpus *cpus)
{
    g_autofree char *list = drv_cpus_format(cpus);
    json_object_set_string_member(o, name, list);
}

static JsonArray *
huge_to_json(const DrvNode *node)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < node->huge->len; i++) {
        const DrvHugePages *huge = &g_array_index(node->huge, DrvHugePages, i);
        JsonObject *o = json_object_new();
        json_object_set_int_member(o, "size", (gint64)huge->size);
        json_object_set_int_member(o, "total", (gint64)huge->total);
        json_object_set_int_member(o, "free", (gint64)huge->free);
        json_array_add_object_element(array, o);
    }
    return array;
}

static JsonObject *
node_to_json(const DrvTopology *topology, const DrvNode *node)
{
    JsonObject *o = json_object_new(), *distances = json_object_new();
    for (guint i = 0; i < topology->n; i++) {
        guint other = topology->nodes[i].id;
        g_autofree char *name = g_strdup_printf("%u", other);
        if (node->distance[other] > 0)
            json_object_set_int_member(distances, name, node->distance[other]);
    }
    json_object_set_int_member(o, "node", node->id);
    set_cpus(o, "cpus", &node->cpus);
    json_object_set_int_member(o, "memory", (gint64)node->memory);
    json_object_set_int_member(o, "free", (gint64)node->free);
    json_object_set_int_member(o, "available", (gint64)node->available);
    json_object_set_array_member(o, "huge_pages", huge_to_json(node));
    json_object_set_object_member(o, "distances", distances);
    return o;
}

JsonObject *
drv_topology_to_json(const DrvTopology *topology)
{
    JsonObject *o = json_object_new(), *usable = json_object_new();
    JsonArray *nodes = json_array_new(), *nics = json_array_new();
    DrvCpus cpus = drv_topology_usable(topology);
    g_autofree char *memory = drv_nodes_format(drv_topology_memory_nodes(topology));
    for (guint i = 0; i < topology->n; i++)
        json_array_add_object_element(nodes, node_to_json(topology, &topology->nodes[i]));
    for (guint i = 0; i < topology->nics->len; i++) {
        const DrvNic *nic = &g_array_index(topology->nics, DrvNic, i);
        JsonObject *n = json_object_new();
        json_object_set_string_member(n, "name", nic->name);
        if (nic->node >= 0)
            json_object_set_int_member(n, "node", nic->node);
        else
            json_object_set_null_member(n, "node");
        json_array_add_object_element(nics, n);
    }
    set_cpus(usable, "cpus", &cpus);
    json_object_set_string_member(usable, "memory_nodes", memory);
    json_object_set_array_member(o, "nodes", nodes);
    json_object_set_array_member(o, "nics", nics);
    json_object_set_object_member(o, "usable", usable);
    set_cpus(o, "isolated", &topology->isolated);
    return o;
}
