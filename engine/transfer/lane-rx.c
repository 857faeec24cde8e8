/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/lane-private.h"

#include "common/error.h"

#include <errno.h>
#include <openssl/err.h>

/* Frames up to this many raw bytes do not occupy a chunk of the pool. */
#define SMALL_FRAME 4096
/* A channel of messages holds its credit on the heap: this bounds one. */
#define MESSAGE_FRAME DRV_MESSAGE_MAX
/* Answers that wait to be sent: a peer that asks and does not read gets no more. */
#define OWN_MAX 64

/* How soon a lane that found no room in the pool looks again. */
#define HUNGER_US 500

static void arrived(DrvOp *op, gint32 result);
static void look_again(DrvTimer *timer);

void
lane_rx_init(DrvLane *lane)
{
    lane->rx.op = (DrvOp){.done = arrived, .owner = lane};
    lane->rx.hunger = (DrvTimer){.fire = look_again, .owner = lane};
    lane->rx.chunk = lane_take_buffer(lane);
}

static void
drop_frame(LaneRx *rx)
{
    g_clear_pointer(&rx->channel, drv_channel_unref);
    g_clear_pointer(&rx->raw, drv_chunk_free);
    rx->in_payload = FALSE;
    rx->have = 0;
}

void
lane_rx_clear(DrvLane *lane)
{
    drop_frame(&lane->rx);
    g_clear_pointer(&lane->rx.chunk, drv_chunk_free);
    g_clear_pointer(&lane->rx.encoded, g_free);
}

void
lane_rx_start(DrvLane *lane)
{
    drv_worker_read(lane->worker, &lane->rx.op, lane->fd, lane->rx.chunk, 0, lane->rx.chunk->size);
}

static gboolean
protocol_error(DrvLane *lane, GError *error)
{
    /* A peer that breaks the protocol breaks it again: the session ends, not just the lane. */
    if (lane->session != NULL)
        drv_session_fail(lane->session, error);
    lane_die(lane, error, TRUE);
    g_error_free(error);
    return FALSE;
}

/* --- frames --- */

/* Finds where the payload belongs. FALSE when the lane has died of it. */
static gboolean
begin_payload(DrvLane *lane)
{
    LaneRx *rx = &lane->rx;
    const DrvFrameHeader *header = &rx->header;
    if (header->type == DRV_FRAME_DATA) {
        if (lane->state != LANE_UP)
            return protocol_error(lane, g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                                                    "%s sent data before it had greeted",
                                                    lane_label(lane)));
        rx->channel = drv_session_find_channel(lane->session, header->channel);
        if (rx->channel != NULL && drv_channel_is_message(rx->channel) &&
            header->raw_len > MESSAGE_FRAME)
            return protocol_error(lane, g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                                                    "%s sent a message of %u bytes",
                                                    lane_label(lane), header->raw_len));
    }
    gboolean message = rx->channel != NULL && drv_channel_is_message(rx->channel);
    if (header->type == DRV_FRAME_DATA && rx->channel == NULL) {
        rx->raw = NULL; /* to be dropped */
    } else if (message) {
        rx->raw =
            drv_chunk_new_charged(MAX(header->raw_len, 1), drv_session_account(lane->session));
        GError *error = drv_session_overdrawn(lane->session);
        if (error != NULL)
            return protocol_error(lane, error);
    } else if (header->type != DRV_FRAME_DATA || header->raw_len <= SMALL_FRAME) {
        rx->raw = drv_chunk_new_heap(MAX(header->raw_len, 1));
    } else {
        rx->raw = drv_worker_take(lane->worker, DRV_POOL_RX);
        if (rx->raw == NULL) {
            /* What is within its credit finds room, what is beyond it ends the session; but after a
             * cut, frames that arrived before come again by the dozen, and hold chunks until their
             * channels' workers have looked at them. That does not last. */
            g_clear_pointer(&rx->channel, drv_channel_unref);
            rx->starved = TRUE;
            drv_worker_timer(lane->worker, &rx->hunger, g_get_monotonic_time() + HUNGER_US);
            return TRUE;
        }
    }
    if ((header->codec != DRV_CODEC_NONE || rx->raw == NULL) && rx->encoded == NULL)
        rx->encoded = g_malloc(DRV_FRAME_RAW_MAX);
    rx->in_payload = TRUE;
    rx->have = 0;
    return TRUE;
}

