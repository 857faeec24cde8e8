/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/test-relay.h"
#include "engine/channel/test-rig.h"

#include <sys/socket.h>
#include <unistd.h>

#define MEG ((gsize)1024 * 1024)

/* What is tested: over a network that breaks in every way and at every moment, all arrives, once
 * and in order. */

typedef struct {
    Rig rig;
    TestRelay *relay;
} Bad;

static void
bad_init(Bad *bad, guint threads, guint lanes)
{
    rig_init(&bad->rig, threads, lanes, 0);
    bad->relay = test_relay_new(bad->rig.port);
    rig_connect(&bad->rig, test_relay_port(bad->relay));
    rig_wait_lanes(&bad->rig, lanes);
}

static void
bad_clear(Bad *bad)
{
    rig_clear(&bad->rig);
    test_relay_free(bad->relay);
}

static void
send_number(RigEnd *end, guint number)
{
    g_autoptr(GBytes) bytes = g_bytes_new(&number, sizeof number);
    drv_session_send(end->session, bytes);
}

typedef struct {
    RigEnd *end;
    guint count;
} Messages;

static gboolean
messages_there(gpointer data)
{
    Messages *wanted = data;
    g_assert_cmpuint(wanted->end->messages->len, <=, wanted->count);
    return wanted->end->messages->len == wanted->count;
}

/* Exactly the numbers below 'count', in order. */
static void
expect_numbers(RigEnd *end, guint count)
{
    rig_wait(messages_there, &(Messages){end, count});
    for (guint i = 0; i < count; i++) {
        gsize len;
        const guint *number = g_bytes_get_data(end->messages->pdata[i], &len);
        g_assert_cmpuint(len, ==, sizeof *number);
        g_assert_cmpuint(*number, ==, i);
    }
}

typedef struct {
    guint threads;
    guint lanes;
    DrvCodec codec;
    RigData kind;
    guint32 seed;
} Storm;

#define STORM_CUTS 60
#define MESSAGES 400

static void
test_storm(gconstpointer data)
{
    const Storm *storm = data;
    Bad bad;
    bad_init(&bad, storm->threads, storm->lanes);
    test_relay_storm(bad.relay, storm->seed, STORM_CUTS);
    guint before = test_relay_cuts(bad.relay);
    test_relay_cut(bad.relay);
    Pipe *pipe = rig_pipe(&bad.rig, storm->codec);
    GThread *threads[] = {
        rig_feed(pipe->fd[0], storm->kind, 1, 20 * MEG + 5),
        rig_expect(pipe->fd[1], storm->kind, 1, 20 * MEG + 5),
        rig_feed(pipe->fd[1], storm->kind, 2, 12 * MEG),
        rig_expect(pipe->fd[0], storm->kind, 2, 12 * MEG),
    };
    for (guint i = 0; i < MESSAGES; i++) {
        send_number(&bad.rig.a, i);
        send_number(&bad.rig.b, i);
    }
    rig_join(threads, G_N_ELEMENTS(threads));
    rig_wait(rig_pipe_finished, pipe);
    g_assert_no_error(pipe->error[0]);
    g_assert_no_error(pipe->error[1]);
    expect_numbers(&bad.rig.a, MESSAGES);
    expect_numbers(&bad.rig.b, MESSAGES);
    DrvChannelStats a, b;
    drv_channel_get_stats(pipe->channel[0], &a);
    drv_channel_get_stats(pipe->channel[1], &b);
    g_assert_true(drv_digest_equal(&a.sent, &b.received));
    g_assert_true(drv_digest_equal(&b.sent, &a.received));
    g_assert_cmpuint(test_relay_cuts(bad.relay), >, before + 5);
    g_assert_cmpuint(bad.rig.a.lost, >, 0);
    g_assert_no_error(bad.rig.a.dead);
    g_assert_no_error(bad.rig.b.dead);
    rig_pipe_free(pipe);
    bad_clear(&bad);
}

/* At least: on a busy machine it may break, and be back, once more before anybody looks. */
static gboolean
a_lost(gpointer data)
{
    Bad *bad = data;
    return bad->rig.a.lost >= 1 && bad->rig.b.lost >= 1;
}

static gboolean
refused_often(gpointer data)
{
    return test_relay_refused(((Bad *)data)->relay) >= 8;
}

static gboolean
connected_again(gpointer data)
{
    Bad *bad = data;
    return bad->rig.a.connected >= 2 && bad->rig.b.connected >= 2;
}

