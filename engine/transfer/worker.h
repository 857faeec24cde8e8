/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "common/mailbox.h"
#include "engine/transfer/pool.h"
#include "numa/placement.h"

#include <glib.h>
#include <sys/socket.h>

/*
 * A data thread: one io_uring, its operations and its timers. What lives on a worker (lanes,
 * channels' endpoints) is touched by its thread only; every other thread posts mail. Functions are
 * for the worker's own thread unless their comment says otherwise.
 */
typedef struct _DrvWorker DrvWorker;

/* One operation in flight. Embedded in its owner, which must outlive it: after drv_worker_cancel()
 * too, 'done' still comes, once. */
typedef struct _DrvOp DrvOp;
struct _DrvOp {
    void (*done)(DrvOp *op, gint32 result); /* bytes or a file descriptor, or -errno */
    gpointer owner;
    gboolean busy;
};

/* A timer, embedded in its owner. */
typedef struct _DrvTimer DrvTimer;
struct _DrvTimer {
    void (*fire)(DrvTimer *timer);
    gpointer owner;
    gint64 at;   /* monotonic microseconds */
    guint index; /* place in the worker's heap plus one; 0 when not armed */
};

/* From any thread. Starts a worker. Errors: io_uring is switched off, not permitted or lacks what
 * is needed; the message names the setting to change. 'pool' is borrowed and must outlive the
 * worker. 'place' says where its thread, ring and buffers are to be; NULL: anywhere. */
DrvWorker *drv_worker_new(guint index, DrvPool *pool, const DrvThreadPlace *place, GError **error);
/* From any thread: moves the thread to other CPUs; buffers that it takes from now on are of that
 * place's node. One that may not be moved stays where it is, and the log says so. */
void drv_worker_place(DrvWorker *worker, const DrvThreadPlace *place);
/* From any other thread. Stops and joins; operations still in flight are dropped. */
void drv_worker_free(DrvWorker *worker);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvWorker, drv_worker_free)

/* From any thread: has func(target, data) run on the worker, in the order of posting from each
 * thread. */
void drv_worker_post(DrvWorker *worker, DrvMailFunc func, gpointer target, gpointer data);
/* From any thread: runs func on the worker and waits for it. Not from the worker itself. */
void drv_worker_call(DrvWorker *worker, DrvMailFunc func, gpointer target, gpointer data);

guint drv_worker_index(const DrvWorker *worker);
DrvPool *drv_worker_pool(const DrvWorker *worker);
/* A chunk of the pool, on the worker's node if it can be. */
DrvChunk *drv_worker_take(DrvWorker *worker, DrvPoolUse use);
/* From any thread: the node it is on; -1: on any. */
gint drv_worker_node(const DrvWorker *worker);
/* Whether the caller is on the worker's thread: for assertions. */
gboolean drv_worker_is_current(const DrvWorker *worker);

/* The time at which the present batch of completions began, monotonic microseconds: cheap, good for
 * time-outs. */
gint64 drv_worker_now(const DrvWorker *worker);

/* Reads up to 'len' bytes into, or writes them from, 'chunk' at 'offset'. Chunks of the pool use
 * registered buffers. The result may be short. */
void drv_worker_read(DrvWorker *worker, DrvOp *op, int fd, DrvChunk *chunk, gsize offset,
                     gsize len);
void drv_worker_write(DrvWorker *worker, DrvOp *op, int fd, DrvChunk *chunk, gsize offset,
                      gsize len);
/* 'address' must live until the operation is done. */
void drv_worker_connect(DrvWorker *worker, DrvOp *op, int fd, const struct sockaddr *address,
                        socklen_t len);
/* The result is a close-on-exec descriptor that the callee owns. */
void drv_worker_accept(DrvWorker *worker, DrvOp *op, int fd);
/* Asks that a busy operation end soon, with -ECANCELED or what it had come to. */
void drv_worker_cancel(DrvWorker *worker, DrvOp *op);

/* Arms (or moves) a timer to fire at 'at', and disarms it. */
void drv_worker_timer(DrvWorker *worker, DrvTimer *timer, gint64 at);
void drv_worker_timer_stop(DrvWorker *worker, DrvTimer *timer);

/* From any thread: lets the kernel unpin the pool's slabs, after drv_pool_trim(). */
void drv_worker_forget_slabs(DrvWorker *worker);

/* Operations under way. */
guint drv_worker_ops(const DrvWorker *worker);

/* CPU time the thread has used, in seconds. From any thread. */
double drv_worker_cpu_seconds(DrvWorker *worker);
