/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/jobs.h"

#include "common/error.h"
#include "common/exposition.h"
#include "common/json.h"
#include "engine/channel/probe.h"
#include "engine/host/address.h"
#include "engine/host/disks.h"
#include "engine/job/allow.h"
#include "engine/job/decide.h"
#include "engine/copy/dest.h"
#include "engine/copy/source.h"
#include "engine/daemon/disks-look.h"
#include "engine/daemon/disks-make.h"
#include "engine/live/dest.h"
#include "engine/live/source.h"
#include "engine/daemon/numa-look.h"
#include "engine/live/predict.h"
#include "engine/daemon/tunnel.h"

#include <string.h>

/* Finished jobs that the journal keeps for 'drover jobs'. */
#define KEEP_FINISHED 10000
/* Tunnels and predictions are in no journal: so many of those that are over can still be asked
 * after. */
#define KEEP_ENDED 32
/* Migrations of one host that were prepared here and have not begun. More than that at once find no
 * buffers anyway. */
#define MAX_PREPARING 32

struct _DrvJobs {
    DrvServices *services;
    DrvTrail *trail;
    GPtrArray *jobs;          /* of DrvJob that are not over; referenced */
    GPtrArray *accepted;      /* of DrvPeer: sessions that peers opened; referenced */
    GPtrArray *ended;         /* of DrvJob: tunnels that are over, the latest few; referenced */
    GPtrArray *tunnel_ends;   /* of DrvChannelSet: ours of tunnels that peers opened */
    DrvCopyGroups *groups;    /* of copies that are named together */
    DrvCopyEnds *copy_ends;   /* ours of copies that peers make */
    DrvDiskMakes *disk_makes; /* images that peers have made here */
    GPtrArray *probe_ends;    /* of DrvProbe: ours of links that peers measure */
};

static DrvJournal *
journal(DrvJobs *jobs)
{
    return drv_services_journal(jobs->services);
}

DrvTrail *
drv_jobs_trail(DrvJobs *jobs)
{
    return jobs->trail;
}

/* --- the list --- */

static gboolean
forget(gpointer data)
{
    drv_job_unref(data);
    return G_SOURCE_REMOVE;
}

static void
left(DrvJob *job, gpointer data)
{
    DrvJobs *jobs = data;
    guint index;
    if (!g_ptr_array_find(jobs->jobs, job, &index))
        return;
    DrvJob *over = g_ptr_array_steal_index_fast(jobs->jobs, index);
    drv_trail_job(jobs->trail, "ended", over);
    drv_tally_ended(drv_services_tally(jobs->services), over->ops->kind, over->rec);
    if (!over->journaled) { /* no journal tells how it ended: whoever follows it asks here */
        g_ptr_array_add(jobs->ended, drv_job_ref(over));
        if (jobs->ended->len > KEEP_ENDED)
            g_ptr_array_remove_index(jobs->ended, 0);
    }
    g_idle_add(forget, over); /* its own functions may still be on the stack */
}

static void
add(DrvJobs *jobs, DrvJob *job)
{
    job->left = left;
    job->left_data = jobs;
    g_ptr_array_add(jobs->jobs, drv_job_ref(job));
    drv_trail_job(jobs->trail, drv_job_state(job) == DRV_STATE_QUEUED ? "begun" : "taken-up", job);
    drv_job_changed(job);
}

static DrvJob *
find(DrvJobs *jobs, const char *id, DrvJobRole role)
{
    for (guint i = 0; i < jobs->jobs->len; i++) {
        DrvJob *job = jobs->jobs->pdata[i];
        if (job->rec->role == role && g_str_equal(job->rec->id, id))
            return job;
    }
    return NULL;
}

/* --- peers that call us --- */

/* What is prepared holds a QEMU, and a place in the list and in the journal. */
static gboolean
may_prepare(DrvJobs *jobs, DrvPeer *peer, GError **error)
{
    guint n = 0;
    for (guint i = 0; i < jobs->jobs->len; i++) {
        DrvJob *job = jobs->jobs->pdata[i];
        n += job->journaled && job->rec->role == DRV_ROLE_DEST &&
             g_strcmp0(job->rec->peer, drv_peer_name(peer)) == 0 && drv_live_dest_is_preparing(job);
    }
    if (n < MAX_PREPARING)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                "the destination prepares %u migrations of this host, as many as one host may have "
                "that have not begun: try again when they have",
                n);
    return FALSE;
}

