/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/host/config.h"
#include "engine/job/aborts.h"
#include "engine/job/journal.h"
#include "engine/job/shared-pages.h"
#include "engine/job/tally.h"

/*
 * What the jobs of a daemon share: the configuration, the journal, the transfer core, the sessions
 * with other daemons, what these are still to be told. It knows of no job; the daemon's list of
 * jobs (jobs.h) stands above it. Control thread only.
 */
typedef struct _DrvServices DrvServices;

typedef struct {
    const DrvConfig *config; /* borrowed for the life of the services */
    /* The job with this id has changed. May be NULL. */
    void (*changed)(const char *id, gpointer data);
    /* The journal can no longer be trusted: end the process, the next one goes by what the disk
     * has. */
    void (*fatal)(const GError *error, gpointer data);
    gpointer data;
} DrvServicesParams;

/* Opens the journal. */
DrvServices *drv_services_new(const DrvServicesParams *params, GError **error);
/* Once, before any job runs; borrowed. */
void drv_services_set_transfer(DrvServices *services, DrvTransfer *transfer);
/* Closes what sessions are left, and the journal. */
void drv_services_free(DrvServices *services);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvServices, drv_services_free)

const DrvConfig *drv_services_config(const DrvServices *services);
DrvJournal *drv_services_journal(const DrvServices *services);
DrvTransfer *drv_services_transfer(const DrvServices *services);
DrvPeers *drv_services_peers(const DrvServices *services);
DrvAborts *drv_services_aborts(const DrvServices *services);
DrvTally *drv_services_tally(const DrvServices *services);
DrvSharedPages *drv_services_shared_pages(const DrvServices *services);
/* Where a job's unix socket is to be; g_free it. */
char *drv_services_socket_path(const DrvServices *services, const char *id, const char *what);

/* Data threads keep off the CPUs that 'owner' names, until it names others; NULL: none any more. */
void drv_services_keep_off(DrvServices *services, gconstpointer owner, const DrvCpus *pinned);

/* Passed on to whoever made the services. */
void drv_services_changed(DrvServices *services, const char *id);
void drv_services_fatal(DrvServices *services, const GError *error);
