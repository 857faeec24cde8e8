/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/send.h"

#include "engine/image/stream.h"
#include "engine/image/turn.h"

#include <string.h>
#include <sys/socket.h>

/* Leaves that are read at once. */
#define LEAVES 1024

typedef struct {
    DrvImageDigest *digest;
    DrvCopyCount *count;
    DrvTurn turn;
    int fd;
    gboolean base;
    DrvImageDigest *theirs; /* what the other end has, where that was read beforehand */
} Sender;

/* Whether each of the blocks is the same over there. Without a base all is zeros there. */
static gboolean
compare(Sender *self, guint64 first, guint blocks, gboolean *same, GError **error)
{
    guint8 leaves[LEAVES * DRV_IMAGE_LEAF];
    if (self->theirs != NULL)
        memcpy(leaves, drv_image_digest_leaf(self->theirs, first), (gsize)blocks * DRV_IMAGE_LEAF);
    else if (self->base &&
             !drv_stream_read(self->fd, leaves, (gsize)blocks * DRV_IMAGE_LEAF, error))
        return FALSE;
    for (guint i = 0; i < blocks; i++) {
        same[i] = self->base
                      ? memcmp(leaves + i * DRV_IMAGE_LEAF,
                               drv_image_digest_leaf(self->digest, first + i), DRV_IMAGE_LEAF) == 0
                      : drv_image_digest_is_zero(self->digest, first + i);
    }
    return TRUE;
}

static gboolean
send_run(Sender *self, guint64 first, guint64 blocks, const guint8 *bytes, GError **error)
{
    guint64 len = drv_image_blocks_len(self->digest, first, blocks);
    DrvRecord record = {bytes != NULL ? DRV_RECORD_DATA : DRV_RECORD_ZERO, first,
                        (guint32)(bytes != NULL ? len : blocks)};
    guint8 header[DRV_RECORD_LEN];
    drv_record_put(&record, header);
    drv_copy_count_add(bytes != NULL ? &self->count->data : &self->count->zero, len);
    return drv_stream_write(self->fd, header, sizeof header, error) &&
           (bytes == NULL || drv_stream_write(self->fd, bytes, len, error));
}

typedef enum { SAME, ZERO, DATA } Kind;

/* Sends what is not the same, in runs of one kind. 'bytes' is NULL for zeros. */
static gboolean
send_blocks(Sender *self, guint64 first, guint blocks, const guint8 *bytes, GError **error)
{
    gboolean same[LEAVES];
    if (!compare(self, first, blocks, same, error))
        return FALSE;
    for (guint at = 0, end; at < blocks; at = end) {
        Kind kind = DATA;
        for (end = at; end < blocks; end++) {
            gboolean zero = bytes == NULL || drv_image_digest_is_zero(self->digest, first + end);
            Kind other = same[end] ? SAME : zero ? ZERO : DATA;
            if (end > at && other != kind)
                break;
            kind = other;
        }
        if (kind == SAME)
            drv_copy_count_add(self->base ? &self->count->same : &self->count->zero,
                               drv_image_blocks_len(self->digest, first + at, end - at));
        else if (!send_run(self, first + at, end - at,
                           kind == DATA ? bytes + (gsize)at * self->digest->block : NULL, error))
            return FALSE;
    }
    return TRUE;
}

/* They are what the other end has. */
static void
pass_over(Sender *self, const DrvPiece *piece)
{
    memcpy(drv_image_digest_leaf(self->digest, piece->first),
           drv_image_digest_leaf(self->theirs, piece->first), piece->blocks * DRV_IMAGE_LEAF);
    drv_copy_count_add(&self->count->same, piece->len);
    drv_copy_count_add(&self->count->unread, piece->len);
}

/* Hashing is done by all threads at once; what goes over the socket goes in order. */
static gboolean
send_piece(guint user, const DrvPiece *piece, gpointer data, GError **error)
{
    Sender *self = data;
    gboolean good = TRUE;
    if (piece->bytes != NULL)
        drv_image_digest_take(self->digest, piece->first, piece->bytes, piece->blocks);
    if (!drv_turn_wait(&self->turn, piece->number))
        return TRUE; /* whoever stopped has the error */
    if (piece->unchanged)
        pass_over(self, piece);
    else if (piece->bytes == NULL && !self->base) /* nothing there, nothing here */
        drv_copy_count_add(&self->count->zero, piece->len);
    else
        for (guint64 at = 0; good && at < piece->blocks; at += LEAVES)
            good = send_blocks(self, piece->first + at, (guint)MIN(LEAVES, piece->blocks - at),
                               piece->bytes, error);
    if (good)
        drv_turn_pass(&self->turn);
    return good;
}

static void
stop(gpointer data)
{
    Sender *self = data;
    drv_turn_stop(&self->turn);
    shutdown(self->fd, SHUT_RDWR);
}

static char *
send_end(Sender *self, GError **error)
{
    DrvRecord record = {DRV_RECORD_END, self->digest->blocks, DRV_RECORD_ROOT_LEN};
    guint8 header[DRV_RECORD_LEN];
    g_autofree char *root = drv_image_digest_root(self->digest);
    drv_record_put(&record, header);
    if (!drv_stream_write(self->fd, header, sizeof header, error) ||
        !drv_stream_write(self->fd, root, DRV_RECORD_ROOT_LEN, error))
        return NULL;
    shutdown(self->fd, SHUT_WR);
    return g_steal_pointer(&root);
}

/* All that the other end has, and whether that is 'since'. */
static gboolean
read_theirs(Sender *self, const char *since, gboolean *same, GError **error)
{
    self->theirs = drv_image_digest_new(self->digest->size, error);
    if (self->theirs == NULL ||
        !drv_stream_read(self->fd, drv_image_digest_leaf(self->theirs, 0),
                         (gsize)self->theirs->blocks * DRV_IMAGE_LEAF, error))
        return FALSE;
    g_autofree char *root = drv_image_digest_root(self->theirs);
    *same = g_ascii_strcasecmp(root, since) == 0;
    if (!*same)
        g_message("the destination has an image with the digest %s, and not the one that the "
                  "changes are told since: all is read",
                  root);
    return TRUE;
}

char *
drv_image_send(DrvStore *store, guint threads, int fd, gboolean base, const char *since,
               DrvCopyCount *count, GError **error)
{
    g_autoptr(DrvImageDigest) digest = drv_image_digest_new(store->size, error);
    gboolean changed_only = FALSE;
    if (digest == NULL)
        return NULL;
    Sender self = {.digest = digest, .count = count, .fd = fd, .base = base};
    drv_turn_init(&self.turn);
    gboolean good = !base || since == NULL || read_theirs(&self, since, &changed_only, error);
    good = good &&
           drv_scan(store, digest, changed_only, threads, count, send_piece, stop, &self, error);
    drv_turn_clear(&self.turn);
    drv_image_digest_free(self.theirs);
    return good ? send_end(&self, error) : NULL;
}
