/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/socket.h"

#include "qmp/error.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Linux refuses a connection to what is no socket with the same code as one to a dead socket. */
static gboolean
is_socket(const char *path)
{
    struct stat st;
    return stat(path, &st) != 0 || S_ISSOCK(st.st_mode);
}

static void
set_connect_error(GError **error, const char *path, int code)
{
    switch (code) {
    case ENOENT:
    case ENOTDIR:
        g_set_error(error, QMP_ERROR, QMP_ERROR_NOT_FOUND,
                    "no QMP socket exists at '%s': check the path, and that QEMU was started with "
                    "-qmp unix:%s,server=on,wait=off",
                    path, path);
        return;
    case EACCES:
    case EPERM:
        g_set_error(error, QMP_ERROR, QMP_ERROR_PERMISSION,
                    "no permission to connect to the QMP socket '%s': run as the user QEMU runs "
                    "as, or as root",
                    path);
        return;
    case EAGAIN:
        g_set_error(error, QMP_ERROR, QMP_ERROR_BUSY,
                    "the QMP socket '%s' is busy with another client and more are waiting: QEMU "
                    "serves one at a time, so close the other one and try again",
                    path);
        return;
    case EPROTOTYPE:
        g_set_error(error, QMP_ERROR, QMP_ERROR_NOT_SOCKET,
                    "'%s' is a datagram socket, not a QMP socket: check the path", path);
        return;
    case ECONNREFUSED:
        if (!is_socket(path))
            g_set_error(error, QMP_ERROR, QMP_ERROR_NOT_SOCKET,
                        "'%s' is not a socket: give the path of QEMU's QMP socket", path);
        else
            g_set_error(error, QMP_ERROR, QMP_ERROR_REFUSED,
                        "nobody listens on the QMP socket '%s': its QEMU is gone, start it again "
                        "or remove the socket",
                        path);
        return;
    default:
        g_set_error(error, QMP_ERROR, QMP_ERROR_IO, "cannot connect to the QMP socket '%s': %s",
                    path, g_strerror(code));
    }
}

int
qmp_socket_connect(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    gsize len = strlen(path);
    if (len == 0) {
        g_set_error_literal(error, QMP_ERROR, QMP_ERROR_PATH,
                            "the path of the QMP socket is empty: give the one QEMU was started "
                            "with");
        return -1;
    }
    if (len >= sizeof address.sun_path) {
        g_set_error(error, QMP_ERROR, QMP_ERROR_PATH,
                    "the path of the QMP socket has %zu bytes and a unix socket's may have %zu: "
                    "reach it through a shorter symbolic link than '%s'",
                    len, sizeof address.sun_path - 1, path);
        return -1;
    }
    memcpy(address.sun_path, path, len + 1);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        set_connect_error(error, path, errno);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

pid_t
qmp_socket_peer_pid(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0 || cred.pid < 0)
        return 0;
    return cred.pid;
}