static void
prepare(DrvJobs *jobs, DrvPeer *peer, guint64 call, JsonObject *args)
{
    g_autoptr(GError) error = NULL;
    DrvJob *job = may_prepare(jobs, peer, &error)
                      ? drv_live_dest_new(jobs->services, peer, call, args, &error)
                      : NULL;
    if (job == NULL) {
        drv_peer_refuse(peer, call, error);
        return;
    }
    if (!drv_journal_add(journal(jobs), job->rec, &error)) {
        drv_peer_refuse(peer, call, error);
        drv_job_unref(job);
        return;
    }
    add(jobs, job);
    job->ops->start(job);
    drv_job_unref(job);
}

static gboolean
recorded_state(DrvJobs *jobs, const char *id, DrvJobRole role, DrvJobState *state)
{
    g_autoptr(DrvJobRecord) rec = drv_journal_load(journal(jobs), id, role, NULL);
    if (rec != NULL)
        *state = rec->state;
    return rec != NULL;
}

/* How long the guest has been running here, for the source's report. */
static void
add_running_time(DrvJobs *jobs, const char *id, JsonObject *ok)
{
    g_autoptr(GArray) moves = drv_journal_transitions(journal(jobs), id, DRV_ROLE_DEST, NULL);
    for (guint i = 0; moves != NULL && i < moves->len; i++) {
        const DrvJobTransition *move = &g_array_index(moves, DrvJobTransition, i);
        if (move->to == DRV_STATE_RUNNING)
            json_object_set_int_member(ok, "running_ms",
                                       MAX(g_get_real_time() - move->at_us, 0) / 1000);
    }
}

/* COMMIT or abort of a job that is over here: what the journal has is the answer. */
static void
answer_from_journal(DrvJobs *jobs, DrvPeer *peer, guint64 call, const char *id, gboolean commit)
{
    g_autoptr(GError) error = NULL;
    DrvJobState state;
    if (!recorded_state(jobs, id, DRV_ROLE_DEST, &state)) {
        error = g_error_new(DRV_ERROR, DRV_ERROR_NOT_FOUND, "job %s is not known here", id);
    } else if (commit && drv_dest_on_commit(state) != DRV_ACT_ANSWER) {
        error = g_error_new(DRV_ERROR, DRV_ERROR_STATE, "job %s is '%s' at the destination", id,
                            drv_state_name(state));
    } else {
        JsonObject *ok = json_object_new();
        json_object_set_string_member(ok, "state", drv_state_name(state));
        add_running_time(jobs, id, ok);
        drv_peer_answer(peer, call, ok);
        return;
    }
    drv_peer_refuse(peer, call, error);
}

/* A job belongs to the host that prepared it, by the name in its certificate: no other may commit
 * or abort it. One that is not known at all is answered as such. */
static gboolean
is_its_job(DrvJobs *jobs, DrvPeer *peer, const char *id, const char *op)
{
    if (!g_str_has_prefix(op, "job.") || g_str_equal(op, "job.prepare"))
        return TRUE;
    g_autoptr(DrvJobRecord) rec = drv_journal_load(journal(jobs), id, DRV_ROLE_DEST, NULL);
    return rec == NULL || g_strcmp0(rec->peer, drv_peer_name(peer)) == 0;
}

/* Of what begins here, jobs are put down by themselves, and probes leave nothing. */
static void
put_down(DrvJobs *jobs, DrvPeer *peer, const char *op, JsonObject *args)
{
    if (g_str_equal(op, "copy.open") || g_str_equal(op, "copy.finish") ||
        g_str_equal(op, "copy.name"))
        drv_trail_call(jobs->trail, drv_peer_name(peer), op, args, NULL);
    if (!g_str_equal(op, "disks.create") || !drv_json_flag(args, "create", FALSE))
        return;
    JsonArray *disks = drv_json_array(args, "disks");
    for (guint i = 0; disks != NULL && i < MIN(json_array_get_length(disks), DRV_DISKS_MAX); i++)
        drv_trail_call(jobs->trail, drv_peer_name(peer), op, drv_json_element(disks, i), NULL);
}

