/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "numa/cpus.h"

#include <sys/types.h>

/*
 * Where memory is, and where it is to be: the nodes of a process's pages, the policy of its
 * mappings, and our own memory's and threads' place.
 */

/* Pages that were looked at. */
typedef struct {
    guint64 pages[DRV_NODES_MAX]; /* by node */
    guint64 present;              /* the sum of these */
    guint64 absent;               /* that have no memory (yet) */
} DrvResidency;

/*
 * Adds what about 'samples' pages in the 'len' bytes from 'start' of process 'pid' say (0: this
 * process), evenly spread: all of them when there are no more. Errors: DRV_ERROR_USAGE when that
 * process may not be looked into, DRV_ERROR_QEMU when there is none, DRV_ERROR_IO (a kernel without
 * NUMA).
 */
gboolean drv_residency_sample(pid_t pid, guint64 start, guint64 len, guint samples,
                              DrvResidency *residency, GError **error);
/* The nodes of single pages of it: a node, or negative where there is none. At most 64. */
gboolean drv_residency_nodes(pid_t pid, const guint64 *addresses, guint n, gint *nodes,
                             GError **error);
/* The node with most of what was found, -1: nothing was. */
gint drv_residency_main(const DrvResidency *residency);

/* --- policies --- */

typedef enum {
    DRV_POLICY_DEFAULT, /* where the thread runs that touches it first */
    DRV_POLICY_PREFERRED,
    DRV_POLICY_BIND,
    DRV_POLICY_INTERLEAVE
} DrvPolicyMode;

typedef struct {
    DrvPolicyMode mode;
    guint64 nodes; /* 0 with DRV_POLICY_DEFAULT */
} DrvPolicy;

/* "bind", "preferred" ... Static. */
const char *drv_policy_name(DrvPolicyMode mode);

/* One mapping of /proc/PID/numa_maps. */
typedef struct {
    guint64 start;
    DrvPolicy policy;
    gboolean huge;     /* of reserved huge pages ... */
    guint64 page_size; /* ... of this size; 4096 otherwise */
} DrvNumaMap;

/* FALSE when the line is none of numa_maps. */
gboolean drv_numa_map_parse(const char *line, DrvNumaMap *map);

/* --- our own --- */

/* Has what is touched first of [address, len) come from 'node', if that has any. Returns 0 or an
 * errno. */
int drv_memory_prefer(void *address, gsize len, gint node);

/* The policy for what the calling thread touches first, in whichever process: that of a mapping
 * there comes before it. Memory that must come from certain nodes is preferred there and no more:
 * ours is not the process to be killed when they are full. Returns 0 or an errno. */
int drv_thread_prefer(const DrvPolicy *policy);

/* The CPUs that a thread may run on. Returns 0 or an errno. */
int drv_thread_pin(pid_t tid, const DrvCpus *cpus);
gboolean drv_thread_cpus(pid_t tid, DrvCpus *cpus);
/* The node that the calling thread runs on at the moment. */
gint drv_thread_node(void);
