/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/lane.h"

#include "common/cursor.h"
#include "common/error.h"
#include "engine/transfer/lane-private.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

/* A connection attempt that takes longer has lost its first packet: a new one is faster than TCP's
 * own retry. */
#define CONNECT_US (2 * G_USEC_PER_SEC)
/* Not so for one that takes a lane's place: the round trip is known, and the network may be back at
 * any moment. */
#define RECONNECT_US (250 * 1000)
/* What was sent is not confirmed by the peer's TCP for so long, though it has been repeated: the
 * network may be gone. TCP doubles its waiting time with each repetition and would notice late that
 * it is back. */
#define STALL_US (300 * 1000)
#define STALL_CHECK_US (100 * 1000)
/* Who connects may try again; who accepts gives a slow link time for both. */
#define GREETING_CONNECTS_US (5 * G_USEC_PER_SEC)
#define GREETING_ACCEPTS_US (10 * G_USEC_PER_SEC)
#define CLOSING_US (2 * G_USEC_PER_SEC)
/* Bytes that may wait unsent in the kernel: few, so that frames are bound to a lane late and its
 * speed shows. */
#define NOTSENT_LOWAT (128 * 1024)
/* What a peer may send ahead of our reading. The kernel would start at 64 KiB and grow it by what
 * the application reads in a round trip of the empty link; behind a full queue that is far too
 * little for far too long. */
#define RECEIVE_BUFFER (4 * 1024 * 1024)

/* Why a hello is refused: the first two bytes of a REFUSE, before the sentence. */
typedef enum {
    REFUSE_VERSION = 1,
    REFUSE_UNKNOWN_SESSION = 2,
    REFUSE_DENIED = 3,
    REFUSE_MALFORMED = 4,
} RefuseCode;

DrvLane *
drv_lane_ref(DrvLane *lane)
{
    g_atomic_ref_count_inc(&lane->refs);
    return lane;
}

void
drv_lane_unref(DrvLane *lane)
{
    if (lane == NULL || !g_atomic_ref_count_dec(&lane->refs))
        return;
    g_assert(lane->released);
    g_free(lane->target.host);
    g_free(lane->target.label);
    drv_session_unref(lane->session);
    g_free(lane);
}

guint
drv_lane_slot(const DrvLane *lane)
{
    return lane->slot;
}

guint64
drv_lane_serial(const DrvLane *lane)
{
    return lane->serial;
}

void
drv_lane_set_serial(DrvLane *lane, guint64 serial)
{
    lane->serial = serial;
}

const char *
lane_label(DrvLane *lane)
{
    return lane->target.label;
}

/* --- the end --- */

void
lane_release_if_idle(DrvLane *lane)
{
    if (lane->released || lane->connect_op.busy || lane->tx.op.busy || lane->rx.op.busy)
        return;
    lane->released = TRUE;
    drv_transfer_remove_lane(lane->transfer, lane);
    if (lane->fd >= 0)
        close(lane->fd);
    lane_tx_clear(lane);
    lane_rx_clear(lane);
    g_clear_pointer(&lane->ssl, SSL_free);
    g_clear_pointer(&lane->compressor, drv_compressor_free);
    drv_lane_unref(lane); /* the one it lived by */
}

static void
release_later(gpointer target, gpointer data)
{
    lane_release_if_idle(target);
    drv_lane_unref(target);
}

static void
no_stranger_any_more(DrvLane *lane)
{
    if (lane->stranger)
        drv_transfer_stranger_end(lane->transfer);
    lane->stranger = FALSE;
}

