/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "numa/cpus.h"

/*
 * What a host is made of: its NUMA nodes, what each has, how far they are from each other, where
 * the network cards are, and what of it this process may use. From sysfs and procfs, at the moment
 * of asking; it does not change afterwards.
 */
typedef struct {
    guint64 size; /* bytes of one page */
    guint64 total, free;
} DrvHugePages;

typedef struct {
    guint id;       /* the kernel's number */
    DrvCpus cpus;   /* those that are online; none: a node of memory only */
    guint64 memory; /* bytes; 0: a node of CPUs only */
    guint64 free;
    guint64 available; /* free, or held by caches that the kernel drops when it needs memory */
    GArray *huge;      /* of DrvHugePages: reserved pages, by size */
    guint distance[DRV_NODES_MAX]; /* to the node with that number; 10 is itself, 0 not known */
} DrvNode;

typedef struct {
    char *name;
    gint node; /* -1: not known, or it is near to all */
} DrvNic;

typedef struct {
    char *root;
    guint n; /* at least one */
    DrvNode *nodes;
    GArray *nics;    /* of DrvNic, all but loopback */
    DrvCpus allowed; /* CPUs this process may use: its affinity, which its cgroup's cpuset bounds */
    DrvCpus isolated;       /* CPUs the kernel was told to keep free (isolcpus=) */
    guint64 memory_allowed; /* nodes this process may have memory of */
} DrvTopology;

/* 'root' stands for "/" in tests; NULL: "/" itself. What cannot be read is taken for absent, and a
 * kernel without NUMA for one node with everything. */
DrvTopology *drv_topology_read(const char *root);
/* The same host as it is now. */
DrvTopology *drv_topology_again(const DrvTopology *topology);
void drv_topology_free(DrvTopology *topology);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvTopology, drv_topology_free)

/* NULL when there is no node of that number. */
const DrvNode *drv_topology_node(const DrvTopology *topology, gint id);
/* The node of a CPU, -1: none. */
gint drv_topology_node_of(const DrvTopology *topology, guint cpu);
/* The node of a network interface, a virtual one's by what it stands upon; -1: not known. */
gint drv_topology_nic_node(const DrvTopology *topology, const char *name);
/* Nodes with memory this process may use; CPUs it may use, without those that are isolated unless
 * there are no others. */
guint64 drv_topology_memory_nodes(const DrvTopology *topology);
DrvCpus drv_topology_usable(const DrvTopology *topology);
/* How far node 'b' is from node 'a'; large when not known. */
guint drv_topology_distance(const DrvTopology *topology, gint a, gint b);

/* The lists "Cpus_allowed_list" and "Mems_allowed_list" in the text of a /proc/PID/status. FALSE
 * when it does not say. */
gboolean drv_status_cpus(const char *status, DrvCpus *cpus);
gboolean drv_status_mems(const char *status, guint64 *nodes);
