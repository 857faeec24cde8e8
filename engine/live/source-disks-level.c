/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-disks-private.h"

#include "common/error.h"
#include "engine/job/qemu-identity.h"

/*
 * Whether the mirrors become level, and stay so while the RAM follows. QEMU's figures go to
 * mirror-pace.c. A mirror that does not, because the guest writes as fast as the link carries, is
 * dealt with as the user allows for RAM that does not converge (--converge):
 *
 *   wait       it is said, and nothing is done
 *   throttle   the guest's writes wait for the destination ("write-blocking"): then only what the
 *              first pass has left is to be carried besides, and that becomes less. QEMU switches
 *              over in mid-course from 8.2 on; before, the mirror has to begin anew, which is worth
 *              it only as long as nothing but the disks is waited for
 *   give-up    the migration fails; not for a disk that was level once, as then only the downtime
 *              suffers
 */

#define POLL_MS 250
/* As long as QEMU may take to answer. After that its guest may be waiting: so many answers are
 * waited for while the link is down, or while nothing moves, and at all. */
#define ANSWER_MS 1000
#define ANSWERS_WITHOUT_LINK 3
#define ANSWERS_IN_VAIN 6
#define ANSWERS (QMP_TIMEOUT_MS / ANSWER_MS)
/* In the last so many of them. */
#define NOTHING_MOVES 3
#define MIB 1048576.0

static gboolean
hung_up(LiveSource *self)
{
    return self->disks == NULL || self->disks->channels == NULL || self->disks->completing ||
           drv_job_state(&self->base) != DRV_STATE_COPYING;
}

static void
tell_qemu(LiveSource *self, const char *command, JsonNode *args, GAsyncReadyCallback callback)
{
    qmp_client_execute_async(self->qmp, command, args, QMP_TIMEOUT_MS, NULL, callback,
                             drv_job_ref(&self->base));
}

/* --- write-blocking --- */

/* The guest waits for these now. */
static void
hurry(LiveSource *self)
{
    if (!hung_up(self) && self->stopped_us == 0) /* when it is stopped, they are more urgent yet */
        live_disks_class(self, DRV_CLASS_RAM);
}

static void
begun_again(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    if (reply != NULL) {
        hurry(live_source(job));
        return;
    }
    g_prefix_error(&error, "a disk's mirror cannot begin anew: ");
    live_fail(live_source(job), error);
}

void
live_mirror_again(LiveSource *self, LiveMirror *mirror)
{
    mirror->again = FALSE;
    mirror->blocking = TRUE;
    mirror->done = 0;
    drv_mirror_pace_reset(&mirror->pace);
    if (self->qmp != NULL && !hung_up(self))
        tell_qemu(self, "blockdev-mirror", live_mirror_args(self, mirror), begun_again);
}

static void
cancel_answered(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    if (reply == NULL)
        live_fail(live_source(job), error);
}

typedef struct {
    DrvJob *job;
    LiveMirror *mirror; /* of the job */
} Change;

static void
changed(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autofree Change *change = data;
    g_autoptr(DrvJob) job = change->job;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    LiveSource *self = live_source(job);
    LiveMirror *mirror = change->mirror;
    if (hung_up(self) || self->qmp == NULL)
        return;
    if (reply != NULL) {
        mirror->blocking = TRUE;
        drv_job_test_point(job, "writes-wait");
        hurry(self);
        return;
    }
    g_info("job %s: QEMU does not change a mirror: %s", job->rec->id, error->message);
    if (self->disks->waiting) {
        mirror->again = TRUE;
        mirror->ready = FALSE;
        tell_qemu(self, "block-job-cancel",
                  qmp_args("device", "s", mirror->id, "force", "b", TRUE, NULL), cancel_answered);
    }
}

static void
block_writes(LiveSource *self, LiveMirror *mirror)
{
    Change *change = g_new0(Change, 1);
    *change = (Change){.job = drv_job_ref(&self->base), .mirror = mirror};
    qmp_client_execute_async(self->qmp, "block-job-change",
                             qmp_args("id", "s", mirror->id, "type", "s", "mirror", "copy-mode",
                                      "s", "write-blocking", NULL),
                             QMP_TIMEOUT_MS, NULL, changed, change);
}

