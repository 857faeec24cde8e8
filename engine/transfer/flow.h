/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/frame.h"

#include <glib.h>

/*
 * The two halves of a channel's bookkeeping: what was sent and not yet delivered (the replay
 * buffer), and what arrived and is not yet delivered (the reorder buffer). No I/O and no clock, so
 * that cuts can be tested by the million.
 *
 * Frames of a channel are numbered from 0. They may travel on any lane, arrive in any order and
 * more than once; the receiver gives them out once each, in order. The credit (frames, agreed when
 * the channel opens) bounds both buffers: a sender never has a frame out whose number is 'credit'
 * or more beyond what was delivered.
 */

/* A piece of a channel. Reference-counted, as it is held by the replay buffer and by the lane that
 * encodes it. */
typedef struct _DrvChannel DrvChannel;
typedef struct {
    gatomicrefcount refs;

    guint64 seq; /* fixed once pushed */
    guint32 len;
    guint16 flags; /* DRV_DATA_* */
    guint32 pages; /* whole pages in it, to be counted by the codec that it goes out with */
    DrvChecksum checksum;
    DrvChunk *chunk; /* owned; NULL when len is 0 */

    DrvChannel *channel; /* fixed; borrowed: whoever gives a frame out gives the channel's reference
                            with it */
    guint64 lane; /* under the session's lock: serial of the lane it went out on, 0 while queued */
    gboolean settled; /* under the session's lock: the peer has it, sending it would be waste */
    GList link;       /* under the session's lock: place in a DrvSendQueue */
} DrvFrame;

/* Takes the chunk. */
DrvFrame *drv_frame_new(DrvChunk *chunk, guint32 len, guint16 flags);
DrvFrame *drv_frame_ref(DrvFrame *frame);
void drv_frame_unref(DrvFrame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvFrame, drv_frame_unref)

/* A running digest of a direction: XXH3-128 over the (length, checksum) of its frames in order. Two
 * ends that saw the same frames have the same digest; as each checksum covers its bytes, this is as
 * strong as hashing them again, and free. Empty ones do not count: that its socket has broken may
 * be the last thing that one end says, when the other has all and is gone. */
typedef struct {
    guint64 bytes;
    guint64 frames;
    DrvChecksum value;
} DrvDigest;

void drv_digest_add(DrvDigest *digest, const DrvFrame *frame);
gboolean drv_digest_equal(const DrvDigest *a, const DrvDigest *b);
/* 32 hex digits; free with g_free. */
char *drv_digest_string(const DrvDigest *digest);

typedef struct {
    GQueue frames; /* of DrvFrame, by seq: sent or to be sent, not yet delivered */
    guint credit;
    guint64 next;     /* number of the next frame pushed */
    guint64 received; /* what the peer has said */
    guint64 delivered;
    gsize in_flight; /* raw bytes in 'frames' */
    DrvDigest digest;
} DrvTxFlow;

void drv_tx_flow_init(DrvTxFlow *flow, guint credit);
void drv_tx_flow_clear(DrvTxFlow *flow);
gboolean drv_tx_flow_room(const DrvTxFlow *flow);
/* Numbers the frame and keeps a reference. Needs room. */
void drv_tx_flow_push(DrvTxFlow *flow, DrvFrame *frame);
/* The peer's ack: old news is ignored, frames delivered leave the buffer and are appended to
 * 'released' (references pass to it). DRV_ERROR_PROTOCOL when it speaks of frames never sent. */
gboolean drv_tx_flow_ack(DrvTxFlow *flow, const DrvProgress *ack, GPtrArray *released,
                         GError **error);

typedef struct {
    DrvFrame **slots; /* ring of 'credit' frames, by seq modulo credit */
    guint credit;
    guint64 next;      /* next to give out */
    guint64 received;  /* all before this one have arrived */
    guint64 delivered; /* all before this one have reached the endpoint */
    DrvDigest digest;
} DrvRxFlow;

typedef enum {
    DRV_RX_NEW,
    DRV_RX_DUPLICATE, /* harmless after a cut */
    DRV_RX_VIOLATION, /* beyond the credit: the peer is broken or hostile */
} DrvRxVerdict;

void drv_rx_flow_init(DrvRxFlow *flow, guint credit);
void drv_rx_flow_clear(DrvRxFlow *flow);
/* What a frame with this number would be, before its content is decoded. */
DrvRxVerdict drv_rx_flow_check(const DrvRxFlow *flow, guint64 seq);
/* Takes a reference of its own if, and only if, the verdict is NEW. */
DrvRxVerdict drv_rx_flow_put(DrvRxFlow *flow, DrvFrame *frame);
/* The next frame in order (the reference passes), or NULL when it has not arrived. Adds it to the
 * digest. */
DrvFrame *drv_rx_flow_pop(DrvRxFlow *flow);
/* The oldest frame popped and not yet reported has reached the endpoint. */
void drv_rx_flow_delivered(DrvRxFlow *flow);
