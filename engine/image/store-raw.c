/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/store.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* QEMU rounds a raw file's size up to whole ones. */
#define SECTOR 512

/*
 * Blocking calls from several threads: each thread is one request under way, as deep a queue as
 * the copy can use, and the kernel's read-ahead and write-behind do the rest.
 */
typedef struct {
    DrvStore base;
    int fd;
} Raw;

static gboolean
failed(GError **error)
{
    int why = errno;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s%s", g_strerror(why),
                why == ENOSPC || why == EDQUOT ? " (make room, and start it again)" : "");
    return FALSE;
}

/* No VM can do it, as we hold QEMU's lock; others can. */
static gboolean
cut_short(GError **error)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "it has become shorter since it was opened");
    return FALSE;
}

static gboolean
raw_read(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len, GError **error)
{
    Raw *self = (Raw *)store;
    while (len > 0) {
        gssize got = pread(self->fd, bytes, len, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failed(error);
        if (got == 0) {
            if (len >= SECTOR)
                return cut_short(error);
            memset(bytes, 0, len);
            return TRUE;
        }
        bytes += got;
        offset += (guint64)got;
        len -= (gsize)got;
    }
    return TRUE;
}

static gboolean
raw_write(DrvStore *store, guint user, guint64 offset, const guint8 *bytes, gsize len,
          GError **error)
{
    Raw *self = (Raw *)store;
    guint64 start = offset;
    while (len > 0) {
        gssize put = pwrite(self->fd, bytes, len, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return failed(error);
        bytes += put;
        offset += (guint64)put;
        len -= (gsize)put;
    }
    /* Towards the disk now, while there is more to read, and not all at once at the end. */
    sync_file_range(self->fd, (off_t)start, (off_t)(offset - start), SYNC_FILE_RANGE_WRITE);
    return TRUE;
}

static gboolean
write_zeros(DrvStore *store, guint user, guint64 offset, guint64 len, GError **error)
{
    g_autofree guint8 *nothing = g_malloc0(1 << 20);
    for (guint64 done = 0; done < len;) {
        gsize part = (gsize)MIN(len - done, 1 << 20);
        if (!raw_write(store, user, offset + done, nothing, part, error))
            return FALSE;
        done += part;
    }
    return TRUE;
}

static gboolean
raw_zero(DrvStore *store, guint user, guint64 offset, guint64 len, GError **error)
{
    Raw *self = (Raw *)store;
    if (fallocate(self->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)len) == 0)
        return TRUE;
    if (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS)
        return write_zeros(store, user, offset, len, error);
    return failed(error);
}

static gboolean
raw_extent(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *zero,
           GError **error)
{
    Raw *self = (Raw *)store;
    off_t data = lseek(self->fd, (off_t)offset, SEEK_DATA);
    *len = store->size - offset;
    if (data < 0) {
        *zero = errno == ENXIO; /* nothing but a hole; any other error: a device, which has none */
        struct stat st;
        if (*zero && fstat(self->fd, &st) == 0 && S_ISREG(st.st_mode) &&
            (guint64)st.st_size + SECTOR <= store->size)
            return cut_short(error);
        return TRUE;
    }
    *zero = (guint64)data > offset;
    off_t end = *zero ? data : lseek(self->fd, (off_t)offset, SEEK_HOLE);
    if (end > (off_t)offset)
        *len = (guint64)end - offset;
    return TRUE;
}

static gboolean
raw_flush(DrvStore *store, guint user, GError **error)
{
    return fdatasync(((Raw *)store)->fd) == 0 || failed(error);
}

static gboolean
raw_close(DrvStore *store, GError **error)
{
    Raw *self = (Raw *)store;
    int result = close(self->fd);
    int why = errno;
    g_free(self);
    errno = why;
    return result == 0 || failed(error);
}

DrvStore *
drv_store_raw(int fd, guint64 size, guint users, gboolean writable, const char *shown)
{
    static const DrvStoreOps ops = {
        .read = raw_read,
        .write = raw_write,
        .zero = raw_zero,
        .extent = raw_extent,
        .flush = raw_flush,
        .close = raw_close,
    };
    Raw *self = g_new0(Raw, 1);
    self->base = (DrvStore){&ops, size, users, writable, g_strdup(shown)};
    self->fd = fd;
    if (!writable)
        posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return &self->base;
}
