/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/store.h"

#include "common/error.h"
#include "engine/image/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* QEMU rounds a raw file's size up to whole ones. */
#define SECTOR 512

/*
 * Whole pages are read and written past the page cache (direct.h): that costs no copying, and what
 * the host's other work has in its page cache stays there. What the cache has of a piece already is
 * read from it. All else goes through it by blocking calls: what is not aligned, such as an image's
 * last bytes, all of a file whose file system knows no O_DIRECT, and each request that came back
 * with an error or with less than was asked for, to find out why.
 */
typedef struct {
    DrvDirect *direct; /* made by the user's first request */
    gboolean ahead;    /* the next read is under way */
} User;

typedef struct {
    DrvStore base;
    int fd;
    int direct_fd;    /* -1: not past the page cache */
    gint refused;     /* 1: nor with this file, as was found out; atomic */
    guint8 *pages;    /* the file mapped, to ask what is in the page cache, and never read; NULL */
    gsize pages_size; /* of that */
    User *each;       /* of the users, its own thread's */
} Raw;

/* Of a piece's pages, asked for whether they are in the page cache. */
#define SAMPLES 5

/* No VM can do it, as we hold QEMU's lock; others can. */
static gboolean
cut_short(GError **error)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "it has become shorter since it was opened");
    return FALSE;
}

