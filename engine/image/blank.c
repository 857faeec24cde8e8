/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/blank.h"

#include "common/error.h"
#include "engine/image/allowed.h"
#include "engine/image/convert.h"
#include "engine/image/probe.h"
#include "engine/image/qemu-lock.h"
#include "engine/image/target.h"
#include "engine/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

DrvBlank *
drv_blank_new(void)
{
    DrvBlank *blank = g_new0(DrvBlank, 1);
    blank->dir = blank->temp_fd = -1;
    return blank;
}

void
drv_blank_free(DrvBlank *blank)
{
    if (blank == NULL)
        return;
    if (blank->dir >= 0)
        close(blank->dir);
    g_free(blank->disk);
    g_free(blank->path);
    g_free(blank->format);
    g_free(blank->options);
    g_free(blank->backing);
    g_free(blank->backing_format);
    g_free(blank->folder);
    g_free(blank->name);
    g_free(blank);
}

static gboolean
failed(const DrvBlank *blank, const char *what, GError **error)
{
    int why = errno;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s cannot be %s: %s", blank->path, what,
                g_strerror(why));
    return FALSE;
}

/* --- looking --- */

static gboolean
fits(const DrvBlank *blank, const DrvImageInfo *info, GError **error)
{
    if (!g_str_equal(info->format, blank->format))
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "%s is there already and is %s, not %s: choose another path or format, or "
                    "remove it",
                    blank->path, info->format, blank->format);
    else if (info->size != blank->size)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "%s is there already and has %" G_GUINT64_FORMAT
                    " bytes, and the disk %" G_GUINT64_FORMAT ": choose another path, or remove it",
                    blank->path, info->size, blank->size);
    else if (blank->backing != NULL && !info->backed)
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "%s is there already and has no backing file, unlike the disk: choose another "
                    "path, or remove it",
                    blank->path);
    else
        return TRUE;
    return FALSE;
}

/* A QEMU that waits for a migration does not write the images that it was started with. */
static gboolean
is_written(const DrvBlank *blank, GError **error)
{
    int fd = openat(blank->dir, blank->name,
                    O_RDONLY | O_CLOEXEC | O_NONBLOCK | (blank->file ? O_NOFOLLOW : 0));
    if (fd < 0)
        return !failed(blank, "looked at", error);
    gboolean written = !drv_qemu_lock_reader(fd, blank->path, NULL);
    close(fd);
    if (written)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is there already and in use, by a VM that runs or a copy: choose another "
                    "path",
                    blank->path);
    return written;
}

static gboolean
look_at_it(DrvBlank *blank, const struct stat *st, GError **error)
{
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is neither a file nor a block device: choose another path", blank->path);
        return FALSE;
    }
    blank->file = S_ISREG(st->st_mode);
    blank->used = (guint64)st->st_blocks * 512;
    blank->state = DRV_BLANK_THERE;
    if (is_written(blank, error))
        return FALSE;
    /* A device has no header unless somebody has written one, so it is what one says it is. */
    g_autofree char *path = g_build_filename(blank->folder, blank->name, NULL);
    g_autoptr(DrvImageInfo) info = drv_image_probe(path, blank->file ? NULL : blank->format, error);
    return info != NULL && fits(blank, info, error);
}

/* The other host names it: what that refers to in turn is no more trusted. */
static gboolean
check_backing(const DrvBlank *blank, char *const *folders, GError **error)
{
    if (blank->backing == NULL)
        return TRUE;
    g_autofree char *real = drv_allowed_file(folders, blank->backing, error);
    g_autoptr(DrvImageInfo) info =
        real != NULL ? drv_image_probe(real, blank->backing_format, error) : NULL;
    gboolean good = info != NULL;
    for (guint i = 1; good && i < info->files->len; i++) {
        g_autofree char *other = drv_allowed_file(folders, info->files->pdata[i], error);
        good = other != NULL;
    }
    if (!good)
        g_prefix_error(error, "the backing file has to be copied first: ");
    return good;
}

static gboolean
look(DrvBlank *blank, char *const *folders, GError **error)
{
    struct stat st;
    if (!drv_image_format_writable(blank->format, error) ||
        !drv_convert_check(NULL, blank->format, blank->options, FALSE, error) ||
        (blank->backing_format != NULL && !drv_image_format_check(blank->backing_format, error)))
        return FALSE;
    blank->dir = drv_allowed_folder(folders, blank->path, &blank->folder, &blank->name, error);
    if (blank->dir < 0)
        return FALSE;
    if (fstatat(blank->dir, blank->name, &st, 0) == 0)
        return look_at_it(blank, &st, error);
    if (errno != ENOENT)
        return failed(blank, "looked at", error);
    blank->file = TRUE;
    if (!blank->encrypted)
        return check_backing(blank, folders, error);
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "it is encrypted, and drover has no key to make another that is: make %s there "
                "with 'qemu-img create -o encrypt.format=luks' and a key of its own",
                blank->path);
    return FALSE;
}

