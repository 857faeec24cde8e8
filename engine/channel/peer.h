/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/transfer.h"

#include <json-glib/json-glib.h>

/*
 * Calls between two daemons, as JSON messages over a session's control channel
 * (docs/peer-protocol.md):
 *
 *   {"id":7,"call":"job.prepare","args":{...}}   answered by   {"id":7,"ok":{...}} or
 * {"id":7,"error":{...}}
 *   {"tell":"job.loaded","args":{...}}           not answered
 *
 * Messages arrive once and in order whatever happens to the lanes; when the session dies, every
 * call still open fails. Control thread only.
 */
typedef struct _DrvPeer DrvPeer;

typedef struct {
    /* A call from the peer: answer with drv_peer_answer() or drv_peer_refuse(), then or later. */
    void (*call)(DrvPeer *peer, guint64 id, const char *op, JsonObject *args, gpointer data);
    void (*tell)(DrvPeer *peer, const char *op, JsonObject *args, gpointer data);
    void (*connected)(DrvPeer *peer, gpointer data);
    void (*lost)(DrvPeer *peer, const GError *why, gpointer data);
    /* The session is over; open calls have failed. */
    void (*dead)(DrvPeer *peer, const GError *why, gpointer data);
} DrvPeerOps;

/* 'ok' is borrowed; NULL with an error, which carries the peer's class and message or says why
 * there is none. */
typedef void (*DrvPeerReply)(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data);

/* Opens a session with 'host':'port'. */
DrvPeer *drv_peer_connect(DrvTransfer *transfer, const char *host, guint16 port, guint lanes);
/* Serves a session that a peer opened. */
DrvPeer *drv_peer_accept(DrvSession *session);
DrvPeer *drv_peer_ref(DrvPeer *peer);
void drv_peer_unref(DrvPeer *peer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvPeer, drv_peer_unref)

/* Several may listen to one peer: jobs that share its session. A listener hears of the present
 * state at once only through drv_peer_is_connected(). Calls are heard by all listeners: exactly one
 * must know the call and answer it. */
void drv_peer_listen(DrvPeer *peer, const DrvPeerOps *ops, gpointer data);
/* May be called from within a listener's own functions. */
void drv_peer_unlisten(DrvPeer *peer, gpointer data);

/* Takes 'args' (NULL: none). 'reply' is called once, never from within this function. */
void drv_peer_call(DrvPeer *peer, const char *op, JsonObject *args, DrvPeerReply reply,
                   gpointer data);
/* What is too long for a message is not told; a call or an answer that is fails with
 * DRV_ERROR_LIMIT, so that nobody waits for it. */
void drv_peer_tell(DrvPeer *peer, const char *op, JsonObject *args);
void drv_peer_answer(DrvPeer *peer, guint64 id, JsonObject *ok);
void drv_peer_refuse(DrvPeer *peer, guint64 id, const GError *error);

/* Ends the session. Listeners hear nothing more; open calls fail. */
void drv_peer_close(DrvPeer *peer);

DrvSession *drv_peer_session(DrvPeer *peer);
gboolean drv_peer_is_connected(DrvPeer *peer);
gboolean drv_peer_is_dead(DrvPeer *peer);
/* Its name by its certificate, "" until known. */
const char *drv_peer_name(DrvPeer *peer);
