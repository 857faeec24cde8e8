/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/socket-endpoint.h"

#include <errno.h>
#include <glib-unix.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    DrvEndpoint base;
    int fd;
    DrvChannelCodec *codec;
    DrvChannel *channel; /* from start to stop; borrowed */
    DrvWorker *worker;

    DrvOp read_op;
    DrvChunk *chunk;   /* being read into */
    guint32 input;     /* bytes in it that the codec has not done with */
    gboolean more;     /* ... when so many had been read, the socket had others */
    gboolean read_end; /* EOF or error: nothing more to read */

    DrvOp write_op;
    DrvFrame *frame; /* being written */
    GQueue frames;   /* of DrvFrame: to be written after it */
    gsize written;
    gboolean writing;   /* write_on() is on the stack */
    gboolean write_end; /* the socket takes nothing more */
    gboolean broke;     /* ... because it failed: the peer must be told */

    gboolean waiting; /* for a chunk of the pool: its wake-up is going to come */
    gboolean stopped;
} SocketEndpoint;

static void read_on(SocketEndpoint *self);

static void
release(SocketEndpoint *self)
{
    if (!self->stopped || self->writing || self->read_op.busy || self->write_op.busy ||
        self->waiting)
        return;
    close(self->fd);
    drv_chunk_free(self->chunk);
    drv_frame_unref(self->frame);
    g_queue_clear_full(&self->frames, (GDestroyNotify)drv_frame_unref);
    drv_chunk_free(self->codec->spare);
    self->codec->ops->free(self->codec);
    g_free(self);
}

/* --- from the socket to the peer --- */

static void
take_room_in_pool(gpointer target, gpointer data)
{
    SocketEndpoint *self = target;
    self->waiting = FALSE;
    if (self->stopped) {
        release(self);
        return;
    }
    read_on(self);
}

static void
room_in_pool(gpointer data)
{
    SocketEndpoint *self = data;
    drv_worker_post(self->worker, take_room_in_pool, self, NULL);
}

/* Has '*chunk' be one; FALSE: the pool has none, and will say when it has. */
static gboolean
have_chunk(SocketEndpoint *self, DrvChunk **chunk)
{
    DrvPool *pool = drv_worker_pool(self->worker);
    if (*chunk == NULL)
        *chunk = drv_worker_take(self->worker, DRV_POOL_TX);
    if (*chunk == NULL) {
        self->waiting = TRUE;
        drv_pool_wait(pool, room_in_pool, self);
    }
    return *chunk != NULL;
}

static gboolean
have_chunks(SocketEndpoint *self)
{
    return (!self->codec->ops->makes || have_chunk(self, &self->codec->spare)) &&
           have_chunk(self, &self->chunk);
}

/* As far as the channel and the pool have room: sends what was read, then reads more. */
static void
read_on(SocketEndpoint *self)
{
    while (!self->read_op.busy && !self->read_end && !self->waiting && !self->stopped &&
           !self->codec->held && drv_channel_may_send(self->channel) && have_chunks(self)) {
        if (self->input == 0)
            drv_worker_read(self->worker, &self->read_op, self->fd, self->chunk, 0,
                            self->chunk->size);
        else if (self->codec->ops->outgoing(self->codec, self->channel, &self->chunk, self->input,
                                            self->more))
            self->input = 0;
    }
}

static void
send_last(SocketEndpoint *self, guint16 flags)
{
    guint16 sent = drv_channel_sent_flags(self->channel);
    self->read_end = TRUE;
    if (sent == 0)
        self->codec->ops->end(self->codec, self->channel, flags);
    else if (flags & ~sent & DRV_DATA_RESET) /* after the codec's last bytes */
        drv_channel_send(self->channel, NULL, 0, DRV_DATA_RESET);
}

static void
was_read(DrvOp *op, gint32 result)
{
    SocketEndpoint *self = op->owner;
    if (self->stopped) {
        release(self);
        return;
    }
    if (result > 0) {
        int waiting = 0;
        if (drv_channel_sent_flags(self->channel) == 0)
            self->input = (guint32)result;
        self->more =
            self->codec->ops->makes && ioctl(self->fd, FIONREAD, &waiting) == 0 && waiting > 0;
    } else if (result == 0) {
        send_last(self, self->broke ? DRV_DATA_RESET : DRV_DATA_EOF);
    } else if (result != -EINTR && result != -EAGAIN) {
        drv_channel_broke(self->channel, g_strerror(-result));
        send_last(self, DRV_DATA_RESET);
    }
    read_on(self);
}

/* --- from the peer to the socket --- */

