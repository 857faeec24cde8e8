/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/clone.h"

#include "common/error.h"

#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP (G_GUINT64_CONSTANT(16) << 20)
#define HEAD (G_GUINT64_CONSTANT(64) << 10)

static gboolean
failed(GError **error)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "the older version cannot be copied: %s",
                g_strerror(errno));
    return FALSE;
}

static gboolean
copy_range(int from, int to, guint64 start, guint64 end, const gint *cancelled, GError **error)
{
    off64_t in = (off64_t)start, out = (off64_t)start;
    while ((guint64)in < end) {
        if (cancelled != NULL && g_atomic_int_get(cancelled) != 0) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_CANCELLED, "cancelled");
            return FALSE;
        }
        gssize got = copy_file_range(from, &in, to, &out, MIN(end - (guint64)in, STEP), 0);
        if (got < 0 && errno != EINTR)
            return failed(error);
        if (got == 0)
            return TRUE;
    }
    return TRUE;
}

/* The data between 'start' and 'end', holes left out. */
static gboolean
copy_data(int from, int to, guint64 start, guint64 end, const gint *cancelled, GError **error)
{
    for (guint64 at = start; at < end;) {
        off_t data = lseek(from, (off_t)at, SEEK_DATA);
        if (data < 0 || (guint64)data >= end)
            return data >= 0 || errno == ENXIO || failed(error);
        off_t hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            return failed(error);
        guint64 to_byte = MIN((guint64)hole, end);
        if (!copy_range(from, to, (guint64)data, to_byte, cancelled, error))
            return FALSE;
        at = to_byte;
    }
    return TRUE;
}

gboolean
drv_clone_file(int from, int to, const gint *cancelled, GError **error)
{
    struct stat st;
    if (ioctl(to, FICLONE, from) == 0)
        return TRUE;
    if (fstat(from, &st) != 0 || ftruncate(to, st.st_size) != 0)
        return failed(error);
    guint64 size = (guint64)st.st_size;
    return copy_data(from, to, MIN(HEAD, size), size, cancelled, error) &&
           copy_data(from, to, 0, MIN(HEAD, size), cancelled, error);
}
