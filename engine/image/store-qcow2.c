/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/store.h"

#include "common/error.h"
#include "engine/image/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

/*
 * A qcow2 that is being made, written without qemu-nbd: over its socket each byte would be copied
 * twice more, which takes longer than its digest.
 *
 * Without options the empty image is made here, as QEMU makes it; with any QEMU does, so that the
 * header is its own. Whoever made it, what is found there must be as simple as can be, or qemu-nbd
 * has to write it. Clusters of data are appended in the order in which they come, and where each
 * went is noted in memory. At the end the L2 tables follow them, and the refcounts: as nothing was
 * ever freed, those are 1 up to the end of the file.
 *
 *   empty: header, refcount table, its first block, L1 | data ... | L2 tables | refcount blocks
 *
 * Until then it is an empty image with something behind it: nothing to go on from after a kill. So
 * it is for conversions, which begin anew; a copy that may be resumed takes qemu-nbd.
 */
#define CLUSTER_BITS 16 /* QEMU's own choice */
/* Smaller ones would need more than QEMU's one cluster of refcount table. */
#define CLUSTER_BITS_MIN 16
/* Where clusters went; a larger image goes through qemu-nbd. */
#define PLACES_MAX (64u << 20)
/* The file is made longer by so much at once, and gets blocks for it where so much is free. */
#define AHEAD (G_GUINT64_CONSTANT(64) << 20)
#define ROOM (2 * AHEAD)

typedef struct {
    DrvStore base;
    DrvStore *file; /* raw */
    int fd;         /* the same file */
    guint64 cluster;
    guint64 l1_offset, refcount_table_offset, first_refcounts;
    guint64 count;   /* clusters of the disk */
    guint64 *places; /* of each in the file; 0: nowhere. Under the lock until the end */
    GMutex lock;     /* of all below */
    guint64 end;     /* where the next cluster goes */
    guint64 length;  /* of the file by now */
    gboolean ahead;  /* it gets blocks before there is data for them */
    gboolean whole;  /* it has its tables: no more can be written */
} Qcow2;

/* --- while data comes --- */

static gboolean
has_room(int fd)
{
    struct statvfs fs;
    return fstatvfs(fd, &fs) == 0 && (guint64)fs.f_bavail * fs.f_frsize >= ROOM;
}

/* One that fails keeps what it has got, up to all that there was, so that nothing is left even for
 * the file system's own tables: cutting the file gives that back. */
static gboolean
get_blocks(const Qcow2 *self, guint64 length)
{
    if (has_room(self->fd) &&
        fallocate(self->fd, 0, (off_t)self->length, (off_t)(length - self->length)) == 0)
        return TRUE;
    (void)!ftruncate(self->fd, (off_t)self->length);
    return FALSE;
}

/* Writing past the end of a file is slow, and so is, past the page cache, writing to where it has
 * no blocks yet: each time the file system finds some, and notes when there is data in them, and
 * both change its tables. So the file gets more of them at once than is needed, and loses the rest
 * at the end. Where there is less room, no such call, or nothing but memory, it is just made
 * longer from then on. */
static gboolean
make_longer(Qcow2 *self, GError **error)
{
    guint64 length = self->end + AHEAD;
    self->ahead = self->ahead && get_blocks(self, length);
    if (!self->ahead && ftruncate(self->fd, (off_t)length) != 0)
        return drv_store_errno(error);
    self->length = length;
    return TRUE;
}

/* Where the range goes in the file, as far as it goes there in one piece. */
static gboolean
place(Qcow2 *self, guint64 offset, gsize len, guint64 *at, gsize *part, GError **error)
{
    guint64 first = offset / self->cluster, within = offset % self->cluster;
    guint64 count = drv_qcow2_clusters(within + len, self->cluster), run = 0;
    gboolean good = TRUE;
    g_mutex_lock(&self->lock);
    for (; run < count; run++) {
        guint64 *found = &self->places[first + run];
        guint64 next = run > 0 ? self->places[first] + run * self->cluster : *found;
        if (*found == 0) {
            *found = self->end;
            self->end += self->cluster;
        }
        if (run > 0 && *found != next)
            break;
    }
    *at = self->places[first] + within;
    *part = (gsize)MIN(len, run * self->cluster - within);
    if (self->end > self->length)
        good = make_longer(self, error);
    g_mutex_unlock(&self->lock);
    return good;
}

