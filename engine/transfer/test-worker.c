/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/worker.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

/* What the tests share: a worker and a way to wait for it. */
typedef struct {
    DrvPool *pool;
    DrvWorker *worker;
    GMutex lock;
    GCond cond;
    gboolean done;
    gint32 result;
    DrvOp op;
    DrvTimer timers[64];
    GArray *fired; /* of guint */
    int fd;
    DrvChunk *chunk;
    gsize offset, len;
} Bench;

static void
init_at(Bench *bench, const DrvThreadPlace *place)
{
    g_autoptr(GError) error = NULL;
    *bench = (Bench){.pool = drv_pool_new(1)};
    g_mutex_init(&bench->lock);
    g_cond_init(&bench->cond);
    bench->fired = g_array_new(FALSE, FALSE, sizeof(guint));
    bench->worker = drv_worker_new(3, bench->pool, place, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(drv_worker_index(bench->worker), ==, 3);
    g_assert_false(drv_worker_is_current(bench->worker));
}

static void
init(Bench *bench)
{
    init_at(bench, NULL);
}

static void
clear(Bench *bench)
{
    drv_worker_free(bench->worker);
    drv_pool_free(bench->pool);
    g_array_unref(bench->fired);
    g_mutex_clear(&bench->lock);
    g_cond_clear(&bench->cond);
}

static void
signal_done(Bench *bench, gint32 result)
{
    g_mutex_lock(&bench->lock);
    bench->result = result;
    bench->done = TRUE;
    g_cond_signal(&bench->cond);
    g_mutex_unlock(&bench->lock);
}

static gint32
wait_done(Bench *bench)
{
    g_mutex_lock(&bench->lock);
    while (!bench->done)
        g_cond_wait(&bench->cond, &bench->lock);
    bench->done = FALSE;
    gint32 result = bench->result;
    g_mutex_unlock(&bench->lock);
    return result;
}

/* --- timers --- */

static void
fired(DrvTimer *timer)
{
    Bench *bench = timer->owner;
    guint which = (guint)(timer - bench->timers);
    g_array_append_val(bench->fired, which);
    if (which == 63)
        signal_done(bench, 0);
}

/* Armed in a jumble, half of them moved, every third stopped. */
static void
arm(gpointer target, gpointer data)
{
    Bench *bench = target;
    gint64 base = g_get_monotonic_time() + 2000;
    g_assert_true(drv_worker_is_current(bench->worker));
    for (guint i = 0; i < 64; i++) {
        guint which = i * 37 % 64;
        bench->timers[which] = (DrvTimer){.fire = fired, .owner = bench};
        drv_worker_timer(bench->worker, &bench->timers[which], base + 64 - which);
    }
    for (guint i = 0; i < 64; i++)
        drv_worker_timer(bench->worker, &bench->timers[i], base + i * 10);
    for (guint i = 0; i < 63; i += 3)
        drv_worker_timer_stop(bench->worker, &bench->timers[i]);
    drv_worker_timer(bench->worker, &bench->timers[63], base + 640);
    drv_worker_timer_stop(bench->worker, &bench->timers[0]); /* twice */
}

static void
test_timers(void)
{
    Bench bench;
    init(&bench);
    drv_worker_post(bench.worker, arm, &bench, NULL);
    wait_done(&bench);
    g_assert_cmpuint(bench.fired->len, ==, 64 - 21);
    for (guint i = 0, want = 0; i < bench.fired->len; i++, want++) {
        if (want % 3 == 0 && want < 63)
            want++;
        g_assert_cmpuint(g_array_index(bench.fired, guint, i), ==, want);
    }
    clear(&bench);
}

/* --- mail --- */

#define POSTERS 4
#define EACH 5000

typedef struct {
    Bench *bench;
    guint next[POSTERS];
    guint total;
} Mail;

static void
take(gpointer target, gpointer data)
{
    Mail *mail = target;
    guint value = GPOINTER_TO_UINT(data);
    g_assert_cmpuint(mail->next[value % POSTERS]++, ==, value / POSTERS);
    if (++mail->total == POSTERS * EACH)
        signal_done(mail->bench, 0);
}

typedef struct {
    Mail *mail;
    guint who;
} Poster;

static gpointer
post_all(gpointer data)
{
    Poster *poster = data;
    for (guint i = 0; i < EACH; i++)
        drv_worker_post(poster->mail->bench->worker, take, poster->mail,
                        GUINT_TO_POINTER(i * POSTERS + poster->who));
    return NULL;
}

static void
test_posts(void)
{
    Bench bench;
    init(&bench);
    Mail mail = {.bench = &bench};
    Poster posters[POSTERS];
    GThread *threads[POSTERS];
    for (guint i = 0; i < POSTERS; i++) {
        posters[i] = (Poster){&mail, i};
        threads[i] = g_thread_new("poster", post_all, &posters[i]);
    }
    wait_done(&bench);
    for (guint i = 0; i < POSTERS; i++)
        g_thread_join(threads[i]);
    clear(&bench);
}

static void
again(gpointer target, gpointer data)
{
    guint *left = data;
    if (--*left > 0)
        drv_worker_post(target, again, target, left);
}

static void
test_call(void)
{
    Bench bench;
    init(&bench);
    guint left = 1;
    drv_worker_call(bench.worker, again, bench.worker, &left);
    g_assert_cmpuint(left, ==, 0);
    g_assert_cmpfloat(drv_worker_cpu_seconds(bench.worker), >=, 0);
    clear(&bench);
}

/* --- operations --- */

static void
op_done(DrvOp *op, gint32 result)
{
    Bench *bench = op->owner;
    g_assert_false(op->busy);
    signal_done(bench, result);
}

static void
do_read(gpointer target, gpointer data)
{
    Bench *bench = target;
    drv_worker_read(bench->worker, &bench->op, bench->fd, bench->chunk, bench->offset, bench->len);
}

static void
do_write(gpointer target, gpointer data)
{
    Bench *bench = target;
    drv_worker_write(bench->worker, &bench->op, bench->fd, bench->chunk, bench->offset, bench->len);
}

static void
do_cancel(gpointer target, gpointer data)
{
    Bench *bench = target;
    drv_worker_cancel(bench->worker, &bench->op);
}

static gint32
run(Bench *bench, DrvMailFunc what, int fd, DrvChunk *chunk, gsize offset, gsize len)
{
    bench->op = (DrvOp){.done = op_done, .owner = bench};
    bench->fd = fd;
    bench->chunk = chunk;
    bench->offset = offset;
    bench->len = len;
    drv_worker_post(bench->worker, what, bench, NULL);
    return wait_done(bench);
}

static void
read_and_write(Bench *bench, DrvChunk *chunk)
{
    int pair[2];
    char text[5];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    memcpy(chunk->data + 100, "hello", 5);
    g_assert_cmpint(run(bench, do_write, pair[0], chunk, 100, 5), ==, 5);
    g_assert_cmpint(read(pair[1], text, 5), ==, 5);
    g_assert_cmpmem(text, 5, "hello", 5);
    g_assert_cmpint(write(pair[1], "world", 5), ==, 5);
    g_assert_cmpint(run(bench, do_read, pair[0], chunk, 200, chunk->size - 200), ==, 5);
    g_assert_cmpmem(chunk->data + 200, 5, "world", 5);
    close(pair[1]);
    g_assert_cmpint(run(bench, do_read, pair[0], chunk, 0, 10), ==, 0);
    g_assert_cmpint(run(bench, do_write, pair[0], chunk, 0, 10), ==, -EPIPE);
    close(pair[0]);
}

static void
test_read_write(void)
{
    Bench bench;
    init(&bench);
    DrvChunk *heap = drv_chunk_new_heap(4096);
    DrvChunk *pooled = drv_pool_take(bench.pool, DRV_POOL_IO);
    read_and_write(&bench, heap);
    read_and_write(&bench, pooled);
    drv_chunk_free(pooled);
    /* Memory given back and taken anew: the ring must not use the old registration. */
    g_assert_true(drv_pool_trim(bench.pool));
    pooled = drv_pool_take(bench.pool, DRV_POOL_IO);
    read_and_write(&bench, pooled);
    drv_worker_forget_slabs(bench.worker);
    read_and_write(&bench, pooled);
    drv_chunk_free(pooled);
    drv_chunk_free(heap);
    clear(&bench);
}

static void
count_ops(gpointer target, gpointer data)
{
    *(guint *)data = drv_worker_ops(target);
}

static void
test_cancel(void)
{
    Bench bench;
    int pair[2];
    guint ops = 9;
    init(&bench);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    bench.chunk = drv_chunk_new_heap(16);
    bench.op = (DrvOp){.done = op_done, .owner = &bench};
    bench.fd = pair[0];
    bench.len = 16;
    drv_worker_post(bench.worker, do_read, &bench, NULL);
    drv_worker_call(bench.worker, count_ops, bench.worker, &ops);
    g_assert_cmpuint(ops, ==, 1);
    drv_worker_post(bench.worker, do_cancel, &bench, NULL);
    g_assert_cmpint(wait_done(&bench), ==, -ECANCELED);
    drv_worker_call(bench.worker, count_ops, bench.worker, &ops);
    g_assert_cmpuint(ops, ==, 0);
    drv_worker_call(bench.worker, do_cancel, &bench, NULL); /* nothing to cancel */
    drv_chunk_free(bench.chunk);
    close(pair[0]);
    close(pair[1]);
    clear(&bench);
}

static void
do_accept(gpointer target, gpointer data)
{
    Bench *bench = target;
    drv_worker_accept(bench->worker, &bench->op, bench->fd);
}

typedef struct {
    Bench *bench;
    struct sockaddr_in to;
} Connect;

static void
do_connect(gpointer target, gpointer data)
{
    Connect *c = target;
    drv_worker_connect(c->bench->worker, &c->bench->op, c->bench->fd, (struct sockaddr *)&c->to,
                       sizeof c->to);
}

static void
test_connect_accept(void)
{
    Bench accepting, connecting;
    init(&accepting);
    init(&connecting);
    Connect c = {&connecting, {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof c.to;
    accepting.fd = socket(AF_INET, SOCK_STREAM, 0);
    connecting.fd = socket(AF_INET, SOCK_STREAM, 0);
    g_assert_cmpint(bind(accepting.fd, (struct sockaddr *)&c.to, len), ==, 0);
    getsockname(accepting.fd, (struct sockaddr *)&c.to, &len);
    listen(accepting.fd, 1);
    accepting.op = (DrvOp){.done = op_done, .owner = &accepting};
    connecting.op = (DrvOp){.done = op_done, .owner = &connecting};
    drv_worker_post(accepting.worker, do_accept, &accepting, NULL);
    drv_worker_post(connecting.worker, do_connect, &c, NULL);
    g_assert_cmpint(wait_done(&connecting), ==, 0);
    int fd = wait_done(&accepting);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    close(connecting.fd);
    close(accepting.fd);
    connecting.fd = socket(AF_INET, SOCK_STREAM, 0);
    connecting.op = (DrvOp){.done = op_done, .owner = &connecting};
    drv_worker_post(connecting.worker, do_connect, &c, NULL);
    g_assert_cmpint(wait_done(&connecting), ==, -ECONNREFUSED);
    close(connecting.fd);
    clear(&accepting);
    clear(&connecting);
}

/* --- places: on each node of the machine at hand --- */

typedef struct {
    DrvCpus cpus;
    gint node;
    DrvChunk *chunk;
} Seen;

static void
look(gpointer target, gpointer data)
{
    Seen *seen = data;
    g_assert_true(drv_thread_cpus(0, &seen->cpus));
    seen->node = drv_thread_node();
    seen->chunk = drv_worker_take(target, DRV_POOL_IO);
}

static void
check_place(Bench *bench, const DrvThreadPlace *place)
{
    Seen seen;
    guint64 address;
    gint node;
    drv_worker_call(bench->worker, look, bench->worker, &seen);
    g_assert_true(drv_cpus_within(&seen.cpus, &place->cpus));
    g_assert_cmpint(seen.node, ==, place->node);
    g_assert_cmpint(drv_worker_node(bench->worker), ==, place->node);
    address = (guint64)(guintptr)seen.chunk->data;
    if (drv_residency_nodes(0, &address, 1, &node, NULL))
        g_assert_cmpint(node, ==, seen.chunk->node);
    drv_chunk_free(seen.chunk);
}

static void
test_places(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    DrvCpus usable = drv_topology_usable(t), before, after;
    DrvThreadPlace anywhere = {.node = -1};
    Bench bench;
    Seen seen;
    g_assert_true(drv_thread_cpus(0, &before));
    for (guint i = 0; i < t->n; i++) {
        DrvThreadPlace place = {(gint)t->nodes[i].id, drv_cpus_and(&t->nodes[i].cpus, &usable)};
        if (drv_cpus_is_empty(&place.cpus))
            continue;
        init_at(&bench, &place);
        check_place(&bench, &place);
        drv_worker_place(bench.worker, &anywhere);
        drv_worker_call(bench.worker, look, bench.worker, &seen);
        g_assert_true(drv_cpus_within(&before, &seen.cpus));
        drv_chunk_free(seen.chunk);
        drv_worker_place(bench.worker, &place);
        check_place(&bench, &place);
        clear(&bench);
    }
    g_assert_true(drv_thread_cpus(0, &after)); /* only the worker was pinned */
    g_assert_true(drv_cpus_within(&before, &after));
}

/* CPUs that are not there: the log says so, and it works all the same. */
static void
test_no_such_place(void)
{
    DrvThreadPlace place = {.node = 0};
    Bench bench;
    drv_cpus_add(&place.cpus, DRV_CPUS_MAX - 1);
    g_test_expect_message(NULL, G_LOG_LEVEL_MESSAGE, "*data thread 3 cannot be pinned to CPUs*");
    init_at(&bench, &place);
    g_test_assert_expected_messages();
    DrvChunk *chunk = drv_pool_take(bench.pool, DRV_POOL_IO);
    read_and_write(&bench, chunk);
    drv_chunk_free(chunk);
    clear(&bench);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/worker/timers", test_timers);
    g_test_add_func("/worker/posts", test_posts);
    g_test_add_func("/worker/call", test_call);
    g_test_add_func("/worker/read-write", test_read_write);
    g_test_add_func("/worker/cancel", test_cancel);
    g_test_add_func("/worker/connect-accept", test_connect_accept);
    g_test_add_func("/worker/places", test_places);
    g_test_add_func("/worker/no-such-place", test_no_such_place);
    return g_test_run();
}
