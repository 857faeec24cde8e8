/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/delta-receive.h"

#include "common/error.h"
#include "engine/channel/listener.h"
#include "engine/image/delta-skip.h"
#include "engine/image/scan.h"

#include <string.h>

/*
 * Frames become what they stand for on a thread of the disk's own, one after the other, as blocks
 * are read there and that takes its time. Why what is read is what the source means is said in
 * delta-writer.c; that it is, is seen here: each block is hashed once more. It need not be written
 * again (delta-skip.h).
 */
#define HASHERS 4
#define DEPTH 2 /* frames that are made ready or written, of which each may become some MiB */

struct _DrvDeltaDisk {
    gatomicrefcount refs;
    DrvTransfer *transfer;
    char *socket, *name, *shown;
    DrvImageDigest *digest; /* hash() writes it, codecs read it */
    GThreadPool *maker;
    DrvCopyCount count;
    gint broken; /* atomic: what is told now is not to be given to QEMU */

    GMutex lock;     /* guards that ... */
    DrvStore *store; /* ... is there; what it does needs none. NULL: not connected yet */

    /* Control thread. */
    void (*failed)(const GError *error, gpointer data);
    gpointer data;
};

typedef struct {
    DrvChannelCodec base;
    gatomicrefcount refs; /* the endpoint's, and one for each frame that is being made ready */
    gboolean freed;
    DrvDeltaDisk *disk;
    DrvDeltaSkip *skip; /* the disk's thread */
} DeltaReceive;

typedef struct {
    DeltaReceive *codec;
    DrvFrame *frame;
} Work;

/* --- the disk --- */

static void make_ready(gpointer data, gpointer user_data);

DrvDeltaDisk *
drv_delta_disk_new(DrvTransfer *transfer, const DrvDeltaDiskParams *params, GError **error)
{
    DrvImageDigest *digest = drv_image_digest_new_with(params->size, params->block, error);
    if (digest == NULL)
        return NULL;
    DrvDeltaDisk *disk = g_new0(DrvDeltaDisk, 1);
    g_atomic_ref_count_init(&disk->refs);
    g_mutex_init(&disk->lock);
    disk->transfer = transfer;
    disk->socket = g_strdup(params->socket);
    disk->name = g_strdup(params->name);
    disk->shown = g_strdup(params->shown);
    disk->digest = digest;
    disk->maker = g_thread_pool_new(make_ready, disk, 1, FALSE, NULL);
    disk->failed = params->failed;
    disk->data = params->data;
    return disk;
}

DrvDeltaDisk *
drv_delta_disk_ref(DrvDeltaDisk *disk)
{
    g_atomic_ref_count_inc(&disk->refs);
    return disk;
}

void
drv_delta_disk_unref(DrvDeltaDisk *disk)
{
    if (disk == NULL || !g_atomic_ref_count_dec(&disk->refs))
        return;
    g_thread_pool_free(disk->maker, FALSE, FALSE); /* whoever is in it has a reference */
    drv_store_close(disk->store, NULL);
    drv_image_digest_free(disk->digest);
    g_mutex_clear(&disk->lock);
    g_free(disk->socket);
    g_free(disk->name);
    g_free(disk->shown);
    g_free(disk);
}

void
drv_delta_disk_drop(DrvDeltaDisk *disk)
{
    if (disk == NULL)
        return;
    disk->failed = NULL;
    g_atomic_int_set(&disk->broken, 1);
    drv_copy_cancel(&disk->count);
    g_mutex_lock(&disk->lock);
    if (disk->store != NULL)
        drv_store_export_break(disk->store);
    g_mutex_unlock(&disk->lock);
    drv_delta_disk_unref(disk);
}

static void
tell_failed(gpointer target, gpointer data)
{
    DrvDeltaDisk *disk = target;
    g_autoptr(GError) error = data;
    if (disk->failed != NULL)
        disk->failed(error, disk->data);
    drv_delta_disk_unref(disk);
}

/* Takes the error. */
static void
fail(DrvDeltaDisk *disk, GError *error)
{
    if (g_atomic_int_compare_and_exchange(&disk->broken, 0, 1))
        drv_transfer_post(disk->transfer, tell_failed, drv_delta_disk_ref(disk), error);
    else
        g_error_free(error);
}

/* --- hashing --- */

static gboolean
take_piece(guint user, const DrvPiece *piece, gpointer data, GError **error)
{
    if (piece->bytes != NULL) /* else zeros, which leaves are to begin with */
        drv_image_digest_take(data, piece->first, piece->bytes, piece->blocks);
    return TRUE;
}

/* From then on it can be broken off. */
static gboolean
connect_store(DrvDeltaDisk *disk, GError **error)
{
    DrvStore *store = drv_store_export(disk->socket, disk->shown, HASHERS + 1, error);
    if (store == NULL)
        return FALSE;
    g_mutex_lock(&disk->lock);
    disk->store = store;
    g_mutex_unlock(&disk->lock);
    if (drv_copy_is_cancelled(&disk->count)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_CANCELLED, "cancelled");
        return FALSE;
    }
    return drv_store_export_greet(store, disk->name, error);
}

gboolean
drv_delta_disk_hash(DrvDeltaDisk *disk, GError **error)
{
    if (!connect_store(disk, error))
        return FALSE;
    if (disk->store->size != disk->digest->size) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "QEMU serves %" G_GUINT64_FORMAT " bytes of %s, which has %" G_GUINT64_FORMAT,
                    disk->store->size, disk->shown, disk->digest->size);
        return FALSE;
    }
    return drv_scan(disk->store, disk->digest, FALSE, HASHERS, &disk->count, take_piece, NULL,
                    disk->digest, error);
}

