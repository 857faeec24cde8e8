/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/flow.h"

#include "common/cursor.h"
#include "common/error.h"

DrvFrame *
drv_frame_new(DrvChunk *chunk, guint32 len, guint16 flags)
{
    DrvFrame *frame = g_new0(DrvFrame, 1);
    g_atomic_ref_count_init(&frame->refs);
    frame->chunk = chunk;
    frame->len = len;
    frame->flags = flags;
    frame->checksum = drv_checksum(chunk != NULL ? chunk->data : NULL, len);
    frame->link.data = frame;
    return frame;
}

DrvFrame *
drv_frame_ref(DrvFrame *frame)
{
    g_atomic_ref_count_inc(&frame->refs);
    return frame;
}

void
drv_frame_unref(DrvFrame *frame)
{
    if (frame != NULL && g_atomic_ref_count_dec(&frame->refs)) {
        drv_chunk_free(frame->chunk);
        g_free(frame);
    }
}

void
drv_digest_add(DrvDigest *digest, const DrvFrame *frame)
{
    guint8 bytes[16 + 4 + 16];
    if (frame->len == 0)
        return;
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    drv_cursor_put_u64(&c, digest->value.high);
    drv_cursor_put_u64(&c, digest->value.low);
    drv_cursor_put_u32(&c, frame->len);
    drv_cursor_put_u64(&c, frame->checksum.high);
    drv_cursor_put_u64(&c, frame->checksum.low);
    digest->value = drv_checksum(bytes, sizeof bytes);
    digest->bytes += frame->len;
    digest->frames++;
}

gboolean
drv_digest_equal(const DrvDigest *a, const DrvDigest *b)
{
    return a->bytes == b->bytes && a->frames == b->frames && drv_checksum_equal(a->value, b->value);
}

char *
drv_digest_string(const DrvDigest *digest)
{
    return g_strdup_printf("%016" G_GINT64_MODIFIER "x%016" G_GINT64_MODIFIER "x",
                           digest->value.high, digest->value.low);
}

/* --- what was sent --- */

void
drv_tx_flow_init(DrvTxFlow *flow, guint credit)
{
    *flow = (DrvTxFlow){.frames = G_QUEUE_INIT, .credit = credit};
}

void
drv_tx_flow_clear(DrvTxFlow *flow)
{
    g_queue_clear_full(&flow->frames, (GDestroyNotify)drv_frame_unref);
    flow->in_flight = 0;
}

gboolean
drv_tx_flow_room(const DrvTxFlow *flow)
{
    return flow->next - flow->delivered < flow->credit;
}

void
drv_tx_flow_push(DrvTxFlow *flow, DrvFrame *frame)
{
    g_assert(drv_tx_flow_room(flow));
    frame->seq = flow->next++;
    flow->in_flight += frame->len;
    drv_digest_add(&flow->digest, frame);
    g_queue_push_tail(&flow->frames, drv_frame_ref(frame));
}

gboolean
drv_tx_flow_ack(DrvTxFlow *flow, const DrvProgress *ack, GPtrArray *released, GError **error)
{
    if (ack->delivered > ack->received || ack->received > flow->next) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the peer acknowledged frame %" G_GUINT64_FORMAT
                    " of channel %u, of which only "
                    "%" G_GUINT64_FORMAT " were sent",
                    MAX(ack->received, ack->delivered), ack->channel, flow->next);
        return FALSE;
    }
    flow->received = MAX(flow->received, ack->received);
    flow->delivered = MAX(flow->delivered, ack->delivered);
    for (;;) {
        DrvFrame *oldest = g_queue_peek_head(&flow->frames);
        if (oldest == NULL || oldest->seq >= flow->delivered)
            return TRUE;
        flow->in_flight -= oldest->len;
        g_ptr_array_add(released, g_queue_pop_head(&flow->frames));
    }
}

/* --- what arrived --- */

void
drv_rx_flow_init(DrvRxFlow *flow, guint credit)
{
    *flow = (DrvRxFlow){.slots = g_new0(DrvFrame *, credit), .credit = credit};
}

void
drv_rx_flow_clear(DrvRxFlow *flow)
{
    for (guint i = 0; flow->slots != NULL && i < flow->credit; i++)
        drv_frame_unref(flow->slots[i]);
    g_clear_pointer(&flow->slots, g_free);
}

static DrvFrame **
slot(const DrvRxFlow *flow, guint64 seq)
{
    return &flow->slots[seq % flow->credit];
}

DrvRxVerdict
drv_rx_flow_check(const DrvRxFlow *flow, guint64 seq)
{
    if (seq < flow->next)
        return DRV_RX_DUPLICATE;
    /* Credit is counted from what was delivered, so every number within it has a slot of its own.
     */
    if (seq - flow->delivered >= flow->credit)
        return DRV_RX_VIOLATION;
    return *slot(flow, seq) != NULL ? DRV_RX_DUPLICATE : DRV_RX_NEW;
}

DrvRxVerdict
drv_rx_flow_put(DrvRxFlow *flow, DrvFrame *frame)
{
    DrvRxVerdict verdict = drv_rx_flow_check(flow, frame->seq);
    if (verdict != DRV_RX_NEW)
        return verdict;
    *slot(flow, frame->seq) = drv_frame_ref(frame);
    while (flow->received - flow->next < flow->credit && *slot(flow, flow->received) != NULL &&
           (*slot(flow, flow->received))->seq == flow->received)
        flow->received++;
    return DRV_RX_NEW;
}

DrvFrame *
drv_rx_flow_pop(DrvRxFlow *flow)
{
    if (flow->next == flow->received)
        return NULL;
    DrvFrame *frame = g_steal_pointer(slot(flow, flow->next));
    flow->next++;
    drv_digest_add(&flow->digest, frame);
    return frame;
}

void
drv_rx_flow_delivered(DrvRxFlow *flow)
{
    g_assert(flow->delivered < flow->next);
    flow->delivered++;
}