static void
open_tunnel(DrvJobs *jobs, DrvPeer *peer, guint64 call, JsonObject *args)
{
    g_autoptr(GError) refused = NULL;
    drv_tunnel_accept(jobs->services, jobs->tunnel_ends, peer, call, args, &refused);
    drv_trail_call(jobs->trail, drv_peer_name(peer), "tunnel.open", args, refused);
}

/* A source that asks for something may not have heard yet that its job has ended here. */
static GError *
not_possible(DrvJobs *jobs, const char *op, const char *id)
{
    g_autoptr(DrvJobRecord) rec = g_str_has_prefix(op, "job.")
                                      ? drv_journal_load(journal(jobs), id, DRV_ROLE_DEST, NULL)
                                      : NULL;
    if (rec != NULL && rec->error_message != NULL)
        return g_error_new(DRV_ERROR, DRV_ERROR_STATE, "job %s has ended there: %s", id,
                           rec->error_message);
    return g_error_new(DRV_ERROR, DRV_ERROR_NOT_FOUND, "'%s' of job '%s' is not possible here", op,
                       id);
}

static void
on_call(DrvPeer *peer, guint64 id, const char *op, JsonObject *args, gpointer data)
{
    DrvJobs *jobs = data;
    const char *job_id = drv_json_string(args, "job", "");
    g_autoptr(DrvJob) job = find(jobs, job_id, DRV_ROLE_DEST);
    g_autoptr(GError) denied = NULL;
    if (job != NULL)
        drv_job_ref(job);
    if (!drv_allow_call(drv_services_config(jobs->services), drv_peer_name(peer), op, &denied)) {
        g_warning("%s was refused: %s", op, denied->message);
        drv_trail_call(jobs->trail, drv_peer_name(peer), op, args, denied);
        drv_peer_refuse(peer, id, denied);
    } else if (!is_its_job(jobs, peer, job_id, op)) {
        g_autoptr(GError) error = g_error_new(DRV_ERROR, DRV_ERROR_STATE,
                                              "job %s was not started by %s: only its source may "
                                              "speak for it",
                                              job_id, drv_peer_name(peer));
        drv_trail_call(jobs->trail, drv_peer_name(peer), op, args, error);
        drv_peer_refuse(peer, id, error);
    } else if (g_str_equal(op, "job.prepare")) {
        prepare(jobs, peer, id, args);
    } else if (g_str_equal(op, "job.channel") && job != NULL) {
        drv_live_dest_channel(job, peer, id, args);
    } else if (g_str_equal(op, "job.disk") && job != NULL) {
        drv_live_dest_disk(job, peer, id, args);
    } else if (g_str_equal(op, "job.hashed") && job != NULL) {
        drv_live_dest_hashed(job, peer, id);
    } else if (g_str_equal(op, "job.leaves") && job != NULL) {
        drv_live_dest_leaves(job, peer, id, args);
    } else if (g_str_equal(op, "job.digest") && job != NULL) {
        drv_live_dest_digest(job, peer, id, args);
    } else if (g_str_equal(op, "job.commit") && job != NULL) {
        drv_live_dest_commit(job, peer, id);
    } else if (g_str_equal(op, "job.abort") && job != NULL) {
        drv_live_dest_abort(job, peer, id, drv_json_flag(args, "cancelled", FALSE));
    } else if (g_str_equal(op, "job.commit") || g_str_equal(op, "job.abort")) {
        answer_from_journal(jobs, peer, id, job_id, g_str_equal(op, "job.commit"));
    } else if (drv_copy_ends_call(jobs->copy_ends, peer, id, op, args) ||
               drv_disk_makes_call(jobs->disk_makes, peer, id, op, args)) {
        put_down(jobs, peer, op, args);
    } else if (g_str_equal(op, "tunnel.open")) {
        open_tunnel(jobs, peer, id, args);
    } else if (g_str_equal(op, "probe.open")) {
        drv_predict_accept(jobs->services, jobs->probe_ends, peer, id, args);
    } else {
        g_autoptr(GError) error = not_possible(jobs, op, job_id);
        drv_peer_refuse(peer, id, error);
    }
}

