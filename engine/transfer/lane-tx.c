/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/lane-private.h"

#include "common/error.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>

static void written(DrvOp *op, gint32 result);

static void
retry(DrvTimer *timer)
{
    lane_tx_pump(timer->owner);
}

void
lane_tx_init(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    tx->op = (DrvOp){.done = written, .owner = lane};
    tx->retry = (DrvTimer){.fire = retry, .owner = lane};
    tx->fill = lane_take_buffer(lane);
    tx->flight = lane_take_buffer(lane);
    lane->pipe.out = tx->fill->data;
    lane->pipe.out_size = tx->fill->size;
}

static void
drop_frame(LaneTx *tx)
{
    g_clear_pointer(&tx->frame, drv_frame_unref);
    g_clear_pointer(&tx->channel, drv_channel_unref);
    g_clear_pointer(&tx->own_frame, g_byte_array_unref);
}

void
lane_tx_clear(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    drv_worker_timer_stop(lane->worker, &tx->retry);
    drop_frame(tx);
    g_queue_clear_full(&tx->own, (GDestroyNotify)g_byte_array_unref);
    g_clear_pointer(&tx->fill, drv_chunk_free);
    g_clear_pointer(&tx->flight, drv_chunk_free);
    g_clear_pointer(&tx->encoded, g_free);
    drv_tls_pipe_forget(&lane->pipe);
}

gboolean
lane_tx_idle(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    return !tx->op.busy && lane->pipe.out_len == 0 && tx->own.length == 0 && tx->own_frame == NULL;
}

/* --- the socket --- */

static void
write_rest(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    drv_worker_write(lane->worker, &tx->op, lane->fd, tx->flight, tx->flight_sent,
                     tx->flight_len - tx->flight_sent);
}

void
lane_tx_flush(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    if (tx->op.busy || lane->pipe.out_len == 0 || lane->state == LANE_DEAD)
        return;
    DrvChunk *full = tx->fill;
    tx->fill = tx->flight;
    tx->flight = full;
    tx->flight_len = lane->pipe.out_len;
    tx->flight_sent = 0;
    lane->pipe.out = tx->fill->data;
    lane->pipe.out_len = 0;
    write_rest(lane);
}

static void
written(DrvOp *op, gint32 result)
{
    DrvLane *lane = op->owner;
    LaneTx *tx = &lane->tx;
    if (result > 0)
        tx->flight_sent += (gsize)result;
    gboolean more =
        result > 0 ? tx->flight_sent < tx->flight_len : result == -EINTR || result == -EAGAIN;
    if (lane->state == LANE_DEAD) {
        lane_release_if_idle(lane);
        return;
    }
    if (more) {
        write_rest(lane);
        return;
    }
    if (result <= 0) {
        g_autoptr(GError) error =
            g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE, "the connection to %s broke: %s",
                        lane_label(lane), g_strerror(-result));
        lane_die(lane, error, FALSE);
        return;
    }
    lane_watch_stall(lane);
    lane_tx_pump(lane);
}

/* --- TLS --- */

void
lane_tx_offer_kernel(DrvLane *lane)
{
    if (drv_transfer_ktls_wanted(lane->transfer))
        lane->tx.sealer = SEAL_PENDING;
    else
        drv_tls_pipe_forget(&lane->pipe);
}

/* Hands over to the kernel, or not. FALSE while bytes that OpenSSL has sealed are on their way to
 * the socket: the kernel would seal them once more. */
static gboolean
settle_sealer(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    if (tx->sealer != SEAL_PENDING)
        return TRUE;
    lane_tx_flush(lane);
    if (tx->op.busy)
        return FALSE;
    DrvKtlsKey key;
    guint16 suite = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(lane->ssl));
    gboolean taken = lane->pipe.secret_used == 0 && /* the kernel begins with record 0 */
                     drv_ktls_key(&key, suite, lane->pipe.secret, lane->pipe.secret_len) &&
                     drv_transfer_ktls_send(lane->transfer, lane->fd, &key);
    drv_ktls_key_clear(&key);
    drv_tls_pipe_forget(&lane->pipe);
    tx->sealer = taken ? SEAL_KERNEL : SEAL_OPENSSL;
    lane->pipe.mute = taken;
    return TRUE;
}

