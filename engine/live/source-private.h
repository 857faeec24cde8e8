/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "dirty-tracking/convergence.h"
#include "engine/channel/channel-set.h"
#include "engine/channel/listener.h"
#include "engine/channel/ram-send.h"
#include "engine/host/vm.h"
#include "engine/job/job.h"
#include "engine/live/predict-round.h"
#include "engine/job/spec.h"
#include "engine/job/steps.h"
#include "qmp/qmp.h"

/* A live migration's source half, shared by source.c (its life), source-prepare.c,
 * source-copy.c (watching QEMU copy), source-rounds.c (what it says of the guest),
 * source-converge.c (that it ends), source-verify.c (what is compared),
 * source-commit.c (the decision) and
 * source-rollback.c. */

/* What query-migrate last said, and what follows from it. */
typedef struct {
    gint64 transferred;
    gint64 total;
    gint64 remaining;
    gint64 dirty_rate; /* bytes a second */
    gint64 rounds;
    gint64 zero_pages;
    gint64 normal_pages;
    gint64 page_size;
    gint64 throttle_pct; /* at present */
    gint64 expected_downtime_ms;

    gint64 sampled_us; /* for the rates: our own counts, a moment ago */
    guint64 sampled_raw;
    guint64 sampled_wire;
    double raw_rate;
    double wire_rate;
} CopyProgress;

typedef struct _LiveSource LiveSource;

/* Connections of QEMU's that become channels: source-offers.c. */
typedef struct {
    const char *call; /* that opens one at the destination */
    const char *what; /* is opened: "a channel" */
    DrvChannelSet **channels;
    void (*opened)(LiveSource *self); /* one is; may be NULL */
    GQueue waiting;                   /* descriptors */
    gboolean offering;                /* one is being opened */
} LiveOffers;

/* Whether it is expected to end, and what was done about it. */
typedef struct {
    DrvConvergence *controller; /* NULL: QEMU has not begun */

    gint64 pass;        /* the round under way, which was heard of ... */
    gint64 round_us;    /* ... then, and the one before ... */
    gint64 before_us;   /* ... then */
    gint64 sized;       /* the round that began with ... */
    gint64 round_bytes; /* ... so much to bring */
    double dirty_rate;  /* bytes a second, in the round before; 0: not known */
    gint64 counted_us;  /* QEMU's pages were counted, and were */
    gint64 counted;
    double delivery_rate; /* bytes of the guest a second, since the count before */

    guint limit_ms;       /* downtime-limit, where it was made longer; 0: as the user said first */
    guint asked_ms;       /* ... as QEMU was last asked for */
    guint asked_pct;      /* of CPU time, the same */
    gint64 most_pct;      /* that QEMU has taken away */
    gboolean limited;     /* QEMU holds back the CPUs that write */
    gboolean unlimitable; /* it cannot */
    JsonArray *measures;  /* for the report; NULL: none */
    char *measure;        /* the last one's sentence; NULL: none */

    DrvFirstRound *first; /* what is known of it; NULL: nothing. Without seconds: it goes on */
    guint rates;          /* taken of the link in it */
    gint64 first_ms;      /* it ended, after the job's beginning */
} LiveConverge;
typedef struct _LiveDisks LiveDisks;
typedef struct _LiveVerify LiveVerify;

struct _LiveSource {
    DrvJob base;
    DrvJobSpec *spec;
    char *host; /* of the destination's daemon */
    guint16 port;
    DrvSteps steps;

    QmpClient *qmp;
    DrvVm *vm;
    DrvPeer *peer;
    DrvListener *listener;
    DrvRamSender *sender;    /* direct mode; NULL: QEMU places all pages */
    char *relay_reason;      /* ... and why, if that was for the destination to decide */
    JsonArray *left_to_qemu; /* in direct mode: blocks that QEMU places all the same, and why */
    LiveVerify *verify;      /* --verify memory, once the guest's memory is open here; else NULL */
    gint near;             /* the NUMA node of the guest's memory; -1: not known, or of no weight */
    JsonObject *dest_numa; /* what the destination says of its own; NULL: nothing */
    DrvChannelSet *channels;
    DrvShaper *shaper;
    LiveDisks *disks;  /* NULL: they are not asked for */
    LiveOffers offers; /* QEMU's connections that wait for their channel */

    gboolean touched;   /* QEMU's settings were changed */
    gboolean prepared;  /* the destination has a half that must be told how it ends */
    gboolean migrating; /* 'migrate' was sent */
    gboolean completed; /* QEMU says so */
    gboolean loaded;    /* the destination says so */
    JsonArray *digests; /* the destination's */
    JsonArray *disk_digests;
    gboolean stream_match, stream_differs; /* neither: not compared */
    char *peer_error;                      /* what it said had gone wrong there */
    gboolean was_running;                  /* the guest ran when we came, or was started since */
    gboolean cancelling;
    gboolean handed_over; /* commit is under way: there is no way back */