static void
on_dead(DrvPeer *peer, const GError *why, gpointer data)
{
    DrvJobs *jobs = data;
    g_message("the session with %s has ended: %s", drv_peer_name(peer), why->message);
    drv_copy_ends_peer_dead(jobs->copy_ends, peer);
    drv_disk_makes_peer_dead(jobs->disk_makes, peer);
    drv_peer_unlisten(peer, jobs);
    g_ptr_array_remove_fast(jobs->accepted, peer);
}

static const DrvPeerOps accepted_ops = {.call = on_call, .dead = on_dead};

void
drv_jobs_incoming(DrvJobs *jobs, DrvSession *session)
{
    DrvPeer *peer = drv_peer_accept(session);
    drv_peer_listen(peer, &accepted_ops, jobs);
    g_ptr_array_add(jobs->accepted, peer);
}

/* --- jobs --- */

static char *
new_id(void)
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    char id[9] = {0};
    for (guint i = 0; i < sizeof id - 1; i++)
        id[i] = digits[g_random_int_range(0, 32)];
    return g_strdup(id);
}

static gboolean
begin(gpointer data)
{
    g_autoptr(DrvJob) job = data;
    if (!drv_state_is_final(drv_job_state(job)) && drv_job_state(job) == DRV_STATE_QUEUED)
        job->ops->start(job);
    return G_SOURCE_REMOVE;
}

/* Starts it from the main loop: whoever asked has its answer first. */
static char *
launch(DrvJobs *jobs, DrvJob *job)
{
    add(jobs, job);
    g_idle_add(begin, drv_job_ref(job));
    return g_strdup(job->rec->id);
}

/* QEMU has one NBD server, and serves one client a QMP socket. Those of a group take turns; 'group'
 * NULL: it is of none. */
static gboolean
is_being_copied(DrvJobs *jobs, const char *qmp, const char *group, GError **error)
{
    for (guint i = 0; i < jobs->jobs->len; i++) {
        const DrvJob *job = jobs->jobs->pdata[i];
        g_autofree char *other = drv_copy_spec_qmp(job->rec->spec);
        g_autofree char *its_group = drv_copy_spec_group(job->rec->spec);
        if (g_strcmp0(other, qmp) != 0 || (group != NULL && g_strcmp0(its_group, group) == 0))
            continue;
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "a disk of the VM at %s is being copied by job %s: wait for it to end, or end "
                    "it with 'drover cancel %s'",
                    qmp, job->rec->id, job->rec->id);
        return TRUE;
    }
    return FALSE;
}

static gboolean
is_moving(DrvJobs *jobs, const char *qmp, const char *group, GError **error)
{
    if (is_being_copied(jobs, qmp, group, error))
        return TRUE;
    for (guint i = 0; i < jobs->jobs->len; i++) {
        DrvJob *job = jobs->jobs->pdata[i];
        g_autoptr(DrvJobSpec) other = job->journaled && job->rec->role == DRV_ROLE_SOURCE
                                          ? drv_job_spec_parse(job->rec->spec, NULL)
                                          : NULL;
        if (other != NULL && g_str_equal(other->qmp, qmp)) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                        "the VM at %s is already migrating as job %s ('%s'): 'drover watch %s' "
                        "follows it",
                        qmp, job->rec->id, drv_state_name(job->rec->state), job->rec->id);
            return TRUE;
        }
    }
    return FALSE;
}

