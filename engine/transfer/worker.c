/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/worker.h"

#include "common/error.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define RING_ENTRIES 256
/* How long a loop with nothing to do sleeps at most; every event ends the sleep, so the value is of
 * no weight. */
#define IDLE_US ((gint64)3600 * G_USEC_PER_SEC)

typedef struct {
    DrvMailFunc func;
    gpointer target;
    gpointer data;
} Mail;

struct _DrvWorker {
    guint index; /* fixed after start */
    DrvPool *pool;
    GThread *thread;
    pthread_t tid;
    pid_t kernel_tid;
    const DrvThreadPlace *first; /* its place at the start; not valid after it */

    gint node;       /* atomic */
    GMutex pin_lock; /* guards the next two */
    gboolean pinned;
    DrvCpus born_on; /* where it may run by itself */

    DrvMailbox *inbox; /* any thread */

    struct io_uring ring; /* the worker's thread only */
    gboolean fixed_buffers;
    guint slab_generation;
    guint8 slab_known[DRV_POOL_MAX_SLABS];
    DrvOp inbox_op;
    guint ops;         /* under way, but for that of the inbox */
    GArray *local;     /* Mail posted by the thread to itself */
    GPtrArray *timers; /* a heap by 'at' */
    gint64 now;
    gboolean stop;

    GMutex start_lock; /* the start handshake */
    GCond start_cond;
    gboolean started;
    int start_errno;
};

/* --- timers: a binary heap, indices kept in the timers so that one can be moved or taken out ---
 */

static void
heap_set(GPtrArray *heap, guint i, DrvTimer *timer)
{
    heap->pdata[i] = timer;
    timer->index = i + 1;
}

static DrvTimer *
heap_at(GPtrArray *heap, guint i)
{
    return heap->pdata[i];
}

static void
heap_fix(GPtrArray *heap, guint i)
{
    DrvTimer *timer = heap_at(heap, i);
    while (i > 0 && heap_at(heap, (i - 1) / 2)->at > timer->at) {
        heap_set(heap, i, heap_at(heap, (i - 1) / 2));
        i = (i - 1) / 2;
    }
    for (;;) {
        guint child = 2 * i + 1;
        if (child >= heap->len)
            break;
        if (child + 1 < heap->len && heap_at(heap, child + 1)->at < heap_at(heap, child)->at)
            child++;
        if (heap_at(heap, child)->at >= timer->at)
            break;
        heap_set(heap, i, heap_at(heap, child));
        i = child;
    }
    heap_set(heap, i, timer);
}

void
drv_worker_timer_stop(DrvWorker *worker, DrvTimer *timer)
{
    if (timer->index == 0)
        return;
    GPtrArray *heap = worker->timers;
    guint i = timer->index - 1;
    timer->index = 0;
    DrvTimer *last = heap_at(heap, heap->len - 1);
    g_ptr_array_set_size(heap, (gint)heap->len - 1);
    if (last != timer) {
        heap_set(heap, i, last);
        heap_fix(heap, i);
    }
}

void
drv_worker_timer(DrvWorker *worker, DrvTimer *timer, gint64 at)
{
    timer->at = at;
    if (timer->index == 0) {
        g_ptr_array_add(worker->timers, timer);
        timer->index = worker->timers->len;
    }
    heap_fix(worker->timers, timer->index - 1);
}

static void
fire_timers(DrvWorker *worker)
{
    while (worker->timers->len > 0) {
        DrvTimer *timer = heap_at(worker->timers, 0);
        if (timer->at > worker->now)
            return;
        drv_worker_timer_stop(worker, timer);
        timer->fire(timer);
    }
}

/* --- operations --- */

static struct io_uring_sqe *
get_sqe(DrvWorker *worker)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&worker->ring);
    if (sqe == NULL) {
        io_uring_submit(&worker->ring);
        sqe = io_uring_get_sqe(&worker->ring);
        g_assert(sqe != NULL);
    }
    return sqe;
}

static void
start(DrvWorker *worker, DrvOp *op, struct io_uring_sqe *sqe)
{
    g_assert(!op->busy);
    worker->ops += op != &worker->inbox_op;
    op->busy = TRUE;
    io_uring_sqe_set_data(sqe, op);
}

static void
unregister_slabs(DrvWorker *worker)
{
    for (guint i = 0; i < DRV_POOL_MAX_SLABS; i++) {
        struct iovec none = {0};
        __u64 tag = 0;
        if (worker->slab_known[i])
            io_uring_register_buffers_update_tag(&worker->ring, i, &none, &tag, 1);
        worker->slab_known[i] = FALSE;
    }
}

/* Makes the ring know the chunk's slab. FALSE: use the plain operation, which is slower and always
 * works. */
