/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "engine/channel/test-rig.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* The whole data path in one process: a socket, a channel, lanes with TLS over io_uring and
 * loopback, a channel, a socket. Realistic memory goes in, and nobody looks at what comes out (the
 * channels do: every frame has its checksum, both ends a digest). */
#define MEMORY (32 * MICRO_MIB)
#define TOTAL (8 * MEMORY)
#define PIECE ((gsize)65536)

typedef struct {
    int fd;
    const guint8 *memory;
} End;

static gpointer
feed(gpointer data)
{
    const End *end = data;
    for (gsize sent = 0; sent < TOTAL;) {
        gsize at = sent % MEMORY;
        ssize_t n = send(end->fd, end->memory + at, MIN(PIECE, MEMORY - at), MSG_NOSIGNAL);
        if (n <= 0)
            g_error("send: %s", g_strerror(errno));
        sent += (gsize)n;
    }
    shutdown(end->fd, SHUT_WR);
    return NULL;
}

static gpointer
drain(gpointer data)
{
    const End *end = data;
    g_autofree guint8 *buffer = g_malloc(PIECE);
    gsize had = 0;
    for (ssize_t n; (n = recv(end->fd, buffer, PIECE, 0)) > 0;)
        had += (gsize)n;
    if (had != TOTAL)
        g_error("%" G_GSIZE_FORMAT " bytes have arrived", had);
    shutdown(end->fd, SHUT_WR);
    return NULL;
}

static gdouble
once(Rig *rig, DrvCodec codec, const guint8 *memory)
{
    Pipe *pipe = rig_pipe(rig, codec);
    End ends[2] = {{pipe->fd[0], memory}, {pipe->fd[1], NULL}};
    gint64 began = g_get_monotonic_time();
    GThread *threads[] = {g_thread_new("feed", feed, &ends[0]),
                          g_thread_new("drain", drain, &ends[1])};
    rig_wait(rig_pipe_finished, pipe);
    gdouble took = (gdouble)(g_get_monotonic_time() - began) / G_USEC_PER_SEC;
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    g_assert_no_error(pipe->error[0]);
    g_assert_no_error(pipe->error[1]);
    rig_pipe_free(pipe);
    return took;
}

static void
measure(guint threads, guint lanes, DrvCodec codec, const guint8 *memory)
{
    Rig rig;
    gdouble seconds[MICRO_BOUTS];
    rig_init(&rig, threads, lanes, 0);
    rig_connect(&rig, 0);
    rig_wait_lanes(&rig, lanes);
    once(&rig, codec, memory); /* warms up */
    for (guint i = 0; i < MICRO_BOUTS; i++)
        seconds[i] = once(&rig, codec, memory);
    rig_clear(&rig);
    g_autofree char *name =
        g_strdup_printf("session, %u lanes, %u threads, %s", lanes, threads, drv_codec_name(codec));
    micro_print(name, TOTAL, seconds, 1);
}

int
main(void)
{
    static const struct {
        guint threads, lanes;
    } ways[] = {{1, 1}, {1, 2}, {2, 2}, {2, 8}};
    g_autofree guint8 *memory = micro_memory(MEMORY);
    for (guint i = 0; i < G_N_ELEMENTS(ways); i++)
        measure(ways[i].threads, ways[i].lanes, DRV_CODEC_NONE, memory);
    measure(1, 2, DRV_CODEC_LZ4, memory);
    measure(1, 2, DRV_CODEC_ZSTD, memory);
    measure(1, 2, DRV_CODEC_AUTO, memory);
    return 0;
}