/* Two disks in one image would be none. */
static gboolean
is_taken(GPtrArray *blanks, guint i, GError **error)
{
    const DrvBlank *blank = blanks->pdata[i];
    for (guint k = 0; k < i; k++) {
        const DrvBlank *other = blanks->pdata[k];
        if (g_str_equal(other->folder, blank->folder) && g_str_equal(other->name, blank->name)) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "it would have the same image as disk '%s', %s: give one of them another "
                        "with --dest",
                        other->disk, blank->path);
            return TRUE;
        }
    }
    return FALSE;
}

gboolean
drv_blanks_look(GPtrArray *blanks, char *const *folders, GError **error)
{
    for (guint i = 0; i < blanks->len; i++) {
        DrvBlank *blank = blanks->pdata[i];
        if (!look(blank, folders, error) || is_taken(blanks, i, error)) {
            g_prefix_error(error, "disk '%s': ", blank->disk);
            return FALSE;
        }
    }
    return TRUE;
}

/* --- making --- */

/* By its descriptor: under the name there might be another by now, or a link, as the folder is not
 * ours alone. */
static gboolean
create(const DrvBlank *blank, const gint *cancelled, GError **error)
{
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, blank->size);
    const char *argv[16] = {"qemu-img", "create", "-q", "-f", blank->format};
    guint count = 5;
    if (blank->options != NULL) {
        argv[count++] = "-o";
        argv[count++] = blank->options;
    }
    if (blank->backing != NULL) {
        argv[count++] = "-b";
        argv[count++] = blank->backing;
        argv[count++] = "-F";
        argv[count++] = blank->backing_format;
    }
    argv[count++] = DRV_TOOL_FD_PATH;
    argv[count] = size;
    const DrvToolCall call = {
        .argv = argv,
        .fd = blank->temp_fd,
        .shown = blank->path,
        .limit_ms = DRV_TOOL_BRIEF_MS,
        .cancelled = cancelled,
    };
    g_autofree char *out = drv_tool_call(&call, NULL, NULL, error);
    if (out == NULL)
        g_prefix_error(error, "%s cannot be made: ", blank->path);
    return out != NULL;
}

/* Not every format has any size. */
static gboolean
check_size(const DrvBlank *blank, GError **error)
{
    g_autofree char *path = g_build_filename(blank->folder, blank->temp, NULL);
    g_autoptr(DrvImageInfo) info = drv_image_probe(path, blank->format, error);
    if (info == NULL || info->size == blank->size)
        return info != NULL;
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                "an image of format %s has %" G_GUINT64_FORMAT
                " bytes instead of %" G_GUINT64_FORMAT ": choose another --dest-format",
                blank->format, info->size, blank->size);
    return FALSE;
}

static void
give_to_owner(const DrvBlank *blank)
{
    struct stat st;
    if (fstat(blank->dir, &st) == 0 && st.st_uid != 0 &&
        fchown(blank->temp_fd, st.st_uid, st.st_gid) != 0)
        g_info("%s stays droverd's own: %s", blank->path, g_strerror(errno));
}

/* Fails with EEXIST if the name is taken by now. */
static gboolean
give_name(const DrvBlank *blank)
{
    if (renameat2(blank->dir, blank->temp, blank->dir, blank->name, RENAME_NOREPLACE) == 0)
        return TRUE;
    /* Some file systems (NFS) cannot do that. */
    if (errno != EINVAL && errno != ENOSYS)
        return FALSE;
    return linkat(blank->dir, blank->temp, blank->dir, blank->name, 0) == 0 &&
           unlinkat(blank->dir, blank->temp, 0) == 0;
}

/* Whoever cleans up leaves it alone as long as it is locked; but he may have been faster. */
static gboolean
lock(const DrvBlank *blank, GError **error)
{
    struct stat st;
    if (flock(blank->temp_fd, LOCK_EX | LOCK_NB) == 0 && fstat(blank->temp_fd, &st) == 0 &&
        st.st_nlink > 0)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "%s is being made by another: see what becomes of that", blank->path);
    return FALSE;
}

