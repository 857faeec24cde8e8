/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-disks-private.h"

#include "common/error.h"
#include "common/json.h"

/*
 * The source's half of '--disks-delta': waits until the destination has hashed its disks, fetches
 * the leaves, and has them ready for the disks' codecs (image/delta-writer.c). Several calls are
 * under way, so that a long link does not make it slow.
 */

#define POLL_MS 250
#define CALLS 16

typedef struct {
    DrvTicket *ticket;
    guint disk;
    guint64 first;
} Asked;

gboolean
live_delta_agreed(LiveSource *self, JsonObject *ok, GError **error)
{
    if (!self->spec->disks_delta)
        return TRUE;
    gint64 block = drv_json_int(ok, "delta_block", 0);
    guint64 blocks = 0;
    if (!drv_delta_block_is_valid(block)) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "the destination's drover does not compare disks: install the same "
                            "version there, or use '--disks-overwrite' instead of '--disks-delta'");
        return FALSE;
    }
    for (guint i = 0; i < self->disks->mirrors->len; i++)
        blocks += live_mirror_at(self, i)->disk->size / (guint64)block + 1;
    if (blocks > DRV_DELTA_LEAVES_MAX) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "the destination's drover compares disks in too many blocks: install "
                            "the same version there");
        return FALSE;
    }
    for (guint i = 0; i < self->disks->mirrors->len; i++) {
        LiveMirror *mirror = live_mirror_at(self, i);
        mirror->known = drv_delta_known_new(mirror->disk->size, (guint32)block, error);
        if (mirror->known == NULL)
            return FALSE;
    }
    return TRUE;
}

/* --- the leaves --- */

static void fetch(LiveSource *self);

static gboolean
take_leaves(LiveSource *self, const Asked *asked, JsonObject *ok, GError **error)
{
    LiveMirror *mirror = live_mirror_at(self, asked->disk);
    gsize len = 0;
    g_autofree guint8 *leaves = g_base64_decode(drv_json_string(ok, "leaves", ""), &len);
    gsize count = len / DRV_IMAGE_LEAF;
    guint64 left = drv_delta_known_blocks(mirror->known) - asked->first;
    if (len % DRV_IMAGE_LEAF != 0 || count != MIN(left, LIVE_LEAVES)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the destination's drover sends %" G_GSIZE_FORMAT
                    " bytes of digests, where those of %" G_GUINT64_FORMAT
                    " blocks were asked for: install the same version there",
                    len, MIN(left, LIVE_LEAVES));
        return FALSE;
    }
    return drv_delta_known_take(mirror->known, asked->first, leaves, count, error);
}

static void
leaves_told(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autofree Asked *asked = data;
    g_autoptr(DrvJob) keep = NULL;
    LiveSource *self = live_redeem(asked->ticket, &keep);
    if (self == NULL)
        return;
    GError *wrong = error != NULL ? g_error_copy(error) : NULL;
    self->disks->fetching--;
    if (wrong != NULL || !take_leaves(self, asked, ok, &wrong))
        drv_steps_fail(&self->steps, wrong);
    else
        fetch(self);
}

static void
fetch(LiveSource *self)
{
    LiveDisks *disks = self->disks;
    while (disks->fetching < CALLS && disks->fetch_disk < disks->mirrors->len) {
        const DrvDeltaKnown *known = live_mirror_at(self, disks->fetch_disk)->known;
        if (disks->fetch_block >= drv_delta_known_blocks(known)) {
            disks->fetch_disk++;
            disks->fetch_block = 0;
            continue;
        }
        Asked *asked = g_new(Asked, 1);
        JsonObject *args = json_object_new();
        *asked = (Asked){live_ticket(self), disks->fetch_disk, disks->fetch_block};
        json_object_set_string_member(args, "job", self->base.rec->id);
        json_object_set_int_member(args, "disk", asked->disk);
        json_object_set_int_member(args, "first", (gint64)asked->first);
        disks->fetching++;
        disks->fetch_block += LIVE_LEAVES;
        drv_peer_call(self->peer, "job.leaves", args, leaves_told, asked);
    }
    if (disks->fetching == 0) {
        disks->hashing = FALSE;
        drv_steps_next(&self->steps);
    }
}

/* --- until they are there --- */

static void ask_hashed(LiveSource *self);

static gboolean
ask_again(gpointer data)
{
    LiveSource *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    live_clear_source(&self->disks->poll);
    drv_job_changed(&self->base);
    if (self->disks->hashing && self->peer != NULL)
        ask_hashed(self);
    return G_SOURCE_REMOVE;
}

/* Only shown. */
static void
take_hashed(LiveSource *self, JsonArray *bytes)
{
    guint count = bytes != NULL ? json_array_get_length(bytes) : 0;
    for (guint i = 0; i < MIN(count, self->disks->mirrors->len); i++) {
        JsonNode *node = json_array_get_element(bytes, i);
        if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_INT64)
            live_mirror_at(self, i)->hashed = json_node_get_int(node);
    }
}

static void
hashed_told(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    LiveSource *self = live_redeem(ticket, &keep);
    if (self == NULL)
        return;
    if (error != NULL) {
        drv_steps_fail(&self->steps, g_error_copy(error));
        return;
    }
    take_hashed(self, drv_json_array(ok, "hashed"));
    if (drv_json_flag(ok, "done", FALSE))
        fetch(self);
    else
        live_set_timer(&self->disks->poll, POLL_MS, ask_again, self);
}

static void
ask_hashed(LiveSource *self)
{
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", self->base.rec->id);
    drv_peer_call(self->peer, "job.hashed", args, hashed_told, live_ticket(self));
}

void
live_delta_fetch(gpointer owner)
{
    LiveSource *self = owner;
    if (!live_disks_any(self) || !self->spec->disks_delta) {
        drv_steps_next(&self->steps);
        return;
    }
    self->disks->hashing = TRUE;
    ask_hashed(self);
}
