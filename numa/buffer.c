/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/buffer.h"

#include "numa/pages.h"

#include <errno.h>
#include <linux/mman.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_SIZE ((gsize)2 << 20)
/* Enough pages to tell where a buffer is. */
#define SAMPLES 16
/* Linux 5.14. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static void *
map(gsize len, int flags)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return at != MAP_FAILED ? at : NULL;
}

/* Begins where a huge page could, so that the kernel may make it of such (transparent) ones. */
static void *
map_aligned(gsize len)
{
    guint8 *at = map(len + HUGE_SIZE, 0);
    if (at == NULL)
        return NULL;
    gsize before = (HUGE_SIZE - (guintptr)at % HUGE_SIZE) % HUGE_SIZE;
    if (before > 0)
        munmap(at, before);
    if (before < HUGE_SIZE)
        munmap(at + before + len, HUGE_SIZE - before);
    madvise(at + before, len, MADV_HUGEPAGE); /* where they are off, it is as good without */
    return at + before;
}

/* Has all of it be there; a huge page that is not to be had would be a signal later. */
static gboolean
populate(void *at, gsize len)
{
    if (madvise(at, len, MADV_POPULATE_WRITE) == 0)
        return TRUE;
    if (errno != EINVAL)
        return FALSE;
    memset(at, 0, len); /* an older kernel, which has looked after huge pages at mmap() */
    return TRUE;
}

static gboolean
settle(DrvBuffer *buffer, gint node)
{
    int err = node >= 0 ? drv_memory_prefer(buffer->data, buffer->len, node) : 0;
    if (err == ENOSYS || err == EPERM)
        buffer->lacks |= DRV_SHORT_POLICY;
    return populate(buffer->data, buffer->len);
}

static gboolean
map_huge(DrvBuffer *buffer, gint node)
{
    buffer->data = map(buffer->len, MAP_HUGETLB | MAP_HUGE_2MB);
    if (buffer->data != NULL && settle(buffer, node))
        return TRUE;
    if (buffer->data != NULL)
        munmap(buffer->data, buffer->len);
    buffer->lacks = DRV_SHORT_HUGE;
    return FALSE;
}

static void
find_node(DrvBuffer *buffer, gint wanted)
{
    DrvResidency residency = {0};
    if ((buffer->lacks & DRV_SHORT_POLICY) != 0 ||
        !drv_residency_sample(0, (guint64)(guintptr)buffer->data, buffer->len, SAMPLES, &residency,
                              NULL))
        return;
    buffer->node = drv_residency_main(&residency);
    if (buffer->node != wanted)
        buffer->lacks |= DRV_SHORT_NODE;
}

gboolean
drv_buffer_map(gsize len, const DrvBufferWish *wish, DrvBuffer *buffer)
{
    g_return_val_if_fail(len % HUGE_SIZE == 0, FALSE);
    *buffer = (DrvBuffer){.len = len, .node = -1};
    if (wish->node < 0 && !wish->huge_pages) {
        buffer->data = map(len, 0);
        return buffer->data != NULL;
    }
    if (!wish->huge_pages || !map_huge(buffer, wish->node)) {
        buffer->data = wish->node >= 0 ? map_aligned(len) : map(len, 0);
        if (buffer->data == NULL)
            return FALSE;
        if (wish->node >= 0 && !settle(buffer, wish->node)) {
            drv_buffer_unmap(buffer);
            return FALSE;
        }
    }
    if (wish->node >= 0 && mlock(buffer->data, len) != 0)
        buffer->lacks |= DRV_SHORT_LOCK;
    if (wish->node >= 0)
        find_node(buffer, wish->node);
    return TRUE;
}

void
drv_buffer_unmap(DrvBuffer *buffer)
{
    if (buffer->data != NULL)
        munmap(buffer->data, buffer->len);
    buffer->data = NULL;
}

const char *
drv_short_text(DrvShort lack)
{
    switch (lack) {
    case DRV_SHORT_HUGE:
        return "no huge pages of 2 MiB are free for buffers: ordinary ones are used "
               "(vm.nr_hugepages)";
    case DRV_SHORT_LOCK:
        return "buffers may be swapped, as locking them is not permitted (raise LimitMEMLOCK)";
    case DRV_SHORT_NODE:
        return "a NUMA node has no memory left for buffers: others' is used";
    case DRV_SHORT_POLICY:
        return "this kernel has no memory policies: buffers are wherever they are";
    default:
        g_return_val_if_reached("");
    }
}
