/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/private.h"

JsonObject *
drv_copy_result(DrvCopy *self)
{
    JsonObject *o = json_object_new(), *disk = json_object_new();
    json_object_set_string_member(o, "job", self->base.rec->id);
    json_object_set_string_member(o, "vm", self->base.rec->vm);
    json_object_set_string_member(o, "state", "completed");
    json_object_set_null_member(o, "error");
    json_object_set_int_member(o, "total_ms",
                               (g_get_real_time() - self->base.rec->created_us) / 1000);
    json_object_set_int_member(o, "lanes", self->lanes);
    json_object_set_int_member(o, "reconnects", self->reconnects + self->attempts - 1);
    json_object_set_int_member(disk, "bytes", (gint64)self->count.total);
    json_object_set_int_member(disk, "wire_bytes", (gint64)self->wire);
    json_object_set_int_member(disk, "data_bytes", (gint64)self->count.data);
    json_object_set_int_member(disk, "zero_bytes", (gint64)self->count.zero);
    json_object_set_int_member(disk, "same_bytes", (gint64)self->count.same);
    json_object_set_int_member(disk, "unread_bytes", (gint64)self->count.unread);
    json_object_set_object_member(o, "disk", disk);
    json_object_set_string_member(o, "digest", self->digest);
    if (self->spec->bitmap != NULL)
        json_object_set_string_member(o, "bitmap", self->spec->bitmap);
    return o;
}

JsonObject *
drv_copy_progress(DrvJob *job)
{
    DrvCopy *self = (DrvCopy *)job;
    DrvSessionStats link = {0};
    DrvChannelTotals totals = {0};
    JsonObject *o = json_object_new();
    gint64 ms = (g_get_monotonic_time() - job->started_us) / 1000;
    guint64 dealt = drv_copy_count_get(&self->count.done);
    double total = (double)self->count.total;
    if (self->peer != NULL)
        drv_session_get_stats(drv_peer_session(self->peer), &link);
    if (self->channel != NULL)
        drv_channel_set_totals(self->channel, &totals);
    json_object_set_int_member(o, "total", (gint64)self->count.total);
    json_object_set_int_member(o, "transferred", (gint64)dealt);
    json_object_set_int_member(o, "remaining", (gint64)(self->count.total - dealt));
    json_object_set_double_member(o, "percent", total > 0 ? 100 * (double)dealt / total : 0);
    json_object_set_double_member(o, "raw_rate", ms > 0 ? (double)dealt * 1000 / (double)ms : 0);
    json_object_set_double_member(
        o, "wire_rate", ms > 0 ? (double)(self->wire + totals.wire) * 1000 / (double)ms : 0);
    json_object_set_int_member(o, "lanes", link.lanes);
    json_object_set_int_member(o, "reconnects", self->reconnects + link.reconnects);
    if (self->spec->group != NULL)
        json_object_set_boolean_member(o, "held", self->held);
    json_object_set_boolean_member(o, "connected", self->lost_us == 0);
    json_object_set_int_member(o, "elapsed_ms", ms);
    return o;
}