/* The kernel has no way to change a key. */
static gboolean
worn_out(DrvLane *lane)
{
    return lane->tx.sealer == SEAL_KERNEL && lane->state == LANE_UP &&
           lane->tx.since_rekey > drv_transfer_rekey_bytes(lane->transfer);
}

/* Whatever had not arrived goes out on other lanes, as if this one had broken. */
static void
retire(DrvLane *lane)
{
    g_autoptr(GError) error = g_error_new(
        DRV_ERROR, DRV_ERROR_UNREACHABLE,
        "the connection to %s has sent as much as one key is good for: a new one takes its place",
        lane_label(lane));
    lane_die(lane, error, FALSE);
}

static gboolean
seal(DrvLane *lane, const guint8 *data, gsize len)
{
    LaneTx *tx = &lane->tx;
    if (tx->sealer == SEAL_KERNEL) {
        memcpy(lane->pipe.out + lane->pipe.out_len, data, len);
        lane->pipe.out_len += len;
        tx->since_rekey += len;
        return TRUE;
    }
    if (tx->since_rekey > drv_transfer_rekey_bytes(lane->transfer) &&
        SSL_key_update(lane->ssl, SSL_KEY_UPDATE_NOT_REQUESTED))
        tx->since_rekey = 0;
    ERR_clear_error();
    int n = SSL_write(lane->ssl, data, (int)len);
    if (n == (int)len) {
        tx->since_rekey += len;
        return TRUE;
    }
    g_autoptr(GError) error = NULL;
    drv_tls_explain(lane->ssl, lane_label(lane), lane->target.host, &error);
    lane_die(lane, error, FALSE);
    return FALSE;
}

/* Seals the frame at hand, a record at a time. FALSE when both buffers are full first, or the lane
 * has died. */
static gboolean
seal_frame(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    gsize total = DRV_FRAME_HEADER + tx->payload_len;
    while (tx->sealed < total) {
        if (lane->pipe.out_size - lane->pipe.out_len < DRV_TLS_RECORD_ROOM) {
            if (tx->op.busy)
                return FALSE;
            lane_tx_flush(lane); /* goes out while the other buffer fills */
        }
        const guint8 *data;
        gsize len;
        if (tx->sealed == 0) { /* the header shares a record with the payload's beginning */
            len = MIN(total, DRV_TLS_RECORD);
            memcpy(tx->staging, tx->header, DRV_FRAME_HEADER);
            if (len > DRV_FRAME_HEADER)
                memcpy(tx->staging + DRV_FRAME_HEADER, tx->payload, len - DRV_FRAME_HEADER);
            data = tx->staging;
        } else {
            data = tx->payload + (tx->sealed - DRV_FRAME_HEADER);
            len = MIN(total - tx->sealed, DRV_TLS_RECORD);
        }
        if (!seal(lane, data, len))
            return FALSE;
        tx->sealed += len;
    }
    return TRUE;
}

/* --- frames --- */

void
lane_tx_own(DrvLane *lane, DrvFrameType type, const guint8 *payload, gsize len)
{
    GByteArray *frame = g_byte_array_new();
    guint8 header[DRV_FRAME_HEADER];
    drv_frame_encode(&(DrvFrameHeader){.type = type,
                                       .raw_len = (guint32)len,
                                       .wire_len = (guint32)len,
                                       .checksum = drv_checksum(payload, len)},
                     header);
    g_byte_array_append(frame, header, sizeof header);
    if (len > 0)
        g_byte_array_append(frame, payload, (guint)len);
    g_queue_push_tail(&lane->tx.own, frame);
}

static void
load(LaneTx *tx, const DrvFrameHeader *header, const guint8 *payload)
{
    drv_frame_encode(header, tx->header);
    tx->payload = payload;
    tx->payload_len = header->wire_len;
    tx->sealed = 0;
}

