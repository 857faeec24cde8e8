/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/error.h"

/*
 * Between finding that a socket is dead and putting another in its place, a second daemon could do
 * the same, and each would remove the other's. So both steps happen under a lock on the directory,
 * which leaves no file behind and goes away with its holder.
 */

#define BACKLOG 64

gboolean
drv_api_socket_check_path(const char *path, GError **error)
{
    const gsize max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    if (path[0] == '\0') {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "the API socket's path is empty: name a file");
        return FALSE;
    }
    if (strlen(path) > max) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "the API socket's path has %zu bytes, and a unix socket's can have at most "
                    "%zu: choose a shorter one than %.40s...",
                    strlen(path), max, path);
        return FALSE;
    }
    return TRUE;
}

static struct sockaddr_un
address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    return address;
}

/* The directory, locked; closing it unlocks. -1 on failure. */
static int
lock_directory(const char *path, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        while (flock(fd, LOCK_EX) != 0) {
            if (errno == EINTR)
                continue;
            g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "the directory %s cannot be locked: %s",
                        dir, g_strerror(errno));
            close(fd);
            return -1;
        }
        return fd;
    }
    int code = errno;
    if (code == ENOENT)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "the API socket's directory %s does not exist: create it, or choose another "
                    "with --api",
                    dir);
    else if (code == ENOTDIR)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "%s is not a directory: choose another place for the API socket with --api",
                    dir);
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the API socket's directory %s cannot be opened: %s", dir, g_strerror(code));
    return -1;
}

/* Whether somebody listens there. Non-blocking: a daemon whose queue is full is alive, too. */
static gboolean
is_served(const char *path)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return TRUE; /* not known: rather refuse to start than take another's place */
    struct sockaddr_un address = address_of(path);
    gboolean refused = connect(fd, (struct sockaddr *)&address, sizeof address) != 0 &&
                       (errno == ECONNREFUSED || errno == ENOENT);
    close(fd);
    return !refused;
}

static gboolean
clear_place(const char *path, GError **error)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        if (errno == ENOENT)
            return TRUE;
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s cannot be looked at: %s", path,
                    g_strerror(errno));
        return FALSE;
    }
    if (!S_ISSOCK(st.st_mode)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "%s exists and is not a socket: remove it, or choose another path with --api",
                    path);
        return FALSE;
    }
    if (is_served(path)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "another process serves %s: end it, or choose another path with --api", path);
        return FALSE;
    }
    if (unlink(path) != 0 && errno != ENOENT) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "%s was left behind by a daemon that has ended, and cannot be removed: %s",
                    path, g_strerror(errno));
        return FALSE;
    }
    return TRUE;
}

/* Linux gives the file the mode that the socket has when it is bound, so there is no moment at
 * which it is open to others, and no umask (which is the whole process's) is touched. */
static gboolean
bind_private(DrvApiSocket *sock, GError **error)
{
    struct sockaddr_un address = address_of(sock->path);
    struct stat st;
    if (fchmod(sock->fd, 0600) != 0 ||
        bind(sock->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int code = errno;
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "the API socket %s cannot be made: %s%s",
                    sock->path, g_strerror(code),
                    code == EACCES ? " (start droverd as a user who may write to its directory)"
                                   : "");
        return FALSE;
    }
    if (lstat(sock->path, &st) == 0) {
        sock->dev = st.st_dev;
        sock->ino = st.st_ino;
        if ((st.st_mode & 07777) == 0600 && listen(sock->fd, BACKLOG) == 0)
            return TRUE;
    }
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "the API socket %s cannot be made private",
                sock->path);
    return FALSE;
}

gboolean
drv_api_socket_open(DrvApiSocket *sock, const char *path, GError **error)
{
    *sock = (DrvApiSocket){.fd = -1};
    if (!drv_api_socket_check_path(path, error))
        return FALSE;
    int dir = lock_directory(path, error);
    if (dir < 0)
        return FALSE;
    gboolean ok = clear_place(path, error);
    if (ok) {
        sock->path = g_strdup(path);
        sock->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (sock->fd < 0) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "no socket for the API: %s",
                        g_strerror(errno));
            ok = FALSE;
        } else {
            ok = bind_private(sock, error);
        }
    }
    if (!ok)
        drv_api_socket_close(sock);
    close(dir);
    return ok;
}

gboolean
drv_api_socket_share(const DrvApiSocket *sock, gid_t group, GError **error)
{
    /* By a descriptor of the very file that was made, whatever stands at its path by now. The group
     * comes first: a mode for the old group would be somebody else's. */
    int fd = open(sock->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", fd);
    struct stat st;
    gboolean ok = fd >= 0 && fstat(fd, &st) == 0;
    if (ok && (st.st_dev != sock->dev || st.st_ino != sock->ino)) {
        errno = ESTALE;
        ok = FALSE;
    }
    ok = ok && fchownat(fd, "", (uid_t)-1, group, AT_EMPTY_PATH) == 0 && chmod(self, 0660) == 0;
    if (!ok)
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the API socket %s cannot be given to the group %u: %s (a user other than root "
                    "must be a member of it)",
                    sock->path, (guint)group, g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

void
drv_api_socket_close(DrvApiSocket *sock)
{
    struct stat st;
    if (sock->path != NULL && sock->ino != 0 && lstat(sock->path, &st) == 0 &&
        st.st_dev == sock->dev && st.st_ino == sock->ino)
        unlink(sock->path);
    if (sock->path != NULL && sock->fd >= 0)
        close(sock->fd);
    g_clear_pointer(&sock->path, g_free);
    sock->fd = -1;
    sock->ino = 0;
}
