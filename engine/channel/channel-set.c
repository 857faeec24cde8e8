/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/channel-set.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/offer.h"
#include "engine/channel/socket-endpoint.h"

#include <unistd.h>

typedef struct {
    DrvChannelSet *set;
    DrvChannel *channel;
    gboolean finished;
} Member;

struct _DrvChannelSet {
    DrvTransfer *transfer;
    guint expected;
    DrvCodec codec;
    DrvClass class;
    DrvShaper *shaper;
    gint near;
    DrvChannelSetChanged changed;
    gpointer data;
    DrvChannelSetCodec make_codec;
    gpointer codec_data;
    GPtrArray *members; /* of Member, in the order of opening */
    GError *error;
    GError *broken; /* why a socket broke */
};

static void
free_member(gpointer data)
{
    Member *member = data;
    drv_channel_close(member->channel);
    drv_channel_unref(member->channel);
    g_free(member);
}

static DrvChannelCodec *
opaque_codec(guint index, gpointer data)
{
    return drv_codec_opaque_new();
}

DrvChannelSet *
drv_channel_set_new(DrvTransfer *transfer, guint expected, DrvCodec codec, DrvClass class,
                    DrvShaper *shaper, DrvChannelSetChanged changed, gpointer data)
{
    DrvChannelSet *set = g_new0(DrvChannelSet, 1);
    set->transfer = transfer;
    set->expected = MAX(expected, 1);
    set->codec = codec;
    set->class = class;
    set->shaper = shaper != NULL ? drv_shaper_ref(shaper) : NULL;
    set->changed = changed;
    set->data = data;
    set->make_codec = opaque_codec;
    set->near = -1;
    set->members = g_ptr_array_new_with_free_func(free_member);
    return set;
}

void
drv_channel_set_free(DrvChannelSet *set)
{
    if (set == NULL)
        return;
    g_ptr_array_unref(set->members);
    drv_shaper_unref(set->shaper);
    g_clear_error(&set->error);
    g_clear_error(&set->broken);
    g_free(set);
}

static void
member_finished(DrvChannel *channel, const GError *error, gpointer data)
{
    Member *member = data;
    DrvChannelSet *set = member->set;
    DrvChannelStats stats;
    drv_channel_get_stats(channel, &stats);
    GError **kept = stats.sent_all && stats.received_all ? &set->broken : &set->error;
    member->finished = TRUE;
    if (error != NULL && *kept == NULL)
        *kept = g_error_copy(error);
    set->changed(set, set->data);
}

void
drv_channel_set_use_codec(DrvChannelSet *set, DrvChannelSetCodec make, gpointer data)
{
    set->make_codec = make;
    set->codec_data = data;
}

void
drv_channel_set_near(DrvChannelSet *set, gint node)
{
    set->near = node;
}

static Member *
open_half(DrvChannelSet *set, DrvPeer *peer, int fd, guint32 id, guint tx_credit, guint rx_credit,
          GError **error)
{
    DrvPool *pool = drv_transfer_pool(set->transfer);
    Member *member = g_new0(Member, 1);
    DrvEndpoint *endpoint =
        drv_socket_endpoint_new(fd, set->make_codec(set->members->len, set->codec_data));
    DrvChannelParams params = {
        .id = id,
        .home = set->near >= 0
                    ? drv_transfer_worker_near(set->transfer, set->near, set->members->len)
                    : NULL,
        .codec = set->codec,
        .class = set->class,
        .weight = 1,
        .shaper = set->shaper,
        .tx_credit = tx_credit,
        .rx_credit = rx_credit,
        .share = drv_session_share(drv_peer_session(peer)),
        .finished = member_finished,
        .data = member,
    };
    member->set = set;
    member->channel = drv_channel_open(drv_peer_session(peer), endpoint, &params, error);
    if (member->channel == NULL) {
        drv_socket_endpoint_discard(endpoint);
        drv_pool_unreserve(pool, params.share, rx_credit);
        g_free(member);
        return NULL;
    }
    g_ptr_array_add(set->members, member);
    return member;
}

static guint
reserve(DrvChannelSet *set, DrvPeer *peer, GError **error)
{
    guint want = MAX(DRV_CREDIT_WANT / set->expected, DRV_CREDIT_LEAST);
    guint credit =
        drv_pool_reserve(drv_transfer_pool(set->transfer),
                         drv_session_share(drv_peer_session(peer)), want, DRV_CREDIT_LEAST);
    if (credit == 0)
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_LIMIT,
                            "this daemon's buffers are all promised to other channels: use fewer "
                            "multifd channels or wait for other jobs to end");
    return credit;
}

