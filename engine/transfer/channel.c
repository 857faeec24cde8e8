/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/channel.h"

#include "common/error.h"
#include "engine/transfer/channel-private.h"
#include "engine/transfer/session-private.h"

/* Acks are gathered: one for so many bytes, or after so long. They only free the sender's replay
 * buffer, so nothing but the window waits for them. */
#define ACK_BYTES ((gsize)256 * 1024)
#define ACK_DELAY_US 1000

static void ack_timer_fired(DrvTimer *timer);

DrvChannel *
drv_channel_ref(DrvChannel *channel)
{
    g_atomic_ref_count_inc(&channel->refs);
    return channel;
}

void
drv_channel_unref(DrvChannel *channel)
{
    if (channel == NULL || !g_atomic_ref_count_dec(&channel->refs))
        return;
    g_assert(channel->stopped);
    drv_tx_flow_clear(&channel->tx);
    drv_rx_flow_clear(&channel->rx);
    g_clear_error(&channel->reset);
    drv_shaper_unref(channel->params.shaper);
    g_mutex_clear(&channel->stats_lock);
    drv_session_unref(channel->session);
    g_free(channel);
}

guint32
drv_channel_id(const DrvChannel *channel)
{
    return channel->params.id;
}

DrvWorker *
drv_channel_worker(const DrvChannel *channel)
{
    return channel->worker;
}

DrvCodec
drv_channel_codec(DrvChannel *channel)
{
    return (DrvCodec)g_atomic_int_get(&channel->codec);
}

gboolean
drv_channel_is_message(const DrvChannel *channel)
{
    return channel->params.message;
}

void
drv_channel_set_codec(DrvChannel *channel, DrvCodec codec)
{
    g_atomic_int_set(&channel->codec, (gint)codec);
}

void
drv_channel_get_stats(DrvChannel *channel, DrvChannelStats *stats)
{
    g_mutex_lock(&channel->stats_lock);
    *stats = channel->stats;
    g_mutex_unlock(&channel->stats_lock);
}

void
drv_channel_add_wire(DrvChannel *channel, guint64 tx, guint64 rx)
{
    g_mutex_lock(&channel->stats_lock);
    channel->stats.wire_tx += tx;
    channel->stats.wire_rx += rx;
    g_mutex_unlock(&channel->stats_lock);
}

/* --- the end --- */

static void
stop(DrvChannel *channel, gboolean done)
{
    if (channel->stopped)
        return;
    channel->stopped = TRUE;
    channel->done = done;
    drv_worker_timer_stop(channel->worker, &channel->ack_timer);
    drv_session_forget_channel(channel->session, channel, done);
    channel->endpoint->ops->stop(channel->endpoint);
    /* Whoever still holds the channel does not hold its buffers. */
    drv_tx_flow_clear(&channel->tx);
    drv_rx_flow_clear(&channel->rx);
    if (!channel->params.message)
        drv_pool_unreserve(drv_worker_pool(channel->worker), channel->params.share,
                           channel->params.rx_credit);
}

typedef struct {
    DrvChannel *channel;
    GError *error;
} Finish;

static void
tell_finished(gpointer target, gpointer data)
{
    Finish *finish = data;
    DrvChannel *channel = finish->channel;
    if (!channel->closed && channel->params.finished != NULL)
        channel->params.finished(channel, finish->error, channel->params.data);
    g_clear_error(&finish->error);
    drv_channel_unref(channel);
    g_free(finish);
}

/* 'done': both directions came to their end. */
static void
finish(DrvChannel *channel, const GError *error, gboolean done)
{
    if (channel->stopped)
        return;
    stop(channel, done);
    Finish *f = g_new0(Finish, 1);
    f->channel = drv_channel_ref(channel);
    f->error = error != NULL ? g_error_copy(error) : NULL;
    drv_session_post_control(channel->session, tell_finished, NULL, f);
}

gboolean
drv_channel_is_settled(const DrvChannel *channel)
{
    return channel->waiting_flags == 0 && channel->tx.delivered == channel->tx.next;
}

static void
finish_if_done(DrvChannel *channel)
{
    gboolean sent_all = channel->sent_flags != 0 && drv_channel_is_settled(channel);
    gboolean received_all = channel->received_flags != 0;
    g_mutex_lock(&channel->stats_lock);
    channel->stats.sent_all = sent_all;
    channel->stats.received_all = received_all;
    g_mutex_unlock(&channel->stats_lock);
    if (sent_all && received_all)
        finish(channel, channel->reset, TRUE);
}

