/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Sets of CPUs and of NUMA nodes, and the lists that the kernel writes them as ("0-3,8"). Values:
 * copied by assignment, empty when zeroed, nothing to free.
 */
#define DRV_CPUS_MAX 4096u
#define DRV_NODES_MAX 64u

typedef struct {
    guint64 bits[DRV_CPUS_MAX / 64];
} DrvCpus;

/* A node mask is a guint64: node n is bit n. Nodes from 64 on are not used. */
#define DRV_NODE_BIT(node) (G_GUINT64_CONSTANT(1) << (node))

/* A list up to its end or a newline; "" is the empty set. CPUs beyond the limit are left out. FALSE
 * when it is no list: the set is then empty. */
gboolean drv_cpus_parse(const char *text, DrvCpus *cpus);
gboolean drv_nodes_parse(const char *text, guint64 *nodes);
/* The list; owned by the caller. */
char *drv_cpus_format(const DrvCpus *cpus);
char *drv_nodes_format(guint64 nodes);

gboolean drv_cpus_has(const DrvCpus *cpus, guint cpu);
void drv_cpus_add(DrvCpus *cpus, guint cpu);
gboolean drv_cpus_is_empty(const DrvCpus *cpus);
guint drv_cpus_count(const DrvCpus *cpus);

/* What is in both, in the first and not in the second, in either. */
DrvCpus drv_cpus_and(const DrvCpus *a, const DrvCpus *b);
DrvCpus drv_cpus_without(const DrvCpus *a, const DrvCpus *b);
DrvCpus drv_cpus_or(const DrvCpus *a, const DrvCpus *b);
/* Whether all of 'a' are in 'b'. */
gboolean drv_cpus_within(const DrvCpus *a, const DrvCpus *b);
