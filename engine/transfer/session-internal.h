/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/session-private.h"
#include "engine/transfer/transfer.h"

/* A session's insides, shared by session.c (what lanes and channels see) and session-control.c
 * (what the control thread sees: messages, connecting and reconnecting). */

typedef struct {
    DrvEndpoint base;
    DrvSession *session; /* borrowed: the channel holds it */
    DrvChannel *channel; /* on the worker, from start to stop */
    GQueue waiting;      /* on the worker: of GBytes */
    gsize waiting_bytes; /* on the worker */
    gboolean stopped;    /* on the worker */
    gboolean flushing;   /* on the worker: the session ends when all is delivered */
} ControlEndpoint;

typedef struct {
    gboolean wanted;
    gboolean up_before;
    gboolean dialing; /* a lane is being connected for it */
    guint failures;   /* in a row */
    GSource *retry;
} DialSlot;

struct _DrvSession {
    gatomicrefcount refs;
    DrvTransfer *transfer; /* fixed; outlives the session */
    gboolean connects;     /* fixed: we opened it, and connect its lanes */
    DrvAccount messages;   /* of the control channel, both ways */

    GMutex lock; /* guards the next group */
    guint8 id[16];
    guint8 secret[32];
    guint8 fingerprint[32];
    gboolean established;          /* id, secret and fingerprint are known */
    char *peer_name;               /* set once */
    DrvShare *share;               /* set once */
    DrvLane *lanes[DRV_MAX_LANES]; /* referenced */
    guint idle;                    /* bits: lanes to be woken when there is something to send */
    guint lanes_up;
    gint64 alone_since; /* monotonic: the last lane is gone; 0: there is one, or was none yet */
    guint reconnects;
    guint64 serial;
    GHashTable *channels; /* id → DrvChannel, referenced */
    DrvScheduler scheduler;
    GQueue acks; /* of DrvChannel that have one to tell; referenced */
    GQueue done; /* of DrvProgress, newest first: channels that are done here */
    DrvCodecChoice choice;
    gint64 rtt_us;
    guint64 wire;
    GError *dead;
    gboolean closing; /* no channel is opened any more */

    /* control thread only */
    const DrvSessionOps *ops;
    gpointer ops_data;
    DrvChannel *control;
    guint32 next_channel;
    ControlEndpoint control_endpoint; /* its fields belong to the control channel's worker */
    gboolean closed;
    GSource *patience; /* of a session that is being closed, with messages that go first */
    gboolean dissolved;
    GSource *expiry; /* of an accepted session without lanes */
    gboolean told_connected;
    gboolean ever_connected;
    gint64 dialed_us;  /* monotonic: the first connection was tried for the first time */
    guint lanes_asked; /* 0: choose */
    DialSlot slots[DRV_MAX_LANES];
    GList *addresses; /* of GInetAddress: the name's others, to be tried for the first connection */
    DrvLaneTarget target;
    guint16 port;
    GCancellable *resolving;
};

/* A session with its control channel, not yet connected. Control thread or a lane's worker. */
DrvSession *session_new(DrvTransfer *transfer, gboolean connects);
DrvChannel *session_open_control(DrvSession *session);
/* Its lanes, out of use; the references are the caller's. */
GPtrArray *session_take_lanes(DrvSession *session);

/* session-control.c, by mail on the control thread. 'data' of down: a SessionDown. */
typedef struct {
    guint slot;
    GError *error;
    DrvLaneEnd how;
    gboolean was_up; /* FALSE: its connecting failed */
} SessionDown;
void session_control_up(gpointer target, gpointer data);
void session_control_down(gpointer target, gpointer data);
void session_control_stalled(gpointer target, gpointer data); /* 'data': the slot */
void session_control_dead(gpointer target, gpointer data);
