/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/qemu-lock.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>

/*
 * They are open-file-description locks on single bytes, none of which need be in the file: byte
 * 100 + n is locked, shared, by who uses the permission n, and 200 + n by who does not share it.
 * Who wants a permission takes its own locks first, and then looks whether one that stands against
 * them is held.
 */
enum { READS = 0, WRITES = 1, RESIZES = 3, PERMISSIONS = 4 };
#define USES 100
#define DENIES 200

/* File systems without such locks have no QEMU that holds one. */
static gboolean
lock_byte(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES);
}

static gboolean
is_free(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK;
}

gboolean
drv_qemu_lock_reader(int fd, const char *path, GError **error)
{
    if (lock_byte(fd, USES + READS) && lock_byte(fd, DENIES + WRITES) &&
        lock_byte(fd, DENIES + RESIZES) && is_free(fd, USES + WRITES) &&
        is_free(fd, USES + RESIZES) && is_free(fd, DENIES + READS))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "%s is in use by a process that may write it: stop the VM first", path);
    return FALSE;
}

gboolean
drv_qemu_lock_unused(int fd, const char *path, GError **error)
{
    gboolean unused = TRUE;
    for (guint i = 0; i < PERMISSIONS; i++)
        unused = unused && is_free(fd, USES + i);
    if (!unused)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is in use: stop the VM that has it, or choose another path", path);
    return unused;
}

gboolean
drv_qemu_lock_writer(int fd, const char *path, GError **error)
{
    static const off_t bytes[] = {USES + READS, USES + WRITES, DENIES + WRITES, DENIES + RESIZES};
    for (guint i = 0; i < G_N_ELEMENTS(bytes); i++)
        lock_byte(fd, bytes[i]); /* shared: no QEMU is in the way of that */
    return drv_qemu_lock_unused(fd, path, error);
}