guint64
drv_delta_disk_hashed(DrvDeltaDisk *disk)
{
    return drv_copy_count_get(&disk->count.done);
}

const DrvImageDigest *
drv_delta_disk_digest(const DrvDeltaDisk *disk)
{
    return disk->digest;
}

/* --- a frame, on the disk's thread --- */

static gboolean
read_blocks(DrvDeltaDisk *disk, const DrvDeltaRecord *record, guint8 *out, GError **error)
{
    const DrvImageDigest *digest = disk->digest;
    gsize len = drv_image_blocks_len(digest, record->first, record->count);
    if (!drv_store_read(disk->store, 0, record->first * digest->block, out, len, error))
        return FALSE;
    for (guint64 i = record->first; i < record->first + record->count; i++) {
        guint8 leaf[DRV_IMAGE_LEAF];
        drv_image_digest_hash(digest, i, out + (i - record->first) * digest->block, leaf);
        if (memcmp(leaf, drv_image_digest_leaf(digest, i), sizeof leaf) == 0)
            continue;
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "%s has changed since it was hashed, at byte %" G_GUINT64_FORMAT
                    ": see who else writes to it, or migrate with '--disks-overwrite'",
                    disk->shown, i * digest->block);
        return FALSE;
    }
    return TRUE;
}

static gboolean
take_record(DeltaReceive *self, const DrvDeltaRecord *record, GByteArray *out, GError **error)
{
    const DrvImageDigest *digest = self->disk->digest;
    if (record->kind == DRV_DELTA_BYTES) {
        drv_delta_skip_feed(self->skip, record->bytes, record->count, DRV_DELTA_NOWHERE, out);
        return TRUE;
    }
    gsize len = drv_image_blocks_len(digest, record->first, record->count);
    g_autofree guint8 *blocks = g_malloc(len);
    if (!read_blocks(self->disk, record, blocks, error))
        return FALSE;
    drv_delta_skip_feed(self->skip, blocks, len, record->first * digest->block, out);
    return TRUE;
}

/* What QEMU is to be told; nothing, maybe. */
static gboolean
make_bytes(DeltaReceive *self, const DrvFrame *frame, GByteArray *out, GError **error)
{
    const DrvImageDigest *digest = self->disk->digest;
    const guint8 *bytes = frame->chunk->data;
    DrvDeltaRecord record;
    gsize made;
    if (!drv_delta_check(bytes, frame->len, digest, &made, error))
        return FALSE;
    for (gsize pos = 0; pos < frame->len;) {
        if (!drv_delta_get(bytes, frame->len, &pos, digest, &record, error) ||
            !take_record(self, &record, out, error))
            return FALSE;
    }
    return TRUE;
}

static DrvChunk *
make_chunk(const GByteArray *bytes)
{
    DrvChunk *chunk = drv_chunk_new_heap(bytes->len);
    memcpy(chunk->data, bytes->data, bytes->len);
    return chunk;
}

static void take_ready(gpointer target, gpointer data);

static void
make_ready(gpointer data, gpointer user_data)
{
    Work *work = data;
    DrvDeltaDisk *disk = user_data;
    GError *error = NULL;
    g_autoptr(GByteArray) made = g_byte_array_new();
    DrvFrame *frame = work->frame;
    gboolean good = frame->len > 0 && !g_atomic_int_get(&disk->broken);
    if (good && !make_bytes(work->codec, frame, made, &error)) {
        fail(disk, error);
        good = FALSE;
    }
    DrvChunk *chunk = good && made->len > 0 ? make_chunk(made) : NULL;
    work->frame = drv_frame_new(chunk, chunk != NULL ? made->len : 0, frame->flags);
    drv_frame_unref(frame);
    drv_worker_post(work->codec->base.worker, take_ready, work, NULL);
}

/* --- the codec, on its worker --- */

static void
receive_unref(DeltaReceive *self)
{
    if (!g_atomic_ref_count_dec(&self->refs))
        return;
    drv_delta_disk_unref(self->disk);
    drv_delta_skip_free(self->skip);
    g_free(self);
}

static void
take_ready(gpointer target, gpointer data)
{
    g_autofree Work *work = target;
    DeltaReceive *self = work->codec;
    if (self->freed)
        drv_frame_unref(work->frame);
    else
        self->base.ready(self->base.owner, work->frame);
    receive_unref(self);
}

static void
receive_incoming(DrvChannelCodec *codec, DrvFrame *frame)
{
    DeltaReceive *self = (DeltaReceive *)codec;
    Work *work = g_new(Work, 1);
    g_atomic_ref_count_inc(&self->refs);
    *work = (Work){self, frame};
    g_thread_pool_push(self->disk->maker, work, NULL);
}

static void
receive_free(DrvChannelCodec *codec)
{
    DeltaReceive *self = (DeltaReceive *)codec;
    self->freed = TRUE;
    receive_unref(self);
}

DrvChannelCodec *
drv_delta_receive_new(DrvDeltaDisk *disk)
{
    static const DrvChannelCodecOps ops = {
        .name = "nbd-delta",
        .depth = DEPTH,
        .outgoing = drv_codec_pass_outgoing,
        .end = drv_codec_pass_end,
        .incoming = receive_incoming,
        .free = receive_free,
    };
    DeltaReceive *self = g_new0(DeltaReceive, 1);
    self->base.ops = &ops;
    g_atomic_ref_count_init(&self->refs);
    self->disk = drv_delta_disk_ref(disk);
    self->skip = drv_delta_skip_new();
    return &self->base;
}