void
lane_die(DrvLane *lane, const GError *error, gboolean permanent)
{
    if (lane->state == LANE_DEAD)
        return;
    no_stranger_any_more(lane);
    gboolean told = lane->state == LANE_CLOSING; /* the session knows already */
    DrvLaneEnd how = permanent                        ? DRV_LANE_FINAL
                     : lane->state == LANE_CONNECTING ? DRV_LANE_UNREACHED
                                                      : DRV_LANE_BROKEN;
    lane->state = LANE_DEAD;
    drv_worker_timer_stop(lane->worker, &lane->deadline);
    drv_worker_timer_stop(lane->worker, &lane->ping);
    drv_worker_timer_stop(lane->worker, &lane->stall);
    drv_worker_timer_stop(lane->worker, &lane->tx.retry);
    drv_worker_timer_stop(lane->worker, &lane->rx.hunger);
    if (lane->fd >= 0)
        shutdown(lane->fd, SHUT_RDWR);
    drv_worker_cancel(lane->worker, &lane->connect_op);
    drv_worker_cancel(lane->worker, &lane->tx.op);
    drv_worker_cancel(lane->worker, &lane->rx.op);
    if (lane->session != NULL && !told)
        drv_session_lane_down(lane->session, lane, error, how);
    else if (lane->session == NULL && g_error_matches(error, DRV_ERROR, DRV_ERROR_PROTOCOL))
        g_message("refused a connection: %s", error->message); /* its certificate was good */
    else if (lane->session == NULL && error != NULL)
        g_info("a connection ended before it had greeted: %s", error->message);
    /* Not at once: whoever is on the stack may still look at the lane's buffers. */
    drv_worker_post(lane->worker, release_later, drv_lane_ref(lane), NULL);
}

void
lane_close_after_flush(DrvLane *lane)
{
    if (lane->state == LANE_DEAD)
        return;
    if (lane->state != LANE_CLOSING) {
        no_stranger_any_more(lane);
        lane->state = LANE_CLOSING;
        drv_worker_timer_stop(lane->worker, &lane->ping);
        drv_worker_timer_stop(lane->worker, &lane->stall);
        drv_worker_timer(lane->worker, &lane->deadline, g_get_monotonic_time() + CLOSING_US);
        lane_tx_pump(lane);
        return;
    }
    /* Everything is out. The peer closes when it has read it; what it sent meanwhile is read and
     * dropped, as closing over unread bytes would reset the connection under our last words. */
    shutdown(lane->fd, SHUT_WR);
}

static gint64
greeting_us(const DrvLane *lane)
{
    return lane->connects ? GREETING_CONNECTS_US : GREETING_ACCEPTS_US;
}

static void
deadline_passed(DrvTimer *timer)
{
    DrvLane *lane = timer->owner;
    g_autoptr(GError) error = NULL;
    if (lane->state == LANE_CONNECTING)
        error = g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                            "%s does not answer: check the address, the network and its firewall",
                            lane_label(lane));
    else
        error = g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                            "%s accepted the connection and then said nothing for %d s: is it a "
                            "droverd?",
                            lane_label(lane), (int)(greeting_us(lane) / G_USEC_PER_SEC));
    lane_die(lane, error, FALSE);
}

/* --- signs of life --- */

static void
measure_rtt(DrvLane *lane)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(lane->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
        drv_session_rtt_sample(lane->session, info.tcpi_min_rtt);
}

/* What the kernel still holds goes out again over other lanes, or was given up: it must not arrive
 * by this one when the network is back. */
