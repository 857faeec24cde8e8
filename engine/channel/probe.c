/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/probe.h"

#include "common/error.h"
#include "engine/channel/offer.h"

#include <string.h>

/* --- the endpoint: on the channel's data thread --- */

/* Shared with the control thread, which may want an end when the endpoint is gone already. */
typedef struct {
    gint end; /* atomic */
} Wish;

typedef struct {
    DrvEndpoint base;
    DrvChannel *channel; /* from start to stop; borrowed */
    DrvWorker *worker;
    Wish *wish;
    guint64 left;     /* bytes to be sent */
    guint8 *random;   /* a chunk of them; NULL at the end that only takes */
    gboolean ended;   /* the last was sent */
    gboolean waiting; /* for a chunk of the pool: its wake-up is going to come */
    gboolean stopped;
} ProbeEndpoint;

static void
release(ProbeEndpoint *self)
{
    if (!self->stopped || self->waiting)
        return;
    g_atomic_rc_box_release(self->wish);
    g_free(self->random);
    g_free(self);
}

static void
send_end(ProbeEndpoint *self)
{
    if (self->ended)
        return;
    self->ended = TRUE;
    drv_channel_send(self->channel, NULL, 0, DRV_DATA_EOF);
}

static void send_on(ProbeEndpoint *self);

static void
take_room_in_pool(gpointer target, gpointer data)
{
    ProbeEndpoint *self = target;
    self->waiting = FALSE;
    if (self->stopped)
        release(self);
    else
        send_on(self);
}

static void
room_in_pool(gpointer data)
{
    ProbeEndpoint *self = data;
    drv_worker_post(self->worker, take_room_in_pool, self, NULL);
}

/* No two pieces are the same: nothing on the way can make less of them. */
static void
send_piece(ProbeEndpoint *self, DrvChunk *chunk)
{
    guint32 len = (guint32)MIN(self->left, DRV_CHUNK_SIZE);
    memcpy(chunk->data, self->random, len);
    memcpy(chunk->data, &self->left, MIN(len, sizeof self->left));
    self->left -= len;
    drv_channel_send(self->channel, chunk, len, 0);
}

static void
send_on(ProbeEndpoint *self)
{
    while (!self->ended && !self->waiting && !self->stopped &&
           drv_channel_may_send(self->channel)) {
        if (self->left == 0 || g_atomic_int_get(&self->wish->end)) {
            send_end(self);
            return;
        }
        DrvPool *pool = drv_worker_pool(self->worker);
        DrvChunk *chunk = drv_worker_take(self->worker, DRV_POOL_TX);
        if (chunk != NULL) {
            send_piece(self, chunk);
        } else {
            self->waiting = TRUE;
            drv_pool_wait(pool, room_in_pool, self);
        }
    }
}

static void
probe_start(DrvEndpoint *base, DrvChannel *channel)
{
    ProbeEndpoint *self = (ProbeEndpoint *)base;
    self->channel = channel;
    self->worker = drv_channel_worker(channel);
    if (self->random != NULL)
        send_on(self);
}

/* Whatever comes is dropped; an end is answered with one. */
static void
probe_deliver(DrvEndpoint *base, DrvFrame *frame)
{
    ProbeEndpoint *self = (ProbeEndpoint *)base;
    if (frame->flags != 0)
        send_end(self);
    drv_frame_unref(frame);
    drv_channel_delivered(self->channel);
}

static void
probe_room(DrvEndpoint *base)
{
    ProbeEndpoint *self = (ProbeEndpoint *)base;
    if (self->random != NULL)
        send_on(self);
}

static void
probe_stop(DrvEndpoint *base)
{
    ProbeEndpoint *self = (ProbeEndpoint *)base;
    self->stopped = TRUE;
    release(self);
}

static const DrvEndpointOps probe_ops = {
    .start = probe_start,
    .deliver = probe_deliver,
    .room = probe_room,
    .stop = probe_stop,
};

static ProbeEndpoint *
endpoint_new(Wish *wish, guint64 bytes)
{
    ProbeEndpoint *self = g_new0(ProbeEndpoint, 1);
    self->base.ops = &probe_ops;
    self->base.depth = 1;
    self->wish = g_atomic_rc_box_acquire(wish);
    self->left = bytes;
    if (bytes == 0)
        return self;
    self->random = g_malloc(DRV_CHUNK_SIZE);
    for (gsize i = 0; i < DRV_CHUNK_SIZE; i += sizeof(guint32)) {
        guint32 word = g_random_int();
        memcpy(self->random + i, &word, sizeof word);
    }
    return self;
}

/* --- the probe: on the control thread --- */

struct _DrvProbe {
    DrvChannel *channel;
    Wish *wish;
    DrvProbeChanged changed;
    gpointer data;
    guint timer;
    GError *error;
};