/* A frame of a channel that is not open is dropped. If the channel is done here, the peer has
 * missed our last ack, or tells that its end broke afterwards: nobody is left to mind. */
static void
drop_stray(DrvLane *lane, const DrvFrameHeader *header)
{
    DrvProgress done;
    guint8 bytes[DRV_ACK_BYTES];
    drv_session_received(lane->session, DRV_FRAME_HEADER + header->wire_len);
    if (lane->tx.own.length >= OWN_MAX ||
        !drv_session_done_channel(lane->session, header->channel, &done))
        return;
    done.received = done.delivered = MAX(done.delivered, header->seq + 1);
    drv_ack_encode(&done, bytes);
    lane_tx_own(lane, DRV_FRAME_ACK, bytes, sizeof bytes);
    lane_tx_pump(lane);
}

static gboolean
end_payload(DrvLane *lane)
{
    LaneRx *rx = &lane->rx;
    const DrvFrameHeader *header = &rx->header;
    GError *error = NULL;
    if (rx->raw == NULL) {
        drop_stray(lane, header);
        drop_frame(rx);
        return lane->state != LANE_DEAD;
    }
    if (header->codec != DRV_CODEC_NONE &&
        !drv_decompress(lane->compressor, header->codec, rx->encoded, header->wire_len,
                        rx->raw->data, header->raw_len, &error))
        return protocol_error(lane, error);

    g_autoptr(DrvFrame) frame =
        drv_frame_new(g_steal_pointer(&rx->raw), header->raw_len, header->flags);
    if (!drv_checksum_equal(frame->checksum, header->checksum))
        return protocol_error(lane, g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                                                "a frame from %s does not match its checksum",
                                                lane_label(lane)));
    if (lane->session != NULL)
        drv_session_received(lane->session, DRV_FRAME_HEADER + header->wire_len);
    rx->answered = rx->answered || header->type != DRV_FRAME_HELLO;
    if (header->type != DRV_FRAME_DATA) {
        lane_take_control(lane, header, frame->chunk->data);
    } else {
        frame->seq = header->seq;
        drv_channel_add_wire(rx->channel, 0, DRV_FRAME_HEADER + header->wire_len);
        drv_channel_arrived(rx->channel, g_steal_pointer(&frame));
    }
    drop_frame(rx);
    return lane->state != LANE_DEAD;
}

/* Where the next decrypted bytes go, and how many are wanted. */
static guint8 *
wanted(DrvLane *lane, gsize *len)
{
    LaneRx *rx = &lane->rx;
    if (!rx->in_payload) {
        *len = DRV_FRAME_HEADER - rx->have;
        return rx->header_bytes + rx->have;
    }
    *len = rx->header.wire_len - rx->have;
    gboolean aside = rx->header.codec != DRV_CODEC_NONE || rx->raw == NULL;
    return (aside ? rx->encoded : rx->raw->data) + rx->have;
}

/* Takes what can be done without more bytes. FALSE when the lane has died. */
static gboolean
advance(DrvLane *lane)
{
    LaneRx *rx = &lane->rx;
    if (!rx->in_payload) {
        if (rx->have < DRV_FRAME_HEADER)
            return TRUE;
        GError *error = NULL;
        if (!drv_frame_decode(rx->header_bytes, &rx->header, &error)) {
            if (lane->state == LANE_GREETING)
                g_prefix_error(&error, "%s does not speak drover's protocol, is it a droverd? ",
                               lane_label(lane));
            return protocol_error(lane, error);
        }
        if (!begin_payload(lane))
            return FALSE;
        if (rx->starved)
            return TRUE;
    }
    return rx->have < rx->header.wire_len ? TRUE : end_payload(lane);
}

