/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/trail.h"

/* A daemon's jobs: begun, found, listed, ended. Control thread only. */
typedef struct _DrvJobs DrvJobs;

/* Opens the journal and the audit log; what it holds is taken up by drv_jobs_start(), as the
 * transfer core hands its incoming sessions to drv_jobs_incoming() and is made in between. */
DrvJobs *drv_jobs_new(const DrvServicesParams *params, GError **error);
void drv_jobs_start(DrvJobs *jobs, DrvTransfer *transfer);
/* For the daemon's end. Running jobs are left as a crash would leave them: the next daemon takes
 * them up. */
void drv_jobs_free(DrvJobs *jobs);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvJobs, drv_jobs_free)

/* Where what is asked for is put down; borrowed. */
DrvTrail *drv_jobs_trail(DrvJobs *jobs);

/* A peer has opened a session. */
void drv_jobs_incoming(DrvJobs *jobs, DrvSession *session);

/* --- for the API --- */

/* Starts a migration; the id is the caller's. DRV_ERROR_USAGE for a bad spec. */
char *drv_jobs_migrate(DrvJobs *jobs, JsonObject *spec, GError **error);
char *drv_jobs_tunnel(DrvJobs *jobs, JsonObject *spec, GError **error);
char *drv_jobs_copy(DrvJobs *jobs, JsonObject *spec, GError **error);
char *drv_jobs_predict(DrvJobs *jobs, JsonObject *spec, GError **error);
/* The host's NUMA nodes; owned by the caller. And a job that looks where a VM is on them. */
JsonObject *drv_jobs_numa(DrvJobs *jobs);
char *drv_jobs_numa_look(DrvJobs *jobs, JsonObject *spec, GError **error);
/* A job that tells of a VM's disks, and makes images for them elsewhere. */
char *drv_jobs_disks(DrvJobs *jobs, JsonObject *spec, GError **error);
gboolean drv_jobs_cancel(DrvJobs *jobs, const char *id, GError **error);
gboolean drv_jobs_resolve(DrvJobs *jobs, const char *id, gboolean run_on_source, GError **error);
JsonArray *drv_jobs_list(DrvJobs *jobs, guint limit, GError **error);
/* Owned by the caller. DRV_ERROR_NOT_FOUND. */
JsonObject *drv_jobs_show(DrvJobs *jobs, const char *id, GError **error);
guint drv_jobs_active(DrvJobs *jobs);
/* Appends what there is to count about them, in Prometheus's text format. */
void drv_jobs_metrics(DrvJobs *jobs, GString *out);
/* For the daemon's orderly end: cancels what may be cancelled here. Returns whether there is
 * something to wait for. */
gboolean drv_jobs_cancel_all(DrvJobs *jobs);
