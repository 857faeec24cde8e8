/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/ram-place.h"

#include "common/error.h"
#include "engine/channel/place-order.h"
#include "engine/channel/ram-apply.h"

#include <string.h>

/* Batches of a channel that are being placed, or wait for others, at a time. */
#define DEPTH 16

struct _DrvRamPlacer {
    gatomicrefcount refs;
    DrvTransfer *transfer;
    DrvGuestRam *ram;
    DrvPageStore *store; /* referenced; may be NULL */
    guint8 digest[DRV_PAGE_SECRET];
    gint node;   /* that all pages go to, -1: to none alone; fixed before a channel uses it, ... */
    gint *nodes; /* ... as this: that those of each of ram's blocks go to; NULL: no matter */

    GMutex lock; /* guards the next group */
    DrvPlaceOrder order;
    GError *error; /* the first one */
    guint next_worker;

    /* Grows by batches that nothing else is placed beside of: no lock. */
    DrvRamBlocks *blocks;

    /* Control thread. */
    void (*failed)(const GError *error, gpointer data);
    gpointer data;
};

typedef struct {
    DrvChannelCodec base;
    gatomicrefcount refs; /* the endpoint's, and one for each batch */
    gboolean freed;
    DrvRamPlacer *placer;
    GQueue batches; /* of Batch, as they came */
    DrvEmit emit;
} RamReceive;

/* Belongs to the codec's worker, but while it is being placed or waits. */
typedef struct {
    RamReceive *codec;
    DrvFrame *frame;
    DrvBatchHead head;
    gboolean placed;
    gboolean last; /* all before it are placed, too, or it does not matter */
    gsize emitted; /* bytes that it makes for QEMU, at most; known once placed */

    /* Under the placer's lock. */
    DrvPlaceTurn turn;
    gboolean waiting; /* for its turn ... */
    gboolean to_end;  /* ... to be given to QEMU; FALSE: to be placed */
    gboolean mail;    /* take_last() is on its way */
} Batch;

static void advance(RamReceive *self);

/* --- the job's --- */

DrvRamPlacer *
drv_ram_placer_new(DrvTransfer *transfer, DrvGuestRam *ram, const guint8 digest[DRV_PAGE_SECRET],
                   void (*failed)(const GError *error, gpointer data), gpointer data)
{
    DrvRamPlacer *placer = g_new0(DrvRamPlacer, 1);
    g_atomic_ref_count_init(&placer->refs);
    placer->transfer = transfer;
    placer->ram = ram;
    memcpy(placer->digest, digest, sizeof placer->digest);
    g_mutex_init(&placer->lock);
    drv_place_order_init(&placer->order);
    placer->blocks = g_new0(DrvRamBlocks, 1);
    placer->failed = failed;
    placer->data = data;
    placer->node = -1;
    return placer;
}

void
drv_ram_placer_place(DrvRamPlacer *placer, const DrvPolicy *policies, guint n)
{
    gboolean alone = TRUE;
    g_return_if_fail(n == drv_guest_ram_blocks(placer->ram));
    drv_guest_ram_place(placer->ram, policies);
    g_free(placer->nodes);
    placer->nodes = g_new(gint, n);
    for (guint i = 0; i < n; i++) {
        guint64 nodes = policies[i].nodes;
        placer->nodes[i] = __builtin_popcountll(nodes) == 1 ? __builtin_ctzll(nodes) : -1;
        alone = alone && placer->nodes[i] == placer->nodes[0];
    }
    placer->node = alone && n > 0 ? placer->nodes[0] : -1;
    if (alone)
        g_clear_pointer(&placer->nodes, g_free);
}

void
drv_ram_placer_placed(DrvRamPlacer *placer, DrvGuestPlaced *placed)
{
    drv_guest_ram_placed(placer->ram, placed);
}

void
drv_ram_placer_use_store(DrvRamPlacer *placer, DrvPageStore *store)
{
    g_return_if_fail(placer->store == NULL);
    placer->store = drv_page_store_ref(store);
}

