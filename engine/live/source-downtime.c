/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

/*
 * How long the guest was down, and what for. By the source's clock:
 *
 *   stopped ──▶ ram ──▶ devices ──▶ load ──▶ commit ──▶ it runs
 *            its last  QEMU's last  the destination's   COMMIT is decided, sent,
 *            page is   byte is      word that QEMU      carried out
 *            read      read         has it all
 *
 * Where the stream is not looked into (relay mode) nobody knows its last page: then there is only
 * what 'ram' and 'devices' are together.
 */

void
live_measure_downtime(LiveSource *self, gint64 running_ms)
{
    if (self->stopped_us == 0 || !self->was_running)
        return;
    gint64 since = MAX(g_get_monotonic_time() - self->stopped_us, 0);
    self->downtime_us = since - CLAMP(running_ms, 0, since / 1000) * 1000;
    json_object_set_int_member(self->base.detail, "downtime_us", self->downtime_us);
}

static void
set_part(JsonObject *o, const char *member, gint64 from, gint64 to)
{
    if (from > 0 && to >= from)
        json_object_set_int_member(o, member, (to - from + 500) / 1000);
    else
        json_object_set_null_member(o, member);
}

/* What came before the guest stopped is no part of its downtime. */
static gint64
not_before(gint64 us, gint64 stopped_us)
{
    return us > 0 ? MAX(us, stopped_us) : 0;
}

static JsonObject *
parts(LiveSource *self, const DrvChannelTotals *totals)
{
    gint64 stopped = self->stopped_us;
    gint64 ram = self->sender != NULL ? drv_ram_sender_ended(self->sender) : 0;
    gint64 sent = not_before(totals->sent_us, stopped);
    JsonObject *o = json_object_new();
    ram = not_before(MIN(ram, sent), stopped);
    set_part(o, "ram_ms", stopped, ram);
    set_part(o, "devices_ms", ram, sent);
    set_part(o, "send_ms", stopped, sent);
    set_part(o, "load_ms", sent, self->loaded_us);
    set_part(o, "commit_ms", self->loaded_us, stopped + self->downtime_us);
    return o;
}

void
live_report_downtime(LiveSource *self, const DrvChannelTotals *totals, JsonObject *o)
{
    guint limit = live_downtime_limit(self);
    json_object_set_int_member(o, "downtime_ms", (self->downtime_us + 999) / 1000);
    json_object_set_int_member(o, "downtime_limit_ms", limit);
    if (self->downtime_us > 0) {
        json_object_set_boolean_member(o, "downtime_kept",
                                       self->downtime_us <= (gint64)limit * 1000);
        json_object_set_object_member(o, "downtime", parts(self, totals));
    } else {
        json_object_set_null_member(o, "downtime_kept");
        json_object_set_null_member(o, "downtime");
    }
}
