/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/target.h"

#include "common/error.h"
#include "engine/image/allowed.h"
#include "engine/image/clone.h"
#include "engine/image/direct.h"
#include "engine/image/probe.h"
#include "engine/image/qemu-lock.h"
#include "engine/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long another's end is waited for: a qemu-nbd that has lost its client closes its image. */
#define LOCK_TRIES 50
#define LOCK_TRY_US 100000
/* What a raw image's size is rounded up to, and how much a file should grow by: as QEMU does. */
#define SECTOR 512
#define EXTENT_HINT (1u << 20)
/* qcow2's, where nothing else is asked for. */
#define COMPRESSED_CLUSTER (64u << 10)

struct _DrvTarget {
    char *shown; /* the path as the user gave it */
    char *folder, *name, *temp;
    int dir;  /* the folder */
    int lock; /* the temporary file, locked as long as we, or our qemu-nbd, write it */
    gboolean device;
    gboolean base;
    guint64 cut_to; /* the size it is to have in the end; 0: it has it */
    DrvStore *store;
};

static gboolean
failed(const DrvTarget *target, const char *what, GError **error)
{
    int why = errno;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s cannot be %s: %s", target->shown, what,
                g_strerror(why));
    return FALSE;
}

/* --- names --- */

static char *
prefix_of(const DrvTarget *target)
{
    return g_strdup_printf(".%s.drover-", target->name);
}

static char *
temp_name(const DrvTarget *target, const DrvTargetParams *params)
{
    g_autofree char *prefix = prefix_of(target);
    g_autofree char *what =
        g_strdup_printf("%s %" G_GUINT64_FORMAT " %d %s", params->format, params->size,
                        params->compress, params->options != NULL ? params->options : "");
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, what, -1);
    return g_strdup_printf("%s%.12s", prefix, sum);
}