static gboolean
qcow2_write(DrvStore *store, guint user, guint64 offset, const guint8 *bytes, gsize len,
            GError **error)
{
    Qcow2 *self = (Qcow2 *)store;
    guint64 at;
    gsize part;
    g_return_val_if_fail(!self->whole, FALSE);
    for (gsize done = 0; done < len; done += part) {
        if (!place(self, offset + done, len - done, &at, &part, error) ||
            !self->file->ops->write(self->file, user, at, bytes + done, part, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
qcow2_settle(DrvStore *store, guint user, GError **error)
{
    DrvStore *file = ((Qcow2 *)store)->file;
    return file->ops->settle(file, user, error);
}

/* --- the end --- */

static gboolean
put(int fd, guint64 at, const void *bytes, gsize len, GError **error)
{
    for (gsize done = 0; done < len;) {
        gssize n = pwrite(fd, (const guint8 *)bytes + done, len - done, (off_t)(at + done));
        if (n < 0 && errno != EINTR)
            return drv_store_errno(error);
        done += n > 0 ? (gsize)n : 0;
    }
    return TRUE;
}

/* Each table that has anything in it, and the L1 that tells where it is. */
static gboolean
put_tables(Qcow2 *self, GError **error)
{
    guint64 entries = self->cluster / 8, tables = drv_qcow2_clusters(self->count, entries);
    g_autofree guint64 *l2 = g_malloc(self->cluster);
    g_autofree guint64 *l1 = g_new0(guint64, tables);
    for (guint64 t = 0; t < tables; t++) {
        gboolean any = FALSE;
        memset(l2, 0, self->cluster);
        for (guint64 i = 0; i < entries && t * entries + i < self->count; i++) {
            guint64 found = self->places[t * entries + i];
            l2[i] = found != 0 ? GUINT64_TO_BE(found | DRV_QCOW2_COPIED) : 0;
            any = any || found != 0;
        }
        if (!any)
            continue;
        if (!put(self->fd, self->end, l2, self->cluster, error))
            return FALSE;
        l1[t] = GUINT64_TO_BE(self->end | DRV_QCOW2_COPIED);
        self->end += self->cluster;
    }
    return put(self->fd, self->l1_offset, l1, tables * 8, error);
}

/* Of 16 bits each. The blocks count themselves, too. */
static gboolean
put_refcounts(Qcow2 *self, GError **error)
{
    guint64 entries = self->cluster / 2, used = self->end / self->cluster, blocks = 1;
    while (drv_qcow2_clusters(used + blocks - 1, entries) > blocks)
        blocks++;
    used += blocks - 1;
    g_autofree guint16 *counts = g_new(guint16, entries);
    for (guint64 b = 0; b < blocks; b++) {
        guint64 at = b == 0 ? self->first_refcounts : self->end;
        guint64 told = GUINT64_TO_BE(at);
        for (guint64 i = 0; i < entries; i++)
            counts[i] = b * entries + i < used ? GUINT16_TO_BE(1) : 0;
        if (!put(self->fd, at, counts, self->cluster, error) ||
            !put(self->fd, self->refcount_table_offset + 8 * b, &told, sizeof told, error))
            return FALSE;
        self->end += b > 0 ? self->cluster : 0;
    }
    return TRUE;
}

static gboolean
qcow2_flush(DrvStore *store, guint user, GError **error)
{
    Qcow2 *self = (Qcow2 *)store;
    if (!self->whole && (!put_tables(self, error) || !put_refcounts(self, error)))
        return FALSE;
    self->whole = TRUE;
    return (ftruncate(self->fd, (off_t)self->end) == 0 && fdatasync(self->fd) == 0) ||
           drv_store_errno(error);
}

static gboolean
qcow2_close(DrvStore *store, GError **error)
{
    Qcow2 *self = (Qcow2 *)store;
    g_autofree char *shown = g_steal_pointer(&self->file->shown);
    gboolean good = self->file->ops->close(self->file, error);
    g_mutex_clear(&self->lock);
    g_free(self->places);
    g_free(self);
    return good;
}

/* --- the beginning --- */

static gboolean
is_simple(const DrvQcow2Header *h, guint64 size)
{
    return GUINT32_FROM_BE(h->magic) == DRV_QCOW2_MAGIC && GUINT32_FROM_BE(h->version) == 3 &&
           h->backing_offset == 0 && GUINT64_FROM_BE(h->size) == size && h->encryption == 0 &&
           h->snapshots == 0 && h->incompatible == 0 && h->autoclear == 0 &&
           GUINT32_FROM_BE(h->refcount_order) == DRV_QCOW2_REFCOUNT_ORDER &&
           GUINT32_FROM_BE(h->cluster_bits) >= CLUSTER_BITS_MIN &&
           GUINT32_FROM_BE(h->cluster_bits) <= 21;
}

static gboolean
is_in_memory(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static gboolean
get(int fd, guint64 at, void *bytes, gsize len)
{
    return pread(fd, bytes, len, (off_t)at) == (gssize)len;
}

/* That the tables are where they should be, everything before 'end' is in use, and nothing of the
 * disk is there yet. */
static gboolean
is_empty(Qcow2 *self, const DrvQcow2Header *h)
{
    guint64 l1_size = GUINT32_FROM_BE(h->l1_size), table = 0;
    guint64 entries = self->cluster / 2,
            l1_needed = drv_qcow2_clusters(self->count, self->cluster / 8);
    guint64 most = self->end / self->cluster + self->count + l1_needed;
    g_autofree guint8 *bytes = g_malloc(self->cluster);
    if (l1_size < l1_needed || l1_needed * 8 > self->cluster ||
        GUINT32_FROM_BE(h->refcount_table_clusters) < 1 ||
        drv_qcow2_clusters(most + most / entries + 2, entries) > self->cluster / 8 ||
        !get(self->fd, self->refcount_table_offset, &table, sizeof table))
        return FALSE;
    self->first_refcounts = GUINT64_FROM_BE(table);
    guint64 before = self->end / self->cluster;
    if (before > entries || !get(self->fd, self->first_refcounts, bytes, before * 2))
        return FALSE;
    for (guint64 i = 0; i < before; i++) {
        if (((guint16 *)(gpointer)bytes)[i] != GUINT16_TO_BE(1))
            return FALSE;
    }
    if (!get(self->fd, self->l1_offset, bytes, l1_needed * 8))
        return FALSE;
    for (guint64 i = 0; i < l1_needed * 8; i++) {
        if (bytes[i] != 0)
            return FALSE;
    }
    return TRUE;
}

DrvStore *
drv_store_qcow2(int fd, guint64 size, guint users, const char *shown)
{
    static const DrvStoreOps ops = {
        .write = qcow2_write,
        .settle = qcow2_settle,
        .flush = qcow2_flush,
        .close = qcow2_close,
    };
    DrvQcow2Header header;
    struct stat st;
    if (fstat(fd, &st) != 0 || !get(fd, 0, &header, sizeof header) || !is_simple(&header, size)) {
        close(fd);
        return NULL;
    }
    Qcow2 *self = g_new0(Qcow2, 1);
    self->base = (DrvStore){&ops, size, users, TRUE, g_strdup(shown)};
    self->fd = fd;
    self->ahead = !is_in_memory(fd);
    self->cluster = G_GUINT64_CONSTANT(1) << GUINT32_FROM_BE(header.cluster_bits);
    self->l1_offset = GUINT64_FROM_BE(header.l1_offset);
    self->refcount_table_offset = GUINT64_FROM_BE(header.refcount_table_offset);
    self->count = drv_qcow2_clusters(size, self->cluster);
    self->end = drv_qcow2_clusters((guint64)st.st_size, self->cluster) * self->cluster;
    self->length = (guint64)st.st_size;
    g_mutex_init(&self->lock);
    self->file = drv_store_raw(fd, size, users, TRUE, shown);
    if (self->count * 8 <= PLACES_MAX && is_empty(self, &header))
        self->places = g_try_new0(guint64, self->count + 1);
    if (self->places != NULL)
        return &self->base;
    drv_store_close(&self->base, NULL);
    return NULL;
}

/* --- one of our own --- */

gboolean
drv_store_qcow2_make(int fd, guint64 size)
{
    enum { HEADER, TABLE, REFCOUNTS, L1, CLUSTERS };
    const guint64 cluster = 1u << CLUSTER_BITS;
    guint64 tables = drv_qcow2_clusters(size, cluster / 8 * cluster);
    if (size == 0 || size % 512 != 0 || drv_qcow2_clusters(size, cluster) > PLACES_MAX / 8)
        return FALSE;
    const DrvQcow2Header header = {
        .magic = GUINT32_TO_BE(DRV_QCOW2_MAGIC),
        .version = GUINT32_TO_BE(3),
        .cluster_bits = GUINT32_TO_BE(CLUSTER_BITS),
        .size = GUINT64_TO_BE(size),
        .l1_size = GUINT32_TO_BE(tables),
        .l1_offset = GUINT64_TO_BE(L1 * cluster),
        .refcount_table_offset = GUINT64_TO_BE(TABLE * cluster),
        .refcount_table_clusters = GUINT32_TO_BE(1),
        .refcount_order = GUINT32_TO_BE(DRV_QCOW2_REFCOUNT_ORDER),
        .header_len = GUINT32_TO_BE(sizeof header),
    };
    const guint64 block = GUINT64_TO_BE(REFCOUNTS * cluster);
    guint16 counts[CLUSTERS];
    for (guint i = 0; i < CLUSTERS; i++)
        counts[i] = GUINT16_TO_BE(1);
    return ftruncate(fd, CLUSTERS * cluster) == 0 && put(fd, 0, &header, sizeof header, NULL) &&
           put(fd, TABLE * cluster, &block, sizeof block, NULL) &&
           put(fd, REFCOUNTS * cluster, counts, sizeof counts, NULL);
}