/* --- sending --- */

void
drv_channel_broke(DrvChannel *channel, const char *why)
{
    if (channel->reset == NULL)
        channel->reset = g_error_new(DRV_ERROR, DRV_ERROR_IO, "the socket here broke: %s", why);
}

guint64
drv_channel_sent_frames(const DrvChannel *channel)
{
    return channel->tx.next;
}

guint16
drv_channel_sent_flags(const DrvChannel *channel)
{
    return channel->sent_flags;
}

static gboolean
has_room(const DrvChannel *channel)
{
    if (channel->sent_flags != 0 || channel->stopped || !drv_tx_flow_room(&channel->tx))
        return FALSE;
    return channel->params.message || channel->tx.in_flight < channel->window.limit;
}

gboolean
drv_channel_may_send(DrvChannel *channel)
{
    gboolean room = has_room(channel);
    channel->wants_room = !room;
    return room;
}

void
drv_channel_add_pages(DrvChannel *channel, DrvCodec codec, guint32 pages)
{
    g_mutex_lock(&channel->stats_lock);
    channel->stats.pages[codec] += pages;
    g_mutex_unlock(&channel->stats_lock);
}

static void
push(DrvChannel *channel, DrvChunk *chunk, guint32 len, guint16 flags, guint32 pages)
{
    g_autoptr(DrvFrame) frame = drv_frame_new(chunk, len, flags);
    frame->channel = channel;
    frame->pages = pages;
    drv_tx_flow_push(&channel->tx, frame);
    g_mutex_lock(&channel->stats_lock);
    channel->stats.sent = channel->tx.digest;
    if (len > 0)
        channel->stats.sent_us = g_get_monotonic_time();
    g_mutex_unlock(&channel->stats_lock);
    drv_session_queue_frame(channel->session, channel, frame);
}

void
drv_channel_send(DrvChannel *channel, DrvChunk *chunk, guint32 len, guint16 flags)
{
    drv_channel_send_pages(channel, chunk, len, flags, 0);
}

void
drv_channel_send_pages(DrvChannel *channel, DrvChunk *chunk, guint32 len, guint16 flags,
                       guint32 pages)
{
    g_assert(channel->sent_flags == 0 ||
             (len == 0 && flags == DRV_DATA_RESET && !(channel->sent_flags & DRV_DATA_RESET)));
    if (channel->stopped) {
        drv_chunk_free(chunk);
        return;
    }
    channel->sent_flags |= flags;
    /* An endpoint cannot choose when it breaks: the word of it waits here for room. */
    if (flags != 0 && len == 0 && !drv_tx_flow_room(&channel->tx)) {
        channel->waiting_flags |= flags;
        drv_chunk_free(chunk);
        return;
    }
    push(channel, chunk, len, flags, pages);
}

static void
offer_room(DrvChannel *channel)
{
    if (!channel->stopped && channel->waiting_flags != 0 && drv_tx_flow_room(&channel->tx)) {
        push(channel, NULL, 0, channel->waiting_flags, 0);
        channel->waiting_flags = 0;
    }
    if (channel->wants_room && has_room(channel)) {
        channel->wants_room = FALSE;
        channel->endpoint->ops->room(channel->endpoint);
    }
}

static void
take_ack(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    g_autofree DrvProgress *ack = data;
    if (channel->stopped)
        return;
    g_autoptr(GPtrArray) released = g_ptr_array_new_with_free_func((GDestroyNotify)drv_frame_unref);
    g_autoptr(GError) error = NULL;
    if (!drv_tx_flow_ack(&channel->tx, ack, released, &error)) {
        drv_session_fail(channel->session, error);
        return;
    }
    drv_session_settle(channel->session, channel, channel->tx.received);
    guint64 bytes = 0;
    for (guint i = 0; i < released->len; i++)
        bytes += ((DrvFrame *)released->pdata[i])->len;
    drv_window_delivered(&channel->window, bytes, drv_session_rtt_us(channel->session),
                         g_get_monotonic_time());
    g_mutex_lock(&channel->stats_lock);
    channel->stats.acknowledged += bytes;
    g_mutex_unlock(&channel->stats_lock);
    if (channel->started && channel->endpoint->ops->acknowledged != NULL)
        channel->endpoint->ops->acknowledged(channel->endpoint, channel->tx.delivered);
    finish_if_done(channel);
    offer_room(channel);
    if (channel->started && !channel->stopped && channel->endpoint->ops->settled != NULL &&
        drv_channel_is_settled(channel))
        channel->endpoint->ops->settled(channel->endpoint);
}