/* --- judging --- */

static char *
doubt_about(const LiveMirror *mirror)
{
    return g_strdup_printf("disk '%s' does not become level: %.1f MiB/s get across, and the guest "
                           "writes to %.1f MiB/s of it meanwhile",
                           mirror->disk->name, mirror->pace.carried / MIB,
                           mirror->pace.written / MIB);
}

/* Once for each mirror. */
static void
decide(LiveSource *self, LiveMirror *mirror)
{
    mirror->judged = TRUE;
    if (self->spec->converge == DRV_SPEC_CONVERGE_THROTTLE) {
        g_autofree char *why =
            g_strdup_printf("%s: its writes are made to wait for the destination", mirror->doubt);
        live_note_measure(self, &(DrvConvergeDecision){.why = why});
        block_writes(self, mirror);
    } else if (self->spec->converge == DRV_SPEC_CONVERGE_GIVE_UP && self->disks->waiting) {
        live_fail(self,
                  g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                              "%s; allow --converge throttle, or --converge wait", mirror->doubt));
    } else {
        g_message("job %s: %s", self->base.rec->id, mirror->doubt);
    }
}

static void
judge(LiveSource *self, LiveMirror *mirror, gint64 now_us)
{
    if (mirror->again || mirror->blocking || mirror->total == 0)
        return;
    if (self->lost_us != 0) { /* a round without a link says nothing */
        drv_mirror_pace_reset(&mirror->pace);
        return;
    }
    gboolean vain = drv_mirror_pace_sample(&mirror->pace, now_us, (guint64)MAX(mirror->done, 0),
                                           (guint64)MAX(mirror->total - mirror->done, 0));
    g_clear_pointer(&mirror->doubt, g_free);
    if (vain)
        mirror->doubt = doubt_about(mirror);
    if (vain && !mirror->judged)
        decide(self, mirror);
}

const char *
live_disks_doubt(LiveSource *self)
{
    for (guint i = 0; live_disks_any(self) && i < self->disks->mirrors->len; i++) {
        const LiveMirror *mirror = live_mirror_at(self, i);
        if (mirror->doubt != NULL && !mirror->blocking && !mirror->again)
            return mirror->doubt;
    }
    return NULL;
}

/* --- until they are level, and on --- */

static void ask_jobs(LiveSource *self);

static gboolean
ask_jobs_again(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_clear_source(&self->disks->poll);
    drv_job_changed(&self->base);
    ask_jobs(self);
    return G_SOURCE_REMOVE;
}

/* Whether all are level. */
static gboolean
take_jobs(LiveSource *self, JsonArray *jobs)
{
    guint ready = 0;
    for (guint i = 0; jobs != NULL && i < json_array_get_length(jobs); i++) {
        JsonObject *job = qmp_node_object(json_array_get_element(jobs, i));
        LiveMirror *mirror = live_find_mirror(self, qmp_get_string(job, "device"));
        if (mirror == NULL || mirror->again)
            continue;
        qmp_get_int(job, "offset", &mirror->done);
        qmp_get_int(job, "len", &mirror->total);
        qmp_get_bool(job, "ready", &mirror->ready);
        live_mirror_status(self, mirror, qmp_get_string(job, "status"));
    }
    for (guint i = 0; i < self->disks->mirrors->len; i++)
        ready += live_mirror_at(self, i)->ready;
    return ready == self->disks->mirrors->len;
}

static void
stop_waiting(LiveSource *self, GError *error)
{
    if (self->disks->waiting) {
        self->disks->waiting = FALSE;
        drv_steps_fail(&self->steps, error);
    } else {
        g_clear_error(&error); /* somebody else will notice */
    }
}

/* One more answer has not come. Counts those in which nothing has gone to the destination's QEMU,
 * or come from there, either. */
static void
count_unanswered(LiveDisks *disks)
{
    DrvChannelTotals totals;
    drv_channel_set_totals(disks->channels, &totals);
    guint64 before = disks->moved;
    disks->moved = totals.raw + totals.delivered;
    disks->still = disks->moved == before ? disks->still + 1 : 0;
    disks->unanswered++;
}