gboolean
drv_channel_set_offer(DrvChannelSet *set, DrvPeer *peer, int fd, JsonObject *args, GError **error)
{
    guint32 id = drv_session_new_channel_id(drv_peer_session(peer));
    guint credit = reserve(set, peer, error);
    if (credit == 0) {
        close(fd);
        return FALSE;
    }
    if (open_half(set, peer, fd, id, 0, credit, error) == NULL)
        return FALSE;
    json_object_set_int_member(args, "channel", id);
    json_object_set_int_member(args, "credit", credit);
    return TRUE;
}

gboolean
drv_channel_set_accepted(DrvChannelSet *set, JsonObject *ok, GError **error)
{
    guint credit;
    g_return_val_if_fail(set->members->len > 0, FALSE);
    if (!drv_offer_credit(ok, &credit, error))
        return FALSE;
    Member *latest = set->members->pdata[set->members->len - 1];
    drv_channel_grant(latest->channel, credit);
    return TRUE;
}

JsonObject *
drv_channel_set_accept(DrvChannelSet *set, DrvPeer *peer, int fd, JsonObject *args, GError **error)
{
    guint32 id;
    guint tx_credit, rx_credit = 0;
    if (drv_offer_parse(args, drv_peer_session(peer), &id, &tx_credit, error))
        rx_credit = reserve(set, peer, error);
    if (rx_credit == 0) {
        close(fd);
        return NULL;
    }
    if (open_half(set, peer, fd, id, tx_credit, rx_credit, error) == NULL)
        return NULL;
    JsonObject *ok = json_object_new();
    json_object_set_int_member(ok, "credit", rx_credit);
    return ok;
}

guint
drv_channel_set_count(DrvChannelSet *set)
{
    return set->members->len;
}

gboolean
drv_channel_set_finished(DrvChannelSet *set)
{
    for (guint i = 0; i < set->members->len; i++)
        if (!((Member *)set->members->pdata[i])->finished)
            return FALSE;
    return TRUE;
}

const GError *
drv_channel_set_error(DrvChannelSet *set)
{
    return set->error;
}

const GError *
drv_channel_set_broken(DrvChannelSet *set)
{
    return set->broken;
}

void
drv_channel_set_class(DrvChannelSet *set, DrvClass class)
{
    set->class = class;
    for (guint i = 0; i < set->members->len; i++)
        drv_channel_set_send_class(((Member *)set->members->pdata[i])->channel, class);
}

/* --- digests --- */

static JsonObject *
digest_to_json(const DrvDigest *digest)
{
    JsonObject *object = json_object_new();
    g_autofree char *text = drv_digest_string(digest);
    json_object_set_int_member(object, "bytes", (gint64)digest->bytes);
    json_object_set_string_member(object, "digest", text);
    return object;
}

JsonArray *
drv_channel_set_digests(DrvChannelSet *set)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < set->members->len; i++) {
        DrvChannelStats stats;
        JsonObject *object = json_object_new();
        drv_channel_get_stats(((Member *)set->members->pdata[i])->channel, &stats);
        json_object_set_object_member(object, "sent", digest_to_json(&stats.sent));
        json_object_set_object_member(object, "received", digest_to_json(&stats.received));
        json_array_add_object_element(array, object);
    }
    return array;
}

static gboolean
same(const DrvDigest *ours, JsonObject *theirs)
{
    g_autofree char *text = drv_digest_string(ours);
    return drv_json_int(theirs, "bytes", -1) == (gint64)ours->bytes &&
           g_str_equal(drv_json_string(theirs, "digest", ""), text);
}

gboolean
drv_channel_set_compare(DrvChannelSet *set, JsonArray *theirs, GError **error)
{
    if (theirs == NULL || json_array_get_length(theirs) != set->members->len) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                            "the destination counts other channels than the source");
        return FALSE;
    }
    for (guint i = 0; i < set->members->len; i++) {
        DrvChannelStats stats;
        JsonObject *other = drv_json_element(theirs, i);
        drv_channel_get_stats(((Member *)set->members->pdata[i])->channel, &stats);
        gboolean forth = same(&stats.sent, drv_json_object(other, "received"));
        if (!forth || !same(&stats.received, drv_json_object(other, "sent"))) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                        "what came out of channel %u at the %s is not what went in at the %s: the "
                        "guest is not handed over",
                        i, forth ? "source" : "destination", forth ? "destination" : "source");
            return FALSE;
        }
    }
    return TRUE;
}

void
drv_channel_set_totals(DrvChannelSet *set, DrvChannelTotals *totals)
{
    *totals = (DrvChannelTotals){0};
    for (guint i = 0; i < set->members->len; i++) {
        DrvChannelStats stats;
        drv_channel_get_stats(((Member *)set->members->pdata[i])->channel, &stats);
        totals->raw += stats.sent.bytes + stats.received.bytes;
        totals->sent_us = MAX(totals->sent_us, stats.sent_us);
        totals->delivered += stats.acknowledged;
        totals->wire += stats.wire_tx + stats.wire_rx;
        for (guint k = 0; k < DRV_CODEC_COUNT; k++)
            totals->pages[k] += stats.pages[k];
    }
}
