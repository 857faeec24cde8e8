/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/live/memory-check.h"

/*
 * What is compared before the decision.
 *
 *   stream   the digests of what went into the channels and of what came out, both ways
 *   memory   that, and digests of the guest's RAM, as QEMU has it at each end
 *
 * For the memory the guest has to stand still at both ends, so it is hashed when the destination
 * has loaded, by both at once, while the guest is down. What can make that impossible is found in
 * PREPARING: there both ends open the memory, and agree on the blocks. There is one attempt: a
 * destination that does not answer within the deadline costs the migration, not the guest.
 */

#define HASH_MS 15000
#define HASH_BYTES_PER_S ((guint64)128 << 20) /* slower than any host that is well */

struct _LiveVerify {
    DrvMemoryCheck *memory;
    DrvMemoryPlan *plan;
    GCancellable *cancellable; /* while it is being hashed; else NULL */
    JsonObject *ours, *theirs; /* the answers; NULL: not yet */
    gint64 since_us;
    gboolean done; /* the same at both ends */
};

void
live_verify_free(LiveVerify *verify)
{
    if (verify == NULL)
        return;
    drv_memory_plan_free(verify->plan);
    drv_memory_check_unref(verify->memory);
    g_clear_pointer(&verify->ours, json_object_unref);
    g_clear_pointer(&verify->theirs, json_object_unref);
    g_clear_object(&verify->cancellable);
    g_free(verify);
}

/* --- before anything is moved --- */

static void
memory_opened(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvMemoryCheck) memory = drv_memory_check_open_finish(result, &error);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (memory == NULL) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    live_verify_free(self->verify);
    self->verify = g_new0(LiveVerify, 1);
    self->verify->memory = g_steal_pointer(&memory);
    drv_steps_next(&self->steps);
}

void
live_open_memory(gpointer owner)
{
    LiveSource *self = owner;
    if (self->spec->verify != DRV_SPEC_VERIFY_MEMORY) {
        drv_steps_next(&self->steps);
        return;
    }
    gboolean apart = self->vm->kvm && g_str_has_prefix(self->vm->machine, "pc-");
    drv_memory_check_open_async(self->qmp, apart, QMP_TIMEOUT_MS, self->steps.cancellable,
                                memory_opened, live_ticket(self));
}

gboolean
live_agree_memory(LiveSource *self, JsonObject *ok, GError **error)
{
    JsonArray *offer = drv_json_array(ok, "memory");
    if (self->verify == NULL)
        return TRUE;
    if (offer == NULL) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_STATE,
                            "it cannot compare the guest's memory: use --verify stream, or a newer "
                            "droverd there");
        return FALSE;
    }
    self->verify->plan = drv_memory_plan_new(self->verify->memory, offer, error);
    return self->verify->plan != NULL;
}

/* --- the memory --- */

/* For the report, also of a daemon that is started after the decision. */
static void
note_result(LiveSource *self, gboolean match, const char *changed)
{
    LiveVerify *verify = self->verify;
    JsonObject *note = json_object_new();
    json_object_set_boolean_member(note, "match", match);
    json_object_set_int_member(note, "ms", (g_get_monotonic_time() - verify->since_us) / 1000);
    json_object_set_array_member(note, "not_compared", drv_memory_plan_left_out(verify->plan));
    if (changed != NULL)
        json_object_set_string_member(note, "changed_by_qemu", changed);
    json_object_set_object_member(self->base.detail, "memory", note);
}

/* QEMU before 8.0 loses pages by itself, where there is no KVM. */
static GError *
explain(const LiveSource *self, const GError *error)
{
    gboolean lossy = !self->vm->kvm && g_ascii_strtoull(self->vm->version, NULL, 10) < 8;
    return g_error_new(error->domain, error->code, "the guest was not handed over, because %s: %s",
                       error->message,
                       lossy ? "QEMU before 8.0 loses pages when it runs without KVM, so use a "
                               "newer one"
                             : "try once more, and report it should it happen again");
}

static void
compare(LiveSource *self)
{
    LiveVerify *verify = self->verify;
    g_autoptr(GError) error = NULL;
    g_autofree char *changed = NULL;
    live_stop_verify(self);
    verify->done = drv_memory_compare(verify->plan, verify->ours, verify->theirs, &changed, &error);
    if (verify->done || g_error_matches(error, DRV_ERROR, DRV_ERROR_MISMATCH))
        note_result(self, verify->done, changed);
    if (changed != NULL)
        g_message("job %s: the guest's memory is the same at both ends, but for QEMU's own page "
                  "at %s",
                  self->base.rec->id, changed);
    if (verify->done)
        live_check_handover(self);
    else
        live_fail(self, explain(self, error));
}

/* One end has hashed, or failed. Takes both; 'whose' goes before the error. */
static void
hashed(LiveSource *self, JsonObject **where, JsonObject *answer, GError *error, const char *whose)
{
    if (self->verify->cancellable == NULL) { /* it has been given up */
        g_clear_pointer(&answer, json_object_unref);
        g_clear_error(&error);
        return;
    }
    *where = answer;
    if (answer == NULL) {
        live_stop_verify(self);
        g_prefix_error(&error, "%s: ", whose);
        live_fail(self, error);
    } else if (self->verify->ours != NULL && self->verify->theirs != NULL) {
        compare(self);
    }
}

