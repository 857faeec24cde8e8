/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/test-rig.h"

#include "common/error.h"
#include "engine/channel/socket-endpoint.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_S 180

/* --- waiting --- */

static gboolean
give_up(gpointer data)
{
    g_error("the condition waited for does not come");
    return G_SOURCE_REMOVE;
}

void
rig_wait(RigCondition condition, gpointer data)
{
    guint id = g_timeout_add_seconds(PATIENCE_S, give_up, NULL);
    /* The condition may change on another thread, so look now and then, too. */
    while (!condition(data)) {
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(500);
    }
    g_source_remove(id);
}

/* --- the ends --- */

static void
connected(DrvSession *session, gpointer data)
{
    RigEnd *end = data;
    end->connected++;
}

static void
lost(DrvSession *session, const GError *why, gpointer data)
{
    RigEnd *end = data;
    g_assert_nonnull(why);
    end->lost++;
}

static void
message(DrvSession *session, GBytes *bytes, gpointer data)
{
    RigEnd *end = data;
    g_ptr_array_add(end->messages, g_bytes_ref(bytes));
}

static void
dead(DrvSession *session, const GError *why, gpointer data)
{
    RigEnd *end = data;
    if (session != end->session) /* one before: of no interest any more */
        return;
    g_assert_null(end->dead);
    end->dead = g_error_copy(why);
}

static const DrvSessionOps ops = {connected, lost, message, dead};

static void
incoming(DrvSession *session, gpointer data)
{
    RigEnd *end = data;
    drv_session_unref(end->session);
    end->session = drv_session_ref(session);
    drv_session_set_ops(session, &ops, end);
}

static void
init_end(Rig *rig, RigEnd *end, const char *name, const DrvTransferConfig *base)
{
    g_autoptr(GError) error = NULL;
    DrvTransferConfig config = *base;
    config.name = base->name != NULL ? base->name : name;
    config.pki_dir = base->name == NULL
                         ? test_pki_good(rig->pki, name)
                         : test_pki_host(rig->pki, NULL, "IP:127.0.0.1", -3600, 3600);
    config.incoming = incoming;
    config.data = end;
    if (end == &rig->b)
        rig->pki_b = config.pki_dir;
    end->messages = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    end->transfer = drv_transfer_new(&config, &error);
    g_assert_no_error(error);
}

void
rig_init_with(Rig *rig, const DrvTransferConfig *a, const DrvTransferConfig *b, guint lanes)
{
    g_autoptr(GError) error = NULL;
    *rig = (Rig){.pki = test_pki_new(), .lanes = lanes};
    init_end(rig, &rig->a, "a", a);
    init_end(rig, &rig->b, "b", b);
    rig->port = drv_transfer_listen(rig->b.transfer, "127.0.0.1", 0, &error);
    g_assert_no_error(error);
}

void
rig_init(Rig *rig, guint threads, guint lanes, gsize memory)
{
    DrvTransferConfig config = {.threads = threads, .memory = memory};
    rig_init_with(rig, &config, &config, lanes);
}

static gboolean
both_connected(gpointer data)
{
    Rig *rig = data;
    g_assert_no_error(rig->a.dead);
    return rig->a.connected > 0 && rig->b.connected > 0;
}

void
rig_connect(Rig *rig, guint16 port)
{
    rig_connect_host(rig, "127.0.0.1", port);
}

static void
dial(Rig *rig, const char *host, guint16 port)
{
    rig->a.session = drv_session_connect(rig->a.transfer, host, port != 0 ? port : rig->port,
                                         rig->lanes, &ops, &rig->a);
}

void
rig_dial(Rig *rig, guint16 port)
{
    dial(rig, "127.0.0.1", port);
}

void
rig_connect_host(Rig *rig, const char *host, guint16 port)
{
    dial(rig, host, port);
    rig_wait(both_connected, rig);
}

typedef struct {
    Rig *rig;
    guint lanes;
} LanesWanted;

