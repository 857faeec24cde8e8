/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/store.h"

#include "common/error.h"
#include "engine/image/direct.h"

#include <errno.h>
#include <sys/mman.h>

/* The smallest there are with pages of 4 KiB; elsewhere this is just an alignment. */
#define HUGE_PAGE (2u << 20)

gboolean
drv_store_errno(GError **error)
{
    int why = errno;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s%s", g_strerror(why),
                why == ENOSPC || why == EDQUOT ? " (make room, and start it again)" : "");
    return FALSE;
}

static gboolean
within(const DrvStore *store, guint user, guint64 offset, guint64 len)
{
    return user < store->users && len <= store->size && offset <= store->size - len;
}

gboolean
drv_store_read(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len,
               GError **error)
{
    g_return_val_if_fail(within(store, user, offset, len), FALSE);
    if (store->ops->read(store, user, offset, bytes, len, error))
        return TRUE;
    g_prefix_error(error, "%s cannot be read at byte %" G_GUINT64_FORMAT ": ", store->shown,
                   offset);
    return FALSE;
}

void
drv_store_ahead(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len)
{
    g_return_if_fail(within(store, user, offset, len));
    if (store->ops->ahead != NULL)
        store->ops->ahead(store, user, offset, bytes, len);
}

/* What is one piece of memory to the kernel is one to the disk, too. 1 MiB of single pages is 256
 * of them, more than a virtual disk may take at once, and the more there are the longer it takes.
 * Where there is no huge page it goes without. */
guint8 *
drv_store_buffer(gsize len)
{
    gsize align = len >= HUGE_PAGE ? HUGE_PAGE : DRV_DIRECT_ALIGN;
    gsize whole = (len + align - 1) / align * align;
    guint8 *bytes = g_aligned_alloc(1, whole, align);
    if (align == HUGE_PAGE)
        madvise(bytes, whole, MADV_HUGEPAGE);
    return bytes;
}

static gboolean
cannot_write(const DrvStore *store, guint64 offset, GError **error)
{
    g_prefix_error(error, "%s cannot be written at byte %" G_GUINT64_FORMAT ": ", store->shown,
                   offset);
    return FALSE;
}

gboolean
drv_store_write(DrvStore *store, guint user, guint64 offset, const guint8 *bytes, gsize len,
                GError **error)
{
    g_return_val_if_fail(store->writable && within(store, user, offset, len), FALSE);
    return store->ops->write(store, user, offset, bytes, len, error) ||
           cannot_write(store, offset, error);
}

gboolean
drv_store_settle(DrvStore *store, guint user, GError **error)
{
    g_return_val_if_fail(user < store->users, FALSE);
    return store->ops->settle == NULL || store->ops->settle(store, user, error);
}

gboolean
drv_store_zero(DrvStore *store, guint user, guint64 offset, guint64 len, GError **error)
{
    g_return_val_if_fail(store->writable && within(store, user, offset, len), FALSE);
    return store->ops->zero(store, user, offset, len, error) || cannot_write(store, offset, error);
}

gboolean
drv_store_extent(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *zero,
                 GError **error)
{
    g_return_val_if_fail(offset < store->size && within(store, user, offset, 1), FALSE);
    if (!store->ops->extent(store, user, offset, len, zero, error)) {
        g_prefix_error(error, "%s does not tell where its data is: ", store->shown);
        return FALSE;
    }
    *len = CLAMP(*len, 1, store->size - offset);
    return TRUE;
}

gboolean
drv_store_changed(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *changed,
                  GError **error)
{
    g_return_val_if_fail(offset < store->size && within(store, user, offset, 1), FALSE);
    *len = store->size - offset;
    *changed = TRUE;
    if (store->ops->changed != NULL &&
        !store->ops->changed(store, user, offset, len, changed, error)) {
        g_prefix_error(error, "%s does not tell what was changed: ", store->shown);
        return FALSE;
    }
    *len = CLAMP(*len, 1, store->size - offset);
    return TRUE;
}

gboolean
drv_store_flush(DrvStore *store, guint user, GError **error)
{
    g_return_val_if_fail(user < store->users, FALSE);
    if (store->ops->flush(store, user, error))
        return TRUE;
    g_prefix_error(error, "%s cannot be brought onto the disk: ", store->shown);
    return FALSE;
}

gboolean
drv_store_close(DrvStore *store, GError **error)
{
    if (store == NULL)
        return TRUE;
    g_autofree char *shown = g_steal_pointer(&store->shown);
    if (store->ops->close(store, error))
        return TRUE;
    g_prefix_error(error, "%s cannot be closed: ", shown);
    return FALSE;
}
