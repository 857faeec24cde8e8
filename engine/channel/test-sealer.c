/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/test-sealer.h"

#include "engine/transfer/test-seal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

/* A record of the largest size, sealed. */
#define RECORD_MAX (DRV_TLS_RECORD + 256 + 5)

struct _TestSealer {
    int listener;
    guint16 port;
    guint16 upstream;
    GThread *thread;
    gint records; /* atomic */
    GMutex lock;  /* guards what follows */
    gboolean stop;
    GPtrArray *links; /* of Link, that are not over */
    GPtrArray *threads;
};

typedef struct {
    gint halves; /* atomic: not over yet */
    TestSealer *sealer;
    int fd[2]; /* who connected, and upstream */
} Link;

typedef struct {
    Link *link;
    guint from; /* which of the two is read */
} Half;

/* --- the keys, by the ports of a connection as its daemon sees them --- */

static GMutex keys_lock;
static GHashTable *keys;

static guint
ports_of(int fd, gboolean peer_first)
{
    struct sockaddr_in own, peer;
    socklen_t own_len = sizeof own, peer_len = sizeof peer;
    if (getsockname(fd, (struct sockaddr *)&own, &own_len) != 0 ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_len) != 0)
        return 0;
    guint a = ntohs(own.sin_port), b = ntohs(peer.sin_port);
    return peer_first ? b << 16 | a : a << 16 | b;
}

gboolean
test_sealer_take(int fd, const DrvKtlsKey *key)
{
    g_mutex_lock(&keys_lock);
    if (keys == NULL)
        keys = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_hash_table_insert(keys, GUINT_TO_POINTER(ports_of(fd, FALSE)), g_memdup2(key, sizeof *key));
    g_mutex_unlock(&keys_lock);
    return TRUE;
}

gboolean
test_sealer_take_wrong(int fd, const DrvKtlsKey *key)
{
    DrvKtlsKey wrong = *key;
    wrong.aes128.key[3] ^= 1;
    return test_sealer_take(fd, &wrong);
}

static gboolean
find_key(int fd, DrvKtlsKey *key)
{
    g_mutex_lock(&keys_lock);
    const DrvKtlsKey *found =
        keys != NULL ? g_hash_table_lookup(keys, GUINT_TO_POINTER(ports_of(fd, TRUE))) : NULL;
    if (found != NULL)
        *key = *found;
    g_mutex_unlock(&keys_lock);
    return found != NULL;
}

/* --- relaying --- */

static gboolean
read_all(int fd, guint8 *out, gsize len)
{
    return recv(fd, out, len, MSG_WAITALL) == (gssize)len;
}

static gboolean
write_all(int fd, const guint8 *data, gsize len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0)
            return FALSE;
        data += n;
        len -= (gsize)n;
    }
    return TRUE;
}

/* Passes records on until something else begins: a frame's type is no record's. FALSE when the
 * connection ends before. */
static gboolean
pass_records(int from, int to, guint8 *buffer)
{
    for (;;) {
        if (!read_all(from, buffer, 1))
            return FALSE;
        if (buffer[0] < 20 || buffer[0] > 23)
            return TRUE;
        if (!read_all(from, buffer + 1, 4))
            return FALSE;
        gsize len = (gsize)buffer[3] << 8 | buffer[4];
        g_assert_cmpuint(5 + len, <=, RECORD_MAX);
        if (!read_all(from, buffer + 5, len) || !write_all(to, buffer, 5 + len))
            return FALSE;
    }
}

/* 'plain' holds the first byte. */
static void
seal_frames(TestSealer *sealer, int from, int to, guint8 *plain)
{
    g_autofree guint8 *record = g_malloc(RECORD_MAX);
    DrvKtlsKey key;
    gsize have = 1;
    if (!find_key(from, &key))
        return; /* the connection is over, and with it its ports */
    for (guint64 number = 0;; number++) {
        ssize_t n = recv(from, plain + have, DRV_TLS_RECORD - have, 0);
        if (n <= 0)
            return;
        gsize len = test_seal(&key, number, plain, have + (gsize)n, record);
        if (!write_all(to, record, len))
            return;
        g_atomic_int_inc(&sealer->records);
        have = 0;
    }
}

