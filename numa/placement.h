/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "numa/pages.h"
#include "numa/topology.h"

/*
 * What goes where on a host with several nodes: data threads, and with them their rings, lanes and
 * buffers; a job's channels; a guest's memory at the destination. Pure: a topology and wishes in, a
 * plan out.
 */

/* Of a data thread. */
typedef struct {
    gint node;    /* its buffers' node too; -1: on any, as on a host with one */
    DrvCpus cpus; /* to be pinned to; none: not pinned */
} DrvThreadPlace;

/*
 * Places 'n' threads: the first near the network card's node 'nic' (-1: not known), the next on the
 * other nodes, by turns. They stay off the CPUs that guests are pinned to ('pinned') and off those
 * that are isolated, as long as there is any other. On a host with one node nobody is pinned,
 * except to keep off such CPUs.
 */
void drv_place_threads(const DrvTopology *topology, guint n, gint nic, const DrvCpus *pinned,
                       DrvThreadPlace *places);

/* Whether there is anything to place. */
gboolean drv_place_matters(const DrvTopology *topology);

/* The thread to serve the 'k'th of something that is near to 'node' (-1: to none): of the threads
 * whose node is nearest to it, one after the other. */
guint drv_place_near(const DrvTopology *topology, const DrvThreadPlace *places, guint n, gint node,
                     guint k);

/* --- a guest's memory --- */

/* A RAM block. */
typedef struct {
    const char *id;
    guint64 size;
    guint64 present; /* bytes of it that have memory already */
    DrvPolicy policy;
    guint64 huge; /* size of the reserved pages it is made of; 0: ordinary ones */
} DrvGuestMemory;

/* Why a block is to be where it is. */
typedef enum {
    DRV_WHY_POLICY, /* QEMU was told so */
    DRV_WHY_CPUS,   /* its CPUs are there */
    DRV_WHY_ROOM,   /* there is room */
    DRV_WHY_SPREAD  /* no node alone has room for it */
} DrvPlaceWhy;

typedef struct {
    DrvPolicy policy; /* for the threads that place its pages */
    DrvPlaceWhy why;
} DrvMemoryPlace;

/*
 * Plans where the pages of blocks go that are placed for a guest: where QEMU's own policy says,
 * within the nodes 'mems' that QEMU may use; else all of them on one node, or, when no node has
 * room for all, each on one: the node of the guest's CPUs ('cpus', those its threads may run on;
 * none: not known) if they are of one node, the card's node ('nic', -1: not known), or the one with
 * most room. A block that fits none is spread.
 *
 * Errors: DRV_ERROR_LIMIT when a block is bound to nodes that have no room for it, ordinary memory
 * or huge pages, and so cannot be there; it names them and what would do.
 */
gboolean drv_place_guest(const DrvTopology *topology, const DrvGuestMemory *blocks, guint n,
                         const DrvCpus *cpus, guint64 mems, gint nic, DrvMemoryPlace *places,
                         GError **error);

/* What the user could start QEMU with to have it for certain: one sentence, owned by the caller;
 * NULL when there is nothing to propose, as QEMU was told or there is one node only. */
char *drv_place_advice(const DrvTopology *topology, const DrvGuestMemory *blocks,
                       const DrvMemoryPlace *places, guint n);