/* Counted on the control thread, a little after the lanes are up. */
static gboolean
all_back(gpointer data)
{
    DrvSessionStats stats;
    drv_session_get_stats(((Bad *)data)->rig.a.session, &stats);
    g_assert_cmpuint(stats.reconnects, <=, 4);
    return stats.reconnects == 4;
}

/* The network goes away for a while: both ends say so once, and once that it is back. */
static void
test_away(void)
{
    Bad bad;
    bad_init(&bad, 2, 4);
    Pipe *pipe = rig_pipe(&bad.rig, DRV_CODEC_LZ4);
    test_relay_refuse(bad.relay, TRUE);
    test_relay_cut(bad.relay);
    rig_wait(a_lost, &bad);
    g_assert_false(drv_session_is_connected(bad.rig.a.session));
    GThread *threads[] = {
        rig_feed(pipe->fd[0], RIG_TEXT, 7, 3 * MEG),
        rig_expect(pipe->fd[1], RIG_TEXT, 7, 3 * MEG),
    };
    send_number(&bad.rig.a, 0);
    rig_wait(refused_often, &bad);
    g_assert_cmpuint(bad.rig.a.connected, ==, 1);
    test_relay_refuse(bad.relay, FALSE);
    rig_wait(connected_again, &bad);
    rig_join(threads, 2);
    expect_numbers(&bad.rig.b, 1);
    rig_wait_lanes(&bad.rig, 4);
    rig_wait(all_back, &bad);
    g_assert_cmpuint(bad.rig.a.lost, ==, 1);
    rig_pipe_free(pipe);
    bad_clear(&bad);
}

/* Connections that stay open and say nothing are found dead, and replaced. */
static void
test_silence(void)
{
    Bad bad;
    bad_init(&bad, 1, 2);
    Pipe *pipe = rig_pipe(&bad.rig, DRV_CODEC_NONE);
    test_relay_stall(bad.relay, TRUE);
    GThread *threads[] = {
        rig_feed(pipe->fd[0], RIG_RANDOM, 7, 8 * MEG),
        rig_expect(pipe->fd[1], RIG_RANDOM, 7, 8 * MEG),
    };
    rig_wait(a_lost, &bad);
    test_relay_stall(bad.relay, FALSE);
    rig_wait(connected_again, &bad);
    rig_join(threads, 2);
    rig_pipe_free(pipe);
    bad_clear(&bad);
}

typedef struct {
    Pipe *pipe;
    guint64 frames;
} Frames;

static gboolean
frames_sent(gpointer data)
{
    Frames *wanted = data;
    DrvChannelStats stats;
    drv_channel_get_stats(wanted->pipe->channel[0], &stats);
    return stats.sent.frames >= wanted->frames;
}

#define PIPES 3
#define SMALL_LEN 8192

/* After each cut a window of small frames comes again, and at once, to an end that takes nothing:
 * what is there already must not cost room that was never promised. */
static void
test_blocked_receiver(void)
{
    static const guint8 zero[SMALL_LEN];
    Bad bad;
    bad_init(&bad, 2, 2);
    bad.rig.tight = TRUE;
    Pipe *pipes[PIPES];
    for (guint i = 0; i < PIPES; i++) {
        pipes[i] = rig_pipe(&bad.rig, DRV_CODEC_LZ4);
        for (guint n = 1; n <= pipes[i]->credit; n++) {
            g_assert_cmpint(write(pipes[i]->fd[0], zero, SMALL_LEN), ==, SMALL_LEN);
            rig_wait(frames_sent, &(Frames){pipes[i], n});
        }
    }
    for (guint i = 0; i < 20; i++) {
        test_relay_cut(bad.relay);
        rig_wait_lanes(&bad.rig, 2);
    }
    GThread *threads[PIPES];
    for (guint i = 0; i < PIPES; i++) {
        shutdown(pipes[i]->fd[0], SHUT_WR);
        threads[i] = rig_expect(pipes[i]->fd[1], RIG_ZERO, 0, pipes[i]->credit * SMALL_LEN);
    }
    rig_join(threads, PIPES);
    g_assert_no_error(bad.rig.a.dead);
    g_assert_no_error(bad.rig.b.dead);
    for (guint i = 0; i < PIPES; i++)
        rig_pipe_free(pipes[i]);
    bad_clear(&bad);
}

static gboolean
a_dead(gpointer data)
{
    return ((Bad *)data)->rig.a.dead != NULL;
}

/* --- the first connection --- */

static void
first_init(Bad *bad)
{
    rig_init(&bad->rig, 1, 2, 0);
    bad->relay = test_relay_new(bad->rig.port);
}

static gboolean
refused_twice(gpointer data)
{
    return test_relay_refused(((Bad *)data)->relay) >= 2;
}

