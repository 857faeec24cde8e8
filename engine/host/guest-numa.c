/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/guest-numa.h"

#include "common/error.h"
#include "engine/host/guest-blocks.h"
#include "qmp/qmp.h"

#include <stdio.h>
#include <stdlib.h>

/* Virtual CPUs that are looked at. */
#define MAX_CPUS 1024u
/* A block that is smaller is firmware or a device's, and of no weight. */
#define MIN_BLOCK ((guint64)1 << 20)

typedef struct {
    DrvGuestNuma *numa;
    guint samples;
    guint timeout_ms;
} Search;

void
drv_guest_numa_free(DrvGuestNuma *numa)
{
    if (numa == NULL)
        return;
    g_array_unref(numa->cpus);
    g_free(numa->blocks);
    g_free(numa->why);
    g_free(numa);
}

static void
search_free(gpointer data)
{
    Search *self = data;
    drv_guest_numa_free(self->numa);
    g_free(self);
}

/* --- the process --- */

static void
note(DrvGuestNuma *numa, const char *why)
{
    if (numa->why == NULL)
        numa->why = g_strdup(why);
}

/* A mapping holds for all blocks that begin in it: the last that begins no later than they do. */
static void
take_map(DrvGuestNuma *numa, const DrvNumaMap *map)
{
    for (guint i = 0; i < numa->n; i++)
        if (numa->blocks[i].block.hva != 0 && map->start <= numa->blocks[i].block.hva)
            numa->blocks[i].map = *map;
}

static void
read_maps(DrvGuestNuma *numa)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/numa_maps", (int)numa->pid);
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    DrvNumaMap map;
    if (file == NULL) {
        note(numa, "the kernel does not tell the memory policies of QEMU (numa_maps)");
        return;
    }
    while (getline(&line, &size, file) >= 0)
        if (drv_numa_map_parse(line, &map))
            take_map(numa, &map);
    free(line);
    fclose(file);
}

static void
read_mems(DrvGuestNuma *numa)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)numa->pid);
    g_autofree char *status = NULL;
    numa->mems = G_MAXUINT64;
    if (g_file_get_contents(path, &status, NULL, NULL))
        drv_status_mems(status, &numa->mems);
}

static void
sample(DrvGuestNuma *numa, DrvGuestNumaBlock *block, guint samples)
{
    g_autoptr(GError) error = NULL;
    block->sample = (DrvResidency){0};
    if (block->block.hva == 0 || block->block.size < MIN_BLOCK)
        return;
    if (!drv_residency_sample(numa->pid, block->block.hva, block->block.size, samples,
                              &block->sample, &error))
        note(numa, error->message);
}

void
drv_guest_numa_sample(DrvGuestNuma *numa, guint samples)
{
    for (guint i = 0; i < numa->n; i++)
        sample(numa, &numa->blocks[i], samples);
}

void
drv_guest_numa_look(DrvGuestNuma *numa, guint samples)
{
    g_clear_pointer(&numa->why, g_free);
    if (numa->pid <= 0) {
        note(numa, "it cannot be known which process QEMU is");
        return;
    }
    if (numa->n > 0)
        read_maps(numa);
    read_mems(numa);
    drv_guest_numa_sample(numa, samples);
    for (guint i = 0; i < numa->cpus->len; i++) {
        DrvGuestCpu *cpu = &g_array_index(numa->cpus, DrvGuestCpu, i);
        if (!drv_thread_cpus(cpu->thread, &cpu->cpus))
            note(numa, "it cannot be known where QEMU's virtual CPUs may run");
    }
}

static void
look(GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
    Search *self = data;
    drv_guest_numa_look(self->numa, self->samples);
    g_task_return_pointer(task, g_steal_pointer(&self->numa), (GDestroyNotify)drv_guest_numa_free);
}

/* --- QEMU --- */

