/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/session.h"
#include "numa/nic.h"

#include "common/error.h"
#include "engine/transfer/channel-private.h"
#include "engine/transfer/session-internal.h"

#include <string.h>

/*
 * The control thread's side of a session.
 *
 * Messages travel on channel 0, a channel like any other, so that they too arrive once and in order
 * over cuts. Its endpoint hands each to the control thread and reports it delivered when that has
 * taken it: a peer that talks faster than we listen runs out of credit.
 *
 * The side that opened the session connects its lanes. The first must succeed, or the session is
 * over before it began: whoever mistyped an address is to hear of it. But a connection that was
 * made and broke before the peer had greeted is tried again a few times, for seconds, as that may
 * be the network. From then on every lane that is lost is tried again until the session is closed,
 * with pauses that grow to a second.
 */

#define CONTROL_CHANNEL 0
#define CONTROL_CREDIT 64
#define RETRY_FIRST_MS 50
#define RETRY_MAX_MS 1000
/* The first connection: so often, and no more after so long. */
#define FIRST_TRIES 8
#define FIRST_US (8 * G_USEC_PER_SEC)
/* How long a session that a peer opened is kept without any lane. Jobs have given up long before.
 */
#define KEEP_S 3600
/* Messages beyond the peer's credit that wait for it. It is asked for far less while a link is
 * away; only one that calls and calls, and takes no answer, comes near. */
#define WAITING_MAX ((gsize)4 * 1024 * 1024)
/* How long a session that is closed goes on for the messages that were sent before. */
#define PATIENCE_MS 2000

/* --- the control channel --- */

/* Bytes that waited, and no longer do. */
static void
release(ControlEndpoint *endpoint, gsize bytes)
{
    endpoint->waiting_bytes -= bytes;
    drv_account_take(&endpoint->session->messages, bytes);
}

static void
control_pump(ControlEndpoint *endpoint)
{
    /* Messages may be given before the channel has started, even though its start was asked for
     * earlier: mail from two threads has no order. */
    while (endpoint->channel != NULL && endpoint->waiting.length > 0 &&
           drv_channel_may_send(endpoint->channel)) {
        g_autoptr(GBytes) bytes = g_queue_pop_head(&endpoint->waiting);
        gsize len;
        const void *data = g_bytes_get_data(bytes, &len);
        DrvChunk *chunk = drv_chunk_new_charged(MAX(len, 1), &endpoint->session->messages);
        release(endpoint, len);
        memcpy(chunk->data, data, len);
        drv_channel_send(endpoint->channel, chunk, (guint32)len, 0);
    }
}

static void
session_flushed(gpointer target, gpointer data)
{
    drv_session_drop(target);
}

static void
tell_if_flushed(ControlEndpoint *endpoint)
{
    if (!endpoint->flushing || endpoint->stopped || endpoint->waiting.length > 0 ||
        (endpoint->channel != NULL && !drv_channel_is_settled(endpoint->channel)))
        return;
    endpoint->flushing = FALSE;
    drv_session_post_control(endpoint->session, session_flushed, endpoint->session, NULL);
}

static void
control_settled(DrvEndpoint *base)
{
    tell_if_flushed((ControlEndpoint *)base);
}

static void
control_start(DrvEndpoint *base, DrvChannel *channel)
{
    ControlEndpoint *endpoint = (ControlEndpoint *)base;
    endpoint->channel = channel;
    control_pump(endpoint);
}

static void
control_room(DrvEndpoint *base)
{
    control_pump((ControlEndpoint *)base);
}

static void
take_delivered(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    ControlEndpoint *endpoint = data;
    if (endpoint->channel != NULL) /* not stopped meanwhile */
        drv_channel_delivered(channel);
}

typedef struct {
    ControlEndpoint *endpoint;
    DrvChannel *channel;
    GBytes *message;
} Message;

static void
hand_over(gpointer target, gpointer data)
{
    g_autofree Message *message = data;
    g_autoptr(DrvSession) session = drv_session_ref(target);
    if (!session->closed && session->ops != NULL && session->ops->message != NULL)
        session->ops->message(session, message->message, session->ops_data);
    g_bytes_unref(message->message);
    drv_worker_post(drv_channel_worker(message->channel), take_delivered, message->channel,
                    message->endpoint);
}

static void
control_deliver(DrvEndpoint *base, DrvFrame *frame)
{
    ControlEndpoint *endpoint = (ControlEndpoint *)base;
    Message *message = g_new0(Message, 1);
    message->endpoint = endpoint;
    message->channel = drv_channel_ref(endpoint->channel);
    message->message = g_bytes_new(frame->chunk->data, frame->len);
    drv_frame_unref(frame);
    drv_session_post_control(endpoint->session, hand_over, endpoint->session, message);
}

