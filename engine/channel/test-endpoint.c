/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/socket-endpoint.h"
#include "engine/channel/test-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEG ((gsize)1024 * 1024)

static void
join(GThread *thread)
{
    rig_join(&thread, 1);
}

/* One way ends long before the other begins. */
static void
test_half_close(gconstpointer data)
{
    guint first = GPOINTER_TO_UINT(data), second = 1 - first;
    Rig rig;
    rig_init(&rig, 2, 2, 0);
    rig_connect(&rig, 0);
    Pipe *pipe = rig_pipe(&rig, DRV_CODEC_NONE);
    GThread *forth[] = {rig_feed(pipe->fd[first], RIG_RANDOM, 1, MEG),
                        rig_expect(pipe->fd[second], RIG_RANDOM, 1, MEG)};
    rig_join(forth, 2);
    g_assert_false(pipe->finished[0] || pipe->finished[1]);
    GThread *back[] = {rig_feed(pipe->fd[second], RIG_RANDOM, 2, 2 * MEG),
                       rig_expect(pipe->fd[first], RIG_RANDOM, 2, 2 * MEG)};
    rig_join(back, 2);
    rig_wait(rig_pipe_finished, pipe);
    g_assert_no_error(pipe->error[0]);
    g_assert_no_error(pipe->error[1]);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

/* Writes until the socket breaks, as QEMU's migration thread would. */
static gpointer
write_until_broken(gpointer data)
{
    static const guint8 bytes[65536];
    int fd = GPOINTER_TO_INT(data);
    while (send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) > 0)
        ;
    g_assert_true(errno == EPIPE || errno == ECONNRESET);
    return NULL;
}

static void
expect_end(int fd)
{
    guint8 byte;
    g_assert_cmpint(recv(fd, &byte, 1, 0), <=, 0);
}

static void
close_end(Pipe *pipe, guint side)
{
    close(pipe->fd[side]);
    pipe->fd[side] = -1;
}

/* Who reads goes away: who writes is told, instead of writing into the void; and the daemon is not
 * killed by SIGPIPE. */
