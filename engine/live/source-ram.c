/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include "common/error.h"
#include "common/json.h"

#include <string.h>

/* How the guest's memory travels: as pages that the destination's daemon places (direct), or as
 * QEMU's stream (relay). */

static gboolean
parse_secret(const char *hex, guint8 secret[DRV_PAGE_SECRET])
{
    if (strlen(hex) != 2 * (gsize)DRV_PAGE_SECRET)
        return FALSE;
    for (guint i = 0; i < DRV_PAGE_SECRET; i++) {
        gint high = g_ascii_xdigit_value(hex[2 * i]), low = g_ascii_xdigit_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return FALSE;
        secret[i] = (guint8)(high << 4 | low);
    }
    return TRUE;
}

/* The blocks that are placed: those that the destination offers and the source has, too. */
static GArray *
parse_blocks(JsonArray *array)
{
    GArray *blocks = g_array_new(FALSE, TRUE, sizeof(DrvRamBlock));
    for (guint i = 0; array != NULL && i < MIN(json_array_get_length(array), DRV_STREAM_MAX_BLOCKS);
         i++) {
        JsonObject *o = drv_json_element(array, i);
        gint64 size = drv_json_int(o, "size", 0);
        DrvRamBlock block = {.size = (guint64)MAX(size, 0)};
        if (g_strlcpy(block.id, drv_json_string(o, "block", ""), sizeof block.id) <
                sizeof block.id &&
            size > 0)
            g_array_append_val(blocks, block);
    }
    return blocks;
}

/* The blocks that are not, with the reason; for people, so no more than they read. */
static JsonArray *
parse_left(JsonArray *array)
{
    JsonArray *left = json_array_new();
    for (guint i = 0; array != NULL && i < MIN(json_array_get_length(array), 32); i++) {
        JsonObject *o = drv_json_element(array, i), *block = json_object_new();
        json_object_set_string_member(block, "block", drv_json_string(o, "block", ""));
        json_object_set_string_member(block, "why", drv_json_string(o, "why", ""));
        json_array_add_object_element(left, block);
    }
    return left;
}

void
live_ask_to_share(LiveSource *self, JsonObject *args)
{
    gint64 bytes = self->spec->dedup_memory;
    if (self->spec->mode == DRV_SPEC_MODE_RELAY)
        return;
    JsonObject *asked =
        drv_shared_pages_ask(drv_services_shared_pages(self->base.services), self->spec->to,
                             bytes == DRV_SPEC_AUTO ? DRV_SHARED_DEFAULT : bytes);
    if (asked != NULL)
        json_object_set_object_member(args, "dedup", asked);
}

/* Who says how much is to be spent has others in mind that are to follow. */
static void
share(LiveSource *self, JsonObject *ok)
{
    g_autoptr(DrvKeptPages) kept =
        drv_shared_pages_agree(drv_services_shared_pages(self->base.services), self->spec->to,
                               drv_json_object(ok, "dedup"));
    if (kept != NULL)
        drv_ram_sender_use_kept(self->sender, kept, self->spec->dedup_memory != DRV_SPEC_AUTO);
}

static gsize
index_memory(const DrvJobSpec *spec)
{
    return spec->dedup_memory == DRV_SPEC_AUTO ? DRV_DEDUP_MEMORY_DEFAULT
                                               : (gsize)spec->dedup_memory;
}

gboolean
live_choose_mode(LiveSource *self, JsonObject *ok, GError **error)
{
    JsonObject *direct = drv_json_object(ok, "direct");
    guint8 secret[DRV_PAGE_SECRET];
    g_free(self->relay_reason);
    self->relay_reason = g_strdup(drv_json_string(ok, "relay_reason", NULL));
    if (self->spec->mode == DRV_SPEC_MODE_DIRECT && direct == NULL) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_STATE,
                            "it offers no direct mode: use --mode auto, or a newer droverd there");
        return FALSE;
    }
    if (self->spec->mode == DRV_SPEC_MODE_RELAY || direct == NULL)
        return TRUE;
    if (!parse_secret(drv_json_string(direct, "secret", ""), secret)) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "its offer of direct mode makes no sense");
        return FALSE;
    }
    g_autoptr(GArray) blocks = parse_blocks(drv_json_array(direct, "blocks"));
    g_clear_pointer(&self->left_to_qemu, json_array_unref);
    self->left_to_qemu = parse_left(drv_json_array(direct, "left"));
    drv_ram_sender_unref(self->sender);
    self->sender =
        drv_ram_sender_new((const DrvRamBlock *)blocks->data, blocks->len,
                           (guint)self->spec->multifd, secret, index_memory(self->spec), error);
    json_object_set_boolean_member(self->base.detail, "direct", self->sender != NULL);
    if (self->sender == NULL)
        return FALSE;
    if (self->spec->dedup_memory != 0)
        share(self, ok);
    return TRUE;
}

DrvChannelCodec *
live_codec(guint index, gpointer data)
{
    LiveSource *self = data;
    return self->sender != NULL ? drv_ram_sender_codec(self->sender, index)
                                : drv_codec_opaque_new();
}

guint64
live_ram_bytes(LiveSource *self, const DrvChannelTotals *totals)
{
    return self->sender != NULL ? drv_ram_sender_stream(self->sender) : totals->raw;
}

void
live_report_mode(LiveSource *self, JsonObject *o)
{
    const char *why = self->sender != NULL ? drv_ram_sender_why_not(self->sender) : NULL;
    /* A daemon that was restarted after the decision knows this much. */
    gboolean direct = drv_json_flag(self->base.detail, "direct", FALSE);
    json_object_set_string_member(o, "mode", direct ? "direct" : "relay");
    if (why != NULL || self->relay_reason != NULL)
        json_object_set_string_member(o, "relay_reason", why != NULL ? why : self->relay_reason);
    if (self->sender != NULL)
        json_object_set_array_member(o, "left_to_qemu", json_array_ref(self->left_to_qemu));
}

JsonObject *
live_report_ram(LiveSource *self, const DrvChannelTotals *totals)
{
    JsonObject *ram = json_object_new();
    JsonObject *pages = json_object_new();
    DrvRamSenderStats stats = {0};
    guint64 raw = totals->pages[DRV_CODEC_NONE];
    if (self->sender != NULL) {
        drv_ram_sender_get_stats(self->sender, &stats);
    } else { /* the stream is compressed as a whole: pages are not told apart */
        stats.pages.zero = (guint64)self->progress.zero_pages;
        stats.stream = totals->raw;
        raw = (guint64)self->progress.normal_pages;
    }
    json_object_set_int_member(pages, "zero", (gint64)stats.pages.zero);
    json_object_set_int_member(pages, "dup", (gint64)stats.pages.dup);
    json_object_set_int_member(pages, "delta", (gint64)stats.pages.delta);
    json_object_set_int_member(pages, "lz4", (gint64)totals->pages[DRV_CODEC_LZ4]);
    json_object_set_int_member(pages, "zstd", (gint64)totals->pages[DRV_CODEC_ZSTD]);
    json_object_set_int_member(pages, "raw", (gint64)raw);
    json_object_set_int_member(ram, "bytes", (gint64)stats.stream);
    json_object_set_int_member(ram, "wire_bytes", (gint64)totals->wire);
    json_object_set_int_member(ram, "shared_pages", (gint64)stats.pages.kept);
    json_object_set_int_member(ram, "state_bytes", (gint64)stats.state);
    json_object_set_object_member(ram, "pages", pages);
    return ram;
}