void
drv_target_clean(int dir, const char *folder, const char *prefix, const char *but)
{
    g_autoptr(GDir) list = g_dir_open(folder, 0, NULL);
    const char *found;
    while (list != NULL && (found = g_dir_read_name(list)) != NULL) {
        if (!g_str_has_prefix(found, prefix) || g_strcmp0(found, but) == 0)
            continue;
        int fd = openat(dir, found, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlinkat(dir, found, 0);
        if (fd >= 0)
            close(fd);
    }
}

/* --- the temporary file --- */

/*
 * It is known by its descriptor, and QEMU's programs are handed that: the folder may not be ours
 * alone, and under the name there might be another file by now, or a link.
 */

static gboolean
is_there(const DrvTarget *target, const char *name, struct stat *st)
{
    return fstatat(target->dir, name, st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Whether what has the temporary name is what is open. */
static gboolean
is_ours(const DrvTarget *target)
{
    struct stat there, ours;
    return is_there(target, target->temp, &there) && fstat(target->lock, &ours) == 0 &&
           there.st_ino == ours.st_ino && there.st_dev == ours.st_dev;
}

/* Whoever had the lock may have given the file its name since it was opened, or removed it. Then it
 * is an image that is whole, and not to be touched: the next try makes another. */
static gboolean
lock_temp(DrvTarget *target, GError **error)
{
    for (guint i = 0; i <= LOCK_TRIES; i++) {
        target->lock = openat(target->dir, target->temp,
                              O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (target->lock < 0)
            return failed(target, "made", error);
        if (flock(target->lock, LOCK_EX | LOCK_NB) == 0 && is_ours(target))
            return TRUE;
        close(target->lock);
        g_usleep(LOCK_TRY_US);
    }
    target->lock = -1;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "%s is being written by another copy: wait for its end, or cancel it",
                target->shown);
    return FALSE;
}

/* QEMU writes compressed clusters only whole, the last as well: such an image is made up to the end
 * of that, and cut when all is written. */
static guint64
made_size(const DrvTargetParams *params)
{
    if (!params->compress)
        return params->size;
    return (params->size + COMPRESSED_CLUSTER - 1) / COMPRESSED_CLUSTER * COMPRESSED_CLUSTER;
}

/* Whether the file under that name is an image like the one that is wanted, and in order: what is
 * written to a damaged one may change what else is in it, and the digests do not tell. */
static gboolean
fits(const DrvTarget *target, const char *name, const DrvTargetParams *params, GError **error)
{
    g_autofree char *path = g_build_filename(target->folder, name, NULL);
    g_autoptr(DrvImageInfo) info = drv_image_probe_source(path, params->format, error);
    return info != NULL && info->size == made_size(params) && !info->backed &&
           info->files->len == 1;
}

/* Whether drover writes the format itself: what begins anew, and is not to be resumed. */
static gboolean
is_own_qcow2(const DrvTarget *target, const DrvTargetParams *params)
{
    return g_str_equal(params->format, "qcow2") && !params->resume && !params->compress &&
           !target->base;
}

/* As QEMU does it, and before there is any data in it. Where the file system knows nothing of that
 * (XFS does), it goes without. */
static void
hint_extents(int fd)
{
    struct fsxattr attributes;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0)
        return;
    attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
    attributes.fsx_extsize = EXTENT_HINT;
    ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
}

/* What takes no program: qemu-img makes and syncs an empty image in about the time in which a
 * sparse one is converted. FALSE where it is qemu-img's, or at least the words about it are. */
static gboolean
create_simple(const DrvTarget *target, const DrvTargetParams *params)
{
    if (params->options != NULL)
        return FALSE;
    hint_extents(target->lock);
    guint64 sectors = (params->size + SECTOR - 1) / SECTOR;
    if (g_str_equal(params->format, "raw"))
        return ftruncate(target->lock, (off_t)(sectors * SECTOR)) == 0;
    return is_own_qcow2(target, params) && drv_store_qcow2_make(target->lock, params->size);
}

static gboolean
create_by_qemu(const DrvTarget *target, const DrvTargetParams *params, GError **error)
{
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, made_size(params));
    const char *argv[10] = {"qemu-img", "create", "-q", "-f", params->format};
    guint count = 5;
    if (params->options != NULL) {
        argv[count++] = "-o";
        argv[count++] = params->options;
    }
    argv[count++] = DRV_TOOL_FD_PATH;
    argv[count] = size;
    /* With "preallocation" it writes all of the image. */
    const DrvToolCall call = {
        .argv = argv,
        .fd = target->lock,
        .shown = target->shown,
        .limit_ms = params->options != NULL ? DRV_TOOL_LONG_MS : DRV_TOOL_BRIEF_MS,
        .cancelled = params->cancelled,
    };
    g_autofree char *out = drv_tool_call(&call, NULL, NULL, error);
    if (out != NULL)
        return TRUE;
    g_prefix_error(error, "%s cannot be made: ", target->shown);
    return FALSE;
}

static gboolean
create(const DrvTarget *target, const DrvTargetParams *params, GError **error)
{
    if (ftruncate(target->lock, 0) != 0)
        return failed(target, "made", error);
    return create_simple(target, params) || create_by_qemu(target, params, error);
}

static gboolean
check_unused(const DrvTarget *target, GError **error)
{
    int fd = openat(target->dir, target->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return failed(target, "looked at", error);
    gboolean unused = drv_qemu_lock_unused(fd, target->shown, error);
    close(fd);
    return unused;
}

/* Looks at what has the name now: it may be replaced unless a VM runs from it. */
static gboolean
check_older(const DrvTarget *target, gboolean *there, GError **error)
{
    struct stat st;
    *there = is_there(target, target->name, &st);
    if (!*there)
        return TRUE;
    if (!S_ISREG(st.st_mode)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is neither a file nor a block device: choose another path", target->shown);
        return FALSE;
    }
    return check_unused(target, error);
}

/* The older version becomes what the copy begins with; one that does not fit is just replaced. */
static gboolean
begin_with_older(DrvTarget *target, const DrvTargetParams *params, GError **error)
{
    g_autoptr(GError) unfit = NULL;
    if (!fits(target, target->name, params, &unfit))
        return create(target, params, error);
    int fd = openat(target->dir, target->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return failed(target, "read", error);
    target->base = ftruncate(target->lock, 0) == 0
                       ? drv_clone_file(fd, target->lock, params->cancelled, error)
                       : failed(target, "emptied", error);
    close(fd);
    if (!target->base)
        g_prefix_error(error, "%s cannot be made: ", target->shown);
    return target->base;
}

static gboolean
fill_temp(DrvTarget *target, const DrvTargetParams *params, gboolean older, GError **error)
{
    g_autoptr(GError) unfit = NULL;
    struct stat st;
    if (params->resume && is_there(target, target->temp, &st) && st.st_size > 0 &&
        fits(target, target->temp, params, &unfit)) {
        target->base = TRUE;
        return TRUE;
    }
    /* Compressed clusters cannot be written over in place. */
    if (older && params->delta && !params->compress)
        return begin_with_older(target, params, error);
    return create(target, params, error);
}

static gboolean
open_temp(DrvTarget *target, const DrvTargetParams *params, GError **error)
{
    if (g_str_equal(params->format, "raw")) {
        target->store = drv_store_raw(fcntl(target->lock, F_DUPFD_CLOEXEC, 0), params->size,
                                      params->users, TRUE, target->shown);
        return TRUE;
    }
    if (is_own_qcow2(target, params))
        target->store = drv_store_qcow2(fcntl(target->lock, F_DUPFD_CLOEXEC, 0), params->size,
                                        params->users, target->shown);
    if (target->store != NULL)
        return TRUE;
    int direct = drv_direct_open(target->lock, TRUE);
    if (direct >= 0)
        close(direct);
    DrvStoreNbdParams nbd = {
        .path = DRV_TOOL_FD_PATH,
        .format = params->format,
        .shown = target->shown,
        .fd = target->lock, /* so the lock is held as long as qemu-nbd has it open */
        .users = params->users,
        .writable = TRUE,
        .compress = params->compress,
        .direct = direct >= 0,
    };
    target->store = drv_store_nbd(&nbd, error);
    return target->store != NULL;
}

static gboolean
open_file(DrvTarget *target, const DrvTargetParams *params, GError **error)
{
    gboolean older;
    target->temp = temp_name(target, params);
    target->cut_to = made_size(params) > params->size ? params->size : 0;
    if (!check_older(target, &older, error) || !lock_temp(target, error))
        return FALSE;
    g_autofree char *prefix = prefix_of(target);
    drv_target_clean(target->dir, target->folder, prefix, target->temp);
    if (!fill_temp(target, params, older, error) || !open_temp(target, params, error))
        return FALSE;
    if (target->store->size >= params->size)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                "%s was made smaller than the image (%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                " bytes): choose another --dest-format",
                target->shown, target->store->size, params->size);
    return FALSE;
}

/* --- devices --- */

static gboolean
open_device(DrvTarget *target, const DrvTargetParams *params, GError **error)
{
    guint64 size = 0;
    if (!g_str_equal(params->format, "raw") || params->options != NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "%s is a block device, which takes raw images without options only: give "
                    "--dest-format raw",
                    target->shown);
        return FALSE;
    }
    /* O_EXCL: not while it is mounted, or part of something. */
    int fd = openat(target->dir, target->name, O_RDWR | O_EXCL | O_CLOEXEC);
    if (fd < 0)
        return failed(target, "opened", error);
    gboolean good = drv_qemu_lock_writer(fd, target->shown, error);
    if (good && (ioctl(fd, BLKGETSIZE64, &size) != 0 || size < params->size)) {
        good = FALSE;
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is too small: it has %" G_GUINT64_FORMAT
                    " bytes, and the image %" G_GUINT64_FORMAT,
                    target->shown, size, params->size);
    }
    if (!good) {
        close(fd);
        return FALSE;
    }
    target->base = TRUE;
    target->store = drv_store_raw(fd, size, params->users, TRUE, target->shown);
    return TRUE;
}

