/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest-private.h"

#include "common/error.h"

/*
 * Where the guest's memory goes on a host with several NUMA nodes: planned before QEMU listens
 * (numa/placement.h), told to the threads that place pages, and looked at when the guest runs. On a
 * host with one node only the CPUs are of interest that guests are pinned to.
 */

/* Pages of a block that are looked at: their shares are right to some 2 %. */
#define SAMPLES 4096

/* And when the guest runs, which the source waits to be told: a millisecond or two. */
#define LAST_SAMPLES 1024

/* Blocks that are smaller are firmware and devices', and follow the guest's RAM. */
#define MIN_BLOCK ((guint64)1 << 20)

/* Fixed once it is made. */
struct _DestNuma {
    DrvGuestNuma *guest;
    guint n;      /* blocks that are planned, and ... */
    guint *index; /* ... which of the guest's they are */
    DrvGuestMemory *memory;
    DrvMemoryPlace *places;
    char *advice;
    gint node; /* of all that is placed; -1: of none alone */
};

void
dest_numa_free(DestNuma *numa)
{
    if (numa == NULL)
        return;
    drv_guest_numa_free(numa->guest);
    g_free(numa->index);
    g_free(numa->memory);
    g_free(numa->places);
    g_free(numa->advice);
    g_free(numa);
}

gint
dest_numa_node(const DestNuma *numa)
{
    return numa != NULL ? numa->node : -1;
}

/* --- the plan --- */

static guint64
present_bytes(const DrvGuestNumaBlock *block)
{
    guint64 looked = block->sample.present + block->sample.absent;
    if (looked == 0)
        return 0;
    return (guint64)((double)block->block.size * (double)block->sample.present / (double)looked);
}

static DestNuma *
gather(DrvGuestNuma *guest)
{
    DestNuma *numa = g_new0(DestNuma, 1);
    numa->guest = guest;
    numa->node = -1;
    numa->index = g_new0(guint, guest->n);
    numa->memory = g_new0(DrvGuestMemory, guest->n);
    numa->places = g_new0(DrvMemoryPlace, guest->n);
    for (guint i = 0; i < guest->n; i++) {
        const DrvGuestNumaBlock *block = &guest->blocks[i];
        if (block->block.hva == 0 || block->block.size < MIN_BLOCK)
            continue;
        numa->index[numa->n] = i;
        numa->memory[numa->n++] = (DrvGuestMemory){
            .id = block->block.id,
            .size = block->block.size,
            .present = present_bytes(block),
            .policy = block->map.policy,
            .huge = block->map.huge ? block->map.page_size : 0,
        };
    }
    return numa;
}

/* The node that all blocks go to, -1 when they go to several. */
static gint
only_node(const DestNuma *numa)
{
    guint64 nodes = 0;
    for (guint i = 0; i < numa->n; i++)
        nodes |= numa->places[i].policy.nodes;
    return __builtin_popcountll(nodes) == 1 ? __builtin_ctzll(nodes) : -1;
}

static gboolean
plan(LiveDest *self, DestNuma *numa, GError **error)
{
    /* As it is now: memory comes and goes. */
    DrvTransfer *transfer = drv_services_transfer(self->base.services);
    g_autoptr(DrvTopology) now = drv_topology_again(drv_transfer_topology(transfer));
    DrvCpus cpus = drv_guest_numa_cpus(numa->guest);
    if (!drv_place_guest(now, numa->memory, numa->n, &cpus, numa->guest->mems, -1, numa->places,
                         error))
        return FALSE;
    numa->node = only_node(numa);
    numa->advice = drv_place_advice(now, numa->memory, numa->places, numa->n);
    if (numa->advice != NULL)
        g_message("job %s: %s", self->base.rec->id, numa->advice);
    return TRUE;
}

/* The policy for each block of the guest; a small one's is that of the first that is planned. */
static void
tell_placer(LiveDest *self, const DestNuma *numa)
{
    g_autofree DrvPolicy *policies = g_new0(DrvPolicy, numa->guest->n);
    if (self->placer == NULL || numa->n == 0)
        return;
    for (guint i = 0; i < numa->guest->n; i++)
        policies[i] = numa->places[0].policy;
    for (guint i = 0; i < numa->n; i++)
        policies[numa->index[i]] = numa->places[i].policy;
    drv_ram_placer_place(self->placer, policies, numa->guest->n);
}