static gboolean
both_there(gpointer data)
{
    Bad *bad = data;
    g_assert_no_error(bad->rig.a.dead);
    return bad->rig.a.connected == 1 && bad->rig.b.connected == 1;
}

/* A network that resets it a few times is no reason to give up. */
static void
test_first_broken(void)
{
    Bad bad;
    first_init(&bad);
    test_relay_refuse(bad.relay, TRUE);
    rig_dial(&bad.rig, test_relay_port(bad.relay));
    rig_wait(refused_twice, &bad);
    test_relay_refuse(bad.relay, FALSE);
    rig_wait(both_there, &bad);
    rig_wait_lanes(&bad.rig, 2);
    g_assert_cmpuint(bad.rig.a.lost, ==, 0);
    bad_clear(&bad);
}

/* But it is not tried for ever. */
static void
test_first_in_vain(void)
{
    Bad bad;
    first_init(&bad);
    test_relay_refuse(bad.relay, TRUE);
    rig_dial(&bad.rig, test_relay_port(bad.relay));
    rig_wait(a_dead, &bad);
    g_assert_error(bad.rig.a.dead, DRV_ERROR, DRV_ERROR_UNREACHABLE);
    g_assert_cmpuint(test_relay_refused(bad.relay), ==, 8);
    bad_clear(&bad);
}

/* What the peer refuses, or cannot be trusted with, stays so: said at once. */
static void
test_first_refused(void)
{
    Bad bad;
    Rig other; /* of another CA */
    first_init(&bad);
    rig_init(&other, 1, 1, 0);
    test_relay_set_upstream(bad.relay, other.port);
    rig_dial(&bad.rig, test_relay_port(bad.relay));
    rig_wait(a_dead, &bad);
    g_assert_error(bad.rig.a.dead, DRV_ERROR, DRV_ERROR_TLS);
    g_assert_cmpuint(test_relay_accepted(bad.relay), ==, 1);
    bad_clear(&bad);
    rig_clear(&other);
}

static gboolean
b_dead(gpointer data)
{
    return ((Bad *)data)->rig.b.dead != NULL;
}

/* A daemon that was restarted does not know the session: trying on would be of no use. */
static void
test_restarted(void)
{
    Bad bad;
    Rig other;
    bad_init(&bad, 1, 2);
    rig_init(&other, 1, 1, 0);
    Pipe *pipe = rig_pipe(&bad.rig, DRV_CODEC_NONE);
    /* The same host's certificates, another process. */
    drv_transfer_free(other.b.transfer);
    DrvTransferConfig config = {.name = "b", .pki_dir = bad.rig.pki_b, .threads = 1};
    other.b.transfer = drv_transfer_new(&config, NULL);
    guint16 port = drv_transfer_listen(other.b.transfer, "127.0.0.1", 0, NULL);
    test_relay_set_upstream(bad.relay, port);
    test_relay_cut(bad.relay);
    rig_wait(a_dead, &bad);
    g_assert_error(bad.rig.a.dead, DRV_ERROR, DRV_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(bad.rig.a.dead->message, "restarted"));
    g_assert_true(drv_session_is_dead(bad.rig.a.session));
    rig_pipe_free(pipe);
    bad_clear(&bad);
    rig_clear(&other);
}

static void
test_close_tells(void)
{
    Bad bad;
    bad_init(&bad, 2, 3);
    Pipe *pipe = rig_pipe(&bad.rig, DRV_CODEC_NONE);
    drv_session_close(bad.rig.a.session);
    drv_session_close(bad.rig.a.session);
    rig_wait(b_dead, &bad);
    g_assert_error(bad.rig.b.dead, DRV_ERROR, DRV_ERROR_UNREACHABLE);
    g_assert_cmpstr(bad.rig.b.dead->message, ==, "a has ended the session");
    g_assert_null(bad.rig.a.dead);
    rig_wait(rig_pipe_finished, pipe);
    g_assert_error(pipe->error[0], DRV_ERROR, DRV_ERROR_CANCELLED);
    g_assert_error(pipe->error[1], DRV_ERROR, DRV_ERROR_UNREACHABLE);
    send_number(&bad.rig.a, 1); /* goes nowhere */
    send_number(&bad.rig.b, 1);
    rig_pipe_free(pipe);
    bad_clear(&bad);
}

/* Beyond the peer's credit of 64, and yet said within the second or two that a session, or a
 * daemon, has for it when it ends: also on a busy machine, under a sanitizer. */
#define LAST_MESSAGES 130