static gpointer
run_half(gpointer data)
{
    g_autofree Half *half = data;
    g_autofree guint8 *buffer = g_malloc(RECORD_MAX);
    Link *link = half->link;
    TestSealer *sealer = link->sealer;
    int from = link->fd[half->from], to = link->fd[1 - half->from];
    if (pass_records(from, to, buffer))
        seal_frames(sealer, from, to, buffer);
    shutdown(to, SHUT_WR);
    if (!g_atomic_int_dec_and_test(&link->halves))
        return NULL;
    g_mutex_lock(&sealer->lock);
    g_ptr_array_remove_fast(sealer->links, link);
    g_mutex_unlock(&sealer->lock);
    close(link->fd[0]);
    close(link->fd[1]);
    g_free(link);
    return NULL;
}

static int
connect_to(guint16 port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0)
        return fd;
    close(fd);
    return -1;
}

static void
start_half(TestSealer *sealer, Link *link, guint from)
{
    Half *half = g_new(Half, 1);
    *half = (Half){link, from};
    g_ptr_array_add(sealer->threads, g_thread_new("sealer", run_half, half));
}

static void
serve(TestSealer *sealer, int fd)
{
    int up = connect_to(sealer->upstream);
    g_mutex_lock(&sealer->lock);
    if (up < 0 || sealer->stop) {
        close(fd);
        if (up >= 0)
            close(up);
    } else {
        Link *link = g_new(Link, 1);
        *link = (Link){2, sealer, {fd, up}};
        g_ptr_array_add(sealer->links, link);
        start_half(sealer, link, 0);
        start_half(sealer, link, 1);
    }
    g_mutex_unlock(&sealer->lock);
}

static gpointer
accept_all(gpointer data)
{
    TestSealer *sealer = data;
    int fd;
    while ((fd = accept4(sealer->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        serve(sealer, fd);
    return NULL;
}

TestSealer *
test_sealer_new(guint16 upstream)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    TestSealer *sealer = g_new0(TestSealer, 1);
    sealer->upstream = upstream;
    sealer->links = g_ptr_array_new();
    sealer->threads = g_ptr_array_new();
    g_mutex_init(&sealer->lock);
    sealer->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(sealer->listener, (struct sockaddr *)&at, sizeof at), ==, 0);
    g_assert_cmpint(listen(sealer->listener, 64), ==, 0);
    g_assert_cmpint(getsockname(sealer->listener, (struct sockaddr *)&at, &len), ==, 0);
    sealer->port = ntohs(at.sin_port);
    sealer->thread = g_thread_new("sealer", accept_all, sealer);
    return sealer;
}

void
test_sealer_free(TestSealer *sealer)
{
    shutdown(sealer->listener, SHUT_RDWR);
    g_thread_join(sealer->thread);
    g_mutex_lock(&sealer->lock);
    sealer->stop = TRUE;
    for (guint i = 0; i < sealer->links->len; i++) {
        Link *link = sealer->links->pdata[i];
        shutdown(link->fd[0], SHUT_RDWR);
        shutdown(link->fd[1], SHUT_RDWR);
    }
    g_mutex_unlock(&sealer->lock);
    for (guint i = 0; i < sealer->threads->len; i++)
        g_thread_join(sealer->threads->pdata[i]);
    g_ptr_array_unref(sealer->threads);
    g_ptr_array_unref(sealer->links);
    g_mutex_clear(&sealer->lock);
    close(sealer->listener);
    g_free(sealer);
}

guint16
test_sealer_port(TestSealer *sealer)
{
    return sealer->port;
}

guint
test_sealer_records(TestSealer *sealer)
{
    return (guint)g_atomic_int_get(&sealer->records);
}