char *
drv_jobs_migrate(DrvJobs *jobs, JsonObject *object, GError **error)
{
    if (!json_object_has_member(object, "drop_timeout_s"))
        json_object_set_int_member(object, "drop_timeout_s",
                                   drv_services_config(jobs->services)->drop_timeout_s);
    g_autoptr(DrvJobSpec) spec = drv_job_spec_from_json(object, error);
    if (spec == NULL || is_moving(jobs, spec->qmp, NULL, error))
        return NULL;
    g_autofree char *text = drv_job_spec_to_text(spec);
    g_autofree char *id = new_id();
    DrvJobRecord *rec = drv_job_record_new(id, DRV_ROLE_SOURCE, text);
    g_autoptr(DrvJob) job = drv_live_source_new(jobs->services, rec, error);
    if (job == NULL || !drv_journal_add(journal(jobs), job->rec, error))
        return NULL;
    JsonObject *predicted = drv_predict_earlier(jobs->ended, spec);
    if (predicted != NULL)
        json_object_set_object_member(job->detail, "prediction", predicted);
    return launch(jobs, job);
}

char *
drv_jobs_tunnel(DrvJobs *jobs, JsonObject *object, GError **error)
{
    g_autofree char *id = new_id();
    g_autoptr(DrvJob) job = drv_tunnel_new(jobs->services, id, object, error);
    return job != NULL ? launch(jobs, job) : NULL;
}

char *
drv_jobs_predict(DrvJobs *jobs, JsonObject *object, GError **error)
{
    g_autofree char *id = new_id();
    g_autoptr(DrvJobSpec) spec = drv_predict_spec(object, error);
    if (spec == NULL || is_moving(jobs, spec->qmp, NULL, error))
        return NULL;
    g_autoptr(DrvJob) job = drv_predict_new(jobs->services, id, g_steal_pointer(&spec), error);
    return job != NULL ? launch(jobs, job) : NULL;
}

char *
drv_jobs_copy(DrvJobs *jobs, JsonObject *object, GError **error)
{
    if (!json_object_has_member(object, "drop_timeout_s"))
        json_object_set_int_member(object, "drop_timeout_s",
                                   drv_services_config(jobs->services)->drop_timeout_s);
    g_autoptr(DrvCopySpec) spec = drv_copy_spec_from_json(object, error);
    if (spec == NULL || (spec->qmp != NULL && is_moving(jobs, spec->qmp, spec->group, error)))
        return NULL;
    drv_copy_spec_mark(object);
    g_autofree char *text = drv_json_text(object);
    g_autofree char *id = new_id();
    DrvJobRecord *rec = drv_job_record_new(id, DRV_ROLE_SOURCE, text);
    g_autoptr(DrvJob) job = drv_copy_new(jobs->services, jobs->groups, rec, g_steal_pointer(&spec));
    return drv_journal_add(journal(jobs), job->rec, error) ? launch(jobs, job) : NULL;
}

JsonObject *
drv_jobs_numa(DrvJobs *jobs)
{
    return drv_numa_host(jobs->services);
}

char *
drv_jobs_numa_look(DrvJobs *jobs, JsonObject *object, GError **error)
{
    g_autofree char *id = new_id();
    g_autoptr(DrvJob) job = drv_numa_look_new(jobs->services, id, object, error);
    return job != NULL ? launch(jobs, job) : NULL;
}

char *
drv_jobs_disks(DrvJobs *jobs, JsonObject *object, GError **error)
{
    g_autofree char *id = new_id();
    g_autoptr(DrvJob) job = drv_disks_look_new(jobs->services, id, object, error);
    return job != NULL ? launch(jobs, job) : NULL;
}

static DrvJob *
find_any(DrvJobs *jobs, const char *id)
{
    DrvJob *job = find(jobs, id, DRV_ROLE_SOURCE);
    return job != NULL ? job : find(jobs, id, DRV_ROLE_DEST);
}

static DrvJob *
find_active(DrvJobs *jobs, const char *id, GError **error)
{
    DrvJob *job = find_any(jobs, id);
    if (job != NULL)
        return job;
    g_autoptr(JsonObject) known = drv_jobs_show(jobs, id, error);
    if (known != NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE, "job %s is over: it is '%s'", id,
                    drv_json_string(known, "state", ""));
    return NULL;
}

gboolean
drv_jobs_cancel(DrvJobs *jobs, const char *id, GError **error)
{
    DrvJob *job = find_active(jobs, id, error);
    return job != NULL && job->ops->cancel(job, error);
}