    char *stranded;      /* why the guest could not be taken back; NULL if it was */
    gint64 settle_until; /* monotonic, as all that follow */
    gint64 begin_us;
    gint64 stopped_us;       /* the guest's vCPUs stopped; 0: not yet */
    gint64 completed_us;     /* QEMU said so; 0: not yet */
    gint64 loaded_us;        /* the destination said so; 0: not yet */
    gint64 downtime_us;      /* measured; 0: not yet */
    gint64 lost_us;          /* the link is down since; 0: it is up */
    guint reconnects_before; /* of sessions that are gone */
    double cpu_before;
    double cpu_dest;
    CopyProgress progress;
    LiveConverge converge;

    GSource *poll;
    GSource *drop;    /* the drop timeout, while the link is down */
    GSource *timeout; /* of the whole job */
    GSource *retry;   /* of the commit */
    GSource *finish;  /* for what must follow QEMU's "completed", and then COMMIT */
    gboolean polling;
};

#define QMP_TIMEOUT_MS 20000
#define QMP_CONNECT_MS 3000

LiveSource *live_source(DrvJob *job);
/* A ticket for the step at hand. */
DrvTicket *live_ticket(LiveSource *self);
/* Redeems it: NULL when the step is over. 'keep' holds the job for the caller's scope. */
LiveSource *live_redeem(gpointer ticket, DrvJob **keep);
/* The step at hand is a command of QEMU's: engine/job/ask.h. Takes 'args'. */
void live_ask(LiveSource *self, const char *command, JsonNode *args, DrvAnswered answered);
/* Ends the attempt: rolls back, or, after the decision, does nothing but note it. Takes the error.
 */
void live_fail(LiveSource *self, GError *error);
void live_clear_source(GSource **source);
void live_set_timer(GSource **source, guint ms, GSourceFunc func, gpointer data);

/* source-prepare.c: ends in live_copy_started() or live_fail(). */
void live_prepare(LiveSource *self);
void live_connect_qmp(LiveSource *self, GAsyncReadyCallback callback, gpointer data);
/* Takes the connection over: its events and its end are heard from now on. */
void live_use_qmp(LiveSource *self, QmpClient *client);
void live_drop_qmp(LiveSource *self);
/* It went away by itself. */
void live_qmp_closed(LiveSource *self, const GError *why);
/* How frames are compressed. */
DrvCodec live_frame_codec(LiveSource *self);
void live_use_peer(LiveSource *self);
void live_drop_peer(LiveSource *self);

/* source-ram.c: what job.prepare says of pages that guests share. */
void live_ask_to_share(LiveSource *self, JsonObject *args);
/* The mode that the destination's answer to job.prepare offers. FALSE: it makes
 * no sense, or is not what the user insists on. */
gboolean live_choose_mode(LiveSource *self, JsonObject *ok, GError **error);
/* The codec of channel 'index'. */
DrvChannelCodec *live_codec(guint index, gpointer data);
/* Bytes that QEMU has sent, and the report's "ram". */
guint64 live_ram_bytes(LiveSource *self, const DrvChannelTotals *totals);
/* The report's "mode", and why pages were left to QEMU. */
void live_report_mode(LiveSource *self, JsonObject *o);
JsonObject *live_report_ram(LiveSource *self, const DrvChannelTotals *totals);

/* source-disks.c: '--disks mirror'. All of it does nothing without. Steps: which disks there
 * are; the way to COPYING, with a socket for QEMU; a node and a channel for each disk; a mirror for
 * each; until all are level. */
void live_disks_describe(gpointer owner);
void live_disks_listen(gpointer owner);
void live_disks_connect(gpointer owner);
void live_disks_mirror(gpointer owner);
void live_disks_wait(gpointer owner);
/* Whether any is to be moved. */
gboolean live_disks_any(LiveSource *self);
/* What job.prepare says of them, and whether its answer is that of a daemon that takes them. */
void live_disks_ask(LiveSource *self, JsonObject *args);
gboolean live_disks_agreed(LiveSource *self, JsonObject *ok, GError **error);
/* The guest has stopped and QEMU waits: completes the mirrors and has it go on. */
void live_disks_switchover(LiveSource *self);
/* Whether the event was about a mirror of ours. */
gboolean live_disks_event(LiveSource *self, const char *name, JsonObject *data);
/* Whether all that was mirrored is at the destination and nothing more comes. FALSE with an error
 * when the digests differ. */
gboolean live_disks_settled(LiveSource *self, gboolean compare, GError **error);
void live_disks_class(LiveSource *self, DrvClass class);
/* Why a disk is not expected to become level, or NULL. Borrowed. */
const char *live_disks_doubt(LiveSource *self);
/* Their members of the progress, and the report's "disk". */
void live_disks_progress(LiveSource *self, JsonObject *o);
JsonObject *live_disks_report(LiveSource *self);
/* source-delta.c: whether the answer to job.prepare is that of a daemon that compares disks, if
 * they are to be; and a step that fetches what it compares with. */