static void
load_own(LaneTx *tx)
{
    tx->own_frame = g_queue_pop_head(&tx->own);
    memcpy(tx->header, tx->own_frame->data, DRV_FRAME_HEADER);
    tx->payload = tx->own_frame->data + DRV_FRAME_HEADER;
    tx->payload_len = tx->own_frame->len - DRV_FRAME_HEADER;
    tx->sealed = 0;
}

static void
load_data(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    DrvFrame *frame = tx->frame;
    DrvCodec codec = drv_channel_codec(tx->channel);
    gsize wire = 0;
    if (codec == DRV_CODEC_AUTO)
        codec = drv_session_pick_codec(lane->session, frame->len, g_get_monotonic_time());
    if (frame->len > 0 && codec != DRV_CODEC_NONE) {
        if (tx->encoded == NULL)
            tx->encoded = g_malloc(DRV_FRAME_RAW_MAX);
        wire = drv_compress(lane->compressor, codec, frame->chunk->data, frame->len, tx->encoded);
    }
    DrvFrameHeader header = {
        .type = DRV_FRAME_DATA,
        .codec = wire > 0 ? codec : DRV_CODEC_NONE,
        .flags = frame->flags,
        .channel = drv_channel_id(tx->channel),
        .seq = frame->seq,
        .raw_len = frame->len,
        .wire_len = wire > 0 ? (guint32)wire : frame->len,
        .checksum = frame->checksum,
    };
    if (frame->pages > 0) {
        drv_channel_add_pages(tx->channel, header.codec, frame->pages);
        frame->pages = 0; /* not once more after a cut */
    }
    load(tx, &header, wire > 0 ? tx->encoded : frame->len > 0 ? frame->chunk->data : NULL);
}

static void
load_ack(LaneTx *tx, const DrvProgress *ack)
{
    guint8 *bytes =
        tx->staging + DRV_TLS_RECORD - DRV_ACK_BYTES; /* sealing writes its front only */
    drv_ack_encode(ack, bytes);
    load(tx,
         &(DrvFrameHeader){.type = DRV_FRAME_ACK,
                           .raw_len = DRV_ACK_BYTES,
                           .wire_len = DRV_ACK_BYTES,
                           .checksum = drv_checksum(bytes, DRV_ACK_BYTES)},
         bytes);
}

/* Loads the next frame there is to send. */
static gboolean
load_next(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    if (tx->own.length > 0) {
        load_own(tx);
        return TRUE;
    }
    if (lane->state != LANE_UP)
        return FALSE;
    DrvPull pull;
    gint64 now = g_get_monotonic_time();
    drv_session_pull(lane->session, lane, now, &pull);
    if (pull.channel == NULL) {
        if (pull.retry_at != G_MAXINT64)
            drv_worker_timer(lane->worker, &tx->retry, pull.retry_at);
        return FALSE;
    }
    tx->channel = pull.channel;
    tx->frame = pull.frame;
    if (pull.frame != NULL)
        load_data(lane);
    else
        load_ack(tx, &pull.ack);
    return TRUE;
}

static gboolean
loaded(const LaneTx *tx)
{
    return tx->own_frame != NULL || tx->channel != NULL;
}

void
lane_tx_pump(DrvLane *lane)
{
    LaneTx *tx = &lane->tx;
    if (lane->state < LANE_GREETING || lane->state == LANE_DEAD) {
        lane_tx_flush(lane);
        return;
    }
    if (!settle_sealer(lane))
        return;
    while (loaded(tx) || (!worn_out(lane) && load_next(lane))) {
        if (!seal_frame(lane))
            break;
        if (tx->channel != NULL)
            drv_session_sent(lane->session, tx->channel, DRV_FRAME_HEADER + tx->payload_len,
                             tx->frame == NULL, g_get_monotonic_time());
        drop_frame(tx);
    }
    lane_tx_flush(lane);
    if (lane->state == LANE_CLOSING && lane_tx_idle(lane))
        lane_close_after_flush(lane);
    else if (worn_out(lane) && !tx->op.busy)
        retire(lane);
}
