/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/qcow2-look.h"

#include "engine/image/qcow2.h"

#include <errno.h>
#include <unistd.h>

/*
 * A plain qcow2, looked at without QEMU's programs: info, check and map take longer to start than
 * most of a sparse image takes to convert, and each of them reads all tables once more.
 *
 * Plain is an image that is all in its file, with nothing in it but clusters of data as they are:
 * no backing or data file, snapshots, bitmaps, compression, encryption, nor any bit or header
 * extension that is not known here. In such an image everything that is in use is referred to from
 * exactly one place. So it is in order, as far as 'qemu-img check' would tell, when each reference
 * is aligned, lies in the file, says that it is the only one (COPIED), and leads to clusters that
 * have the refcount 1 and that nothing else has led to. Clusters that have a refcount and no
 * reference are leaks, and harm nobody.
 *
 * Whatever is not exactly so makes it QEMU's. So damage is found here and described there, and
 * what a later QEMU adds is not misread.
 */
typedef struct {
    int fd;
    guint64 length; /* of the file */
    guint64 cluster;
    guint64 size;     /* of the disk */
    guint64 clusters; /* of the file, the last perhaps cut */
    guint16 *counts;  /* their refcounts as they are in the file; 0 once they were referred to */
    GArray *extents;
} Look;

/* Larger images, and larger tables, are QEMU's: the first are 1 TiB at 64 KiB. */
#define CLUSTERS_MAX (G_GUINT64_CONSTANT(1) << 24)
#define TABLE_MAX (8u << 20)
#define CLUSTER_BITS_MIN 9
#define CLUSTER_BITS_MAX 21
/* Since 5.1 QEMU tells behind ours how clusters are compressed: none is here, so it is the usual
 * way, 0, as QEMU opens no other without a bit that says so. */
#define HEADER_MAX 112
#define LAZY_REFCOUNTS 1
#define EXTENSION_END 0
#define EXTENSION_FEATURE_NAMES 0x6803f857u

static gboolean
get(const Look *look, guint64 at, void *bytes, gsize len)
{
    if (at > look->length || len > look->length - at)
        return FALSE;
    for (gsize done = 0; done < len;) {
        gssize n = pread(look->fd, (guint8 *)bytes + done, len - done, (off_t)(at + done));
        if (n == 0 || (n < 0 && errno != EINTR))
            return FALSE;
        done += n > 0 ? (gsize)n : 0;
    }
    return TRUE;
}

/* --- the header --- */

static gboolean
is_plain(const DrvQcow2Header *h)
{
    guint32 bits = GUINT32_FROM_BE(h->cluster_bits), len = GUINT32_FROM_BE(h->header_len);
    guint64 size = GUINT64_FROM_BE(h->size);
    return GUINT32_FROM_BE(h->magic) == DRV_QCOW2_MAGIC && GUINT32_FROM_BE(h->version) == 3 &&
           h->backing_offset == 0 && h->backing_len == 0 && h->encryption == 0 &&
           h->snapshots == 0 && h->snapshots_offset == 0 && h->incompatible == 0 &&
           (GUINT64_FROM_BE(h->compatible) & ~(guint64)LAZY_REFCOUNTS) == 0 && h->autoclear == 0 &&
           GUINT32_FROM_BE(h->refcount_order) == DRV_QCOW2_REFCOUNT_ORDER &&
           bits >= CLUSTER_BITS_MIN && bits <= CLUSTER_BITS_MAX && size > 0 && size <= G_MAXINT64 &&
           size % 512 == 0 && len >= sizeof *h && len <= HEADER_MAX && len % 8 == 0;
}

static gboolean
has_plain_rest(const Look *look, guint32 len)
{
    guint8 rest[HEADER_MAX - sizeof(DrvQcow2Header)], any = 0;
    gsize more = len - sizeof(DrvQcow2Header);
    if (!get(look, sizeof(DrvQcow2Header), rest, more))
        return FALSE;
    for (gsize i = 0; i < more; i++)
        any |= rest[i];
    return any == 0;
}

/* The names of features say nothing of the image; all other extensions might. */
static gboolean
has_plain_extensions(const Look *look, guint64 at)
{
    struct {
        guint32 type, len;
    } extension;
    do {
        if (at + sizeof extension > look->cluster || !get(look, at, &extension, sizeof extension))
            return FALSE;
        if (GUINT32_FROM_BE(extension.type) == EXTENSION_END)
            return TRUE;
        at += sizeof extension + (GUINT32_FROM_BE(extension.len) + G_GUINT64_CONSTANT(7)) / 8 * 8;
    } while (GUINT32_FROM_BE(extension.type) == EXTENSION_FEATURE_NAMES);
    return FALSE;
}

/* --- references --- */

/* One leads to these bytes. */
static gboolean
refer(Look *look, guint64 at, guint64 len)
{
    if (at % look->cluster != 0 || at > look->length || len > look->length - at)
        return FALSE;
    guint64 end = drv_qcow2_clusters(at + len, look->cluster);
    for (guint64 i = at / look->cluster; i < end; i++) {
        if (look->counts[i] != GUINT16_TO_BE(1))
            return FALSE;
        look->counts[i] = 0;
    }
    return TRUE;
}