void
drv_channel_acknowledged(DrvChannel *channel, const DrvProgress *ack)
{
    drv_worker_post(channel->worker, take_ack, drv_channel_ref(channel),
                    g_memdup2(ack, sizeof *ack));
}

static void
take_lane_loss(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    g_autofree guint64 *serial = data;
    if (channel->stopped)
        return;
    drv_session_requeue(channel->session, channel, &channel->tx.frames, *serial);
    /* The ack may have been lost with the lane; an old one more does no harm. */
    drv_session_queue_ack(channel->session, channel,
                          &(DrvProgress){.channel = channel->params.id,
                                         .received = channel->rx.received,
                                         .delivered = channel->rx.delivered});
}

void
drv_channel_lane_lost(DrvChannel *channel, guint64 serial)
{
    drv_worker_post(channel->worker, take_lane_loss, drv_channel_ref(channel),
                    g_memdup2(&serial, sizeof serial));
}

/* --- receiving --- */

static void
send_ack(DrvChannel *channel)
{
    drv_worker_timer_stop(channel->worker, &channel->ack_timer);
    channel->unacked = 0;
    drv_session_queue_ack(channel->session, channel,
                          &(DrvProgress){.channel = channel->params.id,
                                         .received = channel->rx.received,
                                         .delivered = channel->rx.delivered});
}

static void
ack_timer_fired(DrvTimer *timer)
{
    send_ack(timer->owner);
}

/* FALSE: none may be given, or none is there. */
static gboolean
deliver_one(DrvChannel *channel)
{
    if (!channel->started || channel->stopped || channel->delivering_flags != 0 ||
        channel->rx.next - channel->rx.delivered >= channel->depth)
        return FALSE;
    DrvFrame *frame = drv_rx_flow_pop(&channel->rx);
    if (frame == NULL)
        return FALSE;
    if (channel->received_flags & DRV_DATA_RESET ||
        (channel->received_flags != 0 && !(frame->flags & DRV_DATA_RESET))) {
        g_autoptr(GError) error =
            g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                        "the peer sent more of channel %u after it had said that it was the last",
                        channel->params.id);
        drv_frame_unref(frame);
        drv_session_fail(channel->session, error);
        return FALSE;
    }
    if (frame->flags & DRV_DATA_RESET && channel->reset == NULL)
        channel->reset =
            g_error_new_literal(DRV_ERROR, DRV_ERROR_IO, "the socket at the other end broke");
    g_mutex_lock(&channel->stats_lock);
    channel->stats.received = channel->rx.digest;
    g_mutex_unlock(&channel->stats_lock);
    channel->delivering_flags = frame->flags;
    channel->unacked += frame->len;
    channel->endpoint->ops->deliver(channel->endpoint, frame);
    return TRUE;
}

static void
deliver_next(DrvChannel *channel)
{
    /* No more than that at a time: others live on this worker, too. */
    for (guint i = 0; i < channel->depth && deliver_one(channel); i++)
        ;
}

static void
deliver_more(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    deliver_next(channel);
}

void
drv_channel_delivered(DrvChannel *channel)
{
    /* Finishing ends the session's reference, and the control thread may drop the last at once. */
    g_autoptr(DrvChannel) keep = drv_channel_ref(channel);
    drv_rx_flow_delivered(&channel->rx);
    if (channel->rx.delivered == channel->rx.next) {
        channel->received_flags |= channel->delivering_flags;
        channel->delivering_flags = 0;
    }
    if (channel->unacked >= ACK_BYTES || channel->received_flags != 0)
        send_ack(channel);
    else if (channel->ack_timer.index == 0)
        drv_worker_timer(channel->worker, &channel->ack_timer,
                         drv_worker_now(channel->worker) + ACK_DELAY_US);
    finish_if_done(channel);
    /* By mail, not by recursion: an endpoint may answer from within 'deliver'. */
    if (!channel->stopped && channel->rx.next != channel->rx.received)
        drv_worker_post(channel->worker, deliver_more, drv_channel_ref(channel), NULL);
}

