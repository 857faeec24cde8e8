/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/ram-send.h"

#include "common/error.h"
#include "engine/channel/ram-sync.h"
#include "precopy/multifd-batch.h"

#include <openssl/rand.h>
#include <string.h>

struct _DrvRamSender {
    gatomicrefcount refs;
    DrvPageTable *table;
    DrvKeptPages *kept; /* referenced; may be NULL */
    gint hurry;         /* atomic: the guest stands still */
    DrvRounds *rounds;
    GArray *placeable; /* of DrvRamBlock; fixed */
    gboolean multifd;  /* there are other channels; fixed */
    DrvRamSync sync;
    GMutex lock;
    guint64 stream;
    gint64 ended_us; /* the last page had come by; 0: not yet */
};

typedef struct {
    DrvChannelCodec base;
    gatomicrefcount refs; /* the endpoint's, and one while it waits for others */
    gboolean freed;
    DrvRamSender *sender;
    DrvBatchWriter *writer;
    DrvChunk *out; /* the batch being made; NULL: none */

    gboolean pushed;     /* the parser has the input */
    gboolean event_held; /* an event is not, or not all, in a batch */

    /* The main stream: */
    DrvStream *stream;
    DrvStreamEvent event;
    guint32 done; /* how much of the event is in */
    gboolean flushes, flush_at_eos;
    /* or a multifd channel: */
    DrvMultifd *multifd;
    DrvMultifdBatch *packets;
    DrvMultifdEvent part;

    /* The other channels */
    DrvRamSyncMember member;
    gboolean at_place; /* that they have to come to as well */
    gboolean arrived;  /* ... and have been told so */

    /* Other guests; NULL: nothing is shared with any */
    DrvKeptUser *kept;
    DrvTimer patience;    /* while a page that one of them brings is waited for, ... */
    gint64 waits_since;   /* ... 0: none is */
    gint64 patience_us;   /* how long it waits, all in all, before it goes ahead ... */
    gint64 patience_left; /* ... and how much is left of that */
} RamSend;

/*
 * Where the link is what holds guests up, those that follow another one wait nearly all the time,
 * and that is well. But that one may be slow for reasons of its own, such as a limit: then it is to
 * be overtaken. Nobody can tell the one from the other, so it is tried, and in vain costs what is
 * sent twice: next after twice the time, up to the longest that is ever waited.
 */
#define PATIENCE_US (500 * G_TIME_SPAN_MILLISECOND)
#define PATIENCE_MAX_US (8 * G_TIME_SPAN_SECOND)

G_STATIC_ASSERT(DRV_BATCH_MAX <= DRV_FRAME_RAW_MAX);

/* --- the job's --- */

DrvRamSender *
drv_ram_sender_new(const DrvRamBlock *placeable, guint n, guint multifd,
                   const guint8 digest[DRV_PAGE_SECRET], gsize dedup_memory, GError **error)
{
    guint8 pieces[DRV_PAGE_SECRET];
    if (RAND_bytes(pieces, sizeof pieces) != 1) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_IO, "no random numbers are to be had");
        return NULL;
    }
    DrvRamSender *sender = g_new0(DrvRamSender, 1);
    g_atomic_ref_count_init(&sender->refs);
    g_mutex_init(&sender->lock);
    sender->multifd = multifd > 0;
    drv_ram_sync_init(&sender->sync, 1 + multifd);
    sender->table = drv_page_table_new(pieces, digest, dedup_memory);
    sender->rounds = drv_rounds_new(DRV_PAGE_LEN, g_get_monotonic_time());
    sender->placeable = g_array_new(FALSE, FALSE, sizeof(DrvRamBlock));
    g_array_append_vals(sender->placeable, placeable, n);
    return sender;
}

void
drv_ram_sender_use_kept(DrvRamSender *sender, DrvKeptPages *kept, gboolean always)
{
    g_return_if_fail(sender->kept == NULL);
    sender->kept = drv_kept_pages_ref(kept);
    drv_page_table_use_kept(sender->table, kept);
    drv_kept_pages_join(kept, always);
}

void
drv_ram_sender_hurry(DrvRamSender *sender, gboolean hurry)
{
    g_atomic_int_set(&sender->hurry, hurry); /* before: who waits looks at it afterwards */
    if (hurry && sender->kept != NULL)
        drv_kept_pages_wake(sender->kept, sender);
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
    drv_kept_pages_unref(sender->kept);
    drv_rounds_free(sender->rounds);
    g_array_unref(sender->placeable);
    drv_ram_sync_clear(&sender->sync);
    g_mutex_clear(&sender->lock);
    g_free(sender);
}

