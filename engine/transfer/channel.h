/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/endpoint.h"
#include "engine/transfer/scheduler.h"
#include "engine/transfer/worker.h"

/*
 * A channel: one ordered, two-way byte stream inside a session, with an endpoint at each end. It
 * lives on one worker, its home; lanes on whatever workers carry its frames.
 */

typedef struct _DrvSession DrvSession;

/* Frames that a channel would like to have room for, and what it cannot do with less. */
#define DRV_CREDIT_WANT 128
#define DRV_CREDIT_LEAST 8
#define DRV_CREDIT_MAX 1024

typedef struct {
    guint32 id;
    DrvWorker *home; /* NULL: the session chooses */
    DrvCodec codec;
    DrvClass class;
    guint weight;
    DrvShaper *shaper; /* the channel takes a reference; may be NULL */
    guint tx_credit; /* frames the peer has promised room for; 0: not known yet, drv_channel_grant()
                        follows */
    guint rx_credit; /* frames we have: reserved in the pool with drv_pool_reserve(), given back at
                        the end */
    DrvShare *share; /* for whom they were reserved; may be NULL */
    gboolean message; /* frames are messages of a few KiB at most, held on the heap: no reservation,
                         no window */
    /* Called on the control thread when both directions have ended: error is NULL if by the
     * endpoints' own closing, DRV_ERROR_IO if one of them broke (of what was sent until then, all
     * is delivered that could be), else what ended the session. */
    void (*finished)(DrvChannel *channel, const GError *error, gpointer data);
    gpointer data;
} DrvChannelParams;

typedef struct {
    DrvDigest sent;       /* from the local endpoint */
    DrvDigest received;   /* to it */
    gint64 sent_us;       /* monotonic: the latest of it; 0: none yet */
    guint64 acknowledged; /* raw bytes of 'sent' that the peer's endpoint has taken */
    guint64 wire_tx;      /* frames of this channel, headers and repetitions included */
    guint64 wire_rx;
    guint64 pages[DRV_CODEC_COUNT]; /* sent whole, by the codec of their frames */
    gboolean sent_all;              /* the local endpoint said its last, and the peer has it */
    gboolean received_all;
} DrvChannelStats;

/* From the control thread. Opens our half of channel 'params->id': the peer must know of it already
 * or be told by its own half's opener. 'endpoint' passes to the channel, which stops it at the end.
 * DRV_ERROR_STATE when the session is dead or has such a channel. */
DrvChannel *drv_channel_open(DrvSession *session, DrvEndpoint *endpoint,
                             const DrvChannelParams *params, GError **error);
DrvChannel *drv_channel_ref(DrvChannel *channel);
void drv_channel_unref(DrvChannel *channel);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvChannel, drv_channel_unref)

/* From the control thread. Ends our half at once, whatever is in flight: the endpoint is stopped.
 * 'finished' is not called any more. May be called again. */
void drv_channel_close(DrvChannel *channel);
/* From the control thread: the peer promises room for so many frames. For a channel opened without.
 */
void drv_channel_grant(DrvChannel *channel, guint credit);
/* From the control thread. */
void drv_channel_set_send_class(DrvChannel *channel, DrvClass class);
void drv_channel_set_codec(DrvChannel *channel, DrvCodec codec);

/* From any thread. */
guint32 drv_channel_id(const DrvChannel *channel);
void drv_channel_get_stats(DrvChannel *channel, DrvChannelStats *stats);
DrvWorker *drv_channel_worker(const DrvChannel *channel);

/* For the endpoint, on the channel's worker. */

/* Whether a frame may be sent now. After FALSE, 'room' is called when it has become TRUE. */
gboolean drv_channel_may_send(DrvChannel *channel);
/* Sends a piece; takes the chunk. Bytes need drv_channel_may_send(); flags without bytes may be
 * sent at any time. After DRV_DATA_EOF only a _RESET may follow, after that nothing. */
void drv_channel_send(DrvChannel *channel, DrvChunk *chunk, guint32 len, guint16 flags);
/* Whether all that was sent has been delivered at the peer's end. */
gboolean drv_channel_is_settled(const DrvChannel *channel);
/* The endpoint has broken, for that reason: to be told before it sends DRV_DATA_RESET. */
void drv_channel_broke(DrvChannel *channel, const char *why);
/* The same for a piece in which so many pages lie whole, for the statistics. */
void drv_channel_send_pages(DrvChannel *channel, DrvChunk *chunk, guint32 len, guint16 flags,
                            guint32 pages);
/* The number of the next frame that will be sent. */
guint64 drv_channel_sent_frames(const DrvChannel *channel);
/* The flags sent so far. */
guint16 drv_channel_sent_flags(const DrvChannel *channel);
/* The oldest unanswered piece given by 'deliver' has reached its place (or was rightly dropped). */
void drv_channel_delivered(DrvChannel *channel);

/* For the session and its lanes. */

/* Any thread: a frame of this channel has arrived and its checksum fits (the reference passes). */
void drv_channel_arrived(DrvChannel *channel, DrvFrame *frame);
void drv_channel_acknowledged(DrvChannel *channel, const DrvProgress *ack);
/* Any thread: the lane with this serial is gone, what it carried must go again. */
void drv_channel_lane_lost(DrvChannel *channel, guint64 serial);
/* Any thread: the session has ended. */
void drv_channel_session_dead(DrvChannel *channel, const GError *error);
void drv_channel_add_wire(DrvChannel *channel, guint64 tx, guint64 rx);
void drv_channel_add_pages(DrvChannel *channel, DrvCodec codec, guint32 pages);
DrvCodec drv_channel_codec(DrvChannel *channel);
gboolean drv_channel_is_message(const DrvChannel *channel);
