/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/daemon/disk-view.h"
#include "qmp/qmp.h"

/* What the files of a view share. */

#define VIEW_QMP_MS 20000
#define VIEW_CONNECT_MS 3000

struct _DrvDiskView {
    DrvJob *job; /* borrowed; NULL: it has given the view up */
    const DrvCopySpec *spec;
    const DrvDiskViewOps *ops;
    DrvSteps steps;
    QmpClient *qmp;
    char *socket; /* of the NBD server */
    char *node;   /* names in QEMU: of what is read, and of the export */
    char *filter;
    char *scratch;
    char *format;
    gboolean plain; /* QEMU is one that is to be asked for little: disk-view.c */
    guint64 size;
    int scratch_fd; /* -1: none */
    gint64 fdset;   /* QEMU's number for it */

    GError *broken; /* why it cannot be read; NULL: it can */

    gboolean undoing, keep_bitmap;
    gint64 busy_until; /* how long somebody else is waited for who has the QMP socket */
    guint retry;
    char *left; /* what is not taken back; NULL: nothing */
};

/* The step at hand's: of 'view' as long as it is the one at hand. view_redeem() gives NULL when it
 * is not; 'keep' holds the view for the caller's scope either way. */
DrvTicket *view_ticket(DrvDiskView *view);
DrvDiskView *view_redeem(gpointer ticket, DrvDiskView **keep);
void view_release(DrvDiskView *view);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDiskView, view_release)

/* What the journal has: "qdev", "node", "server", "bitmap"; NULL: nothing was touched. */
JsonObject *view_record(DrvDiskView *view);
void view_use_qmp(DrvDiskView *view, QmpClient *client);
void view_drop_qmp(DrvDiskView *view);