static gboolean
make(DrvBlank *blank, const gint *cancelled, GError **error)
{
    struct stat st;
    g_autofree char *prefix = g_strdup_printf(".%s.drover-new-", blank->name);
    drv_target_clean(blank->dir, blank->folder, prefix, NULL);
    blank->temp = g_strdup_printf("%s%08x", prefix, (guint)g_random_int());
    blank->temp_fd =
        openat(blank->dir, blank->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (blank->temp_fd < 0)
        return failed(blank, "made", error);
    if (!lock(blank, error) || !create(blank, cancelled, error) || !check_size(blank, error))
        return FALSE;
    give_to_owner(blank);
    if (fstat(blank->temp_fd, &st) != 0 || fsync(blank->temp_fd) != 0)
        return failed(blank, "written", error);
    blank->inode = st.st_ino;
    return TRUE;
}

static gboolean
publish(DrvBlank *blank, GError **error)
{
    if (!give_name(blank))
        return failed(blank, "given its name", error);
    g_clear_pointer(&blank->temp, g_free);
    blank->state = DRV_BLANK_MADE;
    return fsync(blank->dir) == 0 || failed(blank, "written", error);
}

static void
drop_temp(DrvBlank *blank)
{
    if (blank->temp_fd < 0)
        return;
    if (blank->temp != NULL)
        unlinkat(blank->dir, blank->temp, 0);
    g_clear_pointer(&blank->temp, g_free);
    close(blank->temp_fd);
    blank->temp_fd = -1;
}

/* None gets its name before all are made: hardly ever there is one that is removed again. */
static gboolean
make_all(GPtrArray *blanks, const gint *cancelled, GError **error)
{
    for (guint pass = 0; pass < 2; pass++) {
        for (guint i = 0; i < blanks->len; i++) {
            DrvBlank *blank = blanks->pdata[i];
            if (blank->state != DRV_BLANK_ABSENT)
                continue;
            if (pass == 0 ? make(blank, cancelled, error) : publish(blank, error))
                continue;
            g_prefix_error(error, "disk '%s': ", blank->disk);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean
drv_blanks_make(GPtrArray *blanks, const gint *cancelled, GError **error)
{
    gboolean good = make_all(blanks, cancelled, error);
    for (guint i = 0; i < blanks->len; i++)
        drop_temp(blanks->pdata[i]);
    if (!good)
        drv_blanks_unmake(blanks);
    return good;
}

/* --- taking it back --- */

static void
unmake(DrvBlank *blank)
{
    struct stat st;
    g_autoptr(GError) used = NULL;
    int fd = openat(blank->dir, blank->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && st.st_ino == blank->inode &&
        drv_qemu_lock_unused(fd, blank->path, &used) && unlinkat(blank->dir, blank->name, 0) == 0)
        blank->state = DRV_BLANK_ABSENT;
    close(fd);
}

void
drv_blanks_unmake(GPtrArray *blanks)
{
    for (guint i = 0; i < blanks->len; i++) {
        DrvBlank *blank = blanks->pdata[i];
        if (blank->state == DRV_BLANK_MADE)
            unmake(blank);
    }
}

/* --- room --- */

typedef struct {
    dev_t device;
    const DrvBlank *first; /* for its folder's name */
    guint64 data, size;    /* still to be written, for certain and at most */
} Place;

static Place *
find_place(GArray *places, const DrvBlank *blank)
{
    struct stat st;
    if (!blank->file || fstat(blank->dir, &st) != 0)
        return NULL;
    for (guint i = 0; i < places->len; i++) {
        if (g_array_index(places, Place, i).device == st.st_dev)
            return &g_array_index(places, Place, i);
    }
    const Place place = {.device = st.st_dev, .first = blank};
    g_array_append_val(places, place);
    return &g_array_index(places, Place, places->len - 1);
}

static char *
doubt(const Place *place)
{
    struct statvfs fs;
    if (fstatvfs(place->first->dir, &fs) != 0)
        return NULL;
    guint64 room = (guint64)fs.f_bavail * fs.f_frsize;
    g_autofree char *has = g_format_size_full(room, G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *data = g_format_size_full(place->data, G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *size = g_format_size_full(place->size, G_FORMAT_SIZE_IEC_UNITS);
    if (room < place->data)
        return g_strdup_printf("%s has %s free, and the disks take %s at the source: it will "
                               "probably be full before they are moved",
                               place->first->folder, has, data);
    if (room < place->size)
        return g_strdup_printf("%s has %s free, and the disks may grow by %s: make room there "
                               "before they do",
                               place->first->folder, has, size);
    return NULL;
}

GStrv
drv_blanks_doubts(GPtrArray *blanks)
{
    g_autoptr(GStrvBuilder) doubts = g_strv_builder_new();
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(Place));
    for (guint i = 0; i < blanks->len; i++) {
        const DrvBlank *blank = blanks->pdata[i];
        Place *place = find_place(places, blank);
        if (place == NULL)
            continue;
        guint64 data = MIN(blank->data, blank->size);
        place->data += data - MIN(blank->used, data);
        place->size += blank->size - MIN(blank->used, blank->size);
    }
    for (guint i = 0; i < places->len; i++) {
        g_autofree char *text = doubt(&g_array_index(places, Place, i));
        if (text != NULL)
            g_strv_builder_add(doubts, text);
    }
    return g_strv_builder_end(doubts);
}
