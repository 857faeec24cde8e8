/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/test-relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER ((gsize)64 * 1024)
#define MAX_LINKS 64
#define TICK_MS 2

typedef struct {
    int fd[2]; /* who connected, and upstream */
    guint8 buffer[2][BUFFER];
    gsize len[2]; /* of what was read from fd[i] and not yet written to the other */
    gboolean end[2];
    guint64 life; /* bytes until the cut */
} Link;

struct _TestRelay {
    GThread *thread;
    int listener;
    guint16 port;

    GMutex lock; /* all that follows */
    GCond changed;
    guint16 upstream;
    GRand *storm;
    guint storm_cuts; /* left to be made */
    gboolean stall;
    gboolean refuse;
    gboolean cut;
    gboolean stop;
    guint cuts;
    guint accepted;
    guint refused;
    guint64 bytes;

    GPtrArray *links; /* the thread's */
};

static void
cut_link(TestRelay *relay, Link *link)
{
    struct linger abort = {.l_onoff = 1};
    for (guint i = 0; i < 2; i++) {
        setsockopt(link->fd[i], SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
        close(link->fd[i]);
    }
    g_ptr_array_remove_fast(relay->links, link);
    g_free(link);
}

/* Handshake, greeting, first data, or well under way. */
static guint64
draw_life(TestRelay *relay)
{
    static const guint scale[] = {600, 3000, 6000, 200000, 3000000, 3000000};
    return (guint64)g_rand_int_range(relay->storm, 1,
                                     (gint)scale[g_rand_int_range(relay->storm, 0, 6)]);
}

static void
accept_link(TestRelay *relay)
{
    int fd = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    relay->accepted++;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(relay->upstream),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int up = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    gboolean refuse = relay->refuse || relay->links->len == MAX_LINKS ||
                      connect(up, (struct sockaddr *)&to, sizeof to) != 0;
    Link *link = g_new0(Link, 1);
    link->fd[0] = fd;
    link->fd[1] = up;
    link->life = G_MAXUINT64;
    g_ptr_array_add(relay->links, link);
    if (refuse) {
        relay->refused++;
        cut_link(relay, link);
    } else if (relay->storm_cuts > 0) {
        relay->storm_cuts--;
        link->life = draw_life(relay);
    }
}

/* Moves bytes one way. FALSE when the link is to be cut. */
static gboolean
move(TestRelay *relay, Link *link, guint from)
{
    guint8 *buffer = link->buffer[from];
    if (link->len[from] < BUFFER && !link->end[from]) {
        ssize_t n =
            recv(link->fd[from], buffer + link->len[from], BUFFER - link->len[from], MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            return FALSE;
        link->end[from] = n == 0;
        link->len[from] += (gsize)MAX(n, 0);
    }
    gsize allowed = (gsize)MIN(link->len[from], link->life);
    ssize_t n =
        allowed == 0 ? 0 : send(link->fd[1 - from], buffer, allowed, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        return FALSE;
    n = MAX(n, 0);
    memmove(buffer, buffer + n, link->len[from] - (gsize)n);
    link->len[from] -= (gsize)n;
    relay->bytes += (guint64)n;
    if (link->life != G_MAXUINT64)
        link->life -= (guint64)n;
    if (link->end[from] && link->len[from] == 0)
        shutdown(link->fd[1 - from], SHUT_WR);
    return link->life > 0;
}

static void
serve(TestRelay *relay)
{
    for (guint i = relay->links->len; i-- > 0;) {
        Link *link = relay->links->pdata[i];
        gboolean good = !relay->cut;
        for (guint from = 0; from < 2 && good && !relay->stall; from++)
            good = move(relay, link, from);
        if (good && link->end[0] && link->end[1] && link->len[0] + link->len[1] == 0)
            good = FALSE; /* over, not cut: but the count does not matter */
        if (!good) {
            relay->cuts++;
            cut_link(relay, link);
        }
    }
    if (relay->cut) {
        relay->cut = FALSE;
        g_cond_broadcast(&relay->changed);
    }
}

static void
wait_for_bytes(TestRelay *relay)
{
    struct pollfd fds[1 + 2 * MAX_LINKS] = {{.fd = relay->listener, .events = POLLIN}};
    nfds_t n = 1;
    for (guint i = 0; i < relay->links->len && !relay->stall; i++) {
        Link *link = relay->links->pdata[i];
        for (guint from = 0; from < 2; from++) {
            short events = (short)((link->len[from] < BUFFER && !link->end[from] ? POLLIN : 0) |
                                   (link->len[1 - from] > 0 ? POLLOUT : 0));
            /* An ended direction would report its hang-up over and over. */
            if (events != 0)
                fds[n++] = (struct pollfd){.fd = link->fd[from], .events = events};
        }
    }
    g_mutex_unlock(&relay->lock);
    int ready = poll(fds, n, TICK_MS);
    g_mutex_lock(&relay->lock);
    if (ready > 0 && fds[0].revents & POLLIN)
        accept_link(relay);
}

static gpointer
run(gpointer data)
{
    TestRelay *relay = data;
    g_mutex_lock(&relay->lock);
    while (!relay->stop) {
        wait_for_bytes(relay);
        serve(relay);
    }
    g_mutex_unlock(&relay->lock);
    while (relay->links->len > 0)
        cut_link(relay, relay->links->pdata[0]);
    return NULL;
}

TestRelay *
test_relay_new(guint16 upstream)
{
    TestRelay *relay = g_new0(TestRelay, 1);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    relay->upstream = upstream;
    relay->links = g_ptr_array_new();
    g_mutex_init(&relay->lock);
    g_cond_init(&relay->changed);
    relay->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    g_assert_cmpint(bind(relay->listener, (struct sockaddr *)&at, sizeof at), ==, 0);
    g_assert_cmpint(listen(relay->listener, 64), ==, 0);
    g_assert_cmpint(getsockname(relay->listener, (struct sockaddr *)&at, &len), ==, 0);
    relay->port = ntohs(at.sin_port);
    relay->thread = g_thread_new("relay", run, relay);
    return relay;
}

void
test_relay_free(TestRelay *relay)
{
    g_mutex_lock(&relay->lock);
    relay->stop = TRUE;
    g_mutex_unlock(&relay->lock);
    g_thread_join(relay->thread);
    close(relay->listener);
    g_ptr_array_unref(relay->links);
    g_clear_pointer(&relay->storm, g_rand_free);
    g_mutex_clear(&relay->lock);
    g_cond_clear(&relay->changed);
    g_free(relay);
}

guint16
test_relay_port(TestRelay *relay)
{
    return relay->port;
}

void
test_relay_set_upstream(TestRelay *relay, guint16 upstream)
{
    g_mutex_lock(&relay->lock);
    relay->upstream = upstream;
    g_mutex_unlock(&relay->lock);
}

void
test_relay_storm(TestRelay *relay, guint32 seed, guint cuts)
{
    g_mutex_lock(&relay->lock);
    g_clear_pointer(&relay->storm, g_rand_free);
    relay->storm = g_rand_new_with_seed(seed);
    relay->storm_cuts = cuts;
    g_mutex_unlock(&relay->lock);
}

void
test_relay_cut(TestRelay *relay)
{
    g_mutex_lock(&relay->lock);
    relay->cut = TRUE;
    while (relay->cut)
        g_cond_wait(&relay->changed, &relay->lock);
    g_mutex_unlock(&relay->lock);
}

void
test_relay_stall(TestRelay *relay, gboolean stall)
{
    g_mutex_lock(&relay->lock);
    relay->stall = stall;
    g_mutex_unlock(&relay->lock);
}

void
test_relay_refuse(TestRelay *relay, gboolean refuse)
{
    g_mutex_lock(&relay->lock);
    relay->refuse = refuse;
    g_mutex_unlock(&relay->lock);
}

guint
test_relay_cuts(TestRelay *relay)
{
    g_mutex_lock(&relay->lock);
    guint cuts = relay->cuts;
    g_mutex_unlock(&relay->lock);
    return cuts;
}

guint
test_relay_accepted(TestRelay *relay)
{
    g_mutex_lock(&relay->lock);
    guint accepted = relay->accepted;
    g_mutex_unlock(&relay->lock);
    return accepted;
}

guint
test_relay_refused(TestRelay *relay)
{
    g_mutex_lock(&relay->lock);
    guint refused = relay->refused;
    g_mutex_unlock(&relay->lock);
    return refused;
}

guint64
test_relay_bytes(TestRelay *relay)
{
    g_mutex_lock(&relay->lock);
    guint64 bytes = relay->bytes;
    g_mutex_unlock(&relay->lock);
    return bytes;
}
