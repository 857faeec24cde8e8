/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest-private.h"

#include "common/error.h"
#include "engine/live/dest.h"

/* --verify memory at the destination: what of the guest's memory can be compared, and its digests
 * when all of it has been loaded and the guest has not run yet. */

static void
memory_opened(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvMemoryCheck) memory = drv_memory_check_open_finish(result, &error);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (memory == NULL) {
        drv_steps_fail(&self->steps, g_steal_pointer(&error));
        return;
    }
    self->memory = g_steal_pointer(&memory);
    drv_steps_next(&self->steps);
}

void
dest_open_memory(gpointer owner)
{
    LiveDest *self = owner;
    if (!self->verify_memory)
        drv_steps_next(&self->steps);
    else
        drv_memory_check_open_async(self->qmp, FALSE, QMP_TIMEOUT_MS, self->steps.cancellable,
                                    memory_opened, dest_ticket(self));
}

void
dest_stop_hashing(LiveDest *self)
{
    if (self->hashing == NULL)
        return;
    g_autoptr(GError) error = dest_not_now(self, "goes on without its memory's digests");
    g_cancellable_cancel(self->hashing);
    g_clear_object(&self->hashing);
    drv_calls_refuse(self->calls, DEST_DIGEST, error);
}

static void
hashed(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    g_autoptr(GError) error = NULL;
    LiveDest *self = live_dest(job);
    g_autoptr(JsonObject) answer = drv_memory_plan_hash_finish(result, &error);
    if (self->hashing == NULL ||
        g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) /* it has been given up */
        return;
    if (drv_job_test_at(job, "mute"))
        return;
    g_clear_object(&self->hashing);
    if (answer == NULL)
        drv_calls_refuse(self->calls, DEST_DIGEST, error);
    else
        drv_calls_answer(self->calls, DEST_DIGEST, answer);
}

void
drv_live_dest_digest(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args)
{
    LiveDest *self = live_dest(job);
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvMemoryPlan) plan = NULL;
    if (drv_job_state(job) != DRV_STATE_LOADED || self->peer != peer || self->memory == NULL ||
        self->hashing != NULL)
        error = dest_not_now(self, "has no memory to compare now");
    else
        plan = drv_memory_plan_from_json(self->memory, args, &error);
    if (plan == NULL) {
        drv_peer_refuse(peer, call, error);
        return;
    }
    drv_calls_add(self->calls, DEST_DIGEST, peer, call);
    self->hashing = g_cancellable_new();
    drv_memory_plan_hash_async(plan, self->hashing, hashed, drv_job_ref(job));
    drv_job_test_point(job, "verifying");
}