static gboolean
lanes_up(gpointer data)
{
    LanesWanted *wanted = data;
    DrvSessionStats a, b;
    drv_session_get_stats(wanted->rig->a.session, &a);
    drv_session_get_stats(wanted->rig->b.session, &b);
    return a.lanes == wanted->lanes && b.lanes == wanted->lanes;
}

void
rig_wait_lanes(Rig *rig, guint lanes)
{
    rig_wait(lanes_up, &(LanesWanted){rig, lanes});
}

static gboolean
pool_empty(gpointer data)
{
    return drv_pool_trim(drv_transfer_pool(((RigEnd *)data)->transfer));
}

static void
clear_end(RigEnd *end)
{
    if (end->session != NULL)
        drv_session_close(end->session);
    g_clear_pointer(&end->session, drv_session_unref);
}

static void
free_end(RigEnd *end)
{
    rig_wait(pool_empty, end);
    drv_transfer_free(end->transfer);
    g_ptr_array_unref(end->messages);
    g_clear_error(&end->dead);
}

void
rig_clear(Rig *rig)
{
    clear_end(&rig->a);
    clear_end(&rig->b);
    free_end(&rig->a);
    free_end(&rig->b);
    test_pki_free(rig->pki);
}

/* --- pipes --- */

static void
finished(DrvChannel *channel, const GError *error, gpointer data)
{
    Pipe *pipe = data;
    guint side = channel == pipe->channel[0] ? 0 : 1;
    g_assert_true(channel == pipe->channel[side]);
    g_assert_false(pipe->finished[side]);
    pipe->finished[side] = TRUE;
    pipe->error[side] = error != NULL ? g_error_copy(error) : NULL;
}

static void
open_half(Pipe *pipe, guint side, guint32 id, DrvCodec codec, DrvChannelCodec *coder,
          guint tx_credit, guint rx_credit)
{
    g_autoptr(GError) error = NULL;
    RigEnd *end = side == 0 ? &pipe->rig->a : &pipe->rig->b;
    int pair[2], tight = 4096;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    if (pipe->rig->tight)
        setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &tight, sizeof tight);
    pipe->fd[side] = pair[0];
    DrvChannelParams params = {
        .id = id,
        .codec = codec,
        .class = DRV_CLASS_RAM,
        .weight = 1,
        .tx_credit = tx_credit,
        .rx_credit = rx_credit,
        .finished = finished,
        .data = pipe,
    };
    DrvEndpoint *endpoint = drv_socket_endpoint_new(pair[1], coder);
    pipe->channel[side] = drv_channel_open(end->session, endpoint, &params, &error);
    g_assert_no_error(error);
}

static Pipe *
open_pipe(Rig *rig, DrvCodec codec, DrvChannelCodec *coder_a, DrvChannelCodec *coder_b,
          gboolean grant)
{
    Pipe *pipe = g_new0(Pipe, 1);
    pipe->rig = rig;
    guint32 id = drv_session_new_channel_id(rig->a.session);
    g_assert_true(drv_session_peer_may_open(rig->b.session, id));
    guint a = drv_pool_reserve(drv_transfer_pool(rig->a.transfer), NULL, 64, DRV_CREDIT_LEAST);
    guint b = drv_pool_reserve(drv_transfer_pool(rig->b.transfer), NULL, 64, DRV_CREDIT_LEAST);
    g_assert_cmpuint(MIN(a, b), >, 0);
    /* Nothing is in the sockets before both halves stand, so neither end sends to a stranger. */
    open_half(pipe, 1, id, codec, coder_b, a, b);
    open_half(pipe, 0, id, codec, coder_a, grant ? b : 0, a);
    pipe->credit = b;
    return pipe;
}

Pipe *
rig_pipe(Rig *rig, DrvCodec codec)
{
    return rig_pipe_coded(rig, codec, drv_codec_opaque_new(), drv_codec_opaque_new());
}

Pipe *
rig_pipe_coded(Rig *rig, DrvCodec codec, DrvChannelCodec *a, DrvChannelCodec *b)
{
    return open_pipe(rig, codec, a, b, TRUE);
}

Pipe *
rig_pipe_ungranted(Rig *rig)
{
    return open_pipe(rig, DRV_CODEC_NONE, drv_codec_opaque_new(), drv_codec_opaque_new(), FALSE);
}

