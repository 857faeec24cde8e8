/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * A queue of closures from any thread to one, and an eventfd that says when to look. It is the only
 * way by which the control plane and the data threads meet.
 *
 * Posting never blocks. The reader waits for drv_mailbox_fd() to become readable, in whatever loop
 * it has, and calls drv_mailbox_dispatch().
 */
typedef struct _DrvMailbox DrvMailbox;

/* Runs on the mailbox's thread. 'target' is what the mail is about; the poster says who owns it. */
typedef void (*DrvMailFunc)(gpointer target, gpointer data);

/* Aborts when the process is out of file descriptors, as GLib does for memory. */
DrvMailbox *drv_mailbox_new(void);
/* Frees the box; closures still in it are dropped unrun. The caller has stopped every poster. */
void drv_mailbox_free(DrvMailbox *box);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvMailbox, drv_mailbox_free)

/* From any thread: has 'func(target, data)' run on the mailbox's thread, in the order of posting.
 */
void drv_mailbox_post(DrvMailbox *box, DrvMailFunc func, gpointer target, gpointer data);

/* The eventfd, owned by the box. Readable while there may be mail; read it (8 bytes) or dispatch.
 */
int drv_mailbox_fd(const DrvMailbox *box);

/* Runs all that is queued, also what is posted meanwhile by the closures themselves. Returns how
 * many ran. */
guint drv_mailbox_dispatch(DrvMailbox *box);

/* Has a GMainContext (NULL: the default) dispatch the box. Returns the source's id-free handle:
 * destroy and unref it to stop. */
GSource *drv_mailbox_attach(DrvMailbox *box, GMainContext *context);