static void
test_reader_gone(gconstpointer data)
{
    gboolean said_last = GPOINTER_TO_INT(data);
    Rig rig;
    rig_init(&rig, 2, 2, 0);
    rig_connect(&rig, 0);
    signal(SIGPIPE, SIG_DFL);
    Pipe *pipe = rig_pipe(&rig, DRV_CODEC_NONE);
    if (said_last) {
        shutdown(pipe->fd[1], SHUT_WR);
        expect_end(pipe->fd[0]);
    }
    GThread *writer = g_thread_new("writer", write_until_broken, GINT_TO_POINTER(pipe->fd[0]));
    guint8 some[4096];
    g_assert_cmpint(read(pipe->fd[1], some, sizeof some), >, 0);
    close_end(pipe, 1);
    join(writer);
    rig_wait(rig_pipe_finished, pipe);
    g_assert_no_error(rig.a.dead);
    g_assert_no_error(rig.b.dead);
    /* Each end knows where it broke, and who was there, why. */
    g_assert_error(pipe->error[0], DRV_ERROR, DRV_ERROR_IO);
    g_assert_cmpstr(pipe->error[0]->message, ==, "the socket at the other end broke");
    g_assert_error(pipe->error[1], DRV_ERROR, DRV_ERROR_IO);
    if (!g_str_has_prefix(pipe->error[1]->message, "the socket here broke: "))
        g_error("it does not say why: %s", pipe->error[1]->message);
    DrvChannelStats stats;
    drv_channel_get_stats(pipe->channel[0], &stats);
    g_assert_true(stats.sent_all && stats.received_all);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

/* The same before the peer has promised room for anything: the answer waits until there is. */
static void
test_reset_without_credit(void)
{
    Rig rig;
    rig_init(&rig, 2, 1, 0);
    rig_connect(&rig, 0);
    Pipe *pipe = rig_pipe_ungranted(&rig);
    /* Unread bytes make b's end break as it closes. */
    guint8 byte = 1;
    g_assert_cmpint(write(pipe->fd[1], &byte, 1), ==, 1);
    g_assert_cmpint(read(pipe->fd[0], &byte, 1), ==, 1);
    drv_channel_grant(pipe->channel[0], 0);
    shutdown(pipe->fd[0], SHUT_RDWR); /* a's endpoint breaks when it delivers */
    g_assert_cmpint(write(pipe->fd[1], &byte, 1), ==, 1);
    close_end(pipe, 1);
    expect_end(pipe->fd[0]);
    g_assert_false(pipe->finished[0]);
    drv_channel_grant(pipe->channel[0], pipe->credit);
    rig_wait(rig_pipe_finished, pipe);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

/* The end breaks while every frame of its credit is under way. */
static void
test_reset_without_room(void)
{
    static const guint8 bytes[64];
    Rig rig;
    rig_init(&rig, 2, 2, 0);
    rig.tight = TRUE;
    rig_connect(&rig, 0);
    Pipe *pipe = rig_pipe(&rig, DRV_CODEC_NONE);
    /* Small pieces use up the credit long before the window. */
    gssize n = 1;
    for (guint i = 0; i < 20000 && n > 0; i++) {
        n = send(pipe->fd[0], bytes, sizeof bytes, MSG_DONTWAIT);
        if (i % 16 == 0)
            g_main_context_iteration(NULL, FALSE);
    }
    GThread *writer = g_thread_new("writer", write_until_broken, GINT_TO_POINTER(pipe->fd[0]));
    close_end(pipe, 1);
    join(writer);
    rig_wait(rig_pipe_finished, pipe);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

/* GLib's sockets do not block; the ring would ask such a one over and over. */
static void
test_nonblocking_socket(void)
{
    int pair[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), ==, 0);
    DrvEndpoint *endpoint = drv_socket_endpoint_new(pair[1], drv_codec_opaque_new());
    g_assert_cmpint(fcntl(pair[1], F_GETFL) & O_NONBLOCK, ==, 0);
    drv_socket_endpoint_discard(endpoint);
    expect_end(pair[0]);
    close(pair[0]);
}

/* A channel closed at one end stops that end only, and says nothing of it. */
static void
test_close_half(void)
{
    Rig rig;
    rig_init(&rig, 1, 1, 0);
    rig_connect(&rig, 0);
    Pipe *pipe = rig_pipe(&rig, DRV_CODEC_NONE);
    drv_channel_close(pipe->channel[0]);
    drv_channel_close(pipe->channel[0]);
    expect_end(pipe->fd[0]);
    g_assert_false(pipe->finished[0]);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

static void
test_refused(void)
{
    Rig rig;
    rig_init(&rig, 1, 1, 0);
    rig_connect(&rig, 0);
    Pipe *pipe = rig_pipe(&rig, DRV_CODEC_NONE);
    int pair[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    DrvEndpoint *endpoint = drv_socket_endpoint_new(pair[1], drv_codec_opaque_new());
    DrvChannelParams params = {
        .id = drv_channel_id(pipe->channel[0]), .tx_credit = 1, .rx_credit = 1, .weight = 1};
    g_autoptr(GError) twice = NULL;
    g_assert_null(drv_channel_open(rig.a.session, endpoint, &params, &twice));
    g_assert_error(twice, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(twice->message, "open already"));
    drv_session_close(rig.a.session);
    g_autoptr(GError) late = NULL;
    g_assert_null(drv_channel_open(rig.a.session, endpoint, &params, &late));
    g_assert_error(late, DRV_ERROR, DRV_ERROR_STATE);
    g_assert_cmpstr(late->message, ==, "the session has ended: the session was closed");
    drv_socket_endpoint_discard(endpoint);
    close(pair[0]);
    rig_pipe_free(pipe);
    rig_clear(&rig);
}

/* The daemon ends while everything is under way. */
static void
test_free_in_full_flow(void)
{
    Rig rig;
    rig_init(&rig, 2, 4, 0);
    rig_connect(&rig, 0);
    Pipe *pipe = rig_pipe(&rig, DRV_CODEC_LZ4);
    GThread *writers[2];
    for (guint i = 0; i < 2; i++)
        writers[i] = g_thread_new("writer", write_until_broken, GINT_TO_POINTER(pipe->fd[i]));
    guint8 some[4096];
    g_assert_cmpint(read(pipe->fd[1], some, sizeof some), >, 0);
    g_clear_pointer(&rig.a.session, drv_session_unref);
    drv_channel_unref(pipe->channel[0]);
    drv_transfer_free(rig.a.transfer);
    DrvTransferConfig config = {.name = "a", .pki_dir = rig.pki_b, .threads = 1};
    rig.a.transfer = drv_transfer_new(&config, NULL);
    rig_join(writers, 2);
    drv_channel_close(pipe->channel[1]);
    drv_channel_unref(pipe->channel[1]);
    g_clear_error(&pipe->error[0]);
    g_clear_error(&pipe->error[1]);
    close(pipe->fd[0]);
    close(pipe->fd[1]);
    g_free(pipe);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/endpoint/half-close/a-first", GUINT_TO_POINTER(0), test_half_close);
    g_test_add_data_func("/endpoint/half-close/b-first", GUINT_TO_POINTER(1), test_half_close);
    g_test_add_data_func("/endpoint/reader-gone", GINT_TO_POINTER(FALSE), test_reader_gone);
    g_test_add_data_func("/endpoint/reader-gone/said-last", GINT_TO_POINTER(TRUE),
                         test_reader_gone);
    g_test_add_func("/endpoint/reset-without-credit", test_reset_without_credit);
    g_test_add_func("/endpoint/reset-without-room", test_reset_without_room);
    g_test_add_func("/endpoint/nonblocking-socket", test_nonblocking_socket);
    g_test_add_func("/endpoint/close-half", test_close_half);
    g_test_add_func("/endpoint/refused", test_refused);
    g_test_add_func("/endpoint/free-in-full-flow", test_free_in_full_flow);
    return g_test_run();
}
