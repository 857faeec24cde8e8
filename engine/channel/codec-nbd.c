/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/codec-nbd.h"

#include "engine/channel/nbd-requests.h"

struct _DrvNbdTally {
    gatomicrefcount refs;
    GMutex lock; /* several channels, each on its data thread, add up; the control thread reads */
    DrvNbdFigures figures;
};

typedef struct {
    DrvChannelCodec base;
    DrvNbdTally *tally;
    DrvNbdRequests requests;
} NbdCodec;

DrvNbdTally *
drv_nbd_tally_new(void)
{
    DrvNbdTally *tally = g_new0(DrvNbdTally, 1);
    g_atomic_ref_count_init(&tally->refs);
    g_mutex_init(&tally->lock);
    return tally;
}

DrvNbdTally *
drv_nbd_tally_ref(DrvNbdTally *tally)
{
    g_atomic_ref_count_inc(&tally->refs);
    return tally;
}

void
drv_nbd_tally_unref(DrvNbdTally *tally)
{
    if (tally == NULL || !g_atomic_ref_count_dec(&tally->refs))
        return;
    g_mutex_clear(&tally->lock);
    g_free(tally);
}

void
drv_nbd_tally_add(DrvNbdTally *tally, guint64 data_bytes, guint64 zero_bytes)
{
    g_mutex_lock(&tally->lock);
    tally->figures.data_bytes += data_bytes;
    tally->figures.zero_bytes += zero_bytes;
    g_mutex_unlock(&tally->lock);
}

void
drv_nbd_tally_get(DrvNbdTally *tally, DrvNbdFigures *figures)
{
    g_mutex_lock(&tally->lock);
    *figures = tally->figures;
    g_mutex_unlock(&tally->lock);
}

static gboolean
nbd_outgoing(DrvChannelCodec *base, DrvChannel *channel, DrvChunk **chunk, guint32 len,
             gboolean more)
{
    NbdCodec *self = (NbdCodec *)base;
    guint64 data = self->requests.data_bytes, zero = self->requests.zero_bytes;
    drv_nbd_requests_feed(&self->requests, (*chunk)->data, len);
    drv_nbd_tally_add(self->tally, self->requests.data_bytes - data,
                      self->requests.zero_bytes - zero);
    return drv_codec_pass_outgoing(base, channel, chunk, len, more);
}

static void
nbd_free(DrvChannelCodec *base)
{
    drv_nbd_tally_unref(((NbdCodec *)base)->tally);
    g_free(base);
}

DrvChannelCodec *
drv_codec_nbd_new(DrvNbdTally *tally)
{
    static const DrvChannelCodecOps ops = {
        .name = "nbd",
        .depth = 1,
        .outgoing = nbd_outgoing,
        .end = drv_codec_pass_end,
        .incoming = drv_codec_pass_incoming,
        .free = nbd_free,
    };
    NbdCodec *self = g_new0(NbdCodec, 1);
    self->base.ops = &ops;
    self->tally = drv_nbd_tally_ref(tally);
    drv_nbd_requests_init(&self->requests);
    return &self->base;
}