gboolean
drv_jobs_resolve(DrvJobs *jobs, const char *id, gboolean run_on_source, GError **error)
{
    DrvJob *job = find_active(jobs, id, error);
    if (job != NULL && job->ops->resolve == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "job %s is a %s: there is nothing to resolve", id, job->ops->kind);
        return FALSE;
    }
    return job != NULL && job->ops->resolve(job, run_on_source, error);
}

static JsonObject *
record_to_json(const DrvJobRecord *rec)
{
    return drv_job_record_to_json(rec, drv_copy_spec_is(rec->spec) ? "copy" : "migrate");
}

JsonObject *
drv_jobs_show(DrvJobs *jobs, const char *id, GError **error)
{
    DrvJob *job = find_any(jobs, id);
    for (guint i = 0; job == NULL && i < jobs->ended->len; i++) {
        DrvJob *over = jobs->ended->pdata[i];
        if (g_str_equal(over->rec->id, id))
            job = over;
    }
    if (job != NULL)
        return drv_job_to_json(job);
    g_autoptr(DrvJobRecord) rec = drv_journal_load(journal(jobs), id, DRV_ROLE_SOURCE, NULL);
    if (rec == NULL)
        rec = drv_journal_load(journal(jobs), id, DRV_ROLE_DEST, NULL);
    if (rec == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_NOT_FOUND,
                    "there is no job %s here: 'drover jobs' lists them", id);
        return NULL;
    }
    return record_to_json(rec);
}

/* Labels → how many of the jobs that go on have them. */
static void
write_active(DrvJobs *jobs, GString *out)
{
    g_autoptr(GHashTable) n = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GHashTableIter iter;
    gpointer labels, sum;
    for (guint i = 0; i < jobs->jobs->len; i++) {
        const DrvJob *job = jobs->jobs->pdata[i];
        char *key = drv_exposition_labels("kind", job->ops->kind, "role",
                                          job->rec->role == DRV_ROLE_SOURCE ? "source" : "dest",
                                          "state", drv_state_name(drv_job_state(job)), NULL);
        g_hash_table_replace(n, key,
                             GUINT_TO_POINTER(GPOINTER_TO_UINT(g_hash_table_lookup(n, key)) + 1));
    }
    drv_exposition_head(out, "drover_jobs", "gauge", "Jobs that are not over.");
    g_hash_table_iter_init(&iter, n);
    while (g_hash_table_iter_next(&iter, &labels, &sum))
        drv_exposition_value(out, "drover_jobs", labels, GPOINTER_TO_UINT(sum));
}

void
drv_jobs_metrics(DrvJobs *jobs, GString *out)
{
    write_active(jobs, out);
    drv_tally_write(drv_services_tally(jobs->services), out);
}

JsonArray *
drv_jobs_list(DrvJobs *jobs, guint limit, GError **error)
{
    g_autoptr(GPtrArray) records = drv_journal_list(journal(jobs), limit, FALSE, error);
    if (records == NULL)
        return NULL;
    JsonArray *array = json_array_new();
    for (guint i = jobs->jobs->len; i > 0; i--) {
        DrvJob *job = jobs->jobs->pdata[i - 1];
        if (!job->journaled && json_array_get_length(array) < limit)
            json_array_add_object_element(array, drv_job_to_json(job));
    }
    for (guint i = 0; i < records->len && json_array_get_length(array) < limit; i++) {
        DrvJobRecord *rec = records->pdata[i];
        DrvJob *job = drv_state_is_final(rec->state) ? NULL : find(jobs, rec->id, rec->role);
        json_array_add_object_element(array,
                                      job != NULL ? drv_job_to_json(job) : record_to_json(rec));
    }
    return array;
}

guint
drv_jobs_active(DrvJobs *jobs)
{
    return jobs->jobs->len;
}

gboolean
drv_jobs_cancel_all(DrvJobs *jobs)
{
    gboolean waiting = FALSE;
    /* Backwards: a job that ends at once leaves the array. */
    for (guint i = jobs->jobs->len; i > 0; i--) {
        g_autoptr(DrvJob) job = drv_job_ref(jobs->jobs->pdata[i - 1]);
        g_autoptr(GError) error = NULL;
        if (job->rec->role == DRV_ROLE_SOURCE && !job->ops->goes_on &&
            job->ops->cancel(job, &error))
            waiting = TRUE;
    }
    return waiting;
}