static void
forget_unsent(DrvLane *lane)
{
    struct linger none = {.l_onoff = 1};
    setsockopt(lane->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

void
lane_watch_stall(DrvLane *lane)
{
    if (lane->connects && lane->state == LANE_UP && lane->stall.index == 0)
        drv_worker_timer(lane->worker, &lane->stall, g_get_monotonic_time() + STALL_CHECK_US);
}

/* Has the session connect another lane in this one's place while this one may still come to itself:
 * whichever is first is taken. */
static void
stall_check(DrvTimer *timer)
{
    DrvLane *lane = timer->owner;
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(lane->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
        return;
    if (info.tcpi_unacked > 0 || lane->tx.op.busy)
        lane_watch_stall(lane);
    gint64 limit = MAX(STALL_US, 3 * (gint64)info.tcpi_rtt);
    if (info.tcpi_unacked > 0 && info.tcpi_backoff > 0 &&
        (gint64)info.tcpi_last_ack_recv * 1000 > limit)
        drv_session_lane_stalled(lane->session, lane);
}

static void
ping_due(DrvTimer *timer)
{
    DrvLane *lane = timer->owner;
    gint64 now = g_get_monotonic_time();
    gint64 silence = now - lane->rx.last;
    if (silence > DRV_LANE_SILENCE_US) {
        g_autoptr(GError) error =
            g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE, "%s has been silent for %d s",
                        lane_label(lane), (int)(silence / G_USEC_PER_SEC));
        forget_unsent(lane);
        lane_die(lane, error, FALSE);
        return;
    }
    measure_rtt(lane);
    drv_worker_timer(lane->worker, &lane->ping, now + DRV_LANE_PING_US);
    if (silence >= DRV_LANE_PING_US / 2 && lane->tx.own.length == 0) {
        lane_tx_own(lane, DRV_FRAME_PING, NULL, 0);
        lane_tx_pump(lane);
    }
}

/* --- greeting --- */

static void
go_up(DrvLane *lane)
{
    lane->state = LANE_UP;
    drv_worker_timer_stop(lane->worker, &lane->deadline);
    drv_worker_timer(lane->worker, &lane->ping, g_get_monotonic_time() + DRV_LANE_PING_US);
    measure_rtt(lane);
    if (!drv_session_lane_up(lane->session, lane)) {
        /* It ended while we were connecting: the peer is not left waiting for us. */
        lane_tx_own(lane, DRV_FRAME_BYE, NULL, 0);
        lane_close_after_flush(lane);
    }
}

static void
send_hello(DrvLane *lane, DrvFrameType type)
{
    g_autoptr(DrvHello) hello = drv_session_hello(lane->session, (guint16)lane->slot);
    hello->name = g_strdup(drv_transfer_name(lane->transfer));
    g_autoptr(GByteArray) bytes = drv_hello_encode(hello);
    lane_tx_own(lane, type, bytes->data, bytes->len);
}

static void
refuse(DrvLane *lane, RefuseCode code, const char *sentence)
{
    g_message("refused %s: %s", lane_label(lane), sentence);
    guint8 payload[512];
    gsize len = MIN(strlen(sentence), sizeof payload - 2);
    DrvCursor c = drv_cursor_writer(payload, sizeof payload);
    drv_cursor_put_u16(&c, (guint16)code);
    drv_cursor_put_bytes(&c, sentence, len);
    lane_tx_own(lane, DRV_FRAME_REFUSE, payload, len + 2);
    lane_close_after_flush(lane);
}

static DrvSession *
new_session_for(DrvLane *lane, const guint8 fingerprint[32], const char *name)
{
    g_autofree char *full = NULL;
    DrvSession *session = drv_session_new_accepted(lane->transfer, fingerprint, name, &full);
    if (session == NULL)
        refuse(lane, REFUSE_DENIED, full);
    return session;
}

static DrvSession *
session_for(DrvLane *lane, const DrvHello *hello)
{
    guint8 fingerprint[32];
    g_autofree char *name = drv_tls_peer_name(lane->ssl);
    if (!drv_tls_peer_fingerprint(lane->ssl, fingerprint)) {
        refuse(lane, REFUSE_DENIED, "it has no certificate");
        return NULL;
    }
    if (drv_hello_wants_new(hello))
        return new_session_for(lane, fingerprint, name);
    g_autoptr(DrvSession) session = drv_transfer_find_session(lane->transfer, hello->session);
    if (session == NULL) {
        refuse(lane, REFUSE_UNKNOWN_SESSION,
               "the session to be resumed is not known here: this droverd was restarted, or it "
               "has given the session up");
        return NULL;
    }
    if (!drv_session_may_join(session, hello, fingerprint)) {
        refuse(lane, REFUSE_DENIED, "the session to be resumed is somebody else's");
        return NULL;
    }
    if (!drv_session_has_room(session, hello->lane)) {
        refuse(lane, REFUSE_DENIED, DRV_SHARE_LANES_FULL);
        return NULL;
    }
    return g_steal_pointer(&session);
}

static void
take_hello(DrvLane *lane, const guint8 *payload, gsize len)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvHello) hello = drv_hello_decode(payload, len, &error);
    if (hello == NULL || !drv_hello_compatible(hello, &error)) {
        refuse(lane, hello == NULL ? REFUSE_MALFORMED : REFUSE_VERSION, error->message);
        return;
    }
    g_autoptr(DrvSession) session = session_for(lane, hello);
    if (session == NULL)
        return;
    no_stranger_any_more(lane);
    lane->slot = hello->lane;
    lane->session = g_steal_pointer(&session);
    g_free(lane->target.label);
    lane->target.label = g_strdup(drv_session_peer_name(lane->session));
    send_hello(lane, DRV_FRAME_WELCOME);
    drv_session_apply_progress(lane->session, hello->progress);
    go_up(lane);
}