void
rig_pipe_free(Pipe *pipe)
{
    for (guint i = 0; i < 2; i++) {
        drv_channel_close(pipe->channel[i]);
        drv_channel_unref(pipe->channel[i]);
        if (pipe->fd[i] >= 0)
            close(pipe->fd[i]);
        g_clear_error(&pipe->error[i]);
    }
    g_free(pipe);
}

gboolean
rig_pipe_finished(gpointer data)
{
    Pipe *pipe = data;
    return pipe->finished[0] && pipe->finished[1];
}

/* --- data --- */

typedef struct {
    int fd;
    RigData kind;
    guint64 seed;
    gsize len;
} Stream;

static guint64
next_random(guint64 *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* The stream's next bytes: a multiple of 8 each time. */
static void
make(RigData kind, guint64 *state, guint8 *out, gsize len)
{
    for (gsize i = 0; i < len; i += 8) {
        guint64 value = kind == RIG_ZERO ? 0 : next_random(state);
        if (kind == RIG_TEXT)
            value = value % 64 + G_GUINT64_CONSTANT(0x2020202020202020);
        memcpy(out + i, &value, 8);
    }
}

#define PIECE ((gsize)32768)

static gpointer
feed(gpointer data)
{
    g_autofree Stream *stream = data;
    guint8 buffer[PIECE];
    guint64 state = stream->seed | 1;
    for (gsize sent = 0; sent < stream->len;) {
        gsize n = MIN(PIECE, stream->len - sent);
        make(stream->kind, &state, buffer, PIECE);
        for (gsize done = 0; done < n;) {
            ssize_t r = send(stream->fd, buffer + done, n - done, MSG_NOSIGNAL);
            if (r <= 0)
                g_error("write: %s", g_strerror(errno));
            done += (gsize)r;
        }
        sent += n;
    }
    shutdown(stream->fd, SHUT_WR);
    return NULL;
}

static gpointer
expect(gpointer data)
{
    g_autofree Stream *stream = data;
    guint8 want[PIECE], got[PIECE];
    guint64 state = stream->seed | 1;
    gsize total = 0;
    for (;;) {
        gsize have = 0;
        while (have < PIECE) {
            ssize_t r = read(stream->fd, got + have, PIECE - have);
            if (r < 0)
                g_error("read: %s", g_strerror(errno));
            if (r == 0)
                break;
            have += (gsize)r;
        }
        make(stream->kind, &state, want, PIECE);
        if (memcmp(got, want, have) != 0)
            g_error("the bytes after %" G_GSIZE_FORMAT " are others", total);
        total += have;
        if (have < PIECE)
            break;
    }
    if (total != stream->len)
        g_error("%" G_GSIZE_FORMAT " bytes arrived, not %" G_GSIZE_FORMAT, total, stream->len);
    return NULL;
}

static GThread *
start(GThreadFunc func, int fd, RigData kind, guint64 seed, gsize len)
{
    Stream *stream = g_new(Stream, 1);
    *stream = (Stream){fd, kind, seed, len};
    return g_thread_new("stream", func, stream);
}

GThread *
rig_feed(int fd, RigData kind, guint64 seed, gsize len)
{
    return start(feed, fd, kind, seed, len);
}

GThread *
rig_expect(int fd, RigData kind, guint64 seed, gsize len)
{
    return start(expect, fd, kind, seed, len);
}

typedef struct {
    GThread **threads;
    guint n;
    gint done; /* atomic */
} Join;

static gpointer
join_all(gpointer data)
{
    Join *join = data;
    for (guint i = 0; i < join->n; i++)
        g_thread_join(join->threads[i]);
    g_atomic_int_set(&join->done, TRUE);
    return NULL;
}

static gboolean
joined(gpointer data)
{
    return g_atomic_int_get(&((Join *)data)->done);
}

void
rig_join(GThread **threads, guint n)
{
    Join join = {threads, n, FALSE};
    GThread *joiner = g_thread_new("join", join_all, &join);
    rig_wait(joined, &join);
    g_thread_join(joiner);
}
