/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest.h"
#include "engine/live/dest-private.h"

#include "common/error.h"

#include <stdlib.h>

/*
 * What a source has had prepared it must begin: until then a QEMU waits here for nobody else, and
 * the job counts against its host's share. Each step of preparing has its own deadline; after it
 * comes this one. A source takes a few seconds from the answer to its first channel, or as long as
 * its QEMU takes to answer the few commands in between; a lost link is not its fault, and has the
 * drop timeout. So this is no shorter than either, by our own configuration: the source's word on
 * its drop timeout is not taken for it.
 */

#define BEGIN_S 120

/* For tests: DROVER_TEST_BEGIN_S=S is the deadline. */
static guint
deadline_s(LiveDest *self)
{
#ifdef DRV_TEST_HOOKS
    const char *given = g_getenv("DROVER_TEST_BEGIN_S");
    if (given != NULL)
        return (guint)atoi(given);
#endif
    return (guint)MAX(BEGIN_S, drv_services_config(self->base.services)->drop_timeout_s);
}

static gboolean
not_begun(gpointer data)
{
    LiveDest *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (self->peer != NULL && !drv_peer_is_connected(self->peer))
        return G_SOURCE_CONTINUE; /* the drop timeout runs */
    dest_clear_source(&self->begin);
    dest_fail(self, g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                                "the source had the migration prepared, and did not begin it "
                                "within %u s",
                                deadline_s(self)));
    return G_SOURCE_REMOVE;
}

void
dest_await_begin(LiveDest *self)
{
    self->begin = g_timeout_source_new_seconds(deadline_s(self));
    g_source_set_callback(self->begin, not_begun, self, NULL);
    g_source_attach(self->begin, g_main_context_get_thread_default());
}

void
dest_has_begun(LiveDest *self)
{
    dest_clear_source(&self->begin);
    self->begun = TRUE;
}

gboolean
drv_live_dest_is_preparing(DrvJob *job)
{
    return drv_job_state(job) < DRV_STATE_LOADED && !live_dest(job)->begun;
}