static gboolean
know_slab(DrvWorker *worker, const DrvChunk *chunk)
{
    if (!worker->fixed_buffers || chunk->slab == DRV_SLAB_NONE)
        return FALSE;
    guint generation = drv_pool_generation(worker->pool);
    if (worker->slab_generation != generation) {
        unregister_slabs(worker); /* of memory that is no longer */
        worker->slab_generation = generation;
    }
    if (!worker->slab_known[chunk->slab]) {
        struct iovec iov;
        __u64 tag = 0;
        drv_pool_slab(worker->pool, chunk->slab, &iov.iov_base, &iov.iov_len);
        int r = io_uring_register_buffers_update_tag(&worker->ring, chunk->slab, &iov, &tag, 1);
        if (r < 0) {
            g_info("registered buffers are not to be had (%s): plain ones are used",
                   g_strerror(-r));
            worker->fixed_buffers = FALSE;
            return FALSE;
        }
        worker->slab_known[chunk->slab] = TRUE;
    }
    return TRUE;
}

void
drv_worker_read(DrvWorker *worker, DrvOp *op, int fd, DrvChunk *chunk, gsize offset, gsize len)
{
    g_assert(offset <= chunk->size && len <= chunk->size - offset);
    gboolean fixed = know_slab(worker, chunk);
    struct io_uring_sqe *sqe = get_sqe(worker);
    if (fixed)
        io_uring_prep_read_fixed(sqe, fd, chunk->data + offset, (unsigned)len, 0, (int)chunk->slab);
    else
        io_uring_prep_read(sqe, fd, chunk->data + offset, (unsigned)len, 0);
    start(worker, op, sqe);
}

void
drv_worker_write(DrvWorker *worker, DrvOp *op, int fd, DrvChunk *chunk, gsize offset, gsize len)
{
    g_assert(offset <= chunk->size && len <= chunk->size - offset);
    gboolean fixed = know_slab(worker, chunk);
    struct io_uring_sqe *sqe = get_sqe(worker);
    if (fixed)
        io_uring_prep_write_fixed(sqe, fd, chunk->data + offset, (unsigned)len, 0,
                                  (int)chunk->slab);
    else
        io_uring_prep_write(sqe, fd, chunk->data + offset, (unsigned)len, 0);
    start(worker, op, sqe);
}

void
drv_worker_connect(DrvWorker *worker, DrvOp *op, int fd, const struct sockaddr *address,
                   socklen_t len)
{
    struct io_uring_sqe *sqe = get_sqe(worker);
    io_uring_prep_connect(sqe, fd, address, len);
    start(worker, op, sqe);
}

void
drv_worker_accept(DrvWorker *worker, DrvOp *op, int fd)
{
    struct io_uring_sqe *sqe = get_sqe(worker);
    io_uring_prep_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
    start(worker, op, sqe);
}

void
drv_worker_cancel(DrvWorker *worker, DrvOp *op)
{
    if (!op->busy)
        return;
    struct io_uring_sqe *sqe = get_sqe(worker);
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NULL);
}

/* --- the loop --- */

static void
post_local(DrvWorker *worker, DrvMailFunc func, gpointer target, gpointer data)
{
    Mail mail = {func, target, data};
    g_array_append_val(worker->local, mail);
}

static void
run_local(DrvWorker *worker)
{
    while (worker->local->len > 0) {
        g_autoptr(GArray) batch = worker->local;
        worker->local = g_array_new(FALSE, FALSE, sizeof(Mail));
        for (guint i = 0; i < batch->len; i++) {
            Mail mail = g_array_index(batch, Mail, i);
            mail.func(mail.target, mail.data);
        }
    }
}

static void
watch_inbox(DrvWorker *worker)
{
    struct io_uring_sqe *sqe = get_sqe(worker);
    io_uring_prep_poll_add(sqe, drv_mailbox_fd(worker->inbox), POLLIN);
    start(worker, &worker->inbox_op, sqe);
}

static void
inbox_ready(DrvOp *op, gint32 result)
{
    DrvWorker *worker = op->owner;
    drv_mailbox_dispatch(worker->inbox);
    watch_inbox(worker);
}

static void
wait_for_events(DrvWorker *worker)
{
    gint64 sleep = IDLE_US;
    if (worker->timers->len > 0)
        sleep = CLAMP(heap_at(worker->timers, 0)->at - g_get_monotonic_time(), 0, IDLE_US);
    struct __kernel_timespec ts = {.tv_sec = sleep / G_USEC_PER_SEC,
                                   .tv_nsec = sleep % G_USEC_PER_SEC * 1000};
    struct io_uring_cqe *cqe;
    int r = io_uring_submit_and_wait_timeout(&worker->ring, &cqe, 1, &ts, NULL);
    if (r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY)
        g_error("io_uring_enter: %s", g_strerror(-r));
}

