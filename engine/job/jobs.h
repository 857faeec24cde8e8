/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/host/config.h"
#include "engine/job/job.h"

/*
 * A daemon's jobs and what they share: the journal, the transfer core, the peers. Control thread
 * only.
 */
typedef struct {
    const DrvConfig *config; /* borrowed for the life of the jobs */
    /* A job has changed. */
    void (*changed)(const char *id, gpointer data);
    /* The journal can no longer be trusted: end the process, the next one goes by what the disk
     * has. */
    void (*fatal)(const GError *error, gpointer data);
    gpointer data;
} DrvJobsParams;

/* Opens the journal and takes up the jobs that it holds; 'transfer' is given afterwards, as its
 * incoming sessions are drv_jobs_incoming()'s. */
DrvJobs *drv_jobs_new(const DrvJobsParams *params, GError **error);
void drv_jobs_start(DrvJobs *jobs, DrvTransfer *transfer);
/* For the daemon's end. Running jobs are left as a crash would leave them: the next daemon takes
 * them up. */
void drv_jobs_free(DrvJobs *jobs);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvJobs, drv_jobs_free)

/* A peer has opened a session. */
void drv_jobs_incoming(DrvJobs *jobs, DrvSession *session);

/* --- for the API --- */

/* Starts a migration; the id is the caller's. DRV_ERROR_USAGE for a bad spec. */
char *drv_jobs_migrate(DrvJobs *jobs, JsonObject *spec, GError **error);
char *drv_jobs_tunnel(DrvJobs *jobs, JsonObject *spec, GError **error);
gboolean drv_jobs_cancel(DrvJobs *jobs, const char *id, GError **error);
gboolean drv_jobs_resolve(DrvJobs *jobs, const char *id, gboolean run_on_source, GError **error);
JsonArray *drv_jobs_list(DrvJobs *jobs, guint limit, GError **error);
/* Owned by the caller. DRV_ERROR_NOT_FOUND. */
JsonObject *drv_jobs_show(DrvJobs *jobs, const char *id, GError **error);
guint drv_jobs_active(DrvJobs *jobs);
/* For the daemon's orderly end: cancels what may be cancelled here. Returns whether there is
 * something to wait for. */
gboolean drv_jobs_cancel_all(DrvJobs *jobs);
/* Letters, digits and dashes, 1 to 32 of them. */
gboolean drv_jobs_valid_id(const char *id);

/* --- for jobs --- */

DrvJournal *drv_jobs_journal(DrvJobs *jobs);
DrvTransfer *drv_jobs_transfer(DrvJobs *jobs);
const DrvConfig *drv_jobs_config(DrvJobs *jobs);
/* Where a job's unix socket is to be; g_free it. */
char *drv_jobs_socket_path(DrvJobs *jobs, const char *id, const char *what);
void drv_jobs_changed(DrvJobs *jobs, DrvJob *job);
void drv_jobs_fatal(DrvJobs *jobs, const GError *error);
/* A session with a daemon, shared by all who ask for the same address. Referenced; give it back
 * with drv_jobs_put_peer(), which closes the session when nobody uses it any more. */
DrvPeer *drv_jobs_get_peer(DrvJobs *jobs, const char *host, guint16 port, guint lanes);
void drv_jobs_put_peer(DrvJobs *jobs, DrvPeer *peer);
/* Tells the destination at 'to' to drop its half of a job that was rolled back while it could not
 * be reached: tries for some minutes, then leaves it to the destination's own timeouts. */
void drv_jobs_abort_later(DrvJobs *jobs, const char *to, const char *id);
/* A job that runs here: by id and role, borrowed, or NULL. */
DrvJob *drv_jobs_find(DrvJobs *jobs, const char *id, DrvJobRole role);
/* The journal's word about a job that does not run here any more: FALSE if it has none. */
gboolean drv_jobs_recorded_state(DrvJobs *jobs, const char *id, DrvJobRole role,
                                 DrvJobState *state);
/* The job is over and all it held is given back: forgets it (and its reference). */
void drv_jobs_finished(DrvJobs *jobs, DrvJob *job);
void drv_jobs_add(DrvJobs *jobs, DrvJob *job);
