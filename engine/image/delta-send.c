/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/delta-send.h"

typedef struct {
    DrvChannelCodec base;
    DrvDeltaWriter *writer;
    DrvNbdTally *tally;
    DrvChunk *out;   /* the frame that is being written; NULL: none */
    gboolean pushed; /* the writer has the input */
} DeltaSend;

static void
count(DeltaSend *self)
{
    guint64 data, zero;
    drv_delta_writer_count(self->writer, &data, &zero);
    drv_nbd_tally_add(self->tally, data, zero);
}

/* Not even an empty chunk is kept: others may be in want of it. */
static void
send_frame(DeltaSend *self, DrvChannel *channel)
{
    gsize len = drv_delta_writer_len(self->writer);
    if (len > 0)
        drv_channel_send(channel, g_steal_pointer(&self->out), (guint32)len, 0);
    else
        g_clear_pointer(&self->out, drv_chunk_free);
}

static gboolean
send_outgoing(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk **chunk, guint32 len,
              gboolean more)
{
    DeltaSend *self = (DeltaSend *)codec;
    if (!self->pushed)
        drv_delta_writer_push(self->writer, (*chunk)->data, len);
    self->pushed = TRUE;
    if (self->out == NULL) {
        self->out = g_steal_pointer(&self->base.spare);
        drv_delta_writer_begin(self->writer, self->out->data,
                               MIN(self->out->size, DRV_FRAME_RAW_MAX));
    }
    gboolean all = drv_delta_writer_run(self->writer);
    if (all)
        count(self);
    self->pushed = !all;
    if (!all || !more)
        send_frame(self, channel);
    return all;
}

/* A write that was begun and not ended is none: what is held back of it can be forgotten. */
static void
send_end(DrvChannelCodec *codec, DrvChannel *channel, guint16 flags)
{
    DeltaSend *self = (DeltaSend *)codec;
    gsize len = self->out != NULL ? drv_delta_writer_len(self->writer) : 0;
    drv_channel_send(channel, len > 0 ? g_steal_pointer(&self->out) : NULL, (guint32)len, flags);
}

static void
send_free(DrvChannelCodec *codec)
{
    DeltaSend *self = (DeltaSend *)codec;
    drv_chunk_free(self->out);
    drv_delta_writer_free(self->writer);
    drv_nbd_tally_unref(self->tally);
    g_free(self);
}

DrvChannelCodec *
drv_delta_send_new(DrvDeltaKnown *known, DrvNbdTally *tally)
{
    static const DrvChannelCodecOps ops = {
        .name = "nbd-delta",
        .depth = 1,
        .makes = TRUE,
        .outgoing = send_outgoing,
        .end = send_end,
        .incoming = drv_codec_pass_incoming,
        .free = send_free,
    };
    DeltaSend *self = g_new0(DeltaSend, 1);
    self->base.ops = &ops;
    self->writer = drv_delta_writer_new(known);
    self->tally = drv_nbd_tally_ref(tally);
    return &self->base;
}
