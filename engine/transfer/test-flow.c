/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/flow.h"

#include "common/error.h"

#include <string.h>

#define CREDIT 16
#define LANES 3
#define SEEDS 400

static DrvFrame *
number_frame(guint64 number)
{
    DrvChunk *chunk = drv_chunk_new_heap(sizeof number);
    memcpy(chunk->data, &number, sizeof number);
    return drv_frame_new(chunk, sizeof number, 0);
}

/* --- the model: two ends, lanes that carry frames one way and acks the other, and a fate --- */

typedef struct {
    GQueue frames; /* of DrvFrame: under way */
    GQueue acks;   /* of DrvProgress */
} Lane;

typedef struct {
    GRand *rand;
    DrvTxFlow tx;
    DrvRxFlow rx;
    Lane lanes[LANES];
    GQueue to_send;    /* of DrvFrame: queued again after a cut */
    guint64 delivered; /* numbers that came out */
    guint total;
} Model;

static gboolean
chance(Model *m, guint percent)
{
    return g_rand_int_range(m->rand, 0, 100) < (gint32)percent;
}

static Lane *
any_lane(Model *m)
{
    return &m->lanes[g_rand_int_range(m->rand, 0, LANES)];
}

static void
send_something(Model *m)
{
    g_autoptr(DrvFrame) frame = g_queue_pop_head(&m->to_send);
    if (frame == NULL && m->tx.next < m->total && drv_tx_flow_room(&m->tx)) {
        frame = number_frame(m->tx.next);
        drv_tx_flow_push(&m->tx, frame);
    }
    if (frame == NULL)
        return;
    Lane *lane = any_lane(m);
    g_queue_push_tail(&lane->frames, drv_frame_ref(frame));
    if (chance(m, 5)) /* and once more, on some other */
        g_queue_push_tail(&any_lane(m)->frames, drv_frame_ref(frame));
}

static void
receive_something(Model *m)
{
    g_autoptr(DrvFrame) frame = g_queue_pop_head(&any_lane(m)->frames);
    if (frame == NULL)
        return;
    gboolean known = frame->seq < m->rx.received;
    DrvRxVerdict verdict = drv_rx_flow_put(&m->rx, frame);
    g_assert_cmpint(verdict, !=, DRV_RX_VIOLATION);
    if (known)
        g_assert_cmpint(verdict, ==, DRV_RX_DUPLICATE);
}

static void
deliver_something(Model *m)
{
    if (m->rx.next > m->rx.delivered) { /* the endpoint had one: it is done with it */
        drv_rx_flow_delivered(&m->rx);
        return;
    }
    g_autoptr(DrvFrame) frame = drv_rx_flow_pop(&m->rx);
    if (frame == NULL)
        return;
    guint64 number;
    memcpy(&number, frame->chunk->data, sizeof number);
    g_assert_cmpuint(number, ==, m->delivered);
    m->delivered++;
}

static void
acknowledge(Model *m)
{
    DrvProgress now = {.received = m->rx.received, .delivered = m->rx.delivered};
    g_queue_push_tail(&any_lane(m)->acks, g_memdup2(&now, sizeof now));
}

static void
take_ack(Model *m)
{
    g_autofree DrvProgress *ack = g_queue_pop_head(&any_lane(m)->acks);
    if (ack == NULL)
        return;
    g_autoptr(GPtrArray) released = g_ptr_array_new_with_free_func((GDestroyNotify)drv_frame_unref);
    g_autoptr(GError) error = NULL;
    g_assert_true(drv_tx_flow_ack(&m->tx, ack, released, &error));
    for (guint i = 0; i < released->len; i++)
        g_assert_cmpuint(((DrvFrame *)released->pdata[i])->seq, <, m->rx.delivered);
    g_assert_cmpuint(m->tx.in_flight, ==, m->tx.frames.length * sizeof(guint64));
}

/* What was under way on the lane is gone; all that is not delivered goes again, also what another
 * lane still carries. */
static void
cut(Model *m)
{
    Lane *lane = any_lane(m);
    g_queue_clear_full(&lane->frames, (GDestroyNotify)drv_frame_unref);
    g_queue_clear_full(&lane->acks, g_free);
    g_queue_clear_full(&m->to_send, (GDestroyNotify)drv_frame_unref);
    for (GList *l = m->tx.frames.head; l != NULL; l = l->next)
        g_queue_push_tail(&m->to_send, drv_frame_ref(l->data));
    acknowledge(m);
}

static void
run_model(guint32 seed)
{
    Model m = {.rand = g_rand_new_with_seed(seed), .total = 300};
    drv_tx_flow_init(&m.tx, CREDIT);
    drv_rx_flow_init(&m.rx, CREDIT);
    g_queue_init(&m.to_send);
    for (guint i = 0; i < 200000 && m.tx.delivered < m.total; i++) {
        switch (g_rand_int_range(m.rand, 0, 5)) {
        case 0:
            send_something(&m);
            break;
        case 1:
            receive_something(&m);
            break;
        case 2:
            deliver_something(&m);
            break;
        case 3:
            acknowledge(&m);
            break;
        default:
            take_ack(&m);
        }
        if (chance(&m, 1))
            cut(&m);
    }
    g_assert_cmpuint(m.delivered, ==, m.total);
    g_assert_cmpuint(m.tx.delivered, ==, m.total);
    g_assert_cmpuint(m.tx.frames.length, ==, 0);
    g_assert_true(drv_digest_equal(&m.tx.digest, &m.rx.digest));
    g_assert_cmpuint(m.tx.digest.bytes, ==, m.total * sizeof(guint64));
    for (guint i = 0; i < LANES; i++) {
        g_queue_clear_full(&m.lanes[i].frames, (GDestroyNotify)drv_frame_unref);
        g_queue_clear_full(&m.lanes[i].acks, g_free);
    }
    g_queue_clear_full(&m.to_send, (GDestroyNotify)drv_frame_unref);
    drv_tx_flow_clear(&m.tx);
    drv_rx_flow_clear(&m.rx);
    g_rand_free(m.rand);
}

