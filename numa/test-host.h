/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "numa/topology.h"

/* Hosts that are not there: trees of sysfs and procfs files for drv_topology_read(). */
typedef struct {
    const char *cpus; /* a list; NULL ends the nodes */
    guint memory;     /* MiB; 0: none */
    guint available;  /* MiB, of it: half free, half cached */
    guint huge;       /* 2 MiB pages, and as many are free */
} TestNode;

typedef struct {
    TestNode nodes[6];
    const char *allowed;  /* CPUs; NULL: all there are */
    const char *mems;     /* nodes; NULL: all */
    const char *isolated; /* CPUs; NULL: none */
    gint nic;             /* the node of eth0; -1: it does not say */
} TestHost;

/* The folder; owned by the caller, who removes it with test_host_remove(). */
char *test_host_make(const TestHost *host);
void test_host_put(const char *root, const char *path, const char *format, ...) G_GNUC_PRINTF(3, 4);
void test_host_remove(const char *root);
/* Made, read, removed. */
DrvTopology *test_host_topology(const TestHost *host);
