/* SPDX-License-Identifier: Apache-2.0 */
#include "common/mailbox.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct {
    DrvMailFunc func;
    gpointer target;
    gpointer data;
} Mail;

struct _DrvMailbox {
    int fd; /* fixed after new */

    GMutex lock;
    GArray *queue; /* of Mail, under lock */

    GArray *running; /* reader's thread only: the batch being run */
};

DrvMailbox *
drv_mailbox_new(void)
{
    DrvMailbox *box = g_new0(DrvMailbox, 1);
    box->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (box->fd < 0)
        g_error("eventfd: %s", g_strerror(errno));
    g_mutex_init(&box->lock);
    box->queue = g_array_new(FALSE, FALSE, sizeof(Mail));
    box->running = g_array_new(FALSE, FALSE, sizeof(Mail));
    return box;
}

void
drv_mailbox_free(DrvMailbox *box)
{
    if (box == NULL)
        return;
    close(box->fd);
    g_array_unref(box->queue);
    g_array_unref(box->running);
    g_mutex_clear(&box->lock);
    g_free(box);
}

void
drv_mailbox_post(DrvMailbox *box, DrvMailFunc func, gpointer target, gpointer data)
{
    Mail mail = {func, target, data};
    g_mutex_lock(&box->lock);
    gboolean was_empty = box->queue->len == 0;
    g_array_append_val(box->queue, mail);
    g_mutex_unlock(&box->lock);
    /* Only the first of a batch rings: the reader takes the whole queue at once. */
    if (was_empty) {
        guint64 one = 1;
        if (write(box->fd, &one, sizeof one) < 0 && errno != EAGAIN)
            g_error("eventfd write: %s", g_strerror(errno));
    }
}

int
drv_mailbox_fd(const DrvMailbox *box)
{
    return box->fd;
}

guint
drv_mailbox_dispatch(DrvMailbox *box)
{
    guint ran = 0;
    guint64 count;
    /* Emptied before the queue is looked at, so that a post in between rings again. */
    if (read(box->fd, &count, sizeof count) < 0 && errno != EAGAIN)
        g_error("eventfd read: %s", g_strerror(errno));
    for (;;) {
        g_mutex_lock(&box->lock);
        GArray *batch = box->queue;
        box->queue = box->running;
        box->running = batch;
        g_mutex_unlock(&box->lock);
        if (batch->len == 0)
            return ran;
        for (guint i = 0; i < batch->len; i++) {
            Mail mail = g_array_index(batch, Mail, i);
            mail.func(mail.target, mail.data);
        }
        ran += batch->len;
        g_array_set_size(batch, 0);
    }
}

typedef struct {
    GSource source;
    DrvMailbox *box; /* borrowed */
} MailSource;

static gboolean
source_dispatch(GSource *source, GSourceFunc callback, gpointer user_data)
{
    drv_mailbox_dispatch(((MailSource *)source)->box);
    return G_SOURCE_CONTINUE;
}

GSource *
drv_mailbox_attach(DrvMailbox *box, GMainContext *context)
{
    static GSourceFuncs funcs = {.dispatch = source_dispatch};
    GSource *source = g_source_new(&funcs, sizeof(MailSource));
    ((MailSource *)source)->box = box;
    g_source_set_name(source, "mailbox");
    g_source_add_unix_fd(source, box->fd, G_IO_IN);
    g_source_attach(source, context);
    return source;
}
