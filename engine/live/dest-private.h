/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/channel-set.h"
#include "engine/channel/ram-place.h"
#include "engine/host/guest-numa.h"
#include "engine/host/vm.h"
#include "engine/job/calls.h"
#include "engine/live/memory-check.h"
#include "engine/job/job.h"
#include "engine/job/spec.h"
#include "engine/job/steps.h"
#include "qmp/qmp.h"

/* What the source may be waiting for. */
typedef enum { DEST_PREPARE, DEST_DIGEST, DEST_COMMIT, DEST_ABORT } DestCall;
typedef struct _DestNuma DestNuma;

/* A live migration's destination half, shared by dest.c (its life), dest-prepare.c and
 * dest-commit.c (COMMIT and abort). */
typedef struct _DestDisks DestDisks;
typedef struct _DestDelta DestDelta;

typedef struct {
    DrvJob base;
    DrvSteps steps;
    DrvPeer *peer;   /* that prepared it, or that spoke last after a restart */
    DrvCalls *calls; /* to be answered, by DestCall */

    char *dest_qmp;
    gint64 multifd;
    DrvSpecMode mode; /* that is asked for */
    gboolean verify_memory;
    guint drop_timeout_s;
    gboolean was_running;
    DrvVm *source_vm;
    JsonObject *asked; /* the source's words, all of them */

    QmpClient *qmp;
    gboolean plain_incoming; /* migrate-incoming knows no exit-on-error */
    DrvVm *vm;
    DrvRamPlacer *placer; /* direct mode; NULL: QEMU places all pages */
    JsonObject *direct;   /* what the source has to know for it ... */
    char *relay_reason;   /* ... or why it is not that */
    DestNuma *numa;       /* NULL: nothing is placed */
    JsonObject *numa_report;
    DrvMemoryCheck *memory; /* to be compared; NULL: it is not */
    GCancellable *hashing;  /* while it is being hashed; else NULL */
    JsonObject *shares;     /* the pages that guests share; NULL: none are kept */
    DrvChannelSet *channels;
    DestDisks *disks; /* NULL: they do not move */
    DestDelta *delta; /* NULL: what they hold is of no use */
    int log_fd; /* QEMU's standard error, if that is a file: its last words are worth having; else
                   -1 */
    gint64 log_from;

    gboolean begun;        /* the source has opened a channel */
    gboolean incoming;     /* migrate-incoming was sent: QEMU is of no use for anything else */
    gboolean completed;    /* QEMU has loaded everything */
    gboolean may_have_run; /* 'cont' was sent, and not refused */
    gboolean ran_before;   /* the same before the 'cont' that is under way */
    gboolean ran;          /* QEMU's run state shows that it has */
    gboolean cancelled;
    gboolean quits; /* QEMU has answered 'quit' */
    gint64 ran_us;  /* monotonic: the guest was started; 0: not by this daemon */
    double cpu_before;

    GSource *drop;
    GSource *begin; /* while what was prepared is to be begun */
    GSource *again; /* in COMMITTED, when IN_DOUBT could not be written */
    GSource *gone;  /* while a QEMU that was told to quit is waited for, and ... */
    GSource *hangs; /* ... when it has had time enough */
} LiveDest;

#define QMP_TIMEOUT_MS 20000
#define QMP_CONNECT_MS 3000

LiveDest *live_dest(DrvJob *job);
DrvTicket *dest_ticket(LiveDest *self);
LiveDest *dest_redeem(gpointer ticket, DrvJob **keep);
/* The step at hand is a command of QEMU's: engine/job/ask.h. Takes 'args'. */
void dest_ask(LiveDest *self, const char *command, JsonNode *args, DrvAnswered answered);
/* Ends the attempt; takes the error. */
void dest_fail(LiveDest *self, GError *error);
/* The refusal of a call that comes at the wrong time, with what the job has run into, if it has:
 * "job x takes no channels now: its QEMU has ended". Owned by the caller. */