static DrvRamPlacer *
placer_ref(DrvRamPlacer *placer)
{
    g_atomic_ref_count_inc(&placer->refs);
    return placer;
}

static void
placer_unref(DrvRamPlacer *placer)
{
    if (!g_atomic_ref_count_dec(&placer->refs))
        return;
    drv_guest_ram_free(placer->ram);
    drv_page_store_unref(placer->store);
    drv_place_order_clear(&placer->order);
    g_clear_error(&placer->error);
    g_mutex_clear(&placer->lock);
    g_free(placer->blocks);
    g_free(placer->nodes);
    g_free(placer);
}

void
drv_ram_placer_drop(DrvRamPlacer *placer)
{
    if (placer == NULL)
        return;
    placer->failed = NULL;
    placer_unref(placer);
}

gboolean
drv_ram_placer_check(DrvRamPlacer *placer, GError **error)
{
    g_mutex_lock(&placer->lock);
    gboolean good = placer->error == NULL;
    if (!good)
        g_propagate_error(error, g_error_copy(placer->error));
    g_mutex_unlock(&placer->lock);
    return good;
}

static void
tell_failed(gpointer target, gpointer data)
{
    DrvRamPlacer *placer = target;
    g_autoptr(GError) error = data;
    if (placer->failed != NULL)
        placer->failed(error, placer->data);
    placer_unref(placer);
}

/* Takes the error. */
static void
fail(DrvRamPlacer *placer, GError *error)
{
    g_mutex_lock(&placer->lock);
    gboolean first = placer->error == NULL;
    if (first)
        placer->error = g_error_copy(error);
    g_mutex_unlock(&placer->lock);
    if (first)
        drv_transfer_post(placer->transfer, tell_failed, placer_ref(placer), error);
    else
        g_error_free(error);
}

/* --- placing, on any worker --- */

static guint
n_blocks(DrvRamPlacer *placer)
{
    g_mutex_lock(&placer->lock);
    guint n = placer->blocks->n;
    g_mutex_unlock(&placer->lock);
    return n;
}

static gboolean
add_blocks(DrvRamPlacer *placer, DrvBatchReader *reader, GError **error)
{
    DrvRecord record;
    gboolean good = TRUE;
    g_mutex_lock(&placer->lock);
    while (good && drv_batch_reader_next(reader, &record))
        good = record.kind != DRV_RECORD_BLOCK ||
               drv_ram_blocks_add(placer->blocks, placer->ram, &record, error);
    g_mutex_unlock(&placer->lock);
    return good;
}

static void
place(DrvRamPlacer *placer, Batch *batch)
{
    GError *error = NULL;
    DrvBatchReader reader;
    gboolean intact = drv_ram_placer_check(placer, NULL);
    gboolean good = drv_batch_reader_init(&reader, batch->frame->chunk->data, batch->frame->len,
                                          placer->blocks->blocks, n_blocks(placer), &error);
    batch->emitted = good && intact ? reader.emitted : 0;
    /* Other guests' batches count on it once this one is acknowledged, whatever becomes of this
     * guest. */
    if (good && reader.has_kept)
        good = drv_ram_keep(placer->store, &reader, &error);
    if (good && reader.has_blocks)
        good = add_blocks(placer, &reader, &error);
    else if (good && reader.has_placed && intact) /* what is wrong is not made wronger */
        good = drv_ram_apply(placer->ram, placer->store, placer->blocks, &reader, placer->digest,
                             &error);
    if (!good)
        fail(placer, error);
}

static void
take_placed(gpointer target, gpointer data)
{
    Batch *batch = target;
    batch->placed = TRUE;
    advance(batch->codec);
}