/* --- life --- */

static gboolean
is_device(const DrvTarget *target)
{
    struct stat st;
    return fstatat(target->dir, target->name, &st, 0) == 0 && S_ISBLK(st.st_mode);
}

DrvTarget *
drv_target_open(const DrvTargetParams *params, GError **error)
{
    if (!drv_image_format_writable(params->format, error))
        return NULL;
    g_autoptr(DrvTarget) target = g_new0(DrvTarget, 1);
    target->lock = -1;
    target->shown = g_strdup(params->path);
    target->dir =
        drv_allowed_folder(params->folders, params->path, &target->folder, &target->name, error);
    if (target->dir < 0)
        return NULL;
    target->device = is_device(target);
    if (target->device ? open_device(target, params, error) : open_file(target, params, error))
        return g_steal_pointer(&target);
    return NULL;
}

DrvStore *
drv_target_store(DrvTarget *target)
{
    return target->store;
}

gboolean
drv_target_has_base(const DrvTarget *target)
{
    return target->base;
}

static gboolean
cut(const DrvTarget *target, GError **error)
{
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, target->cut_to);
    const char *argv[] = {"qemu-img", "resize",         "-q", "-f", "qcow2",
                          "--shrink", DRV_TOOL_FD_PATH, size, NULL};
    g_autofree char *out = drv_tool_run(argv, target->lock, target->shown, NULL, NULL, error);
    if (out != NULL)
        return TRUE;
    g_prefix_error(error, "%s cannot be given its size: ", target->shown);
    return FALSE;
}