gboolean live_delta_agreed(LiveSource *self, JsonObject *ok, GError **error);
void live_delta_fetch(gpointer owner);
/* Ends the connections, and with them the mirrors. */
void live_disks_hang_up(LiveSource *self);
void live_disks_free(LiveDisks *disks);
/* source-disks-undo.c: a step. */
void live_disks_undo(gpointer owner);

/* source-numa.c: a step that finds the guest's node, and what the report has of it. */
void live_find_node(gpointer owner);
void live_report_numa(const LiveSource *self, JsonObject *report);

/* source-rounds.c: QEMU has begun the round that the progress names. */
void live_round_begins(LiveSource *self);
/* Their members of the progress, and of the report, with which the last round ends. */
void live_progress_rounds(LiveSource *self, JsonObject *o);
void live_report_rounds(LiveSource *self, JsonObject *o);

/* source-converge.c: the round that the progress names begins. */
void live_converge_round(LiveSource *self);
/* With fresh figures of query-migrate: judges them, and does what is to be done. */
void live_judge_convergence(LiveSource *self);
/* One that was decided on is noted, for the log, the progress and the report. */
void live_note_measure(LiveSource *self, const DrvConvergeDecision *d);
/* The downtime that QEMU has as its limit. */
guint live_downtime_limit(LiveSource *self);
/* Why the migration is not expected to end, as one sentence; NULL: it is, or it is too early to
 * say. Borrowed until the next figures. */
const char *live_doubt(LiveSource *self);
/* Its members of the progress and of the report. */
void live_progress_converge(LiveSource *self, JsonObject *o);
void live_report_converge(LiveSource *self, JsonObject *o);
void live_converge_clear(LiveConverge *converge);

/* source-offers.c: takes the descriptor. The set must be there, and the peer. */
void live_offer(LiveSource *self, LiveOffers *offers, int fd);
/* Those that wait are closed. */
void live_offers_close(LiveOffers *offers);

/* source-copy.c */
void live_copy_started(LiveSource *self);
void live_on_event(LiveSource *self, const char *name, JsonObject *data, gint64 timestamp_us);
void live_on_connection(int fd, gpointer data);
void live_channels_changed(DrvChannelSet *set, gpointer data);
/* The destination says that it has failed; why is in peer_error. */
void live_peer_failed(LiveSource *self);
void live_stop_polling(LiveSource *self);
/* From a reply of query-migrate. */
void live_take_figures(LiveSource *self, JsonObject *reply);
JsonObject *live_progress(DrvJob *job);
/* The contract's final object, for the state that the job is about to enter. */
void live_report(LiveSource *self, DrvJobState state);

/* source-predict.c: the wire's rate is known anew; the first round is over, and was sized. */
void live_predict_rate(LiveSource *self);
void live_predict_first_round(LiveSource *self);
void live_report_predictions(LiveSource *self, JsonObject *o);

/* source-downtime.c: up to now, but for what the destination says that the guest has been
 * running there already: after a restart of ours that may be long. */
void live_measure_downtime(LiveSource *self, gint64 running_ms);
void live_report_downtime(LiveSource *self, const DrvChannelTotals *totals, JsonObject *o);

/* source-commit.c: once QEMU has completed and the destination has loaded: compares, commits.
 */
void live_check_handover(LiveSource *self);
/* Sends COMMIT, once more if it was sent before. */
void live_commit(LiveSource *self);
void live_commit_later(LiveSource *self, guint ms);
/* The link is down; after the drop timeout the job is rolled back or, when committed, in doubt. */
void live_start_drop_timer(LiveSource *self);
/* The guest runs there: ends the source's QEMU, and the job. */
void live_leave(LiveSource *self);
/* Back from the decision, for that reason: it is certain that the destination will not run the
 * guest. FALSE when the journal does not take it: then nothing has changed. */
gboolean live_take_back(LiveSource *self, const GError *why, GError **error);

/* source-verify.c: a step that opens the guest's memory, if it is to be compared. */
void live_open_memory(gpointer owner);
/* Takes the destination's answer to job.prepare: which memory it can compare. */
gboolean live_agree_memory(LiveSource *self, JsonObject *ok, GError **error);
/* Once the destination has loaded: whether what is there is what was here. FALSE: it is not known
 * yet, and live_check_handover() is called when it is; or it is not, and the job has failed. */
gboolean live_verified(LiveSource *self);
/* Hashing, if that goes on, is given up. */
void live_stop_verify(LiveSource *self);
/* The report's "verify" and "verify_ms". */
void live_report_verify(LiveSource *self, JsonObject *o);
void live_verify_free(LiveVerify *verify);

/* source-rollback.c: undoes everything, ends in FAILED or CANCELLED. */
void live_roll_back(LiveSource *self);
/* The guest was told to go on, and does not. */
void live_stranded(LiveSource *self, const GError *error);

/* Gives everything back and leaves the daemon's list: the last thing a job does. */
void live_finish(LiveSource *self, DrvJobState state);
