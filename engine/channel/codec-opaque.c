/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/codec.h"

static void
opaque_outgoing(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk *chunk, guint32 len,
                guint16 flags)
{
    drv_channel_send(channel, chunk, len, flags);
}

static DrvFrame *
opaque_incoming(DrvChannelCodec *codec, DrvFrame *frame)
{
    return frame;
}

static void
opaque_free(DrvChannelCodec *codec)
{
    g_free(codec);
}

DrvChannelCodec *
drv_codec_opaque_new(void)
{
    static const DrvChannelCodecOps ops = {"opaque", opaque_outgoing, opaque_incoming, opaque_free};
    DrvChannelCodec *codec = g_new0(DrvChannelCodec, 1);
    codec->ops = &ops;
    return codec;
}