/* Keeps who may read it as it was; a new one is the owner's alone, as images hold secrets. */
static void
take_over_owner(const DrvTarget *target)
{
    struct stat st;
    if (!is_there(target, target->name, &st))
        return;
    if (fchown(target->lock, st.st_uid, st.st_gid) == 0)
        fchmod(target->lock, st.st_mode & 07777);
}

gboolean
drv_target_seal(DrvTarget *target, GError **error)
{
    gboolean flushed = drv_store_flush(target->store, 0, error);
    gboolean closed = drv_store_close(g_steal_pointer(&target->store), flushed ? error : NULL);
    if (!flushed || !closed)
        return FALSE;
    if (target->device)
        return TRUE;
    if (target->cut_to != 0 && !cut(target, error))
        return FALSE;
    take_over_owner(target);
    return fsync(target->lock) == 0 || failed(target, "written", error);
}

/* A VM may have been started meanwhile: it would go on with a file without a name, and all that it
 * writes be lost. What else has the name is for renameat() to tell. */
static gboolean
check_replaced(const DrvTarget *target, GError **error)
{
    struct stat st;
    if (!is_there(target, target->name, &st) || !S_ISREG(st.st_mode) || check_unused(target, error))
        return TRUE;
    g_prefix_error(error, "%s cannot be given its name: ", target->shown);
    return FALSE;
}

gboolean
drv_target_name(DrvTarget *target, GError **error)
{
    if (target->device)
        return TRUE;
    if (!is_ours(target)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s cannot be given its name: somebody has put another file in its place "
                    "meanwhile, or removed it: see who else writes to that folder",
                    target->shown);
        return FALSE;
    }
    if (!check_replaced(target, error))
        return FALSE;
    if (renameat(target->dir, target->temp, target->dir, target->name) != 0 ||
        fsync(target->dir) != 0)
        return failed(target, "given its name", error);
    g_clear_pointer(&target->temp, g_free);
    return TRUE;
}

gboolean
drv_target_commit(DrvTarget *target, GError **error)
{
    return drv_target_seal(target, error) && drv_target_name(target, error);
}

void
drv_target_drop(DrvTarget *target, gboolean keep)
{
    if (target == NULL)
        return;
    drv_store_close(g_steal_pointer(&target->store), NULL);
    if (target->temp != NULL && target->lock >= 0 && !keep && is_ours(target))
        unlinkat(target->dir, target->temp, 0);
    g_clear_pointer(&target->temp, g_free);
}

void
drv_target_free(DrvTarget *target)
{
    if (target == NULL)
        return;
    drv_target_drop(target, FALSE);
    if (target->lock >= 0)
        close(target->lock);
    if (target->dir >= 0)
        close(target->dir);
    g_free(target->shown);
    g_free(target->folder);
    g_free(target->name);
    g_free(target);
}
