/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/listener.h"

#include "common/error.h"

#include <errno.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct _DrvListener {
    char *path;
    int fd;
    guint source;
    DrvListenerTake take;
    gpointer data;
};

static gboolean
fill_address(const char *path, struct sockaddr_un *address, GError **error)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "the socket path %s is longer than the %zu bytes that a unix socket may have: "
                    "use a shorter directory",
                    path, sizeof address->sun_path - 1);
        return FALSE;
    }
    strcpy(address->sun_path, path);
    return TRUE;
}

int
drv_unix_connect(const char *path, GError **error)
{
    return drv_unix_connect_named(path, path, error);
}

int
drv_unix_connect_named(const char *path, const char *name, GError **error)
{
    struct sockaddr_un address;
    if (!fill_address(path, &address, error))
        return -1;
    /* Non-blocking for the connect only: a listener whose backlog is full must not hold us up. */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int err = errno;
        const char *hint = err == ENOENT         ? ": nothing is there"
                           : err == ECONNREFUSED ? ": nobody listens there any more"
                           : err == EACCES       ? ": droverd has no permission to use it"
                                                 : "";
        g_set_error(error, DRV_ERROR, DRV_ERROR_UNREACHABLE, "cannot connect to %s: %s%s", name,
                    g_strerror(err), hint);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    g_unix_set_fd_nonblocking(fd, FALSE, NULL);
    return fd;
}

/* A socket that nobody serves is what a killed daemon left behind. */
static gboolean
remove_abandoned(const char *path, GError **error)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return TRUE;
    if (!S_ISSOCK(st.st_mode)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "%s exists and is not a socket: name another path", path);
        return FALSE;
    }
    int fd = drv_unix_connect(path, NULL);
    if (fd >= 0) {
        close(fd);
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "another process listens on %s: name another path", path);
        return FALSE;
    }
    unlink(path);
    return TRUE;
}

static gboolean
incoming(gint fd, GIOCondition condition, gpointer data)
{
    DrvListener *listener = data;
    int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (connection >= 0)
        listener->take(connection, listener->data);
    else if (errno == EMFILE || errno == ENFILE)
        g_warning("a connection on %s cannot be accepted: %s: raise the limit of open files",
                  listener->path, g_strerror(errno));
    return G_SOURCE_CONTINUE;
}

DrvListener *
drv_listener_new(const char *path, DrvListenerTake take, gpointer data, GError **error)
{
    struct sockaddr_un address;
    if (!fill_address(path, &address, error) || !remove_abandoned(path, error))
        return NULL;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        chmod(path, 0600) < 0 || listen(fd, 64) < 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "cannot listen on %s: %s", path,
                    g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    DrvListener *listener = g_new0(DrvListener, 1);
    listener->path = g_strdup(path);
    listener->fd = fd;
    listener->take = take;
    listener->data = data;
    listener->source = g_unix_fd_add(fd, G_IO_IN, incoming, listener);
    return listener;
}

void
drv_listener_free(DrvListener *listener)
{
    if (listener == NULL)
        return;
    g_source_remove(listener->source);
    close(listener->fd);
    unlink(listener->path);
    g_free(listener->path);
    g_free(listener);
}