static void
hashed_here(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    GError *error = NULL;
    JsonObject *answer = drv_memory_plan_hash_finish(result, &error);
    hashed(self, &self->verify->ours, answer, error, "the guest's memory cannot be read here");
}

static void
hashed_there(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    LiveSource *self = live_source(job);
    hashed(self, &self->verify->theirs, ok != NULL ? json_object_ref(ok) : NULL,
           error != NULL ? g_error_copy(error) : NULL,
           "the guest's memory cannot be compared with the destination's");
}

static gboolean
overdue(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (self->lost_us != 0) /* the drop timeout has the say while the link is down */
        return G_SOURCE_CONTINUE;
    gboolean here = self->verify->ours == NULL;
    live_stop_verify(self);
    live_fail(self,
              g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                          "%s has not hashed the guest's memory within %" G_GINT64_FORMAT
                          " s: is that host short of memory or CPUs?",
                          here ? "the source" : "the destination",
                          (g_get_monotonic_time() - self->verify->since_us) / G_USEC_PER_SEC));
    return G_SOURCE_REMOVE;
}

static void
begin(LiveSource *self)
{
    LiveVerify *verify = self->verify;
    JsonObject *args = drv_memory_plan_to_json(verify->plan);
    guint64 seconds = drv_memory_plan_size(verify->plan) / HASH_BYTES_PER_S;
    json_object_set_string_member(args, "job", self->base.rec->id);
    verify->cancellable = g_cancellable_new();
    verify->since_us = g_get_monotonic_time();
    live_set_timer(&self->finish, HASH_MS + (guint)MIN(seconds, 86400) * 1000, overdue, self);
    drv_peer_call(self->peer, "job.digest", args, hashed_there, drv_job_ref(&self->base));
    drv_memory_plan_hash_async(verify->plan, verify->cancellable, hashed_here,
                               drv_job_ref(&self->base));
    drv_job_test_point(&self->base, "verifying");
}

void
live_stop_verify(LiveSource *self)
{
    if (self->verify == NULL || self->verify->cancellable == NULL)
        return;
    live_clear_source(&self->finish);
    g_cancellable_cancel(self->verify->cancellable);
    g_clear_object(&self->verify->cancellable);
}

/* --- all of it --- */

/* Whether all channels have ended, and what came out of them is what went in, where that is asked
 * for. FALSE without an error: some have not ended yet. */
static gboolean
streams_settled(LiveSource *self, GError **error)
{
    gboolean compare = self->spec->verify != DRV_SPEC_VERIFY_NONE;
    return live_disks_settled(self, compare, error) &&
           (!compare || (drv_channel_set_finished(self->channels) &&
                         drv_channel_set_compare(self->channels, self->digests, error)));
}

gboolean
live_verified(LiveSource *self)
{
    GError *error = NULL;
    LiveVerify *verify = self->verify;
    if (verify != NULL && (verify->done || verify->cancellable != NULL))
        return verify->done;
    self->stream_match = streams_settled(self, &error);
    self->stream_differs = g_error_matches(error, DRV_ERROR, DRV_ERROR_MISMATCH);
    if (self->stream_match && verify == NULL)
        return TRUE;
    if (self->stream_match && (drv_job_state(&self->base) != DRV_STATE_COPYING ||
                               drv_job_move(&self->base, DRV_STATE_SWITCHOVER, &error)))
        begin(self);
    else if (error != NULL)
        live_fail(self, error);
    return FALSE;
}

static const char *
verdict(gboolean compared, gboolean match)
{
    return !compared ? "off" : match ? "match" : "mismatch";
}

void
live_report_verify(LiveSource *self, JsonObject *o)
{
    DrvSpecVerify asked = self->spec->verify;
    JsonObject *verify = json_object_new();
    JsonObject *memory = drv_json_object(self->base.detail, "memory");
    JsonArray *left_out = drv_json_array(memory, "not_compared");
    const char *changed = drv_json_string(memory, "changed_by_qemu", NULL);
    /* A daemon that was restarted after the decision knows that it was made. */
    gboolean stream = asked != DRV_SPEC_VERIFY_NONE &&
                      (self->handed_over || self->stream_match || self->stream_differs);
    json_object_set_string_member(verify, "stream", verdict(stream, !self->stream_differs));
    json_object_set_string_member(verify, "memory",
                                  verdict(memory != NULL, drv_json_flag(memory, "match", FALSE)));
    if (left_out != NULL)
        json_object_set_array_member(verify, "not_compared", json_array_ref(left_out));
    if (changed != NULL)
        json_object_set_string_member(verify, "changed_by_qemu", changed);
    json_object_set_object_member(o, "verify", verify);
    if (memory != NULL)
        json_object_set_int_member(o, "verify_ms", drv_json_int(memory, "ms", 0));
}