GError *dest_not_now(LiveDest *self, const char *does);
void dest_use_qmp(LiveDest *self, QmpClient *client);
void dest_connect_qmp(LiveDest *self, GAsyncReadyCallback callback, gpointer data);
void dest_channels_changed(DrvChannelSet *set, gpointer data);
/* A call has come over 'peer': after a restart of either daemon it may be another one than before.
 */
void dest_use_peer(LiveDest *self, DrvPeer *peer);
/* Answers the calls of a kind that wait, if any do. */
void dest_answer(LiveDest *self, DestCall what);
/* That the state has changed, where nobody has asked: it may be a person's word that is being done,
 * and the source stand in doubt. */
void dest_tell_news(LiveDest *self);
/* Gives everything back, ends in this state and answers what is left to be answered. */
void dest_finish(LiveDest *self, DrvJobState state);
void dest_clear_source(GSource **source);

/* dest-commit.c: COMMITTED, 'cont', RUNNING, DONE; IN_DOUBT when QEMU does not do it. */
void dest_run_guest(LiveDest *self);

/* dest-prepare.c: makes QEMU listen, answers the source. */
void dest_prepare(LiveDest *self);
/* Goes on to LOADED when all of it is here. */
void dest_check_loaded(LiveDest *self);

/* Connects to a socket on which the job's QEMU listens. -1 with an error. */
int dest_connect_qemu(const char *path, GError **error);

/* dest-begin.c: the source has its answer, and has to open a channel soon; it has opened one. */
void dest_await_begin(LiveDest *self);
void dest_has_begun(LiveDest *self);

/* dest-disks.c: '--disks mirror'. Steps: exports them; sees that they
 * hold no data, and
 * connects to them. Their exports, for the answer to job.prepare, ready for their channels (NULL:
 * there are none); whether all have ended and nobody serves them any more. */
void dest_disks_export(gpointer owner);
void dest_disks_check(gpointer owner);
void dest_disks_connect(gpointer owner);
JsonArray *dest_disks_prepared(LiveDest *self);
gboolean dest_disks_closed(LiveDest *self);
/* For job.loaded. */
void dest_disks_digests(LiveDest *self, JsonObject *args);
/* Whether QEMU may be serving disks for us, and a step that ends it. */
gboolean dest_disks_served(LiveDest *self);
void dest_disks_withdraw(gpointer owner);
void dest_disks_free(DestDisks *disks);
/* The source's, of DrvDisk; NULL: none. */
GPtrArray *dest_disks_wanted(LiveDest *self);

/* dest-delta.c: '--disks-delta'. A step that sees whether it can be; begins to hash them, for the
 * source to wait for; how large the blocks are; the codec of disk 'index'. */
void dest_delta_plan(gpointer owner);
void dest_delta_hash(LiveDest *self);
guint32 dest_delta_block(const DestDelta *delta);
DrvChannelCodec *dest_delta_codec(guint index, gpointer delta);
/* NULL is allowed. */
void dest_delta_free(DestDelta *delta);

/* dest-ram.c: a step that finds out whether the guest's memory can be written. */
void dest_reach_ram(gpointer owner);
/* dest-numa.c: a step that plans where the guest's memory goes; ... */
void dest_place(gpointer owner);
/* ... the node that all of it goes to, -1: none alone; and, when the guest runs, what came of it,
 * as the report's "numa". */
gint dest_numa_node(const DestNuma *numa);
void dest_numa_conclude(LiveDest *self);
void dest_numa_free(DestNuma *numa);
/* dest-verify.c: a step that opens the guest's memory, if it is to be compared. */
void dest_open_memory(gpointer owner);
/* Hashing, if that goes on, is given up. */
void dest_stop_hashing(LiveDest *self);
/* The codec of channel 'index'. */
DrvChannelCodec *dest_codec(guint index, gpointer data);
/* What QEMU has written since we came, its last line; NULL if that cannot be known. */
char *dest_last_words(LiveDest *self);