/* --- TLS and the socket --- */

static void
tls_failed(DrvLane *lane)
{
    g_autoptr(GError) error = NULL;
    gboolean handshake = lane->state == LANE_HANDSHAKE || lane->state == LANE_GREETING;
    gboolean unreadable =
        lane->state != LANE_HANDSHAKE && !lane->rx.answered && drv_tls_is_unreadable();
    drv_tls_explain(lane->ssl, lane_label(lane), lane->target.host, &error);
    if (unreadable && lane->tx.sealer == SEAL_KERNEL) {
        drv_transfer_ktls_distrust(lane->transfer, error);
        drv_ktls_alert(lane->fd); /* that the peer may come to the same conclusion */
    }
    if (unreadable && lane->connects && !lane->again) {
        lane_try_again(lane);
        return;
    }
    if (!lane->connects && handshake) {
        /* The alert must reach the peer, which is to tell its user: it is in the pipe. */
        g_message("refused a connection: %s", error->message);
        lane_close_after_flush(lane);
        return;
    }
    lane_tx_flush(lane);
    lane_die(lane, error, handshake);
}

static gboolean
shake_hands(DrvLane *lane)
{
    ERR_clear_error();
    int r = SSL_do_handshake(lane->ssl);
    if (r == 1) {
        lane_handshake_done(lane);
        return TRUE;
    }
    if (SSL_get_error(lane->ssl, r) == SSL_ERROR_WANT_READ) {
        lane_tx_flush(lane);
        return FALSE;
    }
    tls_failed(lane);
    return FALSE;
}

static void
lost(DrvLane *lane, const char *how)
{
    g_autoptr(GError) error = NULL;
    g_set_error(&error, DRV_ERROR, DRV_ERROR_UNREACHABLE, "the connection to %s broke: %s",
                lane_label(lane), how);
    lane_die(lane, error, FALSE);
}

/* Decrypts and handles all that has been read. */
static void
rx_pump(DrvLane *lane)
{
    if (lane->state == LANE_HANDSHAKE && !shake_hands(lane))
        return;
    while ((lane->state == LANE_GREETING || lane->state == LANE_UP) && !lane->rx.starved) {
        gsize len;
        guint8 *place = wanted(lane, &len);
        ERR_clear_error();
        int n = SSL_read(lane->ssl, place, (int)len);
        if (n > 0) {
            lane->rx.have += (gsize)n;
            if (!advance(lane))
                return;
            continue;
        }
        switch (SSL_get_error(lane->ssl, n)) {
        case SSL_ERROR_WANT_READ:
            return;
        case SSL_ERROR_ZERO_RETURN:
            lost(lane, "closed by the peer");
            return;
        default:
            tls_failed(lane);
            return;
        }
    }
}

static void
arrived(DrvOp *op, gint32 result)
{
    DrvLane *lane = op->owner;
    if (lane->state == LANE_DEAD) {
        lane_release_if_idle(lane);
        return;
    }
    if (result == -EINTR || result == -EAGAIN) {
        lane_rx_start(lane);
        return;
    }
    if (result <= 0) {
        lost(lane, result == 0 ? "closed by the peer" : g_strerror(-result));
        return;
    }
    lane->rx.last = drv_worker_now(lane->worker);
    if (lane->state != LANE_CLOSING) {
        lane->pipe.in = lane->rx.chunk->data;
        lane->pipe.in_len = (gsize)result;
        lane->pipe.in_pos = 0;
        rx_pump(lane);
    }
    if (lane->state == LANE_DEAD)
        lane_release_if_idle(lane);
    else if (!lane->rx.starved)
        lane_rx_start(lane);
}

static void
look_again(DrvTimer *timer)
{
    DrvLane *lane = timer->owner;
    lane->rx.starved = FALSE;
    if (lane->state == LANE_UP && advance(lane))
        rx_pump(lane);
    if (lane->state != LANE_DEAD && !lane->rx.starved)
        lane_rx_start(lane);
}