static void
run_completions(DrvWorker *worker)
{
    struct io_uring_cqe *cqe;
    /* One at a time: a completion's handler may queue new operations and even submit them. */
    while (io_uring_peek_cqe(&worker->ring, &cqe) == 0) {
        DrvOp *op = io_uring_cqe_get_data(cqe);
        gint32 result = cqe->res;
        io_uring_cqe_seen(&worker->ring, cqe);
        if (op == NULL)
            continue;
        op->busy = FALSE;
        worker->ops -= op != &worker->inbox_op;
        op->done(op, result);
    }
}

static int
open_ring(DrvWorker *worker)
{
    /* The cheap modes of newer kernels (6.0, 6.1) first; without them everything works the same. */
    static const unsigned modes[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
                                         IORING_SETUP_DEFER_TASKRUN,
                                     IORING_SETUP_COOP_TASKRUN, 0};
    int r = -EINVAL;
    for (guint i = 0; i < G_N_ELEMENTS(modes) && r == -EINVAL; i++)
        r = io_uring_queue_init(RING_ENTRIES, &worker->ring, modes[i]);
    if (r < 0)
        return r;
    if (!(worker->ring.features & IORING_FEAT_EXT_ARG)) { /* waiting with a time-out: 5.11 */
        io_uring_queue_exit(&worker->ring);
        return -EOPNOTSUPP;
    }
    worker->fixed_buffers =
        io_uring_register_buffers_sparse(&worker->ring, DRV_POOL_MAX_SLABS) == 0;
    return 0;
}

static void
report_start(DrvWorker *worker, int result)
{
    g_mutex_lock(&worker->start_lock);
    worker->started = TRUE;
    worker->start_errno = -result;
    g_cond_signal(&worker->start_cond);
    g_mutex_unlock(&worker->start_lock);
}

static gpointer
run(gpointer data)
{
    DrvWorker *worker = data;
    worker->tid = pthread_self();
    /* Signals are the main thread's. Above all SIGPIPE, which a write to a socket that was closed
     * raises here: the write's error says it all. */
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    worker->kernel_tid = gettid();
    drv_thread_cpus(0, &worker->born_on);
    if (worker->first != NULL) /* before there is a ring, which is then where the thread is */
        drv_worker_place(worker, worker->first);
    int r = open_ring(worker);
    report_start(worker, r);
    if (r < 0)
        return NULL;
    watch_inbox(worker);
    while (!worker->stop) {
        wait_for_events(worker);
        worker->now = g_get_monotonic_time();
        run_completions(worker);
        fire_timers(worker);
        run_local(worker);
    }
    io_uring_queue_exit(&worker->ring);
    return NULL;
}

static void
explain_start(int err, GError **error)
{
    g_autofree char *disabled = NULL;
    g_file_get_contents("/proc/sys/kernel/io_uring_disabled", &disabled, NULL, NULL);
    if (disabled != NULL)
        g_strstrip(disabled);
    if (err == EPERM && disabled != NULL && !g_str_equal(disabled, "0"))
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "io_uring is switched off on this host (kernel.io_uring_disabled = %s): switch "
                    "it on with 'sysctl -w kernel.io_uring_disabled=0'%s",
                    disabled,
                    g_str_equal(disabled, "1")
                        ? ", or run droverd as root or in the group of kernel.io_uring_group"
                        : "");
    else if (err == ENOSYS || err == EOPNOTSUPP)
        g_set_error(
            error, DRV_ERROR, DRV_ERROR_IO,
            "this kernel's io_uring is missing or too old: drover needs Linux 5.11 or newer");
    else if (err == EPERM)
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "io_uring is not permitted: allow io_uring_setup in the container's or unit's "
                    "seccomp filter");
    else if (err == ENOMEM)
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "io_uring may not lock enough memory: raise LimitMEMLOCK (ulimit -l)");
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "io_uring cannot be set up: %s",
                    g_strerror(err));
}

DrvWorker *
drv_worker_new(guint index, DrvPool *pool, const DrvThreadPlace *place, GError **error)
{
    DrvWorker *worker = g_new0(DrvWorker, 1);
    worker->index = index;
    worker->pool = pool;
    worker->first = place;
    worker->node = -1;
    g_mutex_init(&worker->pin_lock);
    worker->inbox = drv_mailbox_new();
    worker->inbox_op = (DrvOp){.done = inbox_ready, .owner = worker};
    worker->local = g_array_new(FALSE, FALSE, sizeof(Mail));
    worker->timers = g_ptr_array_new();
    worker->now = g_get_monotonic_time();
    g_mutex_init(&worker->start_lock);
    g_cond_init(&worker->start_cond);
    g_autofree char *name = g_strdup_printf("drv-data-%u", index);
    worker->thread = g_thread_new(name, run, worker);

    g_mutex_lock(&worker->start_lock);
    while (!worker->started)
        g_cond_wait(&worker->start_cond, &worker->start_lock);
    worker->first = NULL;
    int err = worker->start_errno;
    g_mutex_unlock(&worker->start_lock);
    if (err != 0) {
        explain_start(err, error);
        drv_worker_free(worker);
        return NULL;
    }
    return worker;
}

