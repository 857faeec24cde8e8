/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A packet has pages of one block, so either all are placed or none. One whose pages were all taken
 * is left out: QEMU, 7.2 as well as 10.0, reads a packet's number but does not miss any. Only a
 * SYNC packet is kept, without pages: QEMU waits for it.
 *
 * Another channel may lose the way (batch-writer.c) in the middle of a packet. Then QEMU is given a
 * packet of those pages that are left.
 */
#include "precopy/multifd-batch.h"

#include "common/cursor.h"
#include "precopy/page-table-private.h"

#include <string.h>

struct _DrvMultifdBatch {
    DrvPageTable *table;
    DrvBatchWriter *writer;
    const DrvMultifd *multifd;

    /* The packet */
    gboolean taking; /* its pages are placed */
    guint block;
    guint8 head[DRV_MULTIFD_HEAD_LEN];
    guint32 zeros, normals; /* so many of them are in batches */

    /* The event */
    gboolean in_event;
    gboolean synced;
    guint32 done;     /* pages of a run, or bytes */
    gsize skip;       /* bytes of it that are dealt with otherwise */
    gsize instead;    /* bytes of 'head' that QEMU is given, 0: none */
    guint32 put_head; /* how many of these are in */
};

DrvMultifdBatch *
drv_multifd_batch_new(DrvPageTable *table, DrvBatchWriter *writer, const DrvMultifd *multifd)
{
    DrvMultifdBatch *self = g_new0(DrvMultifdBatch, 1);
    self->table = table;
    self->writer = writer;
    self->multifd = multifd;
    return self;
}

void
drv_multifd_batch_free(DrvMultifdBatch *self)
{
    g_free(self);
}

/* ---- packets ---- */

static void
put_u32(guint8 *at, guint32 value)
{
    DrvCursor out = drv_cursor_writer(at, sizeof value);
    drv_cursor_put_u32(&out, value);
}

/* QEMU is to get the packet with those pages that were not taken: makes 'head' one of these. */
static void
give_rest(DrvMultifdBatch *self)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(self->multifd);
    guint32 normal = packet->normal - self->normals, zero = packet->zero - self->zeros;
    put_u32(self->head + DRV_MULTIFD_NORMAL_AT, normal);
    put_u32(self->head + DRV_MULTIFD_SIZE_AT, normal * DRV_PAGE_LEN);
    put_u32(self->head + DRV_MULTIFD_ZERO_AT, zero);
    guint8 *offsets = self->head + DRV_MULTIFD_FIXED_LEN;
    gsize room = sizeof self->head - DRV_MULTIFD_FIXED_LEN;
    DrvCursor out = drv_cursor_writer(offsets, room);
    memset(offsets, 0, room);
    for (guint32 i = self->normals; i < packet->normal; i++)
        drv_cursor_put_u64(&out, drv_multifd_offset(self->multifd, i));
    for (guint32 i = self->zeros; i < packet->zero; i++)
        drv_cursor_put_u64(&out, drv_multifd_offset(self->multifd, packet->normal + i));
    self->instead = sizeof self->head;
    self->put_head = 0;
    self->taking = FALSE;
}

/* Whether the packet's pages can be placed; those that cannot, but should be, lose the way. */
static gboolean
may_take(DrvMultifdBatch *self, const DrvMultifdEvent *event)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(self->multifd);
    guint32 n = packet->normal + packet->zero;
    gint number = -1;
    gboolean opaque = (packet->flags & (DRV_MULTIFD_COMPRESSION | DRV_MULTIFD_DEVICE_STATE)) != 0;
    gboolean good = !opaque && event->piece.unit_len == sizeof self->head;
    if (good && n == 0)
        return FALSE;
    if (good)
        number = drv_page_table_find_block(self->table, packet->block);
    const DrvTableBlock *block =
        number >= 0 ? drv_page_table_block(self->table, (guint)number) : NULL;
    for (guint32 i = 0; block != NULL && i < n; i++)
        if (drv_multifd_offset(self->multifd, i) / DRV_PAGE_LEN >= drv_table_block_pages(block))
            block = NULL;
    if (block == NULL)
        drv_page_table_lose(self->table,
                            opaque ? "QEMU itself compresses its multifd channels, or sends a "
                                     "device's state through them"
                                   : "a packet in a multifd channel is not understood");
    self->block = (guint)number;
    return block != NULL && drv_table_block_placeable(block) && !drv_page_table_lost(self->table);
}