static void
take_cpus(DrvGuestNuma *numa, JsonNode *reply)
{
    JsonArray *array = qmp_node_array(reply);
    for (guint i = 0; array != NULL && i < MIN(json_array_get_length(array), MAX_CPUS); i++) {
        JsonObject *o = qmp_node_object(json_array_get_element(array, i));
        gint64 index = -1, thread = 0;
        qmp_get_int(o, "cpu-index", &index);
        qmp_get_int(o, "thread-id", &thread);
        DrvGuestCpu cpu = {(guint)index, (pid_t)thread, {{0}}};
        if (index >= 0 && index <= G_MAXINT && thread > 0 && thread <= G_MAXINT)
            g_array_append_val(numa->cpus, cpu);
    }
}

static void
cpus_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(GTask) task = data;
    Search *self = g_task_get_task_data(task);
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    if (reply == NULL) {
        g_task_return_error(task, error);
        return;
    }
    take_cpus(self->numa, reply);
    g_task_run_in_thread(task, look);
}

static void
ask_cpus(GTask *task, QmpClient *client)
{
    const Search *self = g_task_get_task_data(task);
    qmp_client_execute_async(client, "query-cpus-fast", NULL, self->timeout_ms,
                             g_task_get_cancellable(task), cpus_known, task);
}

static void
blocks_known(GObject *source, GAsyncResult *result, gpointer data)
{
    GTask *task = data;
    Search *self = g_task_get_task_data(task);
    GError *error = NULL;
    g_autoptr(DrvGuestBlocks) found = drv_guest_blocks_find_finish(result, &error);
    if (found == NULL) {
        g_task_return_error(task, error);
        g_object_unref(task);
        return;
    }
    self->numa->n = found->n;
    self->numa->blocks = g_new0(DrvGuestNumaBlock, found->n);
    for (guint i = 0; i < found->n; i++) {
        self->numa->blocks[i].block = found->blocks[i];
        self->numa->blocks[i].map.page_size = DRV_GUEST_PAGE;
    }
    ask_cpus(task, QMP_CLIENT(source));
}

void
drv_guest_numa_find_async(QmpClient *client, guint samples, guint timeout_ms,
                          GCancellable *cancellable, GAsyncReadyCallback callback,
                          gpointer user_data)
{
    /* Not of the client: the thread may hold the task a little longer than whoever asked holds it.
     */
    GTask *task = g_task_new(NULL, cancellable, callback, user_data);
    Search *self = g_new0(Search, 1);
    self->samples = samples;
    self->timeout_ms = timeout_ms;
    self->numa = g_new0(DrvGuestNuma, 1);
    self->numa->cpus = g_array_new(FALSE, FALSE, sizeof(DrvGuestCpu));
    g_task_set_task_data(task, self, search_free);
    self->numa->pid = qmp_client_get_peer_pid(client);
    if (samples > 0)
        drv_guest_blocks_find_async(client, timeout_ms, cancellable, blocks_known, task);
    else
        ask_cpus(task, client);
}

DrvGuestNuma *
drv_guest_numa_find_finish(GAsyncResult *result, GError **error)
{
    return g_task_propagate_pointer(G_TASK(result), error);
}

/* --- what follows from it --- */

DrvCpus
drv_guest_numa_cpus(const DrvGuestNuma *numa)
{
    DrvCpus all = {{0}};
    for (guint i = 0; i < numa->cpus->len; i++)
        all = drv_cpus_or(&all, &g_array_index(numa->cpus, DrvGuestCpu, i).cpus);
    return all;
}

/* Whether it holds all CPUs of a node, so that the scheduler has a choice. */
static gboolean
is_wide(const DrvCpus *cpus, const DrvTopology *topology)
{
    DrvCpus usable = drv_topology_usable(topology);
    for (guint i = 0; i < topology->n; i++) {
        DrvCpus node = drv_cpus_and(&topology->nodes[i].cpus, &usable);
        if (!drv_cpus_is_empty(&node) && drv_cpus_within(&node, cpus))
            return TRUE;
    }
    return FALSE;
}