/* --- life --- */

static void
free_end(gpointer data)
{
    drv_channel_set_free(data);
}

DrvJobs *
drv_jobs_new(const DrvServicesParams *params, GError **error)
{
    g_autoptr(DrvServices) services = drv_services_new(params, error);
    g_autoptr(DrvTrail) trail =
        services != NULL ? drv_trail_new(params->config->state_dir, error) : NULL;
    if (trail == NULL)
        return NULL;
    DrvJobs *jobs = g_new0(DrvJobs, 1);
    jobs->services = g_steal_pointer(&services);
    jobs->trail = g_steal_pointer(&trail);
    jobs->jobs = g_ptr_array_new_with_free_func((GDestroyNotify)drv_job_unref);
    jobs->accepted = g_ptr_array_new_with_free_func((GDestroyNotify)drv_peer_unref);
    jobs->ended = g_ptr_array_new_with_free_func((GDestroyNotify)drv_job_unref);
    jobs->groups = drv_copy_groups_new(journal(jobs));
    jobs->copy_ends = drv_copy_ends_new(jobs->services);
    jobs->disk_makes = drv_disk_makes_new(jobs->services);
    jobs->tunnel_ends = g_ptr_array_new_with_free_func(free_end);
    jobs->probe_ends = g_ptr_array_new_with_free_func((GDestroyNotify)drv_probe_free);
    return jobs;
}

/* Takes the record. */
static DrvJob *
restore(DrvJobs *jobs, DrvJobRecord *rec, GError **error)
{
    if (rec->role == DRV_ROLE_DEST)
        return drv_live_dest_restored(jobs->services, rec);
    return drv_copy_spec_is(rec->spec) ? drv_copy_restored(jobs->services, jobs->groups, rec, error)
                                       : drv_live_source_new(jobs->services, rec, error);
}

static void
take_up(DrvJobs *jobs, DrvJobRecord *rec)
{
    g_autoptr(GError) error = NULL;
    if (drv_state_is_final(rec->state)) { /* only its abort is left to be done */
        drv_aborts_add(drv_services_aborts(jobs->services), rec);
        drv_job_record_free(rec);
        return;
    }
    g_message("job %s (%s): found in the journal as '%s'", rec->id, drv_role_name(rec->role),
              drv_state_name(rec->state));
    g_autoptr(DrvJob) job = restore(jobs, rec, &error);
    if (job == NULL) {
        g_warning("a job in the journal cannot be taken up: %s", error->message);
        return;
    }
    add(jobs, job);
    job->ops->resume(job);
}

void
drv_jobs_start(DrvJobs *jobs, DrvTransfer *transfer)
{
    g_autoptr(GError) error = NULL;
    drv_services_set_transfer(jobs->services, transfer);
    if (!drv_journal_prune(journal(jobs), KEEP_FINISHED, &error)) {
        g_warning("old jobs stay in the journal: %s", error->message);
        g_clear_error(&error);
    }
    g_autoptr(GPtrArray) records = drv_journal_list(journal(jobs), 0, TRUE, &error);
    if (records == NULL) {
        g_warning("the journal's jobs cannot be taken up: %s", error->message);
        return;
    }
    while (records->len > 0)
        take_up(jobs, g_ptr_array_steal_index(records, records->len - 1));
}

void
drv_jobs_free(DrvJobs *jobs)
{
    if (jobs == NULL)
        return;
    g_ptr_array_unref(jobs->jobs);
    g_ptr_array_unref(jobs->ended);
    drv_copy_groups_free(jobs->groups);
    drv_copy_ends_free(jobs->copy_ends);
    drv_disk_makes_free(jobs->disk_makes);
    g_ptr_array_unref(jobs->tunnel_ends);
    g_ptr_array_unref(jobs->probe_ends);
    g_ptr_array_unref(jobs->accepted);
    drv_services_free(jobs->services);
    drv_trail_free(jobs->trail);
    g_free(jobs);
}
