/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/receive.h"

#include "common/error.h"
#include "engine/image/stream.h"
#include "engine/image/turn.h"
#include "engine/image/write.h"

#include <string.h>
#include <sys/socket.h>

/*
 * Two things go on at once. Writers take turns at the socket: whoever has it reads a record, lets
 * go of it, and writes that while the next reads. And if there was something in the target, a scan
 * of it tells the source its leaves.
 *
 * They do not get into each other's way: the source may send nothing of a block of which it has not
 * the leaf (told_to), so what the scan reads is not being written, and a leaf is set by the scan
 * before it is by a writer.
 */
#define WRITERS 4
#define READERS 4 /* of what there is already */
/* What may be lost in a crash of this host. */
#define FLUSH_EVERY (32u << 20)
/* Leaves that are told at once. */
#define LEAVES 1024

typedef struct {
    DrvWriter writer;
    int fd;
    gboolean base;
    DrvTurn turn;    /* of the scan */
    guint64 told_to; /* leaves that the source has; atomic */

    GMutex lock; /* of the socket's reading side, and of all below */
    guint64 next;
    gboolean ended;
    char root[DRV_RECORD_ROOT_LEN + 1];
    guint64 unflushed;

    /* The first; atomic. Not under the lock: whoever has that may be waiting for the source, which
     * may have nothing more to say. */
    GError *error;
} Receiver;

typedef struct {
    Receiver *self;
    guint user;
} Writer;

guint
drv_image_receive_users(void)
{
    return READERS + 1 + WRITERS;
}

static void
fail(Receiver *self, GError *error)
{
    if (!g_atomic_pointer_compare_and_exchange(&self->error, NULL, error))
        g_error_free(error);
    drv_turn_stop(&self->turn);
    shutdown(self->fd, SHUT_RDWR);
}

/* --- what comes --- */

static gboolean
read_root(Receiver *self, GError **error)
{
    self->ended = TRUE;
    return drv_stream_read(self->fd, self->root, DRV_RECORD_ROOT_LEN, error);
}

/* With the lock. */
static gboolean
read_record(Receiver *self, DrvRecord *record, guint8 *bytes, GError **error)
{
    guint8 header[DRV_RECORD_LEN];
    guint64 blocks;
    if (!drv_stream_read(self->fd, header, sizeof header, error) ||
        !drv_record_get(header, self->writer.digest, self->next, record, &blocks, error))
        return FALSE;
    if (record->type == DRV_RECORD_END)
        return read_root(self, error);
    self->next = record->first + blocks;
    if (self->base && self->next > __atomic_load_n(&self->told_to, __ATOMIC_ACQUIRE)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the source sent blocks without waiting for what is there");
        return FALSE;
    }
    self->unflushed += record->count;
    return record->type != DRV_RECORD_DATA ||
           drv_stream_read(self->fd, bytes, record->count, error);
}

/* FALSE at the end, or at a failure. */
static gboolean
take_record(Receiver *self, DrvRecord *record, guint8 *bytes, gboolean *flush)
{
    GError *error = NULL;
    g_mutex_lock(&self->lock);
    gboolean more = !self->ended && g_atomic_pointer_get(&self->error) == NULL;
    if (more && read_record(self, record, bytes, &error))
        more = !self->ended;
    *flush = self->unflushed >= FLUSH_EVERY;
    if (*flush)
        self->unflushed = 0;
    g_mutex_unlock(&self->lock);
    if (error != NULL)
        fail(self, error);
    return more && error == NULL;
}

static gboolean
write_record(Receiver *self, guint user, const DrvRecord *record, const guint8 *bytes,
             GError **error)
{
    if (record->type == DRV_RECORD_ZERO)
        return drv_write_zeros(&self->writer, user, record->first, record->count, error);
    return drv_write_piece(&self->writer, user, record->first, bytes, record->count, error);
}

static gpointer
write_records(gpointer data)
{
    Writer *writer = data;
    Receiver *self = writer->self;
    guint8 *bytes = drv_store_buffer(DRV_RECORD_DATA_MAX);
    DrvRecord record;
    gboolean flush;
    while (take_record(self, &record, bytes, &flush)) {
        GError *error = NULL;
        if (!write_record(self, writer->user, &record, bytes, &error) ||
            (flush && !drv_store_flush(self->writer.store, writer->user, &error)))
            fail(self, error);
    }
    g_aligned_free(bytes);
    return NULL;
}

/* --- what is there --- */

static gboolean
tell_leaves(guint user, const DrvPiece *piece, gpointer data, GError **error)
{
    Receiver *self = data;
    if (piece->bytes != NULL)
        drv_image_digest_take(self->writer.digest, piece->first, piece->bytes, piece->blocks);
    if (!drv_turn_wait(&self->turn, piece->number))
        return TRUE;
    /* Before they are told: the source's answer may be here before this thread goes on. */
    guint64 end = piece->first + piece->blocks;
    guint8 leaves[LEAVES * DRV_IMAGE_LEAF];
    for (guint64 at = piece->first, part; at < end; at += part) {
        part = MIN(end - at, LEAVES);
        memcpy(leaves, drv_image_digest_leaf(self->writer.digest, at), part * DRV_IMAGE_LEAF);
        __atomic_store_n(&self->told_to, at + part, __ATOMIC_RELEASE);
        if (!drv_stream_write(self->fd, leaves, part * DRV_IMAGE_LEAF, error))
            return FALSE;
    }
    drv_turn_pass(&self->turn);
    return TRUE;
}

static void
stop(gpointer data)
{
    drv_turn_stop(&((Receiver *)data)->turn);
}

static gpointer
scan_base(gpointer data)
{
    Receiver *self = data;
    DrvCopyCount unused = {.total = self->writer.digest->size};
    GError *error = NULL;
    if (!drv_scan(self->writer.store, self->writer.digest, FALSE, READERS, &unused, tell_leaves,
                  stop, self, &error))
        fail(self, error);
    return NULL;
}

/* --- all of it --- */

static void
run(Receiver *self)
{
    Writer writers[WRITERS];
    GThread *threads[WRITERS];
    GThread *scan = self->base ? g_thread_new("image-base", scan_base, self) : NULL;
    for (guint i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){self, READERS + 1 + i};
        threads[i] = g_thread_new("image-write", write_records, &writers[i]);
    }
    for (guint i = 0; i < WRITERS; i++)
        g_thread_join(threads[i]);
    if (scan != NULL)
        g_thread_join(scan);
}

static char *
check_root(Receiver *self, GError **error)
{
    g_autofree char *root = drv_image_digest_root(self->writer.digest);
    if (g_str_equal(root, self->root))
        return g_steal_pointer(&root);
    g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                "what was written is not what was sent: the digests differ, and nothing is kept; "
                "start it again");
    return NULL;
}

char *
drv_image_receive(DrvTarget *target, guint64 size, int fd, DrvCopyCount *count, GError **error)
{
    g_autoptr(DrvImageDigest) digest = drv_image_digest_new(size, error);
    if (digest == NULL)
        return NULL;
    Receiver self = {
        .writer = {drv_target_store(target), digest, !drv_target_has_base(target), count},
        .fd = fd,
        .base = drv_target_has_base(target),
    };
    g_mutex_init(&self.lock);
    drv_turn_init(&self.turn);
    run(&self);
    drv_turn_clear(&self.turn);
    g_mutex_clear(&self.lock);
    if (self.error != NULL) {
        g_propagate_error(error, self.error);
        return NULL;
    }
    g_autofree char *root = check_root(&self, error);
    return root != NULL && drv_target_seal(target, error) ? g_steal_pointer(&root) : NULL;
}
