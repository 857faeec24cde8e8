/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/ask.h"
#include "engine/job/record-json.h"
#include "engine/job/services.h"

#include <json-glib/json-glib.h>

/*
 * What every job is: a record, a state that moves through the journal, an error, and what the API
 * shows of it. Kinds of jobs (a migration's source and destination halves, a tunnel) embed it
 * first. Control thread only.
 */
typedef struct _DrvJob DrvJob;

typedef struct {
    const char *kind; /* "migrate", "tunnel" */
    /* A new job begins; or one found in the journal goes on, in the state that drv_state_rule()
     * says. */
    void (*start)(DrvJob *job);
    void (*resume)(DrvJob *job);
    /* DRV_ERROR_STATE when it is too late. */
    gboolean (*cancel)(DrvJob *job, GError **error);
    gboolean (*resolve)(DrvJob *job, gboolean run_on_source, GError **error);
    /* The API's "progress" object, or NULL. */
    JsonObject *(*progress)(DrvJob *job);
    void (*free)(DrvJob *job);
    /* The next daemon goes on with it: this one's orderly end does not call it off. */
    gboolean goes_on;
} DrvJobOps;

struct _DrvJob {
    const DrvJobOps *ops; /* fixed */
    guint refs;
    DrvServices *services;
    gboolean journaled; /* tunnels are not: nothing is lost with them */
    gint64 started_us;  /* monotonic; of this run of the daemon */
    /* Of the list that the job is on: it is over, and takes itself off. NULL: on none. */
    void (*left)(DrvJob *job, gpointer data);
    gpointer left_data;

    DrvJobRecord *rec;
    /* The journal could not be written, and 'rec' is ahead of it: there the job is 'recorded'. */
    gboolean unrecorded;
    DrvJobState recorded;
    JsonObject *detail; /* what a restart needs; written with every move */
    GError *error;      /* the first that went wrong */
};

/* For the constructors of kinds. Takes the record. */
void drv_job_init(DrvJob *job, const DrvJobOps *ops, DrvServices *services, DrvJobRecord *rec,
                  gboolean journaled);
DrvJob *drv_job_ref(DrvJob *job);
void drv_job_unref(DrvJob *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvJob, drv_job_unref)

DrvJobState drv_job_state(const DrvJob *job);
const char *drv_job_id(const DrvJob *job);

/* Moves the state: the journal has it before this returns TRUE. On FALSE nothing has moved;
 * DRV_ERROR_IN_DOUBT has also told the daemon to end. */
gboolean drv_job_move(DrvJob *job, DrvJobState to, GError **error);
/* As drv_job_move(), for a state that is left again at once: nobody hears of it. */
gboolean drv_job_pass(DrvJob *job, DrvJobState to, GError **error);
/*
 * A move that is made whether or not the journal can be written. Only for those of which a restart
 * would find out by itself: all of the way back (before COMMITTED a restart rolls back, too) and,
 * after COMMITTED, what the destination has confirmed. Room for them is held back on the disk; if
 * that is not enough, the journal is brought up to date with the next move that it takes.
 */
void drv_job_move_anyway(DrvJob *job, DrvJobState to);
/* The last move, made anyway: the job leaves the daemon's list, once the journal has it. */
void drv_job_end(DrvJob *job, DrvJobState state);
/* The job is over and all it held is given back: it leaves the daemon's list, and loses the list's
 * reference a little later. drv_job_end() does it for those that are journaled. */
void drv_job_leave(DrvJob *job);
/* Writes detail and result without a move. */
gboolean drv_job_save(DrvJob *job, GError **error);
/* Keeps the first error; later ones are logged. */
void drv_job_set_error(DrvJob *job, const GError *error);
/* It has come right after all. */
void drv_job_clear_error(DrvJob *job);
/* Whether a test has asked for something to happen at this point, and where a test may stop the
 * daemon, besides on entering a state. FALSE, and nothing, in builds for users. */
gboolean drv_job_test_at(const DrvJob *job, const char *point);
void drv_job_test_point(const DrvJob *job, const char *point);
/* Something a watcher would like to see has changed. */
void drv_job_changed(DrvJob *job);

/* What the API shows: docs/http-api.md. */
JsonObject *drv_job_to_json(DrvJob *job);
/* User and system time of this process so far, in seconds: what a job's report counts. */
double drv_process_cpu_seconds(void);

/* For a step of a job, 'steps' being the job's: the ticket holds a reference to it. */
DrvTicket *drv_job_ticket(DrvSteps *steps);
/* The job, or NULL when the step is no longer the one at hand. Either way 'keep' receives the
 * ticket's reference, for the caller's scope. */
gpointer drv_job_redeem(gpointer ticket, DrvJob **keep);
/* The job's step at hand is a command of QEMU's: ask.h. Takes 'args'. */
void drv_job_ask(DrvSteps *steps, QmpClient *qmp, const char *command, JsonNode *args,
                 guint timeout_ms, DrvAnswered answered);
