/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/dest-private.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/guest-blocks.h"

#include <openssl/rand.h>

/* Direct mode at the destination: where the guest's memory is, and whether it can be written. */

static void
placing_failed(const GError *error, gpointer data)
{
    LiveDest *self = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (drv_job_state(&self->base) < DRV_STATE_LOADED)
        dest_fail(self, g_error_new(error->domain, error->code,
                                    "the guest's memory cannot be placed: %s", error->message));
}

/* Of the blocks that are left to QEMU as many are named: it is for people, and a message has an
 * end. */
#define LEFT_MAX 32

/* What the source has to know: the blocks that are placed here, and what their digest is made
 * with; why the others are not, for the report. */
static JsonObject *
make_offer(const DrvGuestRam *ram, const guint8 secret[DRV_PAGE_SECRET])
{
    JsonObject *offer = json_object_new();
    JsonArray *array = json_array_new(), *left = json_array_new();
    g_autoptr(GString) hex = g_string_new(NULL);
    for (guint i = 0; i < DRV_PAGE_SECRET; i++)
        g_string_append_printf(hex, "%02x", secret[i]);
    for (guint i = 0; i < drv_guest_ram_blocks(ram); i++) {
        const DrvGuestBlock *known = drv_guest_ram_block(ram, i);
        if (known->hva == 0 && json_array_get_length(left) >= LEFT_MAX)
            continue;
        JsonObject *block = json_object_new();
        json_object_set_string_member(block, "block", known->id);
        if (known->hva == 0)
            json_object_set_string_member(block, "why", drv_guest_ram_why(ram, i));
        else
            json_object_set_int_member(block, "size", (gint64)known->size);
        json_array_add_object_element(known->hva == 0 ? left : array, block);
    }
    json_object_set_string_member(offer, "secret", hex->str);
    json_object_set_array_member(offer, "blocks", array);
    json_object_set_array_member(offer, "left", left);
    return offer;
}

static gboolean
offer_direct(LiveDest *self, const DrvGuestBlocks *blocks, GError **error)
{
    guint8 secret[DRV_PAGE_SECRET];
    g_autoptr(DrvGuestRam) ram = drv_guest_ram_open(blocks->pid, blocks->blocks, blocks->n, error);
    if (ram == NULL || drv_guest_ram_main(ram, error) < 0)
        return FALSE;
    if (RAND_bytes(secret, sizeof secret) != 1) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_IO, "no random numbers are to be had");
        return FALSE;
    }
    self->direct = make_offer(ram, secret);
    self->placer = drv_ram_placer_new(drv_services_transfer(self->base.services),
                                      g_steal_pointer(&ram), secret, placing_failed, self);
    g_autoptr(DrvPageStore) store =
        drv_shared_pages_serve(drv_services_shared_pages(self->base.services), self->base.rec->peer,
                               drv_json_object(self->asked, "dedup"), &self->shares);
    if (store != NULL)
        drv_ram_placer_use_store(self->placer, store);
    return TRUE;
}

/* Direct mode is not to be had: an error if it was insisted on. Takes the error. */
static void
relay_instead(LiveDest *self, GError *error)
{
    if (self->mode == DRV_SPEC_MODE_DIRECT) {
        drv_steps_fail(&self->steps, error);
        return;
    }
    g_free(self->relay_reason);
    self->relay_reason = g_strdup(error->message);
    g_error_free(error);
    drv_steps_next(&self->steps);
}

static void
blocks_known(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *error = NULL;
    g_autoptr(DrvGuestBlocks) blocks = drv_guest_blocks_find_finish(result, &error);
    LiveDest *self = dest_redeem(ticket, &keep);
    if (self == NULL) {
        g_clear_error(&error);
        return;
    }
    if (blocks == NULL || !offer_direct(self, blocks, &error))
        relay_instead(self, error);
    else
        drv_steps_next(&self->steps);
}

void
dest_reach_ram(gpointer owner)
{
    LiveDest *self = owner;
    if (self->mode == DRV_SPEC_MODE_RELAY)
        drv_steps_next(&self->steps);
    else
        drv_guest_blocks_find_async(self->qmp, QMP_TIMEOUT_MS, self->steps.cancellable,
                                    blocks_known, dest_ticket(self));
}

DrvChannelCodec *
dest_codec(guint index, gpointer data)
{
    LiveDest *self = data;
    return self->placer != NULL ? drv_ram_placer_codec(self->placer) : drv_codec_opaque_new();
}