static void
control_stop(DrvEndpoint *base)
{
    ControlEndpoint *endpoint = (ControlEndpoint *)base;
    endpoint->channel = NULL;
    endpoint->stopped = TRUE;
    g_queue_clear_full(&endpoint->waiting, (GDestroyNotify)g_bytes_unref);
    release(endpoint, endpoint->waiting_bytes);
    /* Freed with the session: mail that names it may still be on its way. */
}

static const DrvEndpointOps control_ops = {
    .start = control_start,
    .deliver = control_deliver,
    .room = control_room,
    .settled = control_settled,
    .stop = control_stop,
};

DrvChannel *
session_open_control(DrvSession *session)
{
    session->control_endpoint = (ControlEndpoint){.base = {&control_ops, 1}, .session = session};
    g_queue_init(&session->control_endpoint.waiting);
    DrvChannelParams params = {
        .id = CONTROL_CHANNEL,
        .codec = DRV_CODEC_NONE,
        .class = DRV_CLASS_CONTROL,
        .weight = 1,
        .tx_credit = CONTROL_CREDIT,
        .rx_credit = CONTROL_CREDIT,
        .message = TRUE,
    };
    return drv_channel_open(session, &session->control_endpoint.base, &params, NULL);
}

typedef struct {
    ControlEndpoint *endpoint;
    DrvChannel *channel;
    GBytes *message;
} Outgoing;

static void
end_if_unheard(ControlEndpoint *endpoint)
{
    g_autoptr(GError) error = drv_session_overdrawn(endpoint->session);
    if (endpoint->waiting_bytes > WAITING_MAX && error == NULL)
        error = g_error_new(DRV_ERROR, DRV_ERROR_LIMIT,
                            "%s does not take what is said to it: %u messages wait",
                            drv_session_peer_name(endpoint->session), endpoint->waiting.length);
    if (error != NULL)
        drv_session_fail(endpoint->session, error);
}

static void
take_outgoing(gpointer target, gpointer data)
{
    g_autofree Outgoing *out = data;
    if (!out->endpoint->stopped) {
        g_queue_push_tail(&out->endpoint->waiting, out->message);
        out->endpoint->waiting_bytes += g_bytes_get_size(out->message);
        drv_account_add(&out->endpoint->session->messages, g_bytes_get_size(out->message));
        control_pump(out->endpoint);
        end_if_unheard(out->endpoint);
    } else {
        g_bytes_unref(out->message);
    }
    drv_channel_unref(out->channel);
}

void
drv_session_send(DrvSession *session, GBytes *message)
{
    g_return_if_fail(g_bytes_get_size(message) <= DRV_MESSAGE_MAX);
    if (session->control == NULL || session->closed)
        return;
    Outgoing *out = g_new0(Outgoing, 1);
    out->endpoint = &session->control_endpoint;
    out->channel = drv_channel_ref(session->control);
    out->message = g_bytes_ref(message);
    drv_worker_post(drv_channel_worker(session->control), take_outgoing, NULL, out);
}

static void
take_flush(gpointer target, gpointer data)
{
    g_autoptr(DrvChannel) channel = target;
    ControlEndpoint *endpoint = data;
    endpoint->flushing = TRUE;
    tell_if_flushed(endpoint);
}

/* After what was sent before it: mail from one thread keeps its order. */
static void
flush(DrvSession *session)
{
    drv_worker_post(drv_channel_worker(session->control), take_flush,
                    drv_channel_ref(session->control), &session->control_endpoint);
}

/* --- ids --- */

guint32
drv_session_new_channel_id(DrvSession *session)
{
    guint32 id = session->next_channel;
    session->next_channel += 2;
    return id;
}

gboolean
drv_session_peer_may_open(DrvSession *session, guint32 id)
{
    return id != CONTROL_CHANNEL && (id % 2 == 1) != session->connects;
}

/* --- the session's end --- */

static void
stop_dialing(DrvSession *session)
{
    if (session->resolving != NULL)
        g_cancellable_cancel(session->resolving);
    for (guint i = 0; i < DRV_MAX_LANES; i++) {
        session->slots[i].wanted = FALSE;
        if (session->slots[i].retry != NULL) {
            g_source_destroy(session->slots[i].retry);
            g_clear_pointer(&session->slots[i].retry, g_source_unref);
        }
    }
}

