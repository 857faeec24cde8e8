/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/allowed.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

gboolean
drv_allowed_is_below(const char *path, const char *folder)
{
    g_autofree char *real = realpath(folder, NULL);
    gsize len = real != NULL ? strlen(real) : 0;
    if (len == 1) /* "/" */
        return TRUE;
    return len > 1 && strncmp(path, real, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* Where nobody has said which folders: not where the system's own files are. */
static gboolean
is_of_system(const char *real)
{
    static const char *const system[] = {"/bin",   "/boot", "/dev",      "/etc", "/lib",
                                         "/lib64", "/proc", "/root",     "/run", "/sbin",
                                         "/sys",   "/usr",  "/var/spool"};
    for (guint i = 0; i < G_N_ELEMENTS(system); i++) {
        if (drv_allowed_is_below(real, system[i]))
            return TRUE;
    }
    return g_str_equal(real, "/") || strstr(real, "/.") != NULL;
}

static gboolean
check_unset(const char *real, const char *path, GError **error)
{
    if (!is_of_system(real))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "%s is where the system keeps its own files: name the folders of images with "
                "images=DIR:DIR in droverd's configuration, if it is to be used",
                path);
    return FALSE;
}

static gboolean
check(char *const *folders, const char *real, const char *path, GError **error)
{
    if (folders == NULL)
        return TRUE;
    if (folders[0] == NULL)
        return check_unset(real, path, error);
    for (guint i = 0; folders[i] != NULL; i++) {
        if (drv_allowed_is_below(real, folders[i]))
            return TRUE;
    }
    g_autofree char *list = g_strjoinv(":", (char **)folders);
    gboolean moved = !g_str_equal(real, path);
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "%s%s%s is in none of the folders that droverd may use for images (%s): choose "
                "another path, or change images= in its configuration",
                path, moved ? ", which leads to " : "", moved ? real : "", list);
    return FALSE;
}

static char *
resolve(const char *path, GError **error)
{
    char *real = g_path_is_absolute(path) ? realpath(path, NULL) : NULL;
    if (real != NULL)
        return real;
    if (!g_path_is_absolute(path))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "'%s' must be an absolute path", path);
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s cannot be used: %s", path,
                    g_strerror(errno));
    return NULL;
}

char *
drv_allowed_file(char *const *folders, const char *path, GError **error)
{
    g_autofree char *real = resolve(path, error);
    return real != NULL && check(folders, real, path, error) ? g_steal_pointer(&real) : NULL;
}

int
drv_allowed_open(const char *real, int flags)
{
    struct open_how how = {
        .flags = (guint64)flags | O_CLOEXEC,
        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    return (int)syscall(SYS_openat2, AT_FDCWD, real, &how, sizeof how);
}

static gboolean
check_name(const char *path, const char *name, GError **error)
{
    if (!g_str_has_suffix(path, "/") && !g_str_equal(name, ".") && !g_str_equal(name, "..") &&
        strlen(name) <= 200)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "'%s' is not the path of a file", path);
    return FALSE;
}

/* A link under the name would be replaced, or lead elsewhere: neither can be what is meant. But
 * devices have names that are links. */
static gboolean
check_link(int fd, const char *name, const char *path, GError **error)
{
    struct stat link, file;
    if (fstatat(fd, name, &link, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISLNK(link.st_mode) ||
        (fstatat(fd, name, &file, 0) == 0 && S_ISBLK(file.st_mode)))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "%s is a symbolic link: name the file that is to be written", path);
    return FALSE;
}

int
drv_allowed_folder(char *const *folders, const char *path, char **folder, char **name,
                   GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *base = g_path_get_basename(path);
    g_autofree char *real = check_name(path, base, error) ? resolve(parent, error) : NULL;
    if (real == NULL || !check(folders, real, parent, error))
        return -1;
    int fd = drv_allowed_open(real, O_RDONLY | O_DIRECTORY);
    if (fd < 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s cannot be used: %s", real,
                    g_strerror(errno));
        return -1;
    }
    if (!check_link(fd, base, path, error)) {
        close(fd);
        return -1;
    }
    *folder = g_steal_pointer(&real);
    *name = g_steal_pointer(&base);
    return fd;
}
