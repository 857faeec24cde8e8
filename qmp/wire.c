/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The wire is itself the GSource that watches its socket. A callback may close the wire, and drop
 * everything that knows of it, in the middle of a dispatch: GLib holds a reference to the source
 * for as long as that lasts, so the memory stays, and 'fd' < 0 says that it is over.
 *
 * All I/O happens in the dispatch. So qmp_wire_send() cannot find out that QEMU is gone while its
 * caller is in the middle of something, and a command that is cancelled right after it was issued
 * is never sent.
 */
#include "qmp/wire.h"

#include "qmp/error.h"
#include "qmp/framer.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_CHUNK (32 * 1024)

typedef struct {
    guint64 tag;
    char *text;
    gsize len;
    gsize sent;
    int fd; /* owned; -1: none, or sent */
} Outgoing;

struct _QmpWire {
    GSource source; /* must be first */

    /* Fixed after qmp_wire_new() */
    const QmpLimits *limits;
    const QmpWireOps *ops;
    gpointer owner;
    gpointer watch; /* of fd, within the source */

    int fd; /* -1 once closed */
    gboolean paused;

    /* Reading */
    QmpFramer *framer;
    gboolean received;

    /* Writing */
    GQueue queue;   /* of Outgoing */
    gsize unsent;   /* bytes in queue */
    int send_errno; /* != 0: the peer takes nothing more, but what it said before may be read */
};

static void
outgoing_free(Outgoing *out)
{
    if (out->fd >= 0)
        close(out->fd);
    g_free(out->text);
    g_free(out);
}

/* Has the loop wait for what can be done next. */
static void
watch(QmpWire *wire)
{
    GIOCondition condition = wire->paused ? 0 : G_IO_IN;
    if (wire->queue.length > 0 || wire->send_errno != 0)
        condition |= G_IO_OUT;
    g_source_modify_unix_fd(&wire->source, wire->watch, condition);
}

static gssize
send_some(int fd, const Outgoing *out)
{
    struct iovec iov = {.iov_base = out->text + out->sent, .iov_len = out->len - out->sent};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (out->fd >= 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &out->fd, sizeof(int));
    }
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void
drop_queue(QmpWire *wire)
{
    g_queue_clear_full(&wire->queue, (GDestroyNotify)outgoing_free);
    wire->unsent = 0;
}

static void
flush(QmpWire *wire)
{
    Outgoing *head;
    while ((head = g_queue_peek_head(&wire->queue)) != NULL) {
        gssize n = send_some(wire->fd, head);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                return;
            wire->send_errno = errno;
            drop_queue(wire);
            return;
        }
        if (head->fd >= 0) {
            close(head->fd);
            head->fd = -1;
        }
        head->sent += (gsize)n;
        wire->unsent -= (gsize)n;
        if (head->sent == head->len)
            outgoing_free(g_queue_pop_head(&wire->queue));
    }
}

static void
down(QmpWire *wire, GError *error)
{
    wire->ops->down(wire->owner, error);
}

static GError *
error_closed(const QmpWire *wire)
{
    if (wire->send_errno != 0 && wire->send_errno != EPIPE && wire->send_errno != ECONNRESET)
        return g_error_new(QMP_ERROR, QMP_ERROR_IO, "cannot write to the QMP socket: %s",
                           g_strerror(wire->send_errno));
    return g_error_new(QMP_ERROR, QMP_ERROR_CLOSED, "it closed the connection%s",
                       qmp_framer_partial(wire->framer) > 0 ? " in the middle of a message" : "");
}

/* FALSE when reading is over for now: nothing there, or the wire went down. */
static gboolean
receive(QmpWire *wire)
{
    guint8 chunk[READ_CHUNK];
    gssize n;
    do
        n = recv(wire->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);

    if (n > 0) {
        wire->received = TRUE;
        qmp_framer_push(wire->framer, chunk, (gsize)n);
        return TRUE;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        /* All that it said has been read. */
        if (wire->send_errno != 0)
            down(wire, error_closed(wire));
    } else if (n == 0 || errno == ECONNRESET || errno == EPIPE) {
        down(wire, error_closed(wire));
    } else {
        down(wire, g_error_new(QMP_ERROR, QMP_ERROR_IO, "cannot read from the QMP socket: %s",
                               g_strerror(errno)));
    }
    return FALSE;
}