static void
take_welcome(DrvLane *lane, const guint8 *payload, gsize len)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvHello) welcome = drv_hello_decode(payload, len, &error);
    guint8 fingerprint[32];
    g_autofree char *name = drv_tls_peer_name(lane->ssl);
    if (welcome != NULL && drv_hello_compatible(welcome, &error) &&
        (!drv_tls_peer_fingerprint(lane->ssl, fingerprint) ||
         !drv_session_welcomed(lane->session, welcome, fingerprint, name)))
        error = g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "%s answered for another session: another host took its address",
                            lane_label(lane));
    if (error != NULL) {
        g_prefix_error(&error, "cannot work with %s: ", lane_label(lane));
        lane_die(lane, error, TRUE);
        return;
    }
    drv_session_apply_progress(lane->session, welcome->progress);
    go_up(lane);
}

static void
take_refusal(DrvLane *lane, const guint8 *payload, gsize len)
{
    DrvCursor c = drv_cursor_reader(payload, len);
    RefuseCode code = drv_cursor_get_u16(&c);
    g_autofree char *sentence =
        g_utf8_make_valid((const char *)payload + MIN(len, 2), (gssize)(len - MIN(len, 2)));
    g_autoptr(GError) error = g_error_new(
        DRV_ERROR, code == REFUSE_UNKNOWN_SESSION ? DRV_ERROR_NOT_FOUND : DRV_ERROR_PROTOCOL,
        "%s refused us: %s", lane_label(lane), sentence);
    lane_die(lane, error, TRUE);
}

void
lane_take_control(DrvLane *lane, const DrvFrameHeader *header, const guint8 *payload)
{
    gboolean fits = FALSE;
    g_autoptr(GError) error = NULL;
    DrvProgress ack;
    switch (header->type) {
    case DRV_FRAME_HELLO:
        fits = lane->state == LANE_GREETING && !lane->connects;
        if (fits)
            take_hello(lane, payload, header->raw_len);
        break;
    case DRV_FRAME_WELCOME:
        fits = lane->state == LANE_GREETING && lane->connects;
        if (fits)
            take_welcome(lane, payload, header->raw_len);
        break;
    case DRV_FRAME_REFUSE:
        fits = lane->state == LANE_GREETING && lane->connects;
        if (fits)
            take_refusal(lane, payload, header->raw_len);
        break;
    case DRV_FRAME_PING:
        fits = lane->state == LANE_UP;
        /* One answer at a time: a flood of questions does not queue a flood of answers. */
        if (fits && lane->tx.own.length == 0)
            lane_tx_own(lane, DRV_FRAME_PONG, NULL, 0);
        break;
    case DRV_FRAME_PONG:
        fits = lane->state == LANE_UP;
        break;
    case DRV_FRAME_ACK:
        fits = lane->state == LANE_UP && drv_ack_decode(payload, header->raw_len, &ack, &error);
        if (fits) {
            g_autoptr(DrvChannel) channel = drv_session_find_channel(lane->session, ack.channel);
            if (channel != NULL) {
                drv_channel_add_wire(channel, 0, DRV_FRAME_HEADER + DRV_ACK_BYTES);
                drv_channel_acknowledged(channel, &ack);
            }
        }
        break;
    case DRV_FRAME_BYE:
        fits = lane->state == LANE_UP;
        if (fits) {
            g_autoptr(GError) bye = g_error_new(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                                                "%s has ended the session", lane_label(lane));
            drv_session_fail(lane->session, bye);
        }
        break;
    case DRV_FRAME_DATA:
        break;
    }
    if (!fits) {
        if (error == NULL)
            error =
                g_error_new(DRV_ERROR, DRV_ERROR_PROTOCOL, "%s sent a frame of type %d out of turn",
                            lane_label(lane), header->type);
        if (lane->session != NULL)
            drv_session_fail(lane->session, error);
        lane_die(lane, error, TRUE);
        return;
    }
    if (lane->state != LANE_DEAD)
        lane_tx_pump(lane);
}

