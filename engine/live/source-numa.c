/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "engine/host/guest-numa.h"

/* Where the guest is on the source's NUMA nodes: channels are served near to it, and data threads
 * keep off the CPUs that it is pinned to. What cannot be found out is for the better only. */

#define SAMPLES 1024

static void
guest_known(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvGuestNuma) guest = drv_guest_numa_find_finish(result, &error);
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    const DrvTopology *host = drv_transfer_topology(drv_services_transfer(self->base.services));
    if (guest == NULL) {
        g_info("job %s: %s", self->base.rec->id, error->message);
    } else {
        DrvCpus pinned = drv_guest_numa_pinned(guest, host);
        drv_services_keep_off(self->base.services, self, &pinned);
        self->near = drv_place_matters(host) ? drv_guest_numa_node(guest) : -1;
    }
    drv_steps_next(&self->steps);
}

void
live_find_node(gpointer owner)
{
    LiveSource *self = owner;
    const DrvTopology *host = drv_transfer_topology(drv_services_transfer(self->base.services));
    if (host == NULL)
        drv_steps_next(&self->steps);
    else
        drv_guest_numa_find_async(self->qmp, drv_place_matters(host) ? SAMPLES : 0, QMP_TIMEOUT_MS,
                                  self->steps.cancellable, guest_known, live_ticket(self));
}

void
live_report_numa(const LiveSource *self, JsonObject *report)
{
    if (self->near < 0 && self->dest_numa == NULL)
        return;
    JsonObject *o = json_object_new();
    if (self->near >= 0)
        json_object_set_int_member(o, "source_node", self->near);
    if (self->dest_numa != NULL)
        json_object_set_object_member(o, "dest", json_object_ref(self->dest_numa));
    json_object_set_object_member(report, "numa", o);
}