static void
take_frame(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    g_autoptr(DrvFrame) frame = data;
    if (channel->done) { /* its end broke after it had said its last: nobody is left to mind */
        guint64 next = MAX(channel->rx.delivered, frame->seq + 1);
        drv_session_queue_ack(
            channel->session, channel,
            &(DrvProgress){.channel = channel->params.id, .received = next, .delivered = next});
    }
    if (channel->stopped)
        return;
    switch (drv_rx_flow_put(&channel->rx, frame)) {
    case DRV_RX_NEW:
        deliver_next(channel);
        break;
    case DRV_RX_DUPLICATE:
        send_ack(channel); /* the sender missed one */
        break;
    case DRV_RX_VIOLATION: {
        g_autoptr(GError) error = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                                              "the peer sent frame %" G_GUINT64_FORMAT
                                              " of channel %u, beyond the credit it was given",
                                              frame->seq, channel->params.id);
        drv_session_fail(channel->session, error);
        break;
    }
    }
}

void
drv_channel_arrived(DrvChannel *channel, DrvFrame *frame)
{
    drv_worker_post(channel->worker, take_frame, drv_channel_ref(channel), frame);
}

/* --- from the control thread --- */

static void
take_session_death(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    g_autoptr(GError) error = data;
    finish(channel, error, FALSE);
}

void
drv_channel_session_dead(DrvChannel *channel, const GError *error)
{
    drv_worker_post(channel->worker, take_session_death, drv_channel_ref(channel),
                    g_error_copy(error));
}

static void
take_start(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    if (channel->stopped)
        return;
    drv_window_init(&channel->window, g_get_monotonic_time());
    channel->started = TRUE;
    channel->endpoint->ops->start(channel->endpoint, channel);
    deliver_next(channel); /* frames may have come before the start */
}

DrvChannel *
drv_channel_open(DrvSession *session, DrvEndpoint *endpoint, const DrvChannelParams *params,
                 GError **error)
{
    g_assert(params->rx_credit > 0 && endpoint->depth > 0);
    DrvChannel *channel = g_new0(DrvChannel, 1);
    g_atomic_ref_count_init(&channel->refs);
    channel->session = drv_session_ref(session);
    channel->worker = params->home != NULL ? params->home : drv_session_home(session, params->id);
    channel->endpoint = endpoint;
    channel->depth = endpoint->depth;
    channel->params = *params;
    channel->codec = (gint)params->codec;
    if (params->shaper != NULL)
        drv_shaper_ref(params->shaper);
    drv_tx_flow_init(&channel->tx, params->tx_credit);
    drv_rx_flow_init(&channel->rx, params->rx_credit);
    channel->ack_timer = (DrvTimer){.fire = ack_timer_fired, .owner = channel};
    drv_send_queue_init(&channel->queue, params->class, params->weight, params->shaper);
    channel->ack.channel = params->id;
    channel->ack_link.data = channel;
    g_mutex_init(&channel->stats_lock);
    if (!drv_session_add_channel(session, channel, error)) {
        channel->stopped =
            TRUE; /* never started: the endpoint and the reservation stay the caller's */
        drv_channel_unref(channel);
        return NULL;
    }
    drv_worker_post(channel->worker, take_start, drv_channel_ref(channel), NULL);
    return channel;
}

static void
take_grant(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    channel->tx.credit = GPOINTER_TO_UINT(data);
    offer_room(channel);
}

void
drv_channel_grant(DrvChannel *channel, guint credit)
{
    drv_worker_post(channel->worker, take_grant, drv_channel_ref(channel),
                    GUINT_TO_POINTER(credit));
}

static void
take_close(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    stop(channel, FALSE);
}

void
drv_channel_close(DrvChannel *channel)
{
    if (channel->closed)
        return;
    channel->closed = TRUE;
    drv_worker_post(channel->worker, take_close, drv_channel_ref(channel), NULL);
}

void
drv_channel_set_send_class(DrvChannel *channel, DrvClass class)
{
    drv_session_set_class(channel->session, channel, class);
}
