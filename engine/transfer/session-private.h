/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/compress.h"
#include "engine/transfer/lane.h"
#include "engine/transfer/session.h"

/* What session.c offers to its channels and lanes. From any thread unless said otherwise. */

/* --- for channels --- */

DrvWorker *drv_session_home(DrvSession *session, guint32 channel_id);
gboolean drv_session_add_channel(DrvSession *session, DrvChannel *channel, GError **error);
/* The channel is over. 'done': both directions came to their end; then the peer may still ask for
 * our last ack, which the session remembers for it. */
void drv_session_forget_channel(DrvSession *session, DrvChannel *channel, gboolean done);
void drv_session_queue_frame(DrvSession *session, DrvChannel *channel, DrvFrame *frame);
void drv_session_queue_ack(DrvSession *session, DrvChannel *channel, const DrvProgress *ack);
/* The peer has everything before 'received': such frames need not go out again. On the channel's
 * home worker. */
void drv_session_settle(DrvSession *session, DrvChannel *channel, guint64 received);
/* Queues those of 'frames' again that went out on the lane with this serial. On the channel's home
 * worker. */
void drv_session_requeue(DrvSession *session, DrvChannel *channel, GQueue *frames, guint64 serial);
void drv_session_set_class(DrvSession *session, DrvChannel *channel, DrvClass class);
gint64 drv_session_rtt_us(DrvSession *session);
/* Like drv_session_close(), and waits for nothing. On the control thread. */
void drv_session_drop(DrvSession *session);
/* Runs func on the control thread; the session is kept until then. */
void drv_session_post_control(DrvSession *session, DrvMailFunc func, gpointer target,
                              gpointer data);

/* --- for lanes, on their workers --- */

/* A session that a peer asks for. NULL, and why in 'full' (g_free it), when it may have no more. */
DrvSession *drv_session_new_accepted(DrvTransfer *transfer, const guint8 fingerprint[32],
                                     const char *peer_name, char **full);
/* Whether a hello may join: its secret and its certificate are the session's. */
gboolean drv_session_may_join(DrvSession *session, const DrvHello *hello,
                              const guint8 fingerprint[32]);
/* Whether the lane that greets takes the place of one, or its host may have one more. */
gboolean drv_session_has_room(DrvSession *session, guint slot);
/* For a session that a peer opened: since when it has no lane (monotonic); 0: it has, or is dead.
 */
gint64 drv_session_alone_since(DrvSession *session);
/* What a hello or welcome of this session says. */
DrvHello *drv_session_hello(DrvSession *session, guint16 lane);
/* The peer's welcome: learns id and secret from the first. FALSE: it names another session. */
gboolean drv_session_welcomed(DrvSession *session, const DrvHello *welcome,
                              const guint8 fingerprint[32], const char *peer_name);
/* The lane is usable. Takes a reference. FALSE when the session is dead. */
gboolean drv_session_lane_up(DrvSession *session, DrvLane *lane);
/* How a lane came to its end. */
typedef enum {
    DRV_LANE_UNREACHED, /* no connection was made */
    DRV_LANE_BROKEN,    /* one was, and then it broke or fell silent */
    DRV_LANE_FINAL,     /* trying again is of no use */
} DrvLaneEnd;

/* The lane is no longer, or its connecting failed. */
void drv_session_lane_down(DrvSession *session, DrvLane *lane, const GError *error, DrvLaneEnd how);
/* A lane that the session connected gets no answer: another is connected to take its place. It may
 * come to itself until then; said again as long as it lasts. */
void drv_session_lane_stalled(DrvSession *session, DrvLane *lane);
void drv_session_apply_progress(DrvSession *session, GArray *progress);

typedef struct {
    DrvFrame *frame;     /* owned; NULL if nothing is to be sent, or an ack */
    DrvChannel *channel; /* owned; NULL if nothing is to be sent */
    DrvProgress ack;     /* when there is a channel and no frame */
    gint64 retry_at;     /* when nothing is to be sent: ask again then */
} DrvPull;

/* What the lane should send next. With nothing, the lane is woken (drv_lane_wake) when there is
 * something. */
void drv_session_pull(DrvSession *session, DrvLane *lane, gint64 now_us, DrvPull *pull);
void drv_session_sent(DrvSession *session, DrvChannel *channel, gsize wire_bytes, gboolean ack,
                      gint64 now_us);
DrvChannel *drv_session_find_channel(DrvSession *session, guint32 id);
/* What messages are held against, and the end of a session that has taken too much of it. */
DrvAccount *drv_session_account(DrvSession *session);
GError *drv_session_overdrawn(DrvSession *session);
/* How far a channel came that is done here. FALSE when there was none of late. */
gboolean drv_session_done_channel(DrvSession *session, guint32 id, DrvProgress *progress);
void drv_session_received(DrvSession *session, gsize wire_bytes);

/* For --codec auto: the codec for a frame of 'raw' bytes that goes out now. */
DrvCodec drv_session_pick_codec(DrvSession *session, gsize raw, gint64 now_us);
/* A lane's smallest round trip. */
void drv_session_rtt_sample(DrvSession *session, gint64 rtt_us);