static void
drop_lanes(DrvSession *session, gboolean bye)
{
    g_autoptr(GPtrArray) lanes = session_take_lanes(session);
    for (guint i = 0; i < lanes->len; i++) {
        drv_lane_close(lanes->pdata[i], bye);
        drv_lane_unref(lanes->pdata[i]);
    }
}

static void
end_channels(DrvSession *session, const GError *why, gboolean control)
{
    g_autoptr(GPtrArray) channels =
        g_ptr_array_new_with_free_func((GDestroyNotify)drv_channel_unref);
    g_mutex_lock(&session->lock);
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, session->channels);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        if (control || value != session->control)
            g_ptr_array_add(channels, drv_channel_ref(value));
    g_mutex_unlock(&session->lock);
    for (guint i = 0; i < channels->len; i++)
        drv_channel_session_dead(channels->pdata[i], why);
}

/* Acks of channels that are done wait for a lane that will not come. */
static void
drop_acks(DrvSession *session)
{
    GQueue dropped = G_QUEUE_INIT;
    GList *link;
    g_mutex_lock(&session->lock);
    while ((link = g_queue_pop_head_link(&session->acks)) != NULL) {
        ((DrvChannel *)link->data)->ack_queued = FALSE;
        g_queue_push_tail_link(&dropped, link);
    }
    g_mutex_unlock(&session->lock);
    while ((link = g_queue_pop_head_link(&dropped)) != NULL)
        drv_channel_unref(link->data);
}

/* Marks it dead, so that nothing joins it any more, and dissolves it. */
static void
dissolve(DrvSession *session, const GError *why, gboolean bye)
{
    if (session->dissolved)
        return;
    session->dissolved = TRUE;
    g_mutex_lock(&session->lock);
    if (session->dead == NULL)
        session->dead = g_error_copy(why);
    g_mutex_unlock(&session->lock);
    stop_dialing(session);
    drop_lanes(session, bye);
    drop_acks(session);
    end_channels(session, why, TRUE);
    if (session->expiry != NULL) {
        g_source_destroy(session->expiry);
        g_clear_pointer(&session->expiry, g_source_unref);
    }
    if (session->patience != NULL) {
        g_source_destroy(session->patience);
        g_clear_pointer(&session->patience, g_source_unref);
    }
    g_clear_pointer(&session->control, drv_channel_unref);
    drv_transfer_forget_session(session->transfer, session);
}

void
session_control_dead(gpointer target, gpointer data)
{
    g_autoptr(DrvSession) session = drv_session_ref(target);
    if (session->dissolved)
        return;
    g_autoptr(GError) why = g_error_copy(session->dead);
    dissolve(session, why, FALSE);
    if (!session->closed && session->ops != NULL && session->ops->dead != NULL)
        session->ops->dead(session, why, session->ops_data);
}

static GError *
closed_error(void)
{
    return g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED, "the session was closed");
}

void
drv_session_drop(DrvSession *session)
{
    session->closed = TRUE;
    g_autoptr(GError) why = closed_error();
    g_autoptr(DrvSession) keep = drv_session_ref(session);
    dissolve(session, why, TRUE);
}

static gboolean
out_of_patience(gpointer data)
{
    drv_session_drop(data);
    return G_SOURCE_REMOVE;
}

void
drv_session_close(DrvSession *session)
{
    if (session->closed)
        return;
    if (session->dissolved || !drv_session_is_connected(session)) {
        drv_session_drop(session);
        return;
    }
    g_autoptr(GError) why = closed_error();
    flush(session);
    session->closed = TRUE;
    g_mutex_lock(&session->lock);
    session->closing = TRUE;
    g_mutex_unlock(&session->lock);
    end_channels(session, why, FALSE);
    session->patience = g_timeout_source_new(PATIENCE_MS);
    g_source_set_callback(session->patience, out_of_patience, session, NULL);
    g_source_attach(session->patience, g_main_context_get_thread_default());
}

/* --- connecting --- */

guint
drv_default_lanes(guint cpus, gint64 rtt_us)
{
    /* One TCP connection fills a short link; a long one needs several, as each is held to its
     * window. */
    guint lanes = CLAMP(cpus, 1, 4);
    if (rtt_us > 5000)
        lanes *= 2;
    if (rtt_us > 50000)
        lanes *= 2;
    return MIN(lanes, DRV_MAX_LANES);
}

