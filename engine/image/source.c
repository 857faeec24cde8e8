/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/source.h"

#include "common/error.h"
#include "engine/image/allowed.h"
#include "engine/image/probe.h"
#include "engine/image/qcow2-look.h"
#include "engine/image/qemu-lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* QEMU rounds a raw file's size up to whole ones. */
#define SECTOR 512

/* -1 where it cannot be opened, or a QEMU has it. */
static int
open_locked(const char *path, GError **error)
{
    int fd = drv_allowed_open(path, O_RDONLY);
    if (fd < 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s cannot be opened: %s", path,
                    g_strerror(errno));
        return -1;
    }
    if (drv_qemu_lock_reader(fd, path, error))
        return fd;
    close(fd);
    return -1;
}

static DrvStore *
open_raw(const char *path, const DrvImageInfo *info, guint users, GError **error)
{
    int fd = open_locked(path, error);
    if (fd < 0)
        return NULL;
    return drv_store_raw(fd, info->size, users, FALSE, path);
}

static DrvStore *
open_mapped(const DrvStoreNbdParams *params, const DrvImageInfo *info, GError **error)
{
    int fd = open_locked(params->path, error);
    return fd >= 0 ? drv_store_mapped(fd, params, info->size, error) : NULL;
}

/* --- without QEMU's programs --- */

static DrvStore *
open_as_raw(int fd, guint users, const char *real)
{
    off_t length = lseek(fd, 0, SEEK_END);
    if (length < 0)
        return NULL;
    guint64 sectors = ((guint64)length + SECTOR - 1) / SECTOR;
    return drv_store_raw(fd, sectors * SECTOR, users, FALSE, real);
}

static DrvStore *
open_as_qcow2(int fd, guint users, const char *path)
{
    guint64 size;
    GArray *extents = drv_qcow2_look(fd, &size);
    return extents != NULL ? drv_store_extents(fd, extents, users, path) : NULL;
}

/* What is simple enough to be opened by what is in the file. NULL: whatever there is to say about
 * it, QEMU's programs say it; they take longer to start than a sparse image takes to be read. */
static DrvStore *
open_simple(const char *real, const char *format, const char *path, guint users, char **found)
{
    DrvStore *store = NULL;
    gboolean raw = g_strcmp0(format, "raw") == 0;
    if (!raw && format != NULL && !g_str_equal(format, "qcow2"))
        return NULL;
    int fd = drv_image_kind_check(real, NULL) ? open_locked(real, NULL) : -1;
    if (fd >= 0)
        store = raw ? open_as_raw(fd, users, real) : open_as_qcow2(fd, users, path);
    if (store != NULL)
        *found = g_strdup(raw ? "raw" : "qcow2");
    else if (fd >= 0)
        close(fd);
    return store;
}

/* --- with them --- */

/* qemu-nbd would also take one of a backing file, which knows nothing of the image itself. */
static gboolean
check_bitmap(const char *path, const DrvImageInfo *info, const char *bitmap, GError **error)
{
    if (g_ptr_array_find_with_equal_func(info->bitmaps, bitmap, g_str_equal, NULL))
        return TRUE;
    g_autofree char *shown = g_strescape(bitmap, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "%s has no bitmap '%.80s' that has recorded every change: see 'qemu-img info', or "
                "copy it without --since",
                path, shown);
    return FALSE;
}

DrvStore *
drv_source_open(const char *path, const char *format, char *const *folders, guint users,
                const char *bitmap, char **found, GError **error)
{
    if (format != NULL && !drv_image_format_check(format, error))
        return NULL;
    g_autofree char *real = drv_allowed_file(folders, path, error);
    if (real == NULL)
        return NULL;
    DrvStore *simple = bitmap == NULL ? open_simple(real, format, path, users, found) : NULL;
    if (simple != NULL)
        return simple;
    g_autoptr(DrvImageInfo) info = drv_image_probe_source(real, format, error);
    if (info == NULL)
        return NULL;
    if (bitmap != NULL && !check_bitmap(path, info, bitmap, error))
        return NULL;
    /* A guest writes its disk's header, too: what that refers to is no more trusted than it. */
    for (guint i = 1; folders != NULL && i < info->files->len; i++) {
        g_autofree char *other = drv_allowed_file(folders, info->files->pdata[i], error);
        if (other == NULL) {
            g_prefix_error(error, "%s refers to another file: ", path);
            return NULL;
        }
    }
    *found = g_strdup(info->format);
    if (g_str_equal(info->format, "raw"))
        return open_raw(real, info, users, error);
    DrvStoreNbdParams params = {
        .path = real,
        .format = info->format,
        .shown = path,
        .bitmap = bitmap,
        .fd = -1,
        .users = users,
    };
    return bitmap == NULL && info->files->len == 1 ? open_mapped(&params, info, error)
                                                   : drv_store_nbd(&params, error);
}
