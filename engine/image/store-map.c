/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/store.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/image/tool.h"

#include <fcntl.h>
#include <gio/gio.h>
#include <poll.h>
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

#define TOLD_MAX 4096

/* --- the map --- */

/* One line is one extent: "[{ ... }," "{ ... }]". NULL, or owned by the caller. */
static JsonObject *
parse_line(const char *line, gsize len)
{
    while (len > 0 && strchr("[ ", *line) != NULL) {
        line++;
        len--;
    }
    while (len > 0 && strchr(",] ", line[len - 1]) != NULL)
        len--;
    return drv_json_parse_object(line, len, NULL);
}

static gboolean
add_extent(GArray *extents, JsonObject *told, guint64 file_size, guint64 size)
{
    guint64 at = drv_extents_end(extents);
    gint64 start = drv_json_int(told, "start", -1), len = drv_json_int(told, "length", -1);
    gint64 offset = drv_json_int(told, "offset", -1);
    if (start < 0 || (guint64)start != at || len <= 0 || (guint64)len > size - at)
        return FALSE;
    DrvExtentKind kind = DRV_EXTENT_OTHER;
    if (drv_json_flag(told, "zero", FALSE))
        kind = DRV_EXTENT_ZERO;
    else if (drv_json_flag(told, "data", FALSE) && !drv_json_flag(told, "compressed", FALSE) &&
             drv_json_int(told, "depth", -1) == 0 && offset >= 0 && (guint64)len <= file_size &&
             (guint64)offset <= file_size - (guint64)len)
        kind = DRV_EXTENT_PLAIN;
    return drv_extents_add(extents, kind, (guint64)len, (guint64)offset);
}

/* Those lines of 'text' that are whole. */
static gboolean
take_lines(GString *text, GArray *extents, guint64 file_size, guint64 size)
{
    gsize used = 0;
    const char *end;
    while ((end = memchr(text->str + used, '\n', text->len - used)) != NULL) {
        gsize len = (gsize)(end - text->str) - used;
        g_autoptr(JsonObject) told = parse_line(text->str + used, len);
        if (told == NULL || !add_extent(extents, told, file_size, size))
            return FALSE;
        used += len + 1;
    }
    g_string_erase(text, 0, (gssize)used);
    return text->len < TOLD_MAX;
}

static gboolean
read_map(int fd, GArray *extents, guint64 file_size, guint64 size)
{
    gint64 until_us = g_get_monotonic_time() + (gint64)DRV_TOOL_BRIEF_MS * 1000;
    g_autoptr(GString) text = g_string_new(NULL);
    char part[16384];
    gssize got;
    do {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        gint64 left_us = MAX(until_us - g_get_monotonic_time(), 0);
        got = poll(&ready, 1, (int)(left_us / 1000)) == 1 ? read(fd, part, sizeof part) : -1;
        if (got > 0)
            g_string_append_len(text, part, got);
    } while (got > 0 && take_lines(text, extents, file_size, size));
    return got == 0 && text->len == 0 && extents->len > 0 && drv_extents_end(extents) == size;
}

/* NULL where QEMU tells nothing that is of use, or not in time. */
static GArray *
map(const DrvStoreNbdParams *params, guint64 file_size, guint64 size)
{
    g_autoptr(GArray) extents = drv_extents_new();
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDERR_SILENCE);
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return NULL;
    g_subprocess_launcher_take_stdout_fd(launcher, fds[1]);
    g_autoptr(GSubprocess) process =
        g_subprocess_launcher_spawn(launcher, NULL, "qemu-img", "map", "--output=json", "-f",
                                    params->format, params->path, NULL);
    g_clear_object(&launcher); /* and its end of the pipe */
    gboolean good = process != NULL && read_map(fds[0], extents, file_size, size);
    close(fds[0]);
    if (good)
        return g_subprocess_wait_check(process, NULL, NULL) ? g_steal_pointer(&extents) : NULL;
    /* One that hangs in the kernel does not even die: it is not waited for. */
    if (process != NULL)
        g_subprocess_force_exit(process);
    return NULL;
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
