/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/codec.h"

gboolean
drv_codec_pass_outgoing(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk **chunk, guint32 len,
                        gboolean more)
{
    drv_channel_send(channel, g_steal_pointer(chunk), len, 0);
    return TRUE;
}

void
drv_codec_pass_end(DrvChannelCodec *codec, DrvChannel *channel, guint16 flags)
{
    drv_channel_send(channel, NULL, 0, flags);
}

void
drv_codec_pass_incoming(DrvChannelCodec *codec, DrvFrame *frame)
{
    codec->ready(codec->owner, frame);
}

static void
opaque_free(DrvChannelCodec *codec)
{
    g_free(codec);
}

DrvChannelCodec *
drv_codec_opaque_new(void)
{
    static const DrvChannelCodecOps ops = {
        .name = "opaque",
        .depth = 1,
        .outgoing = drv_codec_pass_outgoing,
        .end = drv_codec_pass_end,
        .incoming = drv_codec_pass_incoming,
        .free = opaque_free,
    };
    DrvChannelCodec *codec = g_new0(DrvChannelCodec, 1);
    codec->ops = &ops;
    return codec;
}