DrvRounds *
drv_ram_sender_rounds(DrvRamSender *sender)
{
    return sender->rounds;
}

guint64
drv_ram_sender_stream(DrvRamSender *sender)
{
    g_mutex_lock(&sender->lock);
    guint64 bytes = sender->stream;
    g_mutex_unlock(&sender->lock);
    return bytes;
}

gint64
drv_ram_sender_ended(DrvRamSender *sender)
{
    g_mutex_lock(&sender->lock);
    gint64 us = sender->ended_us;
    g_mutex_unlock(&sender->lock);
    return us;
}

static void
note_end(RamSend *self)
{
    if (self->stream == NULL || !drv_stream_ram_ended(self->stream))
        return;
    g_mutex_lock(&self->sender->lock);
    if (self->sender->ended_us == 0)
        self->sender->ended_us = g_get_monotonic_time();
    g_mutex_unlock(&self->sender->lock);
}

gboolean
drv_ram_sender_understood(DrvRamSender *sender)
{
    return !drv_page_table_lost(sender->table);
}

const char *
drv_ram_sender_why_not(DrvRamSender *sender)
{
    return drv_page_table_why_lost(sender->table);
}

void
drv_ram_sender_get_stats(DrvRamSender *sender, DrvRamSenderStats *stats)
{
    *stats = (DrvRamSenderStats){
        .stream = drv_ram_sender_stream(sender),
        .state = drv_page_table_memory(sender->table),
        .understood = drv_ram_sender_understood(sender),
    };
    drv_page_table_counts(sender->table, &stats->pages);
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

/* Pages that only look like pages, or are of another size, would be put down as dirty memory. */
static void
mark_pages(RamSend *self)
{
    const DrvStreamEvent *event = &self->event;
    if (event->pages.page_len == DRV_PAGE_LEN && drv_stream_exact(self->stream))
        drv_rounds_mark(self->sender->rounds, event->pages.block,
                        event->pages.offset / DRV_PAGE_LEN, event->pages.count);
}

static void
mark_packet(RamSend *self)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(self->multifd);
    gint block = drv_page_table_find_block(self->sender->table, packet->block);
    guint32 n = packet->normal + packet->zero;
    if (block < 0 || !drv_multifd_exact(self->multifd) ||
        packet->flags & (DRV_MULTIFD_COMPRESSION | DRV_MULTIFD_DEVICE_STATE))
        return;
    for (guint32 i = 0, first = 0; i < n; i++) {
        guint64 page = drv_multifd_offset(self->multifd, i) / DRV_PAGE_LEN;
        if (i + 1 < n && drv_multifd_offset(self->multifd, i + 1) / DRV_PAGE_LEN == page + 1)
            continue;
        drv_rounds_mark(self->sender->rounds, (guint)block, page - (i - first), i - first + 1);
        first = i + 1;
    }
}

/* --- out --- */

static void
add_block(RamSend *self)
{
    g_autoptr(GError) error = NULL;
    const DrvRamBlock *block = drv_stream_block(self->stream, self->event.block);
    drv_rounds_add_block(self->sender->rounds, self->event.block, block->id,
                         block->size / DRV_PAGE_LEN);
    if (drv_page_table_add_block(self->sender->table, self->event.block, block->id, block->size,
                                 is_placeable(self->sender, block), &error))
        return;
    /* An odd stream, or no memory: then QEMU places the pages. */
    g_warning("the guest's pages are left to QEMU: %s", error->message);
    drv_page_table_lose(self->sender->table, "QEMU's list of RAM blocks is odd, or there is no "
                                             "memory to keep track of their pages");
}

/* The parser's next event; FALSE: it wants more bytes. */
static gboolean
next_event(RamSend *self)
{
    self->done = 0;
    self->event_held = self->multifd != NULL ? drv_multifd_next(self->multifd, &self->part)
                                             : drv_stream_next(self->stream, &self->event);
    if (!self->event_held)
        return FALSE;
    if (self->multifd != NULL && self->part.kind == DRV_MULTIFD_PACKET)
        mark_packet(self);
    else if (self->stream != NULL && self->event.kind == DRV_STREAM_RAM_BLOCK)
        add_block(self);
    else if (self->stream != NULL && self->event.kind == DRV_STREAM_RAM_PAGES)
        mark_pages(self);
    return self->event_held;
}

