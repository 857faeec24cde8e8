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
    /* 'len' bytes were read from the endpoint into 'chunk' (which passes): send what they make, now
     * or with later ones. 'flags' as for drv_channel_send(); whatever is held back goes out with
     * DRV_DATA_EOF. */
    void (*outgoing)(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk *chunk, guint32 len,
                     guint16 flags);
    /* A frame from the peer: gives back the one whose bytes the endpoint is to write (the reference
     * passes both ways). */
    DrvFrame *(*incoming)(DrvChannelCodec *codec, DrvFrame *frame);
    void (*free)(DrvChannelCodec *codec);
} DrvChannelCodecOps;

struct _DrvChannelCodec {
    const DrvChannelCodecOps *ops;
};

/* Any stream: bytes in, the same bytes out, cut where the reads happened to end. */
DrvChannelCodec *drv_codec_opaque_new(void);