static gboolean
read_cached(const Raw *self, guint64 offset, guint8 *bytes, gsize len, GError **error)
{
    while (len > 0) {
        gssize got = pread(self->fd, bytes, len, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return drv_store_errno(error);
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
write_cached(const Raw *self, guint64 offset, const guint8 *bytes, gsize len, GError **error)
{
    guint64 start = offset;
    while (len > 0) {
        gssize put = pwrite(self->fd, bytes, len, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return drv_store_errno(error);
        bytes += put;
        offset += (guint64)put;
        len -= (gsize)put;
    }
    /* Towards the disk now, while there is more to read, and not all at once at the end. */
    sync_file_range(self->fd, (off_t)start, (off_t)(offset - start), SYNC_FILE_RANGE_WRITE);
    return TRUE;
}

/* --- past the page cache --- */

/* NULL where that range must go through the cache. */
static DrvDirect *
direct_for(Raw *self, guint user, guint64 offset, const guint8 *bytes, gsize len)
{
    if (self->direct_fd < 0 || g_atomic_int_get(&self->refused) ||
        (offset | len | (gsize)bytes) % DRV_DIRECT_ALIGN != 0 || len == 0)
        return NULL;
    if (self->each[user].direct == NULL)
        self->each[user].direct = drv_direct_new();
    return self->each[user].direct;
}

/* Whether most of it seems to be in the page cache: to ask for every page takes longer than is
 * worth it. The kernel says so of everything to those who may not know. */
static gboolean
is_cached(const Raw *self, guint64 offset, gsize len)
{
    gsize page = (gsize)getpagesize();
    guint found = 0;
    if (self->pages == NULL || offset + len > self->pages_size)
        return FALSE;
    for (guint i = 0; i < SAMPLES; i++) {
        guint64 at = (offset + i * (len / SAMPLES)) / page * page;
        guint8 there = 0;
        found += mincore(self->pages + at, 1, &there) == 0 && (there & 1) != 0;
    }
    return found > SAMPLES / 2;
}

/* Waits for all that is under way; of what cannot be done, 'lost' is the first. */
static gboolean
finish(Raw *self, guint user, DrvDirectRequest *lost, GError **error)
{
    guint count = 0;
    const DrvDirectRequest *done = NULL;
    if (self->each[user].direct != NULL)
        done = drv_direct_wait(self->each[user].direct, &count);
    self->each[user].ahead = FALSE;
    for (guint i = 0; i < count; i++) {
        const DrvDirectRequest *r = &done[i];
        if (r->result == (gssize)r->len)
            continue;
        if (r->result == -EINVAL || r->result == -EOPNOTSUPP)
            g_atomic_int_set(&self->refused, 1);
        *lost = *r;
        if (!(r->write ? write_cached(self, r->offset, r->bytes, r->len, error)
                       : read_cached(self, r->offset, r->bytes, r->len, error)))
            return FALSE;
    }
    return TRUE;
}

static gboolean
raw_settle(DrvStore *store, guint user, GError **error)
{
    DrvDirectRequest lost;
    if (finish((Raw *)store, user, &lost, error))
        return TRUE;
    g_prefix_error(error, "%s cannot be %s at byte %" G_GUINT64_FORMAT ": ", store->shown,
                   lost.write ? "written" : "read", lost.offset);
    return FALSE;
}

static void
raw_ahead(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len)
{
    Raw *self = (Raw *)store;
    DrvDirect *direct = direct_for(self, user, offset, bytes, len);
    if (direct == NULL || !drv_direct_has_room(direct) || is_cached(self, offset, len))
        return;
    drv_direct_begin(direct, self->direct_fd,
                     &(DrvDirectRequest){.offset = offset, .bytes = bytes, .len = len});
    self->each[user].ahead = TRUE;
}

static gboolean
raw_read(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len, GError **error)
{
    Raw *self = (Raw *)store;
    if (!self->each[user].ahead)
        raw_ahead(store, user, offset, bytes, len);
    DrvDirectRequest lost;
    if (self->each[user].ahead)
        return finish(self, user, &lost, error);
    return read_cached(self, offset, bytes, len, error);
}

static gboolean
raw_write(DrvStore *store, guint user, guint64 offset, const guint8 *bytes, gsize len,
          GError **error)
{
    Raw *self = (Raw *)store;
    DrvDirect *direct = direct_for(self, user, offset, bytes, len);
    if (direct == NULL)
        return write_cached(self, offset, bytes, len, error);
    DrvDirectRequest lost;
    if (!drv_direct_has_room(direct) && !finish(self, user, &lost, error))
        return FALSE;
    drv_direct_begin(
        direct, self->direct_fd,
        &(DrvDirectRequest){.offset = offset, .bytes = (guint8 *)bytes, .len = len, .write = TRUE});
    return TRUE;
}

/* --- zeros, extents, the end --- */

static gboolean
write_zeros(const Raw *self, guint64 offset, guint64 len, GError **error)
{
    g_autofree guint8 *nothing = g_malloc0(1 << 20);
    for (guint64 done = 0; done < len;) {
        gsize part = (gsize)MIN(len - done, 1 << 20);
        if (!write_cached(self, offset + done, nothing, part, error))
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
        return write_zeros(self, offset, len, error);
    return drv_store_errno(error);
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
    return fdatasync(((Raw *)store)->fd) == 0 || drv_store_errno(error);
}

static gboolean
raw_close(DrvStore *store, GError **error)
{
    Raw *self = (Raw *)store;
    for (guint i = 0; i < store->users; i++)
        drv_direct_free(self->each[i].direct);
    if (self->pages != NULL)
        munmap(self->pages, self->pages_size);
    if (self->direct_fd >= 0)
        close(self->direct_fd);
    int result = close(self->fd);
    int why = errno;
    g_free(self->each);
    g_free(self);
    errno = why;
    return result == 0 || drv_store_errno(error);
}

static void
open_direct(Raw *self)
{
    self->direct_fd = drv_direct_open(self->fd, self->base.writable);
    if (self->direct_fd < 0)
        return;
    self->pages_size = self->base.size;
    void *pages = mmap(NULL, self->pages_size, PROT_READ, MAP_SHARED, self->fd, 0);
    self->pages = pages != MAP_FAILED ? pages : NULL;
}

DrvStore *
drv_store_raw(int fd, guint64 size, guint users, gboolean writable, const char *shown)
{
    static const DrvStoreOps ops = {
        .read = raw_read,
        .ahead = raw_ahead,
        .write = raw_write,
        .settle = raw_settle,
        .zero = raw_zero,
        .extent = raw_extent,
        .flush = raw_flush,
        .close = raw_close,
    };
    Raw *self = g_new0(Raw, 1);
    self->base = (DrvStore){&ops, size, users, writable, g_strdup(shown)};
    self->fd = fd;
    self->each = g_new0(User, users);
    open_direct(self);
    if (!writable)
        posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return &self->base;
}