static void
stop_loop(gpointer target, gpointer data)
{
    ((DrvWorker *)target)->stop = TRUE;
}

void
drv_worker_free(DrvWorker *worker)
{
    if (worker == NULL)
        return;
    drv_mailbox_post(worker->inbox, stop_loop, worker, NULL);
    g_thread_join(worker->thread);
    drv_mailbox_free(worker->inbox);
    g_array_unref(worker->local);
    g_ptr_array_unref(worker->timers);
    g_mutex_clear(&worker->pin_lock);
    g_mutex_clear(&worker->start_lock);
    g_cond_clear(&worker->start_cond);
    g_free(worker);
}

void
drv_worker_post(DrvWorker *worker, DrvMailFunc func, gpointer target, gpointer data)
{
    if (drv_worker_is_current(worker))
        post_local(worker, func, target, data); /* spares the eventfd's two system calls */
    else
        drv_mailbox_post(worker->inbox, func, target, data);
}

typedef struct {
    DrvMailFunc func;
    gpointer target;
    gpointer data;
    GMutex lock;
    GCond cond;
    gboolean done;
} Call;

static void
run_call(gpointer target, gpointer data)
{
    Call *call = target;
    call->func(call->target, call->data);
    g_mutex_lock(&call->lock);
    call->done = TRUE;
    g_cond_signal(&call->cond);
    g_mutex_unlock(&call->lock);
}

void
drv_worker_call(DrvWorker *worker, DrvMailFunc func, gpointer target, gpointer data)
{
    g_assert(!drv_worker_is_current(worker));
    Call call = {.func = func, .target = target, .data = data};
    g_mutex_init(&call.lock);
    g_cond_init(&call.cond);
    drv_mailbox_post(worker->inbox, run_call, &call, NULL);
    g_mutex_lock(&call.lock);
    while (!call.done)
        g_cond_wait(&call.cond, &call.lock);
    g_mutex_unlock(&call.lock);
    g_mutex_clear(&call.lock);
    g_cond_clear(&call.cond);
}

guint
drv_worker_index(const DrvWorker *worker)
{
    return worker->index;
}

DrvPool *
drv_worker_pool(const DrvWorker *worker)
{
    return worker->pool;
}

DrvChunk *
drv_worker_take(DrvWorker *worker, DrvPoolUse use)
{
    return drv_pool_take_on(worker->pool, use, drv_worker_node(worker));
}

gint
drv_worker_node(const DrvWorker *worker)
{
    return g_atomic_int_get(&worker->node);
}

void
drv_worker_place(DrvWorker *worker, const DrvThreadPlace *place)
{
    g_mutex_lock(&worker->pin_lock);
    gboolean pin = !drv_cpus_is_empty(&place->cpus);
    const DrvCpus *where = pin ? &place->cpus : &worker->born_on;
    int err = pin || worker->pinned ? drv_thread_pin(worker->kernel_tid, where) : 0;
    worker->pinned = pin;
    g_mutex_unlock(&worker->pin_lock);
    g_atomic_int_set(&worker->node, place->node);
    g_autofree char *cpus = drv_cpus_format(where);
    if (err != 0)
        g_message("data thread %u cannot be pinned to CPUs %s: %s", worker->index, cpus,
                  g_strerror(err));
    else if (pin)
        g_debug("data thread %u is on CPUs %s", worker->index, cpus);
}

gboolean
drv_worker_is_current(const DrvWorker *worker)
{
    return pthread_equal(worker->tid, pthread_self()) != 0;
}

gint64
drv_worker_now(const DrvWorker *worker)
{
    return worker->now;
}

static void
forget_slabs(gpointer target, gpointer data)
{
    unregister_slabs(target);
}

guint
drv_worker_ops(const DrvWorker *worker)
{
    return worker->ops;
}

void
drv_worker_forget_slabs(DrvWorker *worker)
{
    drv_worker_post(worker, forget_slabs, worker, NULL);
}

double
drv_worker_cpu_seconds(DrvWorker *worker)
{
    clockid_t clock;
    struct timespec ts;
    if (pthread_getcpuclockid(worker->tid, &clock) != 0 || clock_gettime(clock, &ts) != 0)
        return 0;
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}