/*
 * Whether the main stream's event is one at which QEMU waits for the channels' SYNC packets. QEMU
 * says FLUSH in the RAM's first section already, or else means every EOS.
 */
static gboolean
is_place(RamSend *self)
{
    if (!self->sender->multifd)
        return FALSE;
    if (self->event.kind == DRV_STREAM_RAM_FLUSH) {
        self->flushes = TRUE;
        if (self->flush_at_eos)
            drv_page_table_lose(self->sender->table,
                                "QEMU changed how it keeps its multifd channels in order");
        return TRUE;
    }
    if (self->event.kind != DRV_STREAM_RAM_EOS)
        return FALSE;
    self->flush_at_eos = !self->flushes;
    return self->flush_at_eos;
}

/* FALSE: the batch is full. */
static gboolean
add_event(RamSend *self)
{
    if (self->out == NULL) {
        self->out = g_steal_pointer(&self->base.spare);
        drv_batch_writer_begin(self->writer, self->out->data, MIN(self->out->size, DRV_BATCH_MAX));
    }
    if (self->multifd != NULL
            ? !drv_multifd_batch_add(self->packets, &self->part)
            : !drv_batch_writer_add(self->writer, self->stream, &self->event, &self->done))
        return FALSE;
    self->event_held = FALSE;
    self->at_place =
        self->multifd != NULL ? drv_multifd_batch_synced(self->packets) : is_place(self);
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
    if (len > 0 && self->kept != NULL)
        drv_kept_user_sent(self->kept, drv_channel_sent_frames(channel));
}

/* Half a page must not be given out: QEMU would place that one itself. It does not wait for an
 * answer in the middle of one. */
static gboolean
may_flush(RamSend *self)
{
    if (self->sender->placeable->len == 0 || drv_page_table_lost(self->sender->table))
        return TRUE;
    return self->stream != NULL &&
           (!drv_stream_exact(self->stream) || drv_stream_ram_ended(self->stream));
}

/* What the stream holds back, as an event; FALSE when that is nothing. */
static gboolean
flush_event(RamSend *self)
{
    self->done = 0;
    if (!may_flush(self))
        return FALSE;
    self->event_held = self->multifd != NULL ? drv_multifd_flush(self->multifd, &self->part)
                                             : drv_stream_flush(self->stream, &self->event);
    return self->event_held;
}

/* --- waiting for other channels --- */

static void
send_unref(RamSend *self)
{
    if (!g_atomic_ref_count_dec(&self->refs))
        return;
    drv_ram_sender_unref(self->sender);
    g_free(self);
}

/* Takes the reference of what was waited for. */
static void
go_on(RamSend *self)
{
    self->base.held = FALSE;
    if (!self->freed) {
        if (self->waits_since != 0)
            self->patience_left -= drv_worker_now(self->base.worker) - self->waits_since;
        self->waits_since = 0;
        drv_worker_timer_stop(self->base.worker, &self->patience);
        self->base.wake(self->base.owner);
    }
    send_unref(self);
}

static void
take_wake(gpointer target, gpointer data)
{
    go_on(target);
}

static void
wake(gpointer data)
{
    RamSend *self = data;
    drv_worker_post(self->base.worker, take_wake, self, NULL);
}

/* What is before the place has been sent. FALSE: the others have not come to it yet. */
static gboolean
pass_place(RamSend *self)
{
    if (!self->arrived) {
        self->arrived = TRUE;
        self->base.held = TRUE; /* before it can be waked */
        g_atomic_ref_count_inc(&self->refs);
        if (!drv_ram_sync_arrive(&self->sender->sync, &self->member)) {
            g_clear_pointer(&self->base.spare, drv_chunk_free);
            return FALSE;
        }
        self->base.held = FALSE;
        send_unref(self);
    }
    self->arrived = self->at_place = FALSE;
    return TRUE;
}

