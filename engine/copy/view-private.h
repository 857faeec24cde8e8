/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/copy/view.h"
#include "engine/job/ask.h"
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
    char *node;   /* names in QEMU: of the front, which is what is read, and of the export */
    char *empty, *access, *filter, *scratch;
    char *format;
    gboolean looked;
    gboolean looking; /* nothing is to be made of it now */
    gboolean plain;   /* QEMU is one that is to be asked for little: view.c */
    guint64 size;
    guint users;
    DrvStore *store;   /* NULL: not connected yet */
    gboolean greeting; /* a thread has it; "patience" ends that */
    guint patience;
    guint watch; /* 0: QEMU is not watched */
    gboolean asked;
    int scratch_fd; /* -1: none */
    gint64 fdset;   /* QEMU's number for it */

    GError *broken; /* why it cannot be read; NULL: it can */

    gboolean undoing, keep_bitmap;
    gboolean bitmap_only; /* all else was taken back before */
    gboolean overlaid;    /* somebody has taken a snapshot of the disk */
    gint64 busy_until;    /* how long somebody else is waited for who has the QMP socket; 0: not */
    void (*connect)(gpointer owner); /* what "retry" does then */
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
/* Whoever has the QMP socket is waited for from now on; for a while. */
void view_may_be_busy(DrvDiskView *view);
/* If that is why 'connect', a step, has failed, it is run again later: TRUE. */
gboolean view_wait_busy(DrvDiskView *view, const GError *error, void (*connect)(gpointer owner));
void view_use_qmp(DrvDiskView *view, QmpClient *client);
void view_drop_qmp(DrvDiskView *view);
/* The job is told that there is no view any more; takes the error. */
void view_give_up(DrvDiskView *view, GError *error);

/* The step at hand is 'command': engine/job/ask.h. Takes 'args'. */
void view_ask(DrvDiskView *view, const char *command, JsonNode *args, DrvAnswered answered);
/* 'what' of the record was refused by QEMU, if 'error' says so. */
void view_not_ours(DrvDiskView *view, const char *what, const GError *error);

/* view-serve.c: steps */
void view_step_server(gpointer owner);
void view_step_empty(gpointer owner);
void view_step_front(gpointer owner);
void view_step_export(gpointer owner);
void view_step_connect_readers(gpointer owner);
void view_step_switch(gpointer owner);
void view_step_no_empty(gpointer owner);
/* As long as the view is read. */
void view_start_watch(DrvDiskView *view);
void view_stop_watch(DrvDiskView *view);

/* view-undo.c: the thread that connects has ended. */
void view_undo_when_free(DrvDiskView *view);