/* Hands on what is complete. FALSE when the wire was closed or paused meanwhile. */
static gboolean
deliver(QmpWire *wire)
{
    while (wire->fd >= 0 && !wire->paused) {
        const char *text;
        gsize len;
        g_auto(QmpMessage) message = {0};
        GError *error = NULL;
        if (!qmp_framer_next(wire->framer, &text, &len, &error) ||
            (text != NULL && !qmp_message_parse(&message, text, len, &error))) {
            down(wire, error);
            return FALSE;
        }
        if (text == NULL)
            return TRUE;
        wire->ops->message(wire->owner, &message);
    }
    return FALSE;
}

static gboolean
dispatch(GSource *source, GSourceFunc callback, gpointer user_data)
{
    QmpWire *wire = (QmpWire *)source;
    g_source_set_ready_time(source, -1);
    if (wire->fd >= 0)
        flush(wire);
    /* First what a pause has left over, then one chunk: other sources want their turn. */
    if (deliver(wire) && receive(wire))
        deliver(wire);
    if (wire->fd >= 0)
        watch(wire);
    return G_SOURCE_CONTINUE;
}

static void
finalize(GSource *source)
{
    QmpWire *wire = (QmpWire *)source;
    drop_queue(wire);
    qmp_framer_free(wire->framer);
}

static GSourceFuncs wire_funcs = {.dispatch = dispatch, .finalize = finalize};

QmpWire *
qmp_wire_new(int fd, GMainContext *context, const QmpLimits *limits, const QmpWireOps *ops,
             gpointer owner)
{
    QmpWire *wire = (QmpWire *)g_source_new(&wire_funcs, sizeof(QmpWire));
    g_source_set_static_name(&wire->source, "qmp");
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    wire->fd = fd;
    wire->limits = limits;
    wire->ops = ops;
    wire->owner = owner;
    wire->framer = qmp_framer_new(limits);
    g_queue_init(&wire->queue);
    wire->watch = g_source_add_unix_fd(&wire->source, fd, G_IO_IN);
    g_source_attach(&wire->source, context);
    return wire;
}

void
qmp_wire_close(QmpWire *wire)
{
    if (wire->fd >= 0) {
        /* Out of the loop before the number can be used for another file. */
        g_source_destroy(&wire->source);
        close(wire->fd);
        wire->fd = -1;
    }
    g_source_unref(&wire->source);
}

static gboolean
is_unix(int fd)
{
    int domain = -1;
    socklen_t len = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

gboolean
qmp_wire_send(QmpWire *wire, guint64 tag, const char *text, int fd, GError **error)
{
    gsize len = strlen(text);
    if (fd >= 0 && !is_unix(wire->fd)) {
        close(fd);
        g_set_error_literal(error, QMP_ERROR, QMP_ERROR_ARGUMENT,
                            "file descriptors travel over unix sockets only: connect to one");
        return FALSE;
    }
    if (len > wire->limits->max_unsent - MIN(wire->unsent, wire->limits->max_unsent)) {
        if (fd >= 0)
            close(fd);
        g_set_error(error, QMP_ERROR, QMP_ERROR_LIMIT,
                    "%zu bytes of commands wait for QEMU to read them: it seems to hang",
                    wire->unsent);
        return FALSE;
    }
    Outgoing *out = g_new(Outgoing, 1);
    *out = (Outgoing){.tag = tag, .text = g_strdup(text), .len = len, .fd = fd};
    g_queue_push_tail(&wire->queue, out);
    wire->unsent += len;
    watch(wire);
    return TRUE;
}

gboolean
qmp_wire_unsend(QmpWire *wire, guint64 tag)
{
    for (GList *l = wire->queue.head; l != NULL; l = l->next) {
        Outgoing *out = l->data;
        if (out->tag != tag)
            continue;
        if (out->sent > 0)
            return FALSE;
        wire->unsent -= out->len;
        outgoing_free(out);
        g_queue_delete_link(&wire->queue, l);
        watch(wire);
        return TRUE;
    }
    return FALSE;
}

void
qmp_wire_set_paused(QmpWire *wire, gboolean paused)
{
    wire->paused = paused;
    /* What has been read already does not wake the loop by itself. */
    if (!paused)
        g_source_set_ready_time(&wire->source, 0);
    watch(wire);
}

gboolean
qmp_wire_has_received(const QmpWire *wire)
{
    return wire->received;
}