/* Nothing more goes in; ends both ways, which also wakes our read. */
static void
break_off(SocketEndpoint *self)
{
    self->write_end = TRUE;
    shutdown(self->fd, SHUT_RDWR);
}

static void
frame_done(SocketEndpoint *self)
{
    guint16 flags = self->frame->flags;
    g_clear_pointer(&self->frame, drv_frame_unref);
    self->written = 0;
    if (flags & DRV_DATA_RESET) {
        break_off(self);
        send_last(self, DRV_DATA_RESET);
    } else if ((flags & DRV_DATA_EOF) && !self->write_end) {
        shutdown(self->fd, SHUT_WR);
    }
    drv_channel_delivered(self->channel);
}

static void
write_on(SocketEndpoint *self)
{
    if (self->writing)
        return; /* the last frame's end has brought another one */
    self->writing = TRUE;
    while (!self->write_op.busy && !self->stopped) {
        if (self->frame == NULL)
            self->frame = g_queue_pop_head(&self->frames);
        if (self->frame == NULL)
            break;
        if (self->write_end || self->written == self->frame->len)
            frame_done(self);
        else
            drv_worker_write(self->worker, &self->write_op, self->fd, self->frame->chunk,
                             self->written, self->frame->len - self->written);
    }
    self->writing = FALSE;
    release(self); /* the last frame may have been the end */
}

static void
was_written(DrvOp *op, gint32 result)
{
    SocketEndpoint *self = op->owner;
    if (self->stopped) {
        release(self);
        return;
    }
    if (result > 0) {
        self->written += (gsize)result;
    } else if (result != -EINTR && result != -EAGAIN) {
        /* What it said before it broke is still read and sent (a QEMU that has loaded its guest
         * says so and closes, while the stream's last bytes are on their way to it); the reset
         * follows that. */
        self->broke = TRUE;
        drv_channel_broke(self->channel, g_strerror(-result));
        break_off(self);
        if (self->read_end)
            send_last(self, DRV_DATA_RESET);
    }
    write_on(self);
}

/* --- the table --- */

static void
socket_start(DrvEndpoint *base, DrvChannel *channel)
{
    SocketEndpoint *self = (SocketEndpoint *)base;
    self->channel = channel;
    self->worker = drv_channel_worker(channel);
    self->codec->worker = self->worker;
    read_on(self);
}

static void
socket_deliver(DrvEndpoint *base, DrvFrame *frame)
{
    SocketEndpoint *self = (SocketEndpoint *)base;
    self->codec->ops->incoming(self->codec, frame);
}

static void
frame_ready(gpointer owner, DrvFrame *frame)
{
    SocketEndpoint *self = owner;
    g_queue_push_tail(&self->frames, frame);
    if (self->frame == NULL)
        write_on(self);
}

static void
codec_awake(gpointer owner)
{
    read_on(owner);
}

static void
socket_room(DrvEndpoint *base)
{
    read_on((SocketEndpoint *)base);
}

static void
socket_acknowledged(DrvEndpoint *base, guint64 frames)
{
    SocketEndpoint *self = (SocketEndpoint *)base;
    if (self->codec->ops->acknowledged != NULL)
        self->codec->ops->acknowledged(self->codec, frames);
}

static void
socket_stop(DrvEndpoint *base)
{
    SocketEndpoint *self = (SocketEndpoint *)base;
    self->stopped = TRUE;
    shutdown(self->fd, SHUT_RDWR);
    if (self->worker != NULL) {
        drv_worker_cancel(self->worker, &self->read_op);
        drv_worker_cancel(self->worker, &self->write_op);
    }
    release(self);
}

static const DrvEndpointOps socket_ops = {
    .start = socket_start,
    .deliver = socket_deliver,
    .room = socket_room,
    .acknowledged = socket_acknowledged,
    .stop = socket_stop,
};

DrvEndpoint *
drv_socket_endpoint_new(int fd, DrvChannelCodec *codec)
{
    SocketEndpoint *self = g_new0(SocketEndpoint, 1);
    self->base.ops = &socket_ops;
    self->base.depth = codec->ops->depth;
    g_queue_init(&self->frames);
    self->fd = fd;
    /* The ring waits for sockets itself; one that does not block it would ask over and over. */
    g_unix_set_fd_nonblocking(fd, FALSE, NULL);
    self->codec = codec;
    codec->ready = frame_ready;
    codec->wake = codec_awake;
    codec->owner = self;
    self->read_op = (DrvOp){.done = was_read, .owner = self};
    self->write_op = (DrvOp){.done = was_written, .owner = self};
    return &self->base;
}

void
drv_socket_endpoint_discard(DrvEndpoint *endpoint)
{
    socket_stop(endpoint);
}