/* A table of 8 bytes an entry, as it is in the file. NULL: it is not there, or too large. */
static guint64 *
read_table(const Look *look, guint64 at, guint64 len)
{
    g_autofree guint64 *table = len <= TABLE_MAX ? g_malloc(len + 1) : NULL;
    return table != NULL && get(look, at, table, len) ? g_steal_pointer(&table) : NULL;
}

static gboolean
read_counts(Look *look, const DrvQcow2Header *h)
{
    guint64 at = GUINT64_FROM_BE(h->refcount_table_offset), entries = look->cluster / 2;
    guint64 len = GUINT32_FROM_BE(h->refcount_table_clusters) * look->cluster;
    g_autofree guint64 *table = read_table(look, at, len);
    if (table == NULL)
        return FALSE;
    for (guint64 i = 0; i < len / 8 && i * entries < look->clusters; i++) {
        guint64 first = i * entries, told = MIN(entries, look->clusters - first);
        guint64 block = GUINT64_FROM_BE(table[i]);
        if (block != 0 && !get(look, block, look->counts + first, told * 2))
            return FALSE;
    }
    if (!refer(look, 0, sizeof *h) || !refer(look, at, len))
        return FALSE;
    for (guint64 i = 0; i < len / 8; i++) {
        if (table[i] != 0 && !refer(look, GUINT64_FROM_BE(table[i]), look->cluster))
            return FALSE;
    }
    return TRUE;
}

/* The cluster of the disk that begins at 'start'. */
static gboolean
look_at_entry(Look *look, guint64 entry, guint64 start)
{
    guint64 offset = entry & DRV_QCOW2_OFFSET;
    guint64 len = start < look->size ? MIN(look->cluster, look->size - start) : 0;
    gboolean zero = offset == 0 || (entry & DRV_QCOW2_ZERO) != 0;
    guint64 known = DRV_QCOW2_ZERO | (offset != 0 ? DRV_QCOW2_OFFSET | DRV_QCOW2_COPIED : 0);
    if ((entry & ~known) != 0 ||
        (offset != 0 &&
         ((entry & DRV_QCOW2_COPIED) == 0 || !refer(look, offset, len > 0 ? len : look->cluster))))
        return FALSE;
    return len == 0 ||
           drv_extents_add(look->extents, zero ? DRV_EXTENT_ZERO : DRV_EXTENT_PLAIN, len, offset);
}

/* What an entry of the L1 table leads to: all from 'start' on, which is before the disk's end. */
static gboolean
look_at_table(Look *look, guint64 entry, guint64 start)
{
    guint64 entries = look->cluster / 8, at = entry & DRV_QCOW2_OFFSET;
    if (entry == 0)
        return drv_extents_add(look->extents, DRV_EXTENT_ZERO,
                               MIN(entries * look->cluster, look->size - start), 0);
    if (entry != (at | DRV_QCOW2_COPIED) || !refer(look, at, look->cluster))
        return FALSE;
    g_autofree guint64 *table = read_table(look, at, look->cluster);
    gboolean good = table != NULL;
    for (guint64 i = 0; i < entries && good; i++)
        good = look_at_entry(look, GUINT64_FROM_BE(table[i]), start + i * look->cluster);
    return good;
}

static gboolean
look_at_tables(Look *look, const DrvQcow2Header *h)
{
    guint64 at = GUINT64_FROM_BE(h->l1_offset), entries = GUINT32_FROM_BE(h->l1_size);
    guint64 each = look->cluster / 8 * look->cluster;
    g_autofree guint64 *l1 = read_table(look, at, entries * 8);
    if (l1 == NULL || entries < drv_qcow2_clusters(look->size, each) ||
        !refer(look, at, entries * 8))
        return FALSE;
    for (guint64 i = 0; i < entries; i++) {
        guint64 entry = GUINT64_FROM_BE(l1[i]);
        if (i * each < look->size ? !look_at_table(look, entry, i * each) : entry != 0)
            return FALSE;
    }
    return TRUE;
}

GArray *
drv_qcow2_look(int fd, guint64 *size)
{
    DrvQcow2Header header;
    off_t length = lseek(fd, 0, SEEK_END);
    Look look = {.fd = fd, .length = (guint64)MAX(length, 0)};
    if (!get(&look, 0, &header, sizeof header) || !is_plain(&header))
        return NULL;
    look.cluster = G_GUINT64_CONSTANT(1) << GUINT32_FROM_BE(header.cluster_bits);
    look.size = GUINT64_FROM_BE(header.size);
    look.clusters = drv_qcow2_clusters(look.length, look.cluster);
    guint32 header_len = GUINT32_FROM_BE(header.header_len);
    if (look.clusters > CLUSTERS_MAX || !has_plain_rest(&look, header_len) ||
        !has_plain_extensions(&look, header_len))
        return NULL;
    g_autofree guint16 *counts = g_try_new0(guint16, look.clusters);
    g_autoptr(GArray) extents = drv_extents_new();
    look.counts = counts;
    look.extents = extents;
    if (counts == NULL || !read_counts(&look, &header) || !look_at_tables(&look, &header) ||
        drv_extents_end(extents) != look.size)
        return NULL;
    *size = look.size;
    return g_steal_pointer(&extents);
}