static void
begin_event(DrvMultifdBatch *self, const DrvMultifdEvent *event)
{
    self->in_event = TRUE;
    self->synced = FALSE;
    self->done = 0;
    self->skip = 0;
    self->instead = 0;
    if (event->kind == DRV_MULTIFD_OPAQUE || !drv_multifd_exact(self->multifd))
        drv_page_table_lose(self->table, "a multifd channel is not understood");
    if (event->kind != DRV_MULTIFD_PACKET)
        return;
    self->zeros = self->normals = 0;
    self->taking = may_take(self, event);
    if (self->taking)
        memcpy(self->head, event->piece.unit, sizeof self->head);
}

/* How many pages from the packet's 'i' on lie side by side, of 'n'. */
static guint32
run_len(const DrvMultifdBatch *self, guint32 i, guint32 n)
{
    guint64 first = drv_multifd_offset(self->multifd, i);
    guint32 count = 1;
    while (count < n &&
           drv_multifd_offset(self->multifd, i + count) == first + (guint64)count * DRV_PAGE_LEN)
        count++;
    return count;
}

/* Takes pages from the packet's 'i' on, 'n' of them; counts them in '*taken'. */
static gboolean
take(DrvMultifdBatch *self, guint32 i, guint32 n, const guint8 *content, guint32 *taken)
{
    while (n > 0) {
        guint32 count = run_len(self, i, n), done = 0;
        gboolean all = drv_batch_writer_add_pages(
            self->writer, self->block, drv_multifd_offset(self->multifd, i) / DRV_PAGE_LEN, count,
            content, &done);
        *taken += done;
        i += done;
        n -= done;
        content = content != NULL ? content + (gsize)done * DRV_PAGE_LEN : NULL;
        if (!all)
            return FALSE;
    }
    return TRUE;
}

static gboolean
take_event(DrvMultifdBatch *self, const DrvMultifdEvent *event)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(self->multifd);
    if (event->kind == DRV_MULTIFD_PACKET)
        return take(self, packet->normal + self->zeros, packet->zero - self->zeros, NULL,
                    &self->zeros);
    guint32 before = self->normals - event->pages.first;
    return take(self, self->normals, event->pages.count - before,
                event->piece.unit + (gsize)before * DRV_PAGE_LEN, &self->normals);
}

/* The way was lost: QEMU places what is left of the packet. */
static void
give_back(DrvMultifdBatch *self, const DrvMultifdEvent *event)
{
    give_rest(self);
    if (event->kind == DRV_MULTIFD_PACKET)
        self->skip = event->piece.len;
    else if (event->kind == DRV_MULTIFD_PAGES)
        self->skip = (gsize)(self->normals - event->pages.first) * DRV_PAGE_LEN;
}

/* Whether the event is the last of its packet. */
static gboolean
completes(const DrvMultifdBatch *self, const DrvMultifdEvent *event)
{
    const DrvMultifdPacket *packet = drv_multifd_packet(self->multifd);
    if (event->kind == DRV_MULTIFD_PACKET)
        return packet->normal == 0;
    return event->kind == DRV_MULTIFD_PAGES &&
           event->pages.first + event->pages.count == packet->normal;
}

static gboolean
add_bytes(DrvMultifdBatch *self, const DrvMultifdEvent *event)
{
    if (self->instead > 0 &&
        !drv_batch_writer_add_bytes(self->writer, self->head, self->instead, &self->put_head))
        return FALSE;
    return drv_batch_writer_add_bytes(self->writer, event->piece.bytes + self->skip,
                                      event->piece.len - self->skip, &self->done);
}

static gboolean
add_event(DrvMultifdBatch *self, const DrvMultifdEvent *event, gboolean sync)
{
    if (self->taking && !drv_page_table_lost(self->table)) {
        if (take_event(self, event)) {
            self->skip = event->piece.len;
            if (completes(self, event) && sync)
                give_rest(self); /* none */
            else
                return TRUE;
        } else if (!drv_page_table_lost(self->table)) {
            return FALSE;
        }
    }
    if (self->taking)
        give_back(self, event);
    return add_bytes(self, event);
}

gboolean
drv_multifd_batch_add(DrvMultifdBatch *self, const DrvMultifdEvent *event)
{
    gboolean sync = (drv_multifd_packet(self->multifd)->flags & DRV_MULTIFD_SYNC) != 0;
    if (!self->in_event)
        begin_event(self, event);
    if (!add_event(self, event, sync))
        return FALSE;
    self->in_event = FALSE;
    self->synced = sync && completes(self, event);
    return TRUE;
}

gboolean
drv_multifd_batch_synced(const DrvMultifdBatch *self)
{
    return self->synced;
}
