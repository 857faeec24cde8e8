/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/channel.h"

/*
 * What a channel does to its bytes: the seam between an endpoint, which knows sockets, and a
 * channel, which knows frames. A codec that knows the structure of the stream (QEMU's RAM sections,
 * NBD requests) can cut and re-cut it here and send less; the frames' own compression comes after,
 * for all alike. The endpoint at the other end runs the same codec.
 *
 * On the channel's worker only.
 */
typedef struct _DrvChannelCodec DrvChannelCodec;

typedef struct {
    const char *name;
    guint depth;
    /* It makes bytes of its own and so wants an empty chunk (spare) before each outgoing(), and to
     * know when more is there to be read. */
    gboolean makes;
    /* 'len' bytes were read from the endpoint into '*chunk': send what they make, now or with later
     * ones, at most one frame a call. TRUE when all of them have been dealt with (taking the chunk,
     * or leaving it to be read into again); FALSE: call again, when there is room, with the same.
     * 'more': further bytes wait, so that it may be worth while to gather. */
    gboolean (*outgoing)(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk **chunk, guint32 len,
                         gboolean more);
    /* The endpoint has said its last: sends what is held back, with 'flags' as for
     * drv_channel_send(). */
    void (*end)(DrvChannelCodec *codec, DrvChannel *channel, guint16 flags);
    /* A frame from the peer (the reference passes): calls ready(), at once or later, with the one
     * whose bytes and flags the endpoint is to take, in the same order; 'depth' of them may be
     * unanswered. */
    void (*incoming)(DrvChannelCodec *codec, DrvFrame *frame);
    /* All frames sent before this number have been delivered at the peer's end. May be NULL. */
    void (*acknowledged)(DrvChannelCodec *codec, guint64 frames);
    /* Last call, from any state; ready() must not be called afterwards. */
    void (*free)(DrvChannelCodec *codec);
} DrvChannelCodecOps;

struct _DrvChannelCodec {
    const DrvChannelCodecOps *ops;
    DrvChunk *spare; /* of the pool */
    /* outgoing() is not to be called, nor anything to be read, before wake() was. What has to wait
     * for other channels has this, and keeps no spare chunk, as those may be in want of one. */
    gboolean held;
    /* Set by the endpoint. */
    DrvWorker *worker;
    void (*ready)(gpointer owner, DrvFrame *frame);
    void (*wake)(gpointer owner);
    gpointer owner;
};

/* Any stream: bytes in, the same bytes out, cut where the reads happened to end. */
DrvChannelCodec *drv_codec_opaque_new(void);
/* Its parts, for codecs that leave one direction as it is. */
gboolean drv_codec_pass_outgoing(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk **chunk,
                                 guint32 len, gboolean more);
void drv_codec_pass_end(DrvChannelCodec *codec, DrvChannel *channel, guint16 flags);
void drv_codec_pass_incoming(DrvChannelCodec *codec, DrvFrame *frame);