static void
take_last(gpointer target, gpointer data)
{
    Batch *batch = target;
    DrvRamPlacer *placer = batch->codec->placer;
    g_mutex_lock(&placer->lock);
    batch->mail = FALSE;
    g_mutex_unlock(&placer->lock);
    batch->last = TRUE;
    advance(batch->codec);
}

static void take_place(gpointer target, gpointer data);

/* The node that the first page of a batch goes to; within a batch pages seldom are of several
 * blocks. Under the lock. */
static gint
node_of(DrvRamPlacer *placer, const Batch *batch)
{
    const DrvRamBlocks *blocks = placer->blocks;
    DrvBatchReader reader;
    DrvRecord record;
    /* What is wrong with it is found where it is placed. */
    if (!drv_batch_reader_init(&reader, batch->frame->chunk->data, batch->frame->len,
                               blocks->blocks, blocks->n, NULL))
        return -1;
    while (drv_batch_reader_next(&reader, &record))
        if (drv_batch_is_placed(blocks->blocks, &record))
            return placer->nodes[blocks->reach[record.block]];
    return -1;
}

/* Under the lock. */
static void
start_placing(DrvRamPlacer *placer, Batch *batch)
{
    gint node = placer->nodes != NULL ? node_of(placer, batch) : placer->node;
    drv_worker_post(drv_transfer_worker_near(placer->transfer, node, placer->next_worker++),
                    take_place, batch, NULL);
}

/* One is done: those whose turn has come with it go on. */
static void
pass_on(DrvRamPlacer *placer, guint64 number)
{
    Batch *next;
    g_mutex_lock(&placer->lock);
    drv_place_order_done(&placer->order, number);
    while ((next = drv_place_order_next(&placer->order)) != NULL) {
        next->waiting = FALSE;
        next->mail = next->to_end;
        if (next->to_end)
            drv_worker_post(next->codec->base.worker, take_last, next, NULL);
        else
            start_placing(placer, next);
    }
    g_mutex_unlock(&placer->lock);
}

static void
take_place(gpointer target, gpointer data)
{
    Batch *batch = target;
    place(batch->codec->placer, batch);
    pass_on(batch->codec->placer, batch->head.number);
    drv_worker_post(batch->codec->base.worker, take_placed, batch, NULL);
}

/* --- the channel's codec, on its own worker --- */

static void
receive_unref(RamReceive *self)
{
    if (!g_atomic_ref_count_dec(&self->refs))
        return;
    placer_unref(self->placer);
    g_free(self);
}

static void
free_batch(Batch *batch)
{
    drv_frame_unref(batch->frame);
    receive_unref(batch->codec);
    g_free(batch);
}

/* Lets the batch be placed when its turn comes; FALSE with why it never can. */
static gboolean
put(RamReceive *self, Batch *batch, GError **error)
{
    DrvRamPlacer *placer = self->placer;
    if (!drv_batch_head(batch->frame->chunk->data, batch->frame->len, &batch->head, error))
        return FALSE;
    g_mutex_lock(&placer->lock);
    gboolean good =
        drv_place_order_add(&placer->order, batch->head.number, batch->head.after, error);
    if (good) {
        batch->waiting =
            !drv_place_order_wait(&placer->order, &batch->turn, batch->head.after, batch);
        if (!batch->waiting)
            start_placing(placer, batch);
    }
    g_mutex_unlock(&placer->lock);
    return good;
}

/* Whether all before it are placed; else take_last() says when. */
static gboolean
is_last(RamReceive *self, Batch *batch)
{
    DrvRamPlacer *placer = self->placer;
    if (batch->last || batch->emitted == 0)
        return TRUE;
    g_mutex_lock(&placer->lock);
    if (!batch->waiting && !batch->mail) {
        batch->to_end = TRUE;
        batch->last =
            drv_place_order_wait(&placer->order, &batch->turn, batch->head.number - 1, batch);
        batch->waiting = !batch->last;
    }
    g_mutex_unlock(&placer->lock);
    return batch->last;
}