static void
dial(DrvSession *session, guint slot)
{
    session->slots[slot].dialing = TRUE;
    const DrvLaneTarget *target = &session->target;
    const DrvTopology *topology = drv_transfer_topology(session->transfer);
    gint node = topology != NULL && drv_place_matters(topology)
                    ? drv_nic_node_to(topology, (const struct sockaddr *)&target->address,
                                      target->address_len)
                    : -1;
    drv_lane_connect(session, session->transfer,
                     drv_transfer_worker_near(session->transfer, node, slot), slot, target);
}

/* Takes the next of the name's addresses, of which the first need not be the one that is listened
 * on ("localhost" is ::1 before it is 127.0.0.1). FALSE when there is none left. */
static gboolean
aim_at_next(DrvSession *session)
{
    if (session->addresses == NULL)
        return FALSE;
    g_autoptr(GInetAddress) next = session->addresses->data;
    session->addresses = g_list_delete_link(session->addresses, session->addresses);
    g_autoptr(GSocketAddress) address = g_inet_socket_address_new(next, session->port);
    session->target.address_len = (socklen_t)g_socket_address_get_native_size(address);
    return g_socket_address_to_native(address, &session->target.address,
                                      sizeof session->target.address, NULL);
}

typedef struct {
    DrvSession *session;
    guint slot;
} Redial;

static gboolean
redial(gpointer data)
{
    Redial *again = data;
    g_clear_pointer(&again->session->slots[again->slot].retry, g_source_unref);
    dial(again->session, again->slot);
    return G_SOURCE_REMOVE;
}

static void
dial_later(DrvSession *session, guint slot)
{
    DialSlot *dialing = &session->slots[slot];
    if (!dialing->wanted || dialing->dialing || dialing->retry != NULL)
        return;
    guint ms = dialing->failures == 0
                   ? 0
                   : MIN(RETRY_FIRST_MS << MIN(dialing->failures - 1, 10), RETRY_MAX_MS);
    dialing->failures++;
    Redial *again = g_new(Redial, 1);
    *again = (Redial){session, slot};
    dialing->retry = g_timeout_source_new(ms);
    g_source_set_callback(dialing->retry, redial, again, g_free);
    g_source_attach(dialing->retry, g_main_context_get_thread_default());
}

static void
want_lanes(DrvSession *session, guint lanes)
{
    for (guint i = 0; i < MIN(lanes, DRV_MAX_LANES); i++) {
        if (!session->slots[i].wanted) {
            session->slots[i].wanted = TRUE;
            dial(session, i);
        }
    }
}

void
drv_session_want_lanes(DrvSession *session, guint lanes)
{
    session->lanes_asked = MAX(session->lanes_asked, lanes);
    if (session->connects && session->ever_connected)
        want_lanes(session, session->lanes_asked);
}

void
session_control_up(gpointer target, gpointer data)
{
    g_autoptr(DrvSession) session = drv_session_ref(target);
    guint slot = GPOINTER_TO_UINT(data);
    if (session->dissolved)
        return;
    if (session->expiry != NULL) {
        g_source_destroy(session->expiry);
        g_clear_pointer(&session->expiry, g_source_unref);
    }
    session->slots[slot].dialing = FALSE;
    session->slots[slot].failures = 0;
    g_mutex_lock(&session->lock);
    if (session->slots[slot].up_before)
        session->reconnects++;
    g_mutex_unlock(&session->lock);
    session->slots[slot].up_before = TRUE;
    if (session->connects && !session->ever_connected)
        want_lanes(session,
                   session->lanes_asked > 0
                       ? session->lanes_asked
                       : drv_default_lanes(g_get_num_processors(), drv_session_rtt_us(session)));
    session->ever_connected = TRUE;
    if (!session->told_connected) {
        session->told_connected = TRUE;
        if (!session->closed && session->ops != NULL && session->ops->connected != NULL)
            session->ops->connected(session, session->ops_data);
    }
}

static gboolean
expired(gpointer data)
{
    DrvSession *session = data;
    g_autoptr(GError) error =
        g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE, "%s has not come back for %d s",
                    drv_session_peer_name(session), KEEP_S);
    drv_session_fail(session, error);
    return G_SOURCE_CONTINUE; /* the session's end destroys it */
}

static void
tell_lost(DrvSession *session, const GError *why)
{
    if (!session->told_connected || drv_session_is_connected(session))
        return;
    session->told_connected = FALSE;
    if (!session->connects) {
        session->expiry = g_timeout_source_new_seconds(KEEP_S);
        g_source_set_callback(session->expiry, expired, session, NULL);
        g_source_attach(session->expiry, g_main_context_get_thread_default());
    }
    if (!session->closed && session->ops != NULL && session->ops->lost != NULL)
        session->ops->lost(session, why, session->ops_data);
}