void
lane_handshake_done(DrvLane *lane)
{
    lane->state = LANE_GREETING;
    lane_tx_offer_kernel(lane);
    if (lane->connects)
        send_hello(lane, DRV_FRAME_HELLO);
    lane_tx_pump(lane);
}

/* --- the beginning --- */

void
drv_lane_widen_window(int fd)
{
    int bytes = RECEIVE_BUFFER;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes,
                   sizeof bytes); /* as far as rmem_max lets us */
}

static void
set_socket_options(int fd)
{
    int one = 1, lowat = NOTSENT_LOWAT;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat);
}

static void
begin_tls(DrvLane *lane)
{
    g_autoptr(GError) error = NULL;
    lane->state = LANE_HANDSHAKE;
    lane->rx.last = g_get_monotonic_time();
    drv_worker_timer(lane->worker, &lane->deadline, lane->rx.last + greeting_us(lane));
    set_socket_options(lane->fd);
    lane->compressor = drv_compressor_new();
    lane_tx_init(lane);
    lane_rx_init(lane);
    lane->ssl = drv_tls_connection(drv_transfer_tls(lane->transfer), &lane->pipe, lane->target.host,
                                   &error);
    if (lane->ssl == NULL) {
        lane_die(lane, error, TRUE);
        return;
    }
    if (lane->connects && SSL_do_handshake(lane->ssl) != 1)
        lane_tx_flush(lane); /* the client hello */
    lane_rx_start(lane);
}

static void
connected(DrvOp *op, gint32 result)
{
    DrvLane *lane = op->owner;
    if (lane->state == LANE_DEAD) {
        lane_release_if_idle(lane);
        return;
    }
    if (result < 0) {
        g_autoptr(GError) error = NULL;
        g_set_error(&error, DRV_ERROR, DRV_ERROR_UNREACHABLE, "cannot connect to %s: %s%s",
                    lane_label(lane), g_strerror(-result),
                    result == -ECONNREFUSED ? ": is droverd running there, on that port?" : "");
        lane_die(lane, error, FALSE);
        return;
    }
    begin_tls(lane);
}

DrvChunk *
lane_take_buffer(DrvLane *lane)
{
    DrvChunk *chunk = drv_worker_take(lane->worker, DRV_POOL_IO);
    return chunk != NULL ? chunk : drv_chunk_new_heap(DRV_CHUNK_SIZE);
}

static DrvLane *
new_lane(DrvTransfer *transfer, DrvWorker *worker, int fd)
{
    DrvLane *lane = g_new0(DrvLane, 1);
    g_atomic_ref_count_init(&lane->refs);
    lane->transfer = transfer;
    lane->worker = worker;
    lane->fd = fd;
    lane->connect_op = (DrvOp){.done = connected, .owner = lane};
    lane->deadline = (DrvTimer){.fire = deadline_passed, .owner = lane};
    lane->ping = (DrvTimer){.fire = ping_due, .owner = lane};
    lane->stall = (DrvTimer){.fire = stall_check, .owner = lane};
    drv_transfer_add_lane(transfer, lane);
    return lane;
}