DrvCpus
drv_guest_numa_pinned(const DrvGuestNuma *numa, const DrvTopology *topology)
{
    DrvCpus all = {{0}};
    for (guint i = 0; i < numa->cpus->len; i++) {
        const DrvGuestCpu *cpu = &g_array_index(numa->cpus, DrvGuestCpu, i);
        if (!is_wide(&cpu->cpus, topology))
            all = drv_cpus_or(&all, &cpu->cpus);
    }
    return all;
}

gint
drv_guest_numa_node(const DrvGuestNuma *numa)
{
    double bytes[DRV_NODES_MAX] = {0};
    gint best = -1;
    for (guint i = 0; i < numa->n; i++) {
        const DrvGuestNumaBlock *block = &numa->blocks[i];
        guint64 looked = block->sample.present + block->sample.absent;
        for (guint node = 0; looked > 0 && node < DRV_NODES_MAX; node++)
            bytes[node] +=
                (double)block->block.size * (double)block->sample.pages[node] / (double)looked;
    }
    for (guint node = 0; node < DRV_NODES_MAX; node++)
        if (bytes[node] > (best >= 0 ? bytes[best] : 0))
            best = (gint)node;
    return best;
}

/* --- JSON --- */

JsonObject *
drv_residency_to_json(const DrvResidency *sample)
{
    JsonObject *o = json_object_new();
    for (guint node = 0; sample->present > 0 && node < DRV_NODES_MAX; node++) {
        g_autofree char *name = g_strdup_printf("%u", node);
        if (sample->pages[node] > 0)
            json_object_set_double_member(o, name,
                                          (double)sample->pages[node] / (double)sample->present);
    }
    return o;
}

static void
set_list(JsonObject *o, const char *name, char *list)
{
    json_object_set_string_member(o, name, list);
    g_free(list);
}

static JsonObject *
block_to_json(const DrvGuestNumaBlock *block)
{
    JsonObject *o = json_object_new();
    guint64 looked = block->sample.present + block->sample.absent;
    json_object_set_string_member(o, "block", block->block.id);
    json_object_set_int_member(o, "size", (gint64)block->block.size);
    json_object_set_string_member(o, "policy", drv_policy_name(block->map.policy.mode));
    set_list(o, "policy_nodes", drv_nodes_format(block->map.policy.nodes));
    json_object_set_int_member(o, "page_size", (gint64)block->map.page_size);
    if (looked > 0)
        json_object_set_double_member(o, "present", (double)block->sample.present / (double)looked);
    else
        json_object_set_null_member(o, "present");
    json_object_set_object_member(o, "nodes", drv_residency_to_json(&block->sample));
    return o;
}

JsonObject *
drv_guest_numa_to_json(const DrvGuestNuma *numa)
{
    JsonObject *o = json_object_new();
    JsonArray *blocks = json_array_new(), *cpus = json_array_new();
    for (guint i = 0; i < numa->n; i++)
        if (numa->blocks[i].block.size >= MIN_BLOCK)
            json_array_add_object_element(blocks, block_to_json(&numa->blocks[i]));
    for (guint i = 0; i < numa->cpus->len; i++) {
        const DrvGuestCpu *cpu = &g_array_index(numa->cpus, DrvGuestCpu, i);
        JsonObject *c = json_object_new();
        json_object_set_int_member(c, "cpu", cpu->index);
        json_object_set_int_member(c, "thread", cpu->thread);
        set_list(c, "cpus", drv_cpus_format(&cpu->cpus));
        json_array_add_object_element(cpus, c);
    }
    json_object_set_int_member(o, "pid", numa->pid);
    json_object_set_array_member(o, "blocks", blocks);
    json_object_set_array_member(o, "cpus", cpus);
    if (numa->why != NULL)
        json_object_set_string_member(o, "unknown", numa->why);
    return o;
}