/* One that was replaced goes down while its successor is up. */
static gboolean
slot_is_up(DrvSession *session, guint slot)
{
    g_mutex_lock(&session->lock);
    gboolean up = session->lanes[slot] != NULL;
    g_mutex_unlock(&session->lock);
    return up;
}

static gboolean
may_try_first_again(DrvSession *session, const SessionDown *down)
{
    return down->how == DRV_LANE_BROKEN && session->slots[down->slot].failures + 1 < FIRST_TRIES &&
           g_get_monotonic_time() - session->dialed_us < FIRST_US;
}

void
session_control_down(gpointer target, gpointer data)
{
    g_autoptr(DrvSession) session = drv_session_ref(target);
    g_autofree SessionDown *down = data;
    g_autoptr(GError) error = down->error;
    if (session->dissolved)
        return;
    if (!down->was_up)
        session->slots[down->slot].dialing = FALSE;
    /* Once a session stands, what looks permanent (a proxy's odd answer, a clock that is being set)
     * may pass: only the peer's own refusal of the session ends it. */
    gboolean refused = g_error_matches(error, DRV_ERROR, DRV_ERROR_NOT_FOUND) ||
                       g_error_matches(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    gboolean permanent = down->how == DRV_LANE_FINAL;
    if (session->connects && !session->ever_connected && may_try_first_again(session, down)) {
        g_info("the first connection: %s: it is tried again", error->message);
        dial_later(session, down->slot);
        return;
    }
    if (session->connects && !session->ever_connected && !permanent && aim_at_next(session)) {
        session->slots[down->slot].failures = 0;
        dial(session, down->slot);
        return;
    }
    if (session->connects && (!session->ever_connected || (permanent && refused))) {
        drv_session_fail(session, error);
        return;
    }
    if (down->was_up)
        g_info("lane %u: %s", down->slot, error->message);
    tell_lost(session, error);
    if (session->connects && !slot_is_up(session, down->slot))
        dial_later(session, down->slot);
}

void
session_control_stalled(gpointer target, gpointer data)
{
    DrvSession *session = target;
    guint slot = GPOINTER_TO_UINT(data);
    DialSlot *dialing = &session->slots[slot];
    if (!session->dissolved && dialing->wanted && !dialing->dialing && dialing->retry == NULL)
        dial(session, slot);
}

static void
resolved(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(DrvSession) session = data;
    g_autoptr(GError) error = NULL;
    GList *addresses = g_resolver_lookup_by_name_finish(G_RESOLVER(source), result, &error);
    if (session->dissolved) {
        g_resolver_free_addresses(addresses);
        return;
    }
    if (addresses == NULL) {
        g_autoptr(GError) why =
            g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE, "%s cannot be found: %s",
                        session->target.host, error != NULL ? error->message : "no address");
        drv_session_fail(session, why);
        return;
    }
    session->addresses = addresses;
    aim_at_next(session);
    session->dialed_us = g_get_monotonic_time();
    want_lanes(session, 1);
}

DrvSession *
drv_session_connect(DrvTransfer *transfer, const char *host, guint16 port, guint lanes,
                    const DrvSessionOps *ops, gpointer data)
{
    DrvSession *session = session_new(transfer, TRUE);
    session->control = session_open_control(session);
    session->lanes_asked = MIN(lanes, DRV_MAX_LANES);
    session->target.host = g_strdup(host);
    session->target.label = g_strdup_printf(strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
    session->port = port;
    drv_session_set_ops(session, ops, data);
    drv_transfer_remember_session(transfer, session);
    session->resolving = g_cancellable_new();
    g_autoptr(GResolver) resolver = g_resolver_get_default();
    g_resolver_lookup_by_name_async(resolver, host, session->resolving, resolved,
                                    drv_session_ref(session));
    return session;
}

void
drv_session_set_ops(DrvSession *session, const DrvSessionOps *ops, gpointer data)
{
    session->ops = ops;
    session->ops_data = data;
}

gboolean
drv_session_is_connected(DrvSession *session)
{
    g_mutex_lock(&session->lock);
    gboolean connected = session->lanes_up > 0;
    g_mutex_unlock(&session->lock);
    return connected;
}

gboolean
drv_session_is_dead(DrvSession *session)
{
    g_mutex_lock(&session->lock);
    gboolean dead = session->dead != NULL || session->closing;
    g_mutex_unlock(&session->lock);
    return dead;
}