/* What is left of the batch for QEMU. */
static DrvFrame *
emit(RamReceive *self, Batch *batch)
{
    DrvRamPlacer *placer = self->placer;
    guint16 flags = batch->frame->flags;
    DrvBatchReader reader;
    DrvRecord record;
    GError *error = NULL;
    const DrvBatchBlock *blocks = placer->blocks->blocks;
    if (batch->emitted == 0 || !drv_ram_placer_check(placer, NULL))
        return drv_frame_new(NULL, 0, flags);
    g_autoptr(DrvChunk) chunk = drv_chunk_new_heap(batch->emitted);
    DrvCursor out = drv_cursor_writer(chunk->data, chunk->size);
    gboolean good = drv_batch_reader_init(&reader, batch->frame->chunk->data, batch->frame->len,
                                          blocks, n_blocks(placer), &error);
    while (good && drv_batch_reader_next(&reader, &record))
        drv_batch_direct(&self->emit, &out, blocks, &record);
    if (good && !drv_cursor_ok(&out)) {
        g_set_error_literal(&error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "a batch of pages makes more than it may");
        good = FALSE;
    }
    if (!good) {
        fail(placer, error);
        return drv_frame_new(NULL, 0, flags);
    }
    return drv_frame_new(out.pos > 0 ? g_steal_pointer(&chunk) : NULL, (guint32)out.pos, flags);
}

/* Gives QEMU what is at its place, in the order in which it came. */
static void
advance(RamReceive *self)
{
    g_atomic_ref_count_inc(&self->refs); /* the last batch may be the last to hold it */
    Batch *batch;
    while (!self->freed && (batch = g_queue_peek_head(&self->batches)) != NULL && batch->placed &&
           is_last(self, batch)) {
        g_queue_pop_head(&self->batches);
        self->base.ready(self->base.owner, emit(self, batch));
        free_batch(batch);
    }
    /* Nobody waits for the others any more. */
    for (GList *l = self->batches.head, *next; self->freed && l != NULL; l = next) {
        next = l->next;
        batch = l->data;
        g_mutex_lock(&self->placer->lock);
        gboolean idle = batch->waiting || (batch->placed && !batch->mail);
        if (batch->waiting)
            drv_place_order_forget(&self->placer->order, &batch->turn);
        batch->waiting = FALSE;
        g_mutex_unlock(&self->placer->lock);
        if (idle) {
            g_queue_delete_link(&self->batches, l);
            free_batch(batch);
        }
    }
    receive_unref(self);
}

static void
receive_incoming(DrvChannelCodec *codec, DrvFrame *frame)
{
    RamReceive *self = (RamReceive *)codec;
    GError *error = NULL;
    Batch *batch = g_new0(Batch, 1);
    g_atomic_ref_count_inc(&self->refs);
    batch->codec = self;
    batch->frame = frame;
    g_queue_push_tail(&self->batches, batch);
    /* What only says that this is the end is no batch. */
    if (frame->len > 0 && put(self, batch, &error))
        return;
    if (error != NULL)
        fail(self->placer, error);
    batch->placed = TRUE;
    advance(self);
}

static void
receive_free(DrvChannelCodec *codec)
{
    RamReceive *self = (RamReceive *)codec;
    self->freed = TRUE;
    advance(self);
    receive_unref(self);
}

DrvChannelCodec *
drv_ram_placer_codec(DrvRamPlacer *placer)
{
    static const DrvChannelCodecOps ops = {
        .name = "ram",
        .depth = DEPTH,
        .outgoing = drv_codec_pass_outgoing,
        .end = drv_codec_pass_end,
        .incoming = receive_incoming,
        .free = receive_free,
    };
    RamReceive *self = g_new0(RamReceive, 1);
    self->base.ops = &ops;
    g_atomic_ref_count_init(&self->refs);
    self->placer = placer_ref(placer);
    self->emit = DRV_EMIT_INIT;
    g_queue_init(&self->batches);
    return &self->base;
}