void
drv_probe_free(DrvProbe *probe)
{
    if (probe == NULL)
        return;
    g_clear_handle_id(&probe->timer, g_source_remove);
    if (probe->channel != NULL) {
        drv_channel_close(probe->channel);
        drv_channel_unref(probe->channel);
    }
    g_atomic_rc_box_release(probe->wish);
    g_clear_error(&probe->error);
    g_free(probe);
}

static void
finished(DrvChannel *channel, const GError *error, gpointer data)
{
    DrvProbe *probe = data;
    if (error != NULL && probe->error == NULL)
        probe->error = g_error_copy(error);
    probe->changed(probe, probe->data);
}

static gboolean
overdue(gpointer data)
{
    DrvProbe *probe = data;
    probe->timer = 0;
    if (probe->error == NULL)
        probe->error =
            g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                        "the probe of the link did not end within %d s", DRV_PROBE_MAX_S);
    probe->changed(probe, probe->data);
    return G_SOURCE_REMOVE;
}

/* 'bytes' 0: the end that takes. */
static DrvProbe *
probe_new(DrvTransfer *transfer, DrvSession *session, guint32 id, guint64 bytes, guint tx_credit,
          guint *rx_credit, GError **error)
{
    DrvPool *pool = drv_transfer_pool(transfer);
    DrvShare *share = drv_session_share(session);
    guint want = bytes > 0 ? DRV_CREDIT_LEAST : DRV_CREDIT_WANT;
    *rx_credit = drv_pool_reserve(pool, share, want, DRV_CREDIT_LEAST);
    if (*rx_credit == 0) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_LIMIT,
                            "this daemon's buffers are all promised to other channels: wait for "
                            "other jobs to end");
        return NULL;
    }
    DrvProbe *probe = g_new0(DrvProbe, 1);
    probe->wish = g_atomic_rc_box_new0(Wish);
    ProbeEndpoint *endpoint = endpoint_new(probe->wish, bytes);
    const DrvChannelParams params = {
        .id = id,
        .codec = DRV_CODEC_NONE,
        .class = DRV_CLASS_BULK,
        .weight = 1,
        .tx_credit = tx_credit,
        .rx_credit = *rx_credit,
        .share = share,
        .finished = finished,
        .data = probe,
    };
    probe->channel = drv_channel_open(session, &endpoint->base, &params, error);
    if (probe->channel == NULL) {
        probe_stop(&endpoint->base);
        drv_pool_unreserve(pool, share, *rx_credit);
        drv_probe_free(probe);
        return NULL;
    }
    return probe;
}

DrvProbe *
drv_probe_offer(DrvTransfer *transfer, DrvSession *session, guint64 bytes, DrvProbeChanged changed,
                gpointer data, JsonObject *args, GError **error)
{
    g_return_val_if_fail(bytes > 0, NULL);
    guint32 id = drv_session_new_channel_id(session);
    guint credit;
    DrvProbe *probe = probe_new(transfer, session, id, bytes, 0, &credit, error);
    if (probe == NULL)
        return NULL;
    probe->changed = changed;
    probe->data = data;
    json_object_set_int_member(args, "channel", id);
    json_object_set_int_member(args, "credit", credit);
    return probe;
}

gboolean
drv_probe_accepted(DrvProbe *probe, JsonObject *ok, GError **error)
{
    guint credit;
    if (!drv_offer_credit(ok, &credit, error))
        return FALSE;
    drv_channel_grant(probe->channel, credit);
    return TRUE;
}

void
drv_probe_end(DrvProbe *probe)
{
    g_atomic_int_set(&probe->wish->end, TRUE);
}

DrvProbe *
drv_probe_accept(DrvTransfer *transfer, DrvSession *session, JsonObject *args,
                 DrvProbeChanged changed, gpointer data, JsonObject **ok, GError **error)
{
    guint32 id;
    guint tx_credit, rx_credit;
    if (!drv_offer_parse(args, session, &id, &tx_credit, error))
        return NULL;
    DrvProbe *probe = probe_new(transfer, session, id, 0, tx_credit, &rx_credit, error);
    if (probe == NULL)
        return NULL;
    probe->changed = changed;
    probe->data = data;
    probe->timer = g_timeout_add_seconds(DRV_PROBE_MAX_S, overdue, probe);
    *ok = json_object_new();
    json_object_set_int_member(*ok, "credit", rx_credit);
    return probe;
}

guint64
drv_probe_delivered(DrvProbe *probe)
{
    DrvChannelStats stats;
    drv_channel_get_stats(probe->channel, &stats);
    return stats.acknowledged;
}

const GError *
drv_probe_error(DrvProbe *probe)
{
    return probe->error;
}