static void
start_connecting(gpointer target, gpointer data)
{
    DrvLane *lane = target;
    if (lane->state == LANE_DEAD)
        return; /* closed before it began */
    if (lane->fd < 0) {
        g_autoptr(GError) error = g_error_new_literal(
            DRV_ERROR, DRV_ERROR_IO,
            "no socket is to be had: raise the limit of open files (LimitNOFILE)");
        lane_die(lane, error, FALSE);
        return;
    }
    gint64 rtt = drv_session_rtt_us(lane->session);
    gint64 patience =
        rtt == 0 ? CONNECT_US : CLAMP(RECONNECT_US + 3 * rtt, RECONNECT_US, CONNECT_US);
    drv_worker_timer(lane->worker, &lane->deadline, g_get_monotonic_time() + patience);
    drv_worker_connect(lane->worker, &lane->connect_op, lane->fd,
                       (struct sockaddr *)&lane->target.address, lane->target.address_len);
}

static void
connect_lane(DrvSession *session, DrvTransfer *transfer, DrvWorker *worker, guint slot,
             const DrvLaneTarget *target, gboolean again)
{
    int fd = socket(target->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    drv_lane_widen_window(fd);
    DrvLane *lane = new_lane(transfer, worker, fd);
    lane->connects = TRUE;
    lane->again = again;
    lane->session = drv_session_ref(session);
    lane->slot = slot;
    lane->target = *target;
    lane->target.host = g_strdup(target->host);
    lane->target.label = g_strdup(target->label);
    drv_worker_post(worker, start_connecting, lane, NULL);
}

/* "ADDR:PORT" of who connected. (A GSocket would make the descriptor non-blocking.) */
static char *
label_of_peer(int fd)
{
    struct sockaddr_storage native;
    socklen_t len = sizeof native;
    if (getpeername(fd, (struct sockaddr *)&native, &len) < 0)
        return g_strdup("a connecting peer");
    g_autoptr(GSocketAddress) address = g_socket_address_new_from_native(&native, len);
    return address != NULL ? g_socket_connectable_to_string(G_SOCKET_CONNECTABLE(address))
                           : g_strdup("a connecting peer");
}

void
drv_lane_connect(DrvSession *session, DrvTransfer *transfer, DrvWorker *worker, guint slot,
                 const DrvLaneTarget *target)
{
    connect_lane(session, transfer, worker, slot, target, FALSE);
}

void
lane_try_again(DrvLane *lane)
{
    connect_lane(lane->session, lane->transfer, lane->worker, lane->slot, &lane->target, TRUE);
    lane_close_after_flush(lane);
}

void
drv_lane_accept(DrvTransfer *transfer, DrvWorker *worker, int fd)
{
    if (!drv_transfer_stranger_begin(transfer)) {
        g_message("a connection was dropped: too many have not greeted yet");
        close(fd);
        return;
    }
    DrvLane *lane = new_lane(transfer, worker, fd);
    lane->target.label = label_of_peer(fd);
    lane->stranger = TRUE;
    begin_tls(lane);
}

static void
take_wake(gpointer target, gpointer data)
{
    DrvLane *lane = target;
    g_atomic_int_set(&lane->woken, FALSE);
    if (lane->state == LANE_UP)
        lane_tx_pump(lane);
    drv_lane_unref(lane);
}

void
drv_lane_wake(DrvLane *lane)
{
    if (g_atomic_int_compare_and_exchange(&lane->woken, FALSE, TRUE))
        drv_worker_post(lane->worker, take_wake, drv_lane_ref(lane), NULL);
}

static void
take_close(gpointer target, gpointer data)
{
    DrvLane *lane = target;
    if (lane->state == LANE_UP && data != NULL) {
        lane_tx_own(lane, DRV_FRAME_BYE, NULL, 0);
        lane_close_after_flush(lane);
    } else if (lane->state != LANE_CLOSING || data == NULL) {
        forget_unsent(lane);
        lane_die(lane, NULL, TRUE);
    }
    drv_lane_unref(lane);
}

void
drv_lane_close(DrvLane *lane, gboolean bye)
{
    drv_worker_post(lane->worker, take_close, drv_lane_ref(lane), GINT_TO_POINTER(bye));
}
