/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/ram-send.h"

#include "common/error.h"

#include <openssl/rand.h>
#include <string.h>

struct _DrvRamSender {
    gatomicrefcount refs;
    DrvPageTable *table;
    GArray *placeable; /* of DrvRamBlock; fixed */
    GMutex lock;
    guint64 stream;
};

typedef struct {
    DrvChannelCodec base;
    DrvRamSender *sender;
    DrvStream *stream;
    DrvBatchWriter *writer;
    DrvChunk *out; /* the batch being made; NULL: none */

    gboolean pushed;      /* the stream has the input */
    gboolean event_held;  /* an event is not, or not all, in a batch */
    DrvStreamEvent event; /* ... */
    guint32 done;         /* ... and how much of it is */
} RamSend;

G_STATIC_ASSERT(DRV_BATCH_MAX <= DRV_FRAME_RAW_MAX);

/* --- the job's --- */

DrvRamSender *
drv_ram_sender_new(const DrvRamBlock *placeable, guint n, const guint8 digest[DRV_PAGE_SECRET],
                   gsize dedup_memory, GError **error)
{
    guint8 pieces[DRV_PAGE_SECRET];
    if (RAND_bytes(pieces, sizeof pieces) != 1) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_IO, "no random numbers are to be had");
        return NULL;
    }
    DrvRamSender *sender = g_new0(DrvRamSender, 1);
    g_atomic_ref_count_init(&sender->refs);
    g_mutex_init(&sender->lock);
    sender->table = drv_page_table_new(pieces, digest, dedup_memory);
    sender->placeable = g_array_new(FALSE, FALSE, sizeof(DrvRamBlock));
    g_array_append_vals(sender->placeable, placeable, n);
    return sender;
}

DrvRamSender *
drv_ram_sender_ref(DrvRamSender *sender)
{
    g_atomic_ref_count_inc(&sender->refs);
    return sender;
}

void
drv_ram_sender_unref(DrvRamSender *sender)
{
    if (sender == NULL || !g_atomic_ref_count_dec(&sender->refs))
        return;
    drv_page_table_free(sender->table);
    g_array_unref(sender->placeable);
    g_mutex_clear(&sender->lock);
    g_free(sender);
}

void
drv_ram_sender_get_stats(DrvRamSender *sender, DrvRamSenderStats *stats)
{
    *stats = (DrvRamSenderStats){
        .state = drv_page_table_memory(sender->table),
        .understood = !drv_page_table_lost(sender->table),
    };
    drv_page_table_counts(sender->table, &stats->pages);
    g_mutex_lock(&sender->lock);
    stats->stream = sender->stream;
    g_mutex_unlock(&sender->lock);
}

static gboolean
is_placeable(const DrvRamSender *sender, const DrvRamBlock *block)
{
    for (guint i = 0; i < sender->placeable->len; i++) {
        const DrvRamBlock *known = &g_array_index(sender->placeable, DrvRamBlock, i);
        if (known->size == block->size && strcmp(known->id, block->id) == 0)
            return TRUE;
    }
    return FALSE;
}

/* --- out --- */

/* The next event into 'event'; FALSE: the stream wants more bytes. */
static gboolean
next_event(RamSend *self)
{
    g_autoptr(GError) error = NULL;
    if (!drv_stream_next(self->stream, &self->event))
        return FALSE;
    self->event_held = TRUE;
    self->done = 0;
    if (self->event.kind == DRV_STREAM_RAM_BLOCK) {
        const DrvRamBlock *block = drv_stream_block(self->stream, self->event.block);
        if (!drv_page_table_add_block(self->sender->table, self->event.block, block->id,
                                      block->size, is_placeable(self->sender, block), &error)) {
            /* An odd stream, or no memory: then QEMU places the pages. */
            g_warning("the guest's pages are left to QEMU: %s", error->message);
            drv_page_table_lose(self->sender->table);
        }
    }
    return TRUE;
}

/* FALSE: the batch is full. */
static gboolean
add_event(RamSend *self)
{
    if (self->out == NULL) {
        self->out = g_steal_pointer(&self->base.spare);
        drv_batch_writer_begin(self->writer, self->out->data, MIN(self->out->size, DRV_BATCH_MAX));
    }
    if (!drv_batch_writer_add(self->writer, self->stream, &self->event, &self->done))
        return FALSE;
    self->event_held = FALSE;
    return TRUE;
}

static void
send_batch(RamSend *self, DrvChannel *channel, guint16 flags)
{
    gsize len = self->out != NULL ? drv_batch_writer_finish(self->writer) : 0;
    if (len > 0 || flags != 0)
        drv_channel_send_pages(channel, g_steal_pointer(&self->out), (guint32)len, flags,
                               len > 0 ? drv_batch_writer_literal(self->writer) : 0);
    else
        g_clear_pointer(&self->out, drv_chunk_free);
}

/* Half a page must not be given out: QEMU would place that one itself. It does not wait for an
 * answer in the middle of one. */
static gboolean
may_flush(RamSend *self)
{
    return self->sender->placeable->len == 0 || drv_page_table_lost(self->sender->table) ||
           !drv_stream_exact(self->stream) || drv_stream_ram_ended(self->stream);
}

/* What the stream holds back, as an event; FALSE when that is nothing. */
static gboolean
flush_event(RamSend *self)
{
    self->done = 0;
    self->event_held = may_flush(self) && drv_stream_flush(self->stream, &self->event);
    return self->event_held;
}

static gboolean
send_outgoing(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk **chunk, guint32 len,
              gboolean more)
{
    RamSend *self = (RamSend *)codec;
    if (!self->pushed) {
        drv_stream_push(self->stream, (*chunk)->data, len);
        self->pushed = TRUE;
        g_mutex_lock(&self->sender->lock);
        self->sender->stream += len;
        g_mutex_unlock(&self->sender->lock);
    }
    while (self->event_held || next_event(self) || (!more && flush_event(self))) {
        if (!add_event(self)) {
            send_batch(self, channel, 0);
            return FALSE;
        }
    }
    if (!more)
        send_batch(self, channel, 0);
    self->pushed = FALSE;
    return TRUE;
}

static void
send_end(DrvChannelCodec *codec, DrvChannel *channel, guint16 flags)
{
    RamSend *self = (RamSend *)codec;
    /* A reset comes at any time, and bytes need room; with them it would be no sooner of use. */
    if (flags & DRV_DATA_RESET)
        g_clear_pointer(&self->out, drv_chunk_free);
    send_batch(self, channel, flags);
}

static void
send_incoming(DrvChannelCodec *codec, DrvFrame *frame)
{
    codec->ready(codec->owner, frame);
}

static void
send_free(DrvChannelCodec *codec)
{
    RamSend *self = (RamSend *)codec;
    drv_batch_writer_free(self->writer);
    drv_stream_free(self->stream);
    drv_chunk_free(self->out);
    drv_ram_sender_unref(self->sender);
    g_free(self);
}

DrvChannelCodec *
drv_ram_sender_codec(DrvRamSender *sender)
{
    static const DrvChannelCodecOps ops = {
        .name = "ram",
        .depth = 1,
        .makes = TRUE,
        .outgoing = send_outgoing,
        .end = send_end,
        .incoming = send_incoming,
        .free = send_free,
    };
    RamSend *self = g_new0(RamSend, 1);
    self->base.ops = &ops;
    self->sender = drv_ram_sender_ref(sender);
    self->stream = drv_stream_new();
    self->writer = drv_batch_writer_new(sender->table);
    return &self->base;
}
