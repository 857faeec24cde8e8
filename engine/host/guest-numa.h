/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"
#include "numa/placement.h"
#include "qmp/client.h"

/*
 * Where a QEMU and its guest are on the host's NUMA nodes: the pages of each RAM block and the
 * policy for those to come, the CPUs that its virtual CPUs may run on, the nodes it may use.
 */
typedef struct {
    DrvGuestBlock block;
    DrvNumaMap map;      /* of where it begins */
    DrvResidency sample; /* some of its pages; none: hva is 0, or it cannot be known */
} DrvGuestNumaBlock;

typedef struct {
    guint index; /* QEMU's number of it */
    pid_t thread;
    DrvCpus cpus;
} DrvGuestCpu;

typedef struct {
    pid_t pid; /* 0: not known, and all else is about nothing */
    guint n;
    DrvGuestNumaBlock *blocks; /* in QEMU's order, small ones too */
    GArray *cpus;              /* of DrvGuestCpu */
    guint64 mems;
    char *why; /* what could not be found out, as a sentence; NULL: nothing */
} DrvGuestNuma;

void drv_guest_numa_free(DrvGuestNuma *numa);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvGuestNuma, drv_guest_numa_free)

/* Asks QEMU, then looks at its process from a thread: of each block at 'samples' pages (0: only its
 * CPUs matter, and there are no blocks then). What cannot be found out is no error, but in 'why'.
 * Errors: those of libqmp, DRV_ERROR_QEMU. */
void drv_guest_numa_find_async(QmpClient *client, guint samples, guint timeout_ms,
                               GCancellable *cancellable, GAsyncReadyCallback callback,
                               gpointer user_data);
DrvGuestNuma *drv_guest_numa_find_finish(GAsyncResult *result, GError **error);

/* Looks at the process only, and blocks while it does; for what is known already. */
void drv_guest_numa_look(DrvGuestNuma *numa, guint samples);

/* Looks at the pages again, and blocks while it does. */
void drv_guest_numa_sample(DrvGuestNuma *numa, guint samples);

/* All CPUs its virtual CPUs may run on; and those that single ones are pinned to, which is less
 * than all of a node: no data thread is to be there. */
DrvCpus drv_guest_numa_cpus(const DrvGuestNuma *numa);
DrvCpus drv_guest_numa_pinned(const DrvGuestNuma *numa, const DrvTopology *topology);
/* The node with most of its memory; -1: not known. */
gint drv_guest_numa_node(const DrvGuestNuma *numa);

/* As in 'drover numa': docs/numa.md. Owned by the caller. */
JsonObject *drv_guest_numa_to_json(const DrvGuestNuma *numa);
/* How the samples lie: {"NODE": share}, shares of 1. */
JsonObject *drv_residency_to_json(const DrvResidency *sample);