static void
guest_known(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *error = NULL;
    g_autoptr(DrvGuestNuma) guest = drv_guest_numa_find_finish(result, &error);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL) {
        g_clear_error(&error);
        return;
    }
    if (guest == NULL) { /* it is for the better only */
        g_info("job %s: %s", self->base.rec->id, error->message);
        g_clear_error(&error);
        drv_steps_next(&self->steps);
        return;
    }
    const DrvTopology *host = drv_transfer_topology(drv_services_transfer(self->base.services));
    DrvCpus pinned = drv_guest_numa_pinned(guest, host);
    drv_services_keep_off(self->base.services, self, &pinned);
    if (drv_place_matters(host)) {
        dest_numa_free(self->numa);
        self->numa = gather(g_steal_pointer(&guest));
        if (!plan(self, self->numa, &error)) {
            drv_steps_fail(&self->steps, error);
            return;
        }
        tell_placer(self, self->numa);
    }
    drv_steps_next(&self->steps);
}

void
dest_place(gpointer owner)
{
    LiveDest *self = owner;
    const DrvTopology *host = drv_transfer_topology(drv_services_transfer(self->base.services));
    if (host == NULL)
        drv_steps_next(&self->steps);
    else
        drv_guest_numa_find_async(self->qmp, drv_place_matters(host) ? SAMPLES : 0, QMP_TIMEOUT_MS,
                                  self->steps.cancellable, guest_known, dest_ticket(self));
}

/* --- the outcome --- */

static const char *
why_name(DrvPlaceWhy why)
{
    static const char *const names[] = {"policy", "cpus", "room", "spread"};
    return names[why];
}

static JsonObject *
block_report(const DestNuma *numa, guint i)
{
    JsonObject *o = json_object_new();
    const DrvMemoryPlace *place = &numa->places[i];
    g_autofree char *nodes = drv_nodes_format(place->policy.nodes);
    json_object_set_string_member(o, "block", numa->memory[i].id);
    json_object_set_string_member(o, "planned", nodes);
    json_object_set_string_member(o, "why", why_name(place->why));
    json_object_set_object_member(
        o, "nodes", drv_residency_to_json(&numa->guest->blocks[numa->index[i]].sample));
    return o;
}

/* Of the guest's pages that are there, those that are where they were planned to be. */
static double
share_as_planned(const DestNuma *numa)
{
    double there = 0, planned = 0;
    for (guint i = 0; i < numa->n; i++) {
        const DrvGuestNumaBlock *block = &numa->guest->blocks[numa->index[i]];
        double weight = (double)present_bytes(block) / (double)MAX(block->sample.present, 1);
        for (guint node = 0; node < DRV_NODES_MAX; node++) {
            double bytes = weight * (double)block->sample.pages[node];
            there += bytes;
            if ((numa->places[i].policy.nodes & DRV_NODE_BIT(node)) != 0)
                planned += bytes;
        }
    }
    return there > 0 ? planned / there : 1;
}

static JsonObject *
copied_report(LiveDest *self)
{
    JsonObject *o = json_object_new();
    DrvGuestPlaced placed;
    drv_ram_placer_placed(self->placer, &placed);
    drv_tally_placed(drv_services_tally(self->base.services), &placed);
    double scale = placed.sampled > 0 ? (double)placed.bytes / (double)placed.sampled : 0;
    gint64 local = (gint64)((double)placed.pages_local * scale);
    gint64 buffers = (gint64)((double)placed.buffers_local * scale);
    json_object_set_int_member(o, "bytes", (gint64)placed.bytes);
    json_object_set_int_member(o, "sampled_bytes", (gint64)placed.sampled);
    json_object_set_int_member(o, "to_local_bytes", local);
    json_object_set_int_member(o, "to_remote_bytes",
                               placed.sampled > 0 ? (gint64)placed.bytes - local : 0);
    json_object_set_int_member(o, "from_local_bytes", buffers);
    json_object_set_int_member(o, "from_remote_bytes",
                               placed.sampled > 0 ? (gint64)placed.bytes - buffers : 0);
    return o;
}

void
dest_numa_conclude(LiveDest *self)
{
    DestNuma *numa = self->numa;
    JsonArray *blocks = json_array_new();
    if (numa == NULL || self->numa_report != NULL) {
        json_array_unref(blocks);
        return;
    }
    drv_guest_numa_sample(numa->guest, LAST_SAMPLES);
    for (guint i = 0; i < numa->n; i++)
        json_array_add_object_element(blocks, block_report(numa, i));
    self->numa_report = json_object_new();
    json_object_set_array_member(self->numa_report, "blocks", blocks);
    json_object_set_double_member(self->numa_report, "as_planned", share_as_planned(numa));
    if (self->placer != NULL)
        json_object_set_object_member(self->numa_report, "copied", copied_report(self));
    if (numa->advice != NULL)
        json_object_set_string_member(self->numa_report, "advice", numa->advice);
}
