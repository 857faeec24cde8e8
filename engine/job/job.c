/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/job.h"

#include "common/error.h"
#include "common/json.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>

/* How often it is tried to record the end of a job that the journal could not take. */
#define RECORD_AGAIN_S 5

void
drv_job_init(DrvJob *job, const DrvJobOps *ops, DrvServices *services, DrvJobRecord *rec,
             gboolean journaled)
{
    job->ops = ops;
    job->refs = 1;
    job->services = services;
    job->journaled = journaled;
    job->started_us = g_get_monotonic_time();
    job->rec = rec;
    if (rec->detail != NULL)
        job->detail = drv_json_parse_object(rec->detail, strlen(rec->detail), NULL);
    if (job->detail == NULL)
        job->detail = json_object_new();
}

DrvJob *
drv_job_ref(DrvJob *job)
{
    job->refs++;
    return job;
}

void
drv_job_unref(DrvJob *job)
{
    if (job == NULL || --job->refs > 0)
        return;
    drv_job_record_free(job->rec);
    json_object_unref(job->detail);
    g_clear_error(&job->error);
    job->ops->free(job);
}

DrvJobState
drv_job_state(const DrvJob *job)
{
    return job->rec->state;
}

const char *
drv_job_id(const DrvJob *job)
{
    return job->rec->id;
}

static void
fill_record(DrvJob *job)
{
    g_free(job->rec->detail);
    job->rec->detail = drv_json_text(job->detail);
    if (job->error != NULL) {
        g_free(job->rec->error_class);
        g_free(job->rec->error_message);
        job->rec->error_class = g_strdup(drv_error_name(job->error));
        job->rec->error_message = g_strdup(job->error->message);
    }
}

/* For tests that kill or stall a daemon in an exact state: DROVER_TEST_STOP=ROLE:STATE stops the
 * process (SIGSTOP) when a job has entered that state and has not acted on it yet. Only in builds
 * made with -Dtest_hooks=true. */
gboolean
drv_job_test_at(const DrvJob *job, const char *point)
{
#ifdef DRV_TEST_HOOKS
    const char *where = g_getenv("DROVER_TEST_STOP");
    g_autofree char *here = g_strdup_printf("%s:%s", drv_role_name(job->rec->role), point);
    return g_strcmp0(where, here) == 0;
#else
    return FALSE;
#endif
}

void
drv_job_test_point(const DrvJob *job, const char *point)
{
    if (drv_job_test_at(job, point))
        raise(SIGSTOP);
}

