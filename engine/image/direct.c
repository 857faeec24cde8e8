/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

/* A piece's runs of data, and the next piece that is read meanwhile. More of them: it blocks. */
#define DEPTH 16

struct _DrvDirect {
    struct io_uring ring;
    gboolean has_ring;
    guint count;     /* of requests since the last _wait() */
    guint under_way; /* of these in the ring */
    DrvDirectRequest requests[DEPTH];
};

DrvDirect *
drv_direct_new(void)
{
    DrvDirect *direct = g_new0(DrvDirect, 1);
    direct->has_ring = io_uring_queue_init(DEPTH, &direct->ring, 0) == 0;
    return direct;
}

void
drv_direct_free(DrvDirect *direct)
{
    if (direct == NULL)
        return;
    g_warn_if_fail(direct->under_way == 0);
    if (direct->has_ring)
        io_uring_queue_exit(&direct->ring);
    g_free(direct);
}

/* Another open file, as O_DIRECT would else hold for who gave us this one, too. */
int
drv_direct_open(int fd, gboolean writable)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    return open(path, (writable ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
}

gboolean
drv_direct_has_room(const DrvDirect *direct)
{
    return direct->count < DEPTH;
}

static void
do_blocking(int fd, DrvDirectRequest *request)
{
    request->result = request->write
                          ? pwrite(fd, request->bytes, request->len, (off_t)request->offset)
                          : pread(fd, request->bytes, request->len, (off_t)request->offset);
    if (request->result < 0)
        request->result = -errno;
}

void
drv_direct_begin(DrvDirect *direct, int fd, const DrvDirectRequest *given)
{
    g_return_if_fail(drv_direct_has_room(direct));
    DrvDirectRequest *request = &direct->requests[direct->count++];
    *request = *given;
    struct io_uring_sqe *sqe = direct->has_ring ? io_uring_get_sqe(&direct->ring) : NULL;
    if (sqe == NULL) {
        do_blocking(fd, request);
        return;
    }
    if (request->write)
        io_uring_prep_write(sqe, fd, request->bytes, (guint)request->len, request->offset);
    else
        io_uring_prep_read(sqe, fd, request->bytes, (guint)request->len, request->offset);
    io_uring_sqe_set_data(sqe, request);
    io_uring_submit(&direct->ring);
    direct->under_way++;
}

const DrvDirectRequest *
drv_direct_wait(DrvDirect *direct, guint *count)
{
    while (direct->under_way > 0) {
        struct io_uring_cqe *cqe;
        /* Submits, too, what the kernel had no memory for before. */
        int result = io_uring_submit_and_wait(&direct->ring, 1);
        if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
            g_error("io_uring fails at waiting: %s", g_strerror(-result));
        while (io_uring_peek_cqe(&direct->ring, &cqe) == 0) {
            ((DrvDirectRequest *)io_uring_cqe_get_data(cqe))->result = cqe->res;
            io_uring_cqe_seen(&direct->ring, cqe);
            direct->under_way--;
        }
    }
    *count = direct->count;
    direct->count = 0;
    return direct->requests;
}