/* The page at hand is on its way for another guest, and what is before it has been sent. */
static void
wait_for_kept(RamSend *self)
{
    self->base.held = TRUE; /* before it can be waked */
    g_atomic_ref_count_inc(&self->refs);
    gboolean waits = drv_kept_user_wait(self->kept);
    gboolean hurry = g_atomic_int_get(&self->sender->hurry);
    if (!waits || (hurry && drv_kept_user_give_up(self->kept))) {
        self->base.held = FALSE;
        send_unref(self);
        return;
    }
    g_clear_pointer(&self->base.spare, drv_chunk_free);
    self->waits_since = drv_worker_now(self->base.worker);
    drv_worker_timer(self->base.worker, &self->patience,
                     self->waits_since + MAX(self->patience_left, 0));
}

static void
lose_patience(DrvTimer *timer)
{
    RamSend *self = timer->owner;
    if (!drv_kept_user_give_up(self->kept))
        return; /* it has just come */
    self->waits_since = 0;
    self->patience_us = MIN(self->patience_us * 2, PATIENCE_MAX_US);
    self->patience_left = self->patience_us;
    go_on(self);
}

/* Where the streams are not understood there are no places to wait at; QEMU keeps the order. */
static void
lost_order(RamSend *self)
{
    if (self->sender->multifd && drv_page_table_lost(self->sender->table))
        drv_ram_sync_off(&self->sender->sync);
}

static void
leave(RamSend *self)
{
    if (drv_ram_sync_leave(&self->sender->sync, &self->member))
        send_unref(self);
}

static gboolean
send_outgoing(DrvChannelCodec *codec, DrvChannel *channel, DrvChunk **chunk, guint32 len,
              gboolean more)
{
    RamSend *self = (RamSend *)codec;
    if (!self->pushed) {
        if (self->multifd != NULL)
            drv_multifd_push(self->multifd, (*chunk)->data, len);
        else
            drv_stream_push(self->stream, (*chunk)->data, len);
        self->pushed = TRUE;
        g_mutex_lock(&self->sender->lock);
        self->sender->stream += len;
        g_mutex_unlock(&self->sender->lock);
    }
    if (self->at_place && !pass_place(self))
        return FALSE;
    while (self->event_held || next_event(self) || (!more && flush_event(self))) {
        if (!add_event(self) || self->at_place) {
            lost_order(self);
            send_batch(self, channel, 0);
            if (self->event_held && drv_batch_writer_waits(self->writer))
                wait_for_kept(self);
            return FALSE;
        }
    }
    lost_order(self);
    note_end(self);
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
    leave(self);
}

static void
send_acknowledged(DrvChannelCodec *codec, guint64 frames)
{
    RamSend *self = (RamSend *)codec;
    if (self->kept != NULL)
        drv_kept_user_acknowledged(self->kept, frames);
}

static void
send_free(DrvChannelCodec *codec)
{
    RamSend *self = (RamSend *)codec;
    self->freed = TRUE;
    leave(self);
    if (self->base.worker != NULL)
        drv_worker_timer_stop(self->base.worker, &self->patience);
    if (drv_kept_user_free(self->kept))
        send_unref(self);
    drv_multifd_batch_free(self->packets);
    drv_multifd_free(self->multifd);
    drv_batch_writer_free(self->writer);
    drv_stream_free(self->stream);
    drv_chunk_free(self->out);
    send_unref(self);
}

DrvChannelCodec *
drv_ram_sender_codec(DrvRamSender *sender, guint index)
{
    static const DrvChannelCodecOps ops = {
        .name = "ram",
        .depth = 1,
        .makes = TRUE,
        .outgoing = send_outgoing,
        .end = send_end,
        .incoming = drv_codec_pass_incoming,
        .acknowledged = send_acknowledged,
        .free = send_free,
    };
    RamSend *self = g_new0(RamSend, 1);
    self->base.ops = &ops;
    self->sender = drv_ram_sender_ref(sender);
    g_atomic_ref_count_init(&self->refs);
    drv_ram_sync_member_init(&self->member, wake, self);
    self->writer = drv_batch_writer_new(sender->table);
    self->patience = (DrvTimer){.fire = lose_patience, .owner = self};
    self->patience_left = self->patience_us = PATIENCE_US;
    if (sender->kept != NULL) {
        self->kept = drv_kept_user_new(sender->kept, sender, wake, self);
        drv_batch_writer_use_kept(self->writer, self->kept);
    }
    if (index == 0) {
        self->stream = drv_stream_new();
    } else {
        self->multifd = drv_multifd_new(DRV_PAGE_LEN);
        self->packets = drv_multifd_batch_new(sender->table, self->writer, self->multifd);
    }
    return &self->base;
}