static gboolean
write_move(DrvJob *job, DrvJobState to, GError **error)
{
    g_autoptr(GError) why = NULL;
    fill_record(job);
    if (drv_journal_move(drv_services_journal(job->services), job->rec, to, &why))
        return TRUE;
    if (g_error_matches(why, DRV_ERROR, DRV_ERROR_IN_DOUBT))
        drv_services_fatal(job->services, why);
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

/* The state by which a journal that stayed behind gets to 'to' by legal moves; 'to' if at once. */
static DrvJobState
way_to(const DrvJob *job, DrvJobState to)
{
    if (drv_state_may_move(job->rec->role, job->recorded, to))
        return to;
    return to == DRV_STATE_DONE ? DRV_STATE_RUNNING : DRV_STATE_ROLLING_BACK;
}

static gboolean
catch_up(DrvJob *job, DrvJobState to, GError **error)
{
    DrvJobState reached = job->rec->state;
    DrvJobState via = way_to(job, to);
    job->rec->state = job->recorded;
    gboolean good = write_move(job, via, error) && (via == to || write_move(job, to, error));
    job->recorded = job->rec->state;
    job->unrecorded = !good;
    if (!good)
        job->rec->state = reached;
    return good;
}

static gboolean
move(DrvJob *job, DrvJobState to, gboolean tell, GError **error)
{
    g_autoptr(GError) why = NULL;
    DrvJobState from = job->rec->state;
    if (!job->journaled) {
        job->rec->state = to;
        drv_job_changed(job);
        return TRUE;
    }
    if (!(job->unrecorded ? catch_up(job, to, &why) : write_move(job, to, &why))) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    g_message("job %s (%s): %s -> %s%s%s", job->rec->id, drv_role_name(job->rec->role),
              drv_state_name(from), drv_state_name(to),
              drv_state_is_final(to) && job->error != NULL ? ": " : "",
              drv_state_is_final(to) && job->error != NULL ? job->error->message : "");
    if (tell)
        drv_job_changed(job);
    drv_job_test_point(job, drv_state_name(to));
    return TRUE;
}

gboolean
drv_job_move(DrvJob *job, DrvJobState to, GError **error)
{
    return move(job, to, TRUE, error);
}

gboolean
drv_job_pass(DrvJob *job, DrvJobState to, GError **error)
{
    return move(job, to, FALSE, error);
}

static gboolean
move_with_reserve(DrvJob *job, DrvJobState to)
{
    return drv_journal_use_reserve(drv_services_journal(job->services)) &&
           drv_job_move(job, to, NULL);
}

void
drv_job_move_anyway(DrvJob *job, DrvJobState to)
{
    g_autoptr(GError) error = NULL;
    if (drv_job_move(job, to, &error) || (job->journaled && move_with_reserve(job, to)))
        return;
    g_warning("job %s (%s): %s -> %s without the journal: %s", job->rec->id,
              drv_role_name(job->rec->role), drv_state_name(job->rec->state), drv_state_name(to),
              error->message);
    if (!job->unrecorded)
        job->recorded = job->rec->state;
    job->unrecorded = TRUE;
    job->rec->state = to;
    drv_job_changed(job);
}

void
drv_job_leave(DrvJob *job)
{
    if (job->left != NULL)
        job->left(job, job->left_data);
}

static gboolean
record_end(gpointer data)
{
    DrvJob *job = data;
    g_autoptr(GError) error = NULL;
    if (!catch_up(job, job->rec->state, &error))
        return G_SOURCE_CONTINUE;
    g_message("job %s (%s): the journal has caught up with its end", job->rec->id,
              drv_role_name(job->rec->role));
    drv_job_leave(job);
    return G_SOURCE_REMOVE;
}

void
drv_job_end(DrvJob *job, DrvJobState state)
{
    drv_job_move_anyway(job, state);
    if (job->unrecorded)
        g_timeout_add_seconds_full(G_PRIORITY_DEFAULT, RECORD_AGAIN_S, record_end, drv_job_ref(job),
                                   (GDestroyNotify)drv_job_unref);
    else
        drv_job_leave(job);
}

gboolean
drv_job_save(DrvJob *job, GError **error)
{
    if (!job->journaled)
        return TRUE;
    fill_record(job);
    return drv_journal_save(drv_services_journal(job->services), job->rec, error);
}

void
drv_job_set_error(DrvJob *job, const GError *error)
{
    if (job->error == NULL)
        job->error = g_error_copy(error);
    else
        g_info("job %s: also: %s", job->rec->id, error->message);
}

void
drv_job_clear_error(DrvJob *job)
{
    g_clear_error(&job->error);
    g_clear_pointer(&job->rec->error_class, g_free);
    g_clear_pointer(&job->rec->error_message, g_free);
}

void
drv_job_changed(DrvJob *job)
{
    drv_services_changed(job->services, job->rec->id);
}

JsonObject *
drv_job_to_json(DrvJob *job)
{
    fill_record(job);
    JsonObject *object = drv_job_record_to_json(job->rec, job->ops->kind);
    JsonObject *progress = job->ops->progress != NULL ? job->ops->progress(job) : NULL;
    if (progress != NULL)
        json_object_set_object_member(object, "progress", progress);
    return object;
}

double
drv_process_cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / G_USEC_PER_SEC;
}

static gpointer
ref_job(gpointer owner)
{
    return drv_job_ref(owner);
}

DrvTicket *
drv_job_ticket(DrvSteps *steps)
{
    return drv_steps_ticket(steps, ref_job);
}

gpointer
drv_job_redeem(gpointer ticket, DrvJob **keep)
{
    gpointer owner;
    gboolean good = drv_ticket_redeem(ticket, &owner);
    *keep = owner;
    return good ? owner : NULL;
}

static void
unref_owner(gpointer job)
{
    drv_job_unref(job);
}

void
drv_job_ask(DrvSteps *steps, QmpClient *qmp, const char *command, JsonNode *args, guint timeout_ms,
            DrvAnswered answered)
{
    drv_steps_ask(steps, drv_job_ticket(steps), unref_owner, qmp, command, args, timeout_ms,
                  answered);
}
