/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include "common/json.h"
#include "engine/cli/units.h"

/* A host's NUMA nodes and where a guest is on them, in words. */

/* A member that comes from outside, fit for a terminal; "none" when it is empty. */
static char *
text_of(JsonObject *o, const char *name)
{
    const char *text = drv_json_string(o, name, "");
    return drv_format_text(*text != '\0' ? text : "none", 200);
}

static void
append_node(GString *out, JsonObject *node, JsonArray *nics)
{
    gint64 id = drv_json_int(node, "node", 0);
    g_autofree char *cpus = text_of(node, "cpus");
    g_autofree char *memory = drv_format_bytes(drv_json_number(node, "memory", 0));
    g_autofree char *available = drv_format_bytes(drv_json_number(node, "available", 0));
    g_string_append_printf(out, "node %-2" G_GINT64_FORMAT " CPUs %s, ", id, cpus);
    if (drv_json_number(node, "memory", 0) > 0)
        g_string_append_printf(out, "%s of memory (%s available)", memory, available);
    else
        g_string_append(out, "no memory");
    JsonArray *huge = drv_json_array(node, "huge_pages");
    for (guint i = 0; huge != NULL && i < json_array_get_length(huge); i++) {
        JsonObject *pages = drv_json_element(huge, i);
        g_autofree char *size = drv_format_bytes(drv_json_number(pages, "size", 0));
        if (drv_json_int(pages, "total", 0) > 0)
            g_string_append_printf(
                out, ", %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " huge pages of %s free",
                drv_json_int(pages, "free", 0), drv_json_int(pages, "total", 0), size);
    }
    for (guint i = 0; nics != NULL && i < json_array_get_length(nics); i++) {
        JsonObject *nic = drv_json_element(nics, i);
        g_autofree char *name = text_of(nic, "name");
        if (drv_json_int(nic, "node", -1) == id)
            g_string_append_printf(out, ", %s", name);
    }
    g_string_append_c(out, '\n');
}

static void
append_distances(GString *out, JsonArray *nodes)
{
    guint n = nodes != NULL ? json_array_get_length(nodes) : 0;
    for (guint i = 0; n > 1 && i < n; i++) {
        JsonObject *node = drv_json_element(nodes, i);
        JsonObject *distances = drv_json_object(node, "distances");
        g_string_append_printf(out, "%s%" G_GINT64_FORMAT ":", i == 0 ? "distances  " : "  ",
                               drv_json_int(node, "node", 0));
        for (guint k = 0; k < n; k++) {
            g_autofree char *other = g_strdup_printf(
                "%" G_GINT64_FORMAT, drv_json_int(drv_json_element(nodes, k), "node", 0));
            g_string_append_printf(out, " %" G_GINT64_FORMAT, drv_json_int(distances, other, 0));
        }
        g_string_append(out, i + 1 == n ? "\n" : ",");
    }
}

static void
append_threads(GString *out, JsonObject *host)
{
    JsonArray *threads = drv_json_array(host, "threads");
    for (guint i = 0; threads != NULL && i < json_array_get_length(threads); i++) {
        JsonObject *thread = drv_json_element(threads, i);
        gint64 node = drv_json_int(thread, "node", -1);
        g_autofree char *cpus = text_of(thread, "cpus");
        g_string_append_printf(out, "data thread %u  ", i);
        if (node >= 0)
            g_string_append_printf(out, "node %" G_GINT64_FORMAT ", ", node);
        if (drv_json_string(thread, "cpus", NULL) != NULL)
            g_string_append_printf(out, "CPUs %s\n", cpus);
        else
            g_string_append(out, "on any CPU\n");
    }
    if (!drv_json_flag(host, "placing", TRUE))
        g_string_append(out, "nothing is placed on nodes: numa=off in droverd's configuration\n");
}

static void
append_shares(GString *out, JsonObject *shares)
{
    g_autoptr(GList) names = shares != NULL ? json_object_get_members(shares) : NULL;
    for (GList *l = names; l != NULL; l = l->next) {
        g_autofree char *node = drv_format_text(l->data, 10);
        g_string_append_printf(out, "%s%.0f%% on node %s", l == names ? ", " : " and ",
                               drv_json_number(shares, l->data, 0) * 100, node);
    }
}

static void
append_block(GString *out, JsonObject *block)
{
    g_autofree char *name = text_of(block, "block");
    g_autofree char *size = drv_format_bytes(drv_json_number(block, "size", 0));
    g_autofree char *policy = text_of(block, "policy");
    g_autofree char *nodes = text_of(block, "policy_nodes");
    double present = drv_json_number(block, "present", -1);
    g_string_append_printf(out, "  %s  %s", name, size);
    if (present >= 0)
        g_string_append_printf(out, ", %.0f%% in memory", present * 100);
    append_shares(out, drv_json_object(block, "nodes"));
    if (!g_str_equal(policy, "default"))
        g_string_append_printf(out, "; policy %s %s", policy, nodes);
    g_string_append_c(out, '\n');
}

static void
append_guest(GString *out, JsonObject *guest)
{
    JsonArray *blocks = drv_json_array(guest, "blocks"), *cpus = drv_json_array(guest, "cpus");
    g_string_append_printf(out, "guest, in process %" G_GINT64_FORMAT "\n",
                           drv_json_int(guest, "pid", 0));
    for (guint i = 0; blocks != NULL && i < json_array_get_length(blocks); i++)
        append_block(out, drv_json_element(blocks, i));
    for (guint i = 0; cpus != NULL && i < json_array_get_length(cpus); i++) {
        JsonObject *cpu = drv_json_element(cpus, i);
        g_autofree char *list = text_of(cpu, "cpus");
        g_string_append_printf(out, "  virtual CPU %" G_GINT64_FORMAT "  on CPUs %s\n",
                               drv_json_int(cpu, "cpu", 0), list);
    }
    const char *unknown = drv_json_string(guest, "unknown", NULL);
    if (unknown != NULL) {
        g_autofree char *why = drv_format_text(unknown, 500);
        g_string_append_printf(out, "  not all of it is known: %s\n", why);
    }
}

char *
drv_render_numa(JsonObject *host)
{
    GString *out = g_string_new(NULL);
    JsonArray *nodes = drv_json_array(host, "nodes");
    JsonObject *usable = drv_json_object(host, "usable");
    g_autofree char *cpus = text_of(usable, "cpus");
    g_autofree char *memory = text_of(usable, "memory_nodes");
    for (guint i = 0; nodes != NULL && i < json_array_get_length(nodes); i++)
        append_node(out, drv_json_element(nodes, i), drv_json_array(host, "nics"));
    append_distances(out, nodes);
    if (usable != NULL)
        g_string_append_printf(out, "droverd may use CPUs %s and memory of nodes %s\n", cpus,
                               memory);
    append_threads(out, host);
    if (drv_json_object(host, "guest") != NULL)
        append_guest(out, drv_json_object(host, "guest"));
    return g_string_free(out, FALSE);
}
