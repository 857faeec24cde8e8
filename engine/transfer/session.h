/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/channel.h"

#include <gio/gio.h>

/*
 * A session: what two daemons are to each other while they have something to move. It has up to
 * DRV_MAX_LANES lanes, one control channel for the jobs' messages, and any number of channels.
 * Lanes come and go; the session lasts until it is closed, refused by the peer (which was
 * restarted, say) or the protocol is broken.
 *
 * The functions here are for the control thread.
 */
typedef struct _DrvTransfer DrvTransfer;

typedef struct {
    /* A lane is up, after none was: the first time or again. */
    void (*connected)(DrvSession *session, gpointer data);
    /* The last lane is gone. Those that connected the session are trying again already. */
    void (*lost)(DrvSession *session, const GError *why, gpointer data);
    /* A message from the peer; its sender may send the next when this returns. */
    void (*message)(DrvSession *session, GBytes *message, gpointer data);
    /* The session is over, for the reason given. Last call. */
    void (*dead)(DrvSession *session, const GError *why, gpointer data);
} DrvSessionOps;

#define DRV_MESSAGE_MAX ((gsize)64 * 1024)

/* Starts a session with the daemon at 'host':'port', over 'lanes' lanes (0: as many as fit the CPUs
 * and the link). What becomes of it is told through 'ops'; 'dead' comes if the first connection
 * fails. */
DrvSession *drv_session_connect(DrvTransfer *transfer, const char *host, guint16 port, guint lanes,
                                const DrvSessionOps *ops, gpointer data);
/* Takes over a session that a peer opened, from DrvTransfer's 'incoming'. */
void drv_session_set_ops(DrvSession *session, const DrvSessionOps *ops, gpointer data);
/* Has at least as many lanes from now on (0: no change). */
void drv_session_want_lanes(DrvSession *session, guint lanes);

/* Ends the session for a reason that no reconnecting mends: all who use it are told. Any thread. */
void drv_session_fail(DrvSession *session, const GError *error);
/* Ends the session and its channels, telling the peer. Messages sent before go first: for that it
 * goes on for up to two seconds if it is connected. No more calls come. May be called again. */
void drv_session_close(DrvSession *session);

DrvSession *drv_session_ref(DrvSession *session);
void drv_session_unref(DrvSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvSession, drv_session_unref)

/* Sends a message of at most DRV_MESSAGE_MAX bytes; it arrives once, in order, also over cuts. */
void drv_session_send(DrvSession *session, GBytes *message);

/* An id for a channel that we open: ours never collide with the peer's. */
guint32 drv_session_new_channel_id(DrvSession *session);
/* Whether an id is one that the peer may open. */
gboolean drv_session_peer_may_open(DrvSession *session, guint32 id);

gboolean drv_session_is_connected(DrvSession *session);
gboolean drv_session_is_dead(DrvSession *session);
/* The peer's name, from its certificate; "" before it is known. Borrowed. */
const char *drv_session_peer_name(DrvSession *session);
/* The peer's share of what there is; NULL before it is known. */
DrvShare *drv_session_share(DrvSession *session);

typedef struct {
    guint lanes;      /* up now */
    guint reconnects; /* lanes that came back */
    gint64 rtt_us;    /* smallest round trip of a lane; 0 if not known */
    guint64 wire;     /* bytes of all frames, both directions */
} DrvSessionStats;

void drv_session_get_stats(DrvSession *session, DrvSessionStats *stats);

/* The number of lanes when the user names none. */
guint drv_default_lanes(guint cpus, gint64 rtt_us);