static void
test_model(void)
{
    for (guint32 seed = 0; seed < SEEDS; seed++)
        run_model(seed);
}

/* --- single rules --- */

static DrvRxVerdict
put(DrvRxFlow *rx, guint64 seq)
{
    g_autoptr(DrvFrame) frame = number_frame(seq);
    frame->seq = seq;
    return drv_rx_flow_put(rx, frame);
}

static void
test_credit(void)
{
    DrvRxFlow rx;
    drv_rx_flow_init(&rx, 4);
    g_assert_cmpint(put(&rx, 4), ==, DRV_RX_VIOLATION);
    g_assert_cmpint(put(&rx, G_MAXUINT64), ==, DRV_RX_VIOLATION);
    g_assert_cmpint(put(&rx, 3), ==, DRV_RX_NEW);
    g_assert_cmpint(put(&rx, 3), ==, DRV_RX_DUPLICATE);
    g_assert_null(drv_rx_flow_pop(&rx));
    g_assert_cmpint(put(&rx, 0), ==, DRV_RX_NEW);
    g_assert_cmpuint(rx.received, ==, 1);
    g_autoptr(DrvFrame) first = drv_rx_flow_pop(&rx);
    g_assert_nonnull(first);
    /* Popped is not delivered: the credit counts from what the endpoint has taken. */
    g_assert_cmpint(put(&rx, 4), ==, DRV_RX_VIOLATION);
    g_assert_cmpint(put(&rx, 0), ==, DRV_RX_DUPLICATE);
    drv_rx_flow_delivered(&rx);
    g_assert_cmpint(put(&rx, 4), ==, DRV_RX_NEW);
    g_assert_cmpint(put(&rx, 2), ==, DRV_RX_NEW);
    g_assert_cmpint(put(&rx, 1), ==, DRV_RX_NEW);
    g_assert_cmpuint(rx.received, ==, 5);
    drv_rx_flow_clear(&rx);
    drv_rx_flow_clear(&rx);
}

static void
test_false_acks(void)
{
    DrvTxFlow tx;
    drv_tx_flow_init(&tx, 4);
    g_autoptr(GPtrArray) released = g_ptr_array_new_with_free_func((GDestroyNotify)drv_frame_unref);
    for (guint i = 0; i < 4; i++) {
        g_autoptr(DrvFrame) frame = number_frame(i);
        drv_tx_flow_push(&tx, frame);
    }
    g_assert_false(drv_tx_flow_room(&tx));
    static const DrvProgress lies[] = {{0, 5, 0}, {0, G_MAXUINT64, 0}, {0, 1, 2}};
    for (guint i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(drv_tx_flow_ack(&tx, &lies[i], released, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
        g_assert_cmpuint(released->len, ==, 0);
    }
    g_assert_true(drv_tx_flow_ack(&tx, &(DrvProgress){0, 4, 2}, released, NULL));
    g_assert_true(drv_tx_flow_ack(&tx, &(DrvProgress){0, 1, 1}, released, NULL)); /* old news */
    g_assert_cmpuint(released->len, ==, 2);
    g_assert_cmpuint(tx.received, ==, 4);
    g_assert_cmpuint(tx.delivered, ==, 2);
    g_assert_true(drv_tx_flow_room(&tx));
    drv_tx_flow_clear(&tx);
}

static void
add(DrvDigest *digest, const char *text, gsize len)
{
    DrvChunk *chunk = drv_chunk_new_heap(16);
    memcpy(chunk->data, text, len);
    g_autoptr(DrvFrame) frame = drv_frame_new(chunk, (guint32)len, 0);
    drv_digest_add(digest, frame);
}

static void
test_digest(void)
{
    DrvDigest base = {0}, same = {0}, byte = {0}, order = {0}, cut_elsewhere = {0}, less = {0};
    DrvDigest ended = {0};
    add(&base, "abc", 3), add(&base, "de", 2);
    add(&same, "abc", 3), add(&same, "de", 2);
    add(&byte, "abc", 3), add(&byte, "dE", 2);
    add(&order, "de", 2), add(&order, "abc", 3);
    add(&cut_elsewhere, "ab", 2), add(&cut_elsewhere, "cde", 3);
    add(&less, "abc", 3);
    /* An end that breaks says so after its last bytes, when the other may have gone. */
    add(&ended, "abc", 3), add(&ended, "de", 2), add(&ended, "", 0), add(&ended, "", 0);
    g_assert_true(drv_digest_equal(&base, &ended));
    g_assert_true(drv_digest_equal(&base, &same));
    g_assert_false(drv_digest_equal(&base, &byte));
    g_assert_false(drv_digest_equal(&base, &order));
    g_assert_false(drv_digest_equal(&base, &cut_elsewhere));
    g_assert_false(drv_digest_equal(&base, &less));
    g_autofree char *a = drv_digest_string(&base), *b = drv_digest_string(&byte);
    g_assert_cmpuint(strlen(a), ==, 32);
    g_assert_cmpstr(a, !=, b);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/flow/model", test_model);
    g_test_add_func("/flow/credit", test_credit);
    g_test_add_func("/flow/false-acks", test_false_acks);
    g_test_add_func("/flow/digest", test_digest);
    return g_test_run();
}
