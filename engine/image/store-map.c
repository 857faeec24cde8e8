/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/store.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/image/map.h"
#include "engine/image/tool.h"

#include <string.h>
#include <unistd.h>

/*
 * Most of an image lies in its file as it is, whatever the format: 'qemu-img map' tells where. That
 * is read as a raw file is, past a qemu-nbd and its socket, which would copy every byte three
 * times. Only what cannot be had so, such as compressed clusters, comes through qemu-nbd, which is
 * there when there is any of it.
 */
typedef struct {
    DrvStore base;
    GArray *extents; /* all of the disk */
    DrvStore *file, *nbd;
} Mapped;

/* --- the map --- */

typedef struct {
    GArray *extents;
    guint64 file_size, size;
} Told;

static gboolean
add_extent(JsonObject *extent, gpointer data, GError **error)
{
    const Told *told = data;
    guint64 at = drv_extents_end(told->extents);
    gint64 start = drv_json_int(extent, "start", -1), len = drv_json_int(extent, "length", -1);
    gint64 offset = drv_json_int(extent, "offset", -1);
    DrvExtentKind kind = DRV_EXTENT_OTHER;
    if (drv_json_flag(extent, "zero", FALSE))
        kind = DRV_EXTENT_ZERO;
    else if (drv_json_flag(extent, "data", FALSE) && !drv_json_flag(extent, "compressed", FALSE) &&
             drv_json_int(extent, "depth", -1) == 0 && offset >= 0 && len >= 0 &&
             (guint64)len <= told->file_size && (guint64)offset <= told->file_size - (guint64)len)
        kind = DRV_EXTENT_PLAIN;
    if (start >= 0 && (guint64)start == at && len > 0 && (guint64)len <= told->size - at &&
        drv_extents_add(told->extents, kind, (guint64)len, (guint64)offset))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "qemu-img tells nothing that is of use");
    return FALSE;
}

/* NULL where QEMU tells nothing that is of use, or not in time. */
static GArray *
map(const DrvStoreNbdParams *params, guint64 file_size, guint64 size)
{
    g_autoptr(GArray) extents = drv_extents_new();
    Told told = {extents, file_size, size};
    gboolean good =
        drv_image_map(params->path, params->format, DRV_TOOL_BRIEF_MS, add_extent, &told, NULL) &&
        extents->len > 0 && drv_extents_end(extents) == size;
    return good ? g_steal_pointer(&extents) : NULL;
}

/* --- the store --- */

static gboolean
read_part(Mapped *self, guint user, const DrvExtent *extent, guint64 offset, guint8 *bytes,
          gsize len, GError **error)
{
    if (extent->kind == DRV_EXTENT_OTHER)
        return self->nbd->ops->read(self->nbd, user, offset, bytes, len, error);
    if (extent->kind == DRV_EXTENT_PLAIN)
        return self->file->ops->read(self->file, user, extent->offset + offset - extent->start,
                                     bytes, len, error);
    memset(bytes, 0, len);
    return TRUE;
}

static gboolean
mapped_read(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len, GError **error)
{
    Mapped *self = (Mapped *)store;
    const DrvExtent *extent = drv_extents_find(self->extents, offset);
    for (gsize done = 0, part; done < len; done += part, extent++) {
        part = (gsize)MIN(len - done, extent->end - offset - done);
        if (!read_part(self, user, extent, offset + done, bytes + done, part, error))
            return FALSE;
    }
    return TRUE;
}

static void
mapped_ahead(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len)
{
    Mapped *self = (Mapped *)store;
    const DrvExtent *extent = drv_extents_find(self->extents, offset);
    if (extent->kind == DRV_EXTENT_PLAIN && len <= extent->end - offset)
        self->file->ops->ahead(self->file, user, extent->offset + offset - extent->start, bytes,
                               len);
}

static gboolean
mapped_settle(DrvStore *store, guint user, GError **error)
{
    DrvStore *file = ((Mapped *)store)->file;
    return file->ops->settle(file, user, error);
}

static gboolean
mapped_extent(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *zero,
              GError **error)
{
    Mapped *self = (Mapped *)store;
    const DrvExtent *extent = drv_extents_find(self->extents, offset);
    const DrvExtent *end = &g_array_index(self->extents, DrvExtent, self->extents->len);
    *zero = extent->kind == DRV_EXTENT_ZERO;
    while (extent + 1 < end && (extent[1].kind == DRV_EXTENT_ZERO) == *zero)
        extent++;
    *len = extent->end - offset;
    return TRUE;
}

static gboolean
mapped_close(DrvStore *store, GError **error)
{
    Mapped *self = (Mapped *)store;
    gboolean good = drv_store_close(self->nbd, error);
    drv_store_close(self->file, NULL);
    g_array_unref(self->extents);
    g_free(self);
    return good;
}

static DrvStore *
open_mapped(int fd, GArray *extents, DrvStore *nbd, guint users, const char *shown)
{
    static const DrvStoreOps ops = {
        .read = mapped_read,
        .ahead = mapped_ahead,
        .settle = mapped_settle,
        .extent = mapped_extent,
        .close = mapped_close,
    };
    Mapped *self = g_new0(Mapped, 1);
    off_t file_size = lseek(fd, 0, SEEK_END);
    self->base = (DrvStore){&ops, drv_extents_end(extents), users, FALSE, g_strdup(shown)};
    self->extents = extents;
    self->file = drv_store_raw(fd, (guint64)file_size, users, FALSE, shown);
    self->nbd = nbd;
    return &self->base;
}

DrvStore *
drv_store_extents(int fd, GArray *extents, guint users, const char *shown)
{
    g_return_val_if_fail(!drv_extents_have(extents, DRV_EXTENT_OTHER), NULL);
    return open_mapped(fd, extents, NULL, users, shown);
}

DrvStore *
drv_store_mapped(int fd, const DrvStoreNbdParams *params, guint64 size, GError **error)
{
    off_t file_size = lseek(fd, 0, SEEK_END);
    g_autoptr(GArray) extents = file_size > 0 ? map(params, (guint64)file_size, size) : NULL;
    gboolean other = extents == NULL || drv_extents_have(extents, DRV_EXTENT_OTHER);
    DrvStore *nbd = other ? drv_store_nbd(params, error) : NULL;
    if (extents == NULL || (other && nbd == NULL)) {
        close(fd);
        return nbd;
    }
    return open_mapped(fd, g_steal_pointer(&extents), nbd, params->users, params->shown);
}