static void
test_messages_before_the_close(void)
{
    Bad bad;
    bad_init(&bad, 2, 3);
    for (guint i = 0; i < LAST_MESSAGES; i++)
        send_number(&bad.rig.a, i);
    drv_session_close(bad.rig.a.session);
    send_number(&bad.rig.a, LAST_MESSAGES); /* after it: goes nowhere */
    expect_numbers(&bad.rig.b, LAST_MESSAGES);
    rig_wait(b_dead, &bad);
    g_assert_cmpstr(bad.rig.b.dead->message, ==, "a has ended the session");
    g_assert_cmpuint(bad.rig.b.messages->len, ==, LAST_MESSAGES);
    bad_clear(&bad);
}

static void
note_connected(DrvSession *session, gpointer data)
{
    *(gboolean *)data = TRUE;
}

/* A daemon of its own, which says something and ends: from then on it runs no main loop. */
static gpointer
short_life(gpointer data)
{
    static const DrvSessionOps ops = {.connected = note_connected};
    Rig *rig = data;
    gboolean connected = FALSE;
    g_autoptr(GMainContext) context = g_main_context_new();
    g_main_context_push_thread_default(context);
    DrvTransferConfig config = {.name = "c", .pki_dir = rig->pki_b, .threads = 2};
    DrvTransfer *transfer = drv_transfer_new(&config, NULL);
    DrvSession *session =
        drv_session_connect(transfer, "127.0.0.1", rig->port, 2, &ops, &connected);
    while (!connected)
        g_main_context_iteration(context, TRUE);
    for (guint i = 0; i < LAST_MESSAGES; i++)
        send_number(&(RigEnd){.session = session}, i);
    drv_transfer_free(transfer);
    drv_session_unref(session);
    g_main_context_pop_thread_default(context);
    return NULL;
}

static gboolean
there_and_dead(gpointer data)
{
    RigEnd *end = data;
    return end->messages->len == LAST_MESSAGES && end->dead != NULL;
}

static void
test_messages_before_the_end(void)
{
    Rig rig;
    rig_init(&rig, 2, 1, 0);
    GThread *thread = g_thread_new("daemon", short_life, &rig);
    rig_wait(there_and_dead, &rig.b);
    expect_numbers(&rig.b, LAST_MESSAGES);
    g_thread_join(thread);
    rig_clear(&rig);
}

static gboolean
a_has_no_lanes(gpointer data)
{
    DrvSessionStats stats;
    drv_session_get_stats(((Bad *)data)->rig.a.session, &stats);
    return stats.lanes == 0;
}

/* A peer that takes nothing is not waited for much longer. */
static void
test_close_in_vain(void)
{
    Bad bad;
    bad_init(&bad, 1, 1);
    test_relay_stall(bad.relay, TRUE);
    send_number(&bad.rig.a, 0);
    drv_session_close(bad.rig.a.session);
    g_assert_true(drv_session_is_dead(bad.rig.a.session));
    rig_wait(a_has_no_lanes, &bad);
    g_assert_cmpuint(bad.rig.b.messages->len, ==, 0);
    test_relay_stall(bad.relay, FALSE);
    bad_clear(&bad);
}

int
main(int argc, char **argv)
{
    static const Storm storms[] = {
        {1, 1, DRV_CODEC_NONE, RIG_RANDOM, 1}, {2, 4, DRV_CODEC_LZ4, RIG_TEXT, 2},
        {2, 8, DRV_CODEC_NONE, RIG_RANDOM, 3}, {2, 3, DRV_CODEC_ZSTD, RIG_TEXT, 4},
        {3, 8, DRV_CODEC_AUTO, RIG_TEXT, 5},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(storms); i++) {
        g_autofree char *name = g_strdup_printf("/resume/storm/%u-lanes/%s", storms[i].lanes,
                                                drv_codec_name(storms[i].codec));
        g_test_add_data_func(name, &storms[i], test_storm);
    }
    g_test_add_func("/resume/away", test_away);
    g_test_add_func("/resume/silence", test_silence);
    g_test_add_func("/resume/blocked-receiver", test_blocked_receiver);
    g_test_add_func("/resume/first/broken", test_first_broken);
    g_test_add_func("/resume/first/in-vain", test_first_in_vain);
    g_test_add_func("/resume/first/refused", test_first_refused);
    g_test_add_func("/resume/restarted", test_restarted);
    g_test_add_func("/resume/close-tells", test_close_tells);
    g_test_add_func("/resume/messages-before-the-close", test_messages_before_the_close);
    g_test_add_func("/resume/messages-before-the-end", test_messages_before_the_end);
    g_test_add_func("/resume/close-in-vain", test_close_in_vain);
    return g_test_run();
}