/* As far as is known. */
static gboolean
has_something_on_its_way(LiveSource *self)
{
    for (guint i = 0; i < self->disks->mirrors->len; i++) {
        const LiveMirror *mirror = live_mirror_at(self, i);
        if (!mirror->ready || mirror->done < mirror->total)
            return TRUE;
    }
    return FALSE;
}

/* When its guest resets a disk (a reboot does), QEMU waits for all that is under way on it, and its
 * guest waits for QEMU. So that gets ahead of all but what other guests wait for. While the link is
 * down, or the destination's QEMU hangs, it does not arrive at all, and the guest must not stand
 * still until it does: a roll-back ends the wait. (A guest that is stopped can wait, and one whose
 * QEMU was stopped waits for nothing of ours.) NULL: it may yet arrive. */
static GError *
why_in_vain(LiveSource *self)
{
    const LiveDisks *disks = self->disks;
    if (self->lost_us != 0 && disks->unanswered >= ANSWERS_WITHOUT_LINK)
        return g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                           "the link to %s is down, and the source's QEMU waits for what is on its "
                           "way there (its guest has reset a disk, perhaps): try again when the "
                           "link is up",
                           self->spec->to);
    if (disks->unanswered < ANSWERS_IN_VAIN || disks->still < NOTHING_MOVES ||
        self->stopped_us != 0 || !has_something_on_its_way(self) ||
        drv_qemu_is_stopped(self->base.detail))
        return NULL;
    return g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                       "the source's QEMU has not answered for %u s, and its disks do not move, "
                       "either (its guest has reset one, perhaps, and waits for the destination): "
                       "see whether the destination's QEMU and its storage work",
                       disks->unanswered * (ANSWER_MS / 1000));
}

/* Takes the error. */
static void
not_answered(LiveSource *self, GError *error)
{
    if (!g_error_matches(error, QMP_ERROR, QMP_ERROR_TIMEOUT)) {
        stop_waiting(self, error);
        return;
    }
    g_error_free(error);
    count_unanswered(self->disks);
    error = why_in_vain(self);
    if (error != NULL) {
        live_fail(self, error);
    } else if (self->disks->unanswered < ANSWERS) {
        live_disks_press(self, TRUE);
        ask_jobs(self);
    } else {
        stop_waiting(self, g_error_new(DRV_ERROR, DRV_ERROR_QEMU,
                                       "it has not answered for %d s: it hangs or is overloaded",
                                       ANSWERS * ANSWER_MS / 1000));
    }
}

static void
jobs_known(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    LiveSource *self = live_source(job);
    if (hung_up(self)) {
        g_clear_error(&error);
        return;
    }
    if (reply == NULL) {
        not_answered(self, error);
        return;
    }
    self->disks->unanswered = self->disks->still = 0;
    live_disks_press(self, FALSE);
    gint64 now = g_get_monotonic_time();
    gboolean level = take_jobs(self, qmp_node_array(reply));
    for (guint i = 0; i < self->disks->mirrors->len && !hung_up(self); i++)
        judge(self, live_mirror_at(self, i), now);
    if (hung_up(self))
        return;
    live_set_timer(&self->disks->poll, POLL_MS, ask_jobs_again, self);
    if (level && self->disks->waiting) {
        /* From now on a disk's bytes are as urgent as the RAM's: with less, they would pile up
         * until the guest is stopped, and wait for them. */
        hurry(self);
        self->disks->waiting = FALSE;
        drv_steps_next(&self->steps);
    }
}

static void
ask_jobs(LiveSource *self)
{
    if (hung_up(self))
        return;
    if (self->qmp == NULL)
        stop_waiting(self, g_error_new_literal(DRV_ERROR, DRV_ERROR_QEMU,
                                               "it has ended or closed its QMP socket"));
    else
        qmp_client_execute_async(self->qmp, "query-block-jobs", NULL, ANSWER_MS, NULL, jobs_known,
                                 drv_job_ref(&self->base));
}

void
live_disks_watch(LiveSource *self)
{
    ask_jobs(self);
}

void
live_disks_wait(gpointer owner)
{
    LiveSource *self = owner;
    if (live_disks_any(self))
        self->disks->waiting = TRUE;
    else
        drv_steps_next(&self->steps);
}
