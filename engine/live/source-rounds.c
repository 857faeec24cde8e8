/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/json.h"
#include "dirty-tracking/to-json.h"

/* The rounds of a migration (docs/convergence.md). */

#define REPORT_HOT 8
#define PROGRESS_HOT 3

/* NULL in relay mode, where nobody looks into the stream, and where it was not understood to the
 * end: half of the pages would be missing. */
static DrvRounds *
known_rounds(LiveSource *self)
{
    if (self->sender == NULL || !drv_ram_sender_understood(self->sender))
        return NULL;
    return drv_ram_sender_rounds(self->sender);
}

void
live_round_begins(LiveSource *self)
{
    live_converge_round(self);
    if (self->sender != NULL && self->progress.rounds > 0)
        drv_rounds_next(drv_ram_sender_rounds(self->sender),
                        (guint)MIN(self->progress.rounds, G_MAXINT32), g_get_monotonic_time());
}

static void
move_member(JsonObject *to, const char *name, JsonObject *from, const char *member)
{
    if (from != NULL)
        json_object_set_member(to, name, json_object_dup_member(from, member));
    else
        json_object_set_null_member(to, name);
}

void
live_progress_rounds(LiveSource *self, JsonObject *o)
{
    DrvRounds *rounds = known_rounds(self);
    g_autoptr(JsonObject) all = rounds != NULL ? drv_rounds_to_json(rounds, 0, PROGRESS_HOT) : NULL;
    gboolean known = drv_json_int(all, "working_set", 0) > 0;
    json_object_set_int_member(o, "dirty_rate", (gint64)self->converge.dirty_rate);
    move_member(o, "working_set", known ? all : NULL, "working_set");
    move_member(o, "hot_regions", known ? all : NULL, "hot");
}

void
live_report_rounds(LiveSource *self, JsonObject *o)
{
    DrvRounds *rounds = known_rounds(self);
    /* Not as soon as QEMU has completed: its last pages may still be in its socket. */
    if (rounds != NULL)
        drv_rounds_finish(rounds,
                          self->completed_us > 0 ? self->completed_us : g_get_monotonic_time());
    g_autoptr(JsonObject) all =
        rounds != NULL ? drv_rounds_to_json(rounds, DRV_ROUNDS_HISTORY, REPORT_HOT) : NULL;
    move_member(o, "rounds_detail", all, "history");
    move_member(o, "working_set", all, "working_set");
    move_member(o, "hot_regions", all, "hot");
}
