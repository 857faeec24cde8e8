/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/tunnel-allow.h"

#include "common/error.h"
#include "engine/image/allowed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* Who may speak to these is root here, or owner of its VMs and containers. It cannot be complete:
 * whoever lets other hosts in names folders. */
static const char *const of_administration[] = {
    "/run/systemd",     "/run/dbus",    "/run/udev",
    "/run/user",        "/run/lvm",     "/run/docker",
    "/run/docker.sock", "/run/podman",  "/run/containerd",
    "/run/crio",        "/run/libvirt", "/run/snapd.socket",
    "/run/lxd",         "/run/incus",   "/run/drover",
    "/var/lib/libvirt", "/var/lib/lxd", "/var/lib/incus",
    "/var/snap",        "/dev",         "/proc"};

static gboolean
is_in(char *const *folders, const char *real)
{
    for (guint i = 0; folders[i] != NULL; i++)
        if (drv_allowed_is_below(real, folders[i]))
            return TRUE;
    return FALSE;
}

static gboolean
is_of_administration(const char *real)
{
    for (guint i = 0; i < G_N_ELEMENTS(of_administration); i++)
        if (drv_allowed_is_below(real, of_administration[i]))
            return TRUE;
    return FALSE;
}

/* Both ends' users read this, so it says whose configuration is meant. */
static gboolean
check_to(char *const *folders, const char *real, const char *path, GError **error)
{
    if (folders != NULL ? is_in(folders, real) : !is_of_administration(real))
        return TRUE;
    if (folders != NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is in none of the folders that tunnels of other hosts may lead to: name "
                    "its folder in 'tunnels=' under [incoming] in the destination's configuration",
                    path);
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is a socket by which the destination host is administered: tunnels lead "
                    "there only if 'tunnels=' under [incoming] in its configuration names its "
                    "folder",
                    path);
    return FALSE;
}

int
drv_tunnel_allow_to(char *const *folders, const char *path, GError **error)
{
    g_autofree char *real = realpath(path, NULL);
    if (real != NULL && !check_to(folders, real, path, error))
        return -1;
    int fd = real != NULL ? drv_allowed_open(real, O_PATH) : -1;
    if (fd < 0)
        g_set_error(error, DRV_ERROR, DRV_ERROR_UNREACHABLE, "cannot connect to %s: %s", path,
                    g_strerror(errno));
    return fd;
}

gboolean
drv_tunnel_allow_from(char *const *folders, const char *path, GError **error)
{
    if (folders == NULL)
        return TRUE;
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *real = realpath(parent, NULL);
    if (real == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "cannot listen on %s: %s", path,
                    g_strerror(errno));
    else if (!is_in(folders, real))
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is in none of the folders that tunnels may begin in: choose another, or "
                    "name its folder in 'tunnels=' under [outgoing] in the configuration of this "
                    "host",
                    path);
    else
        return TRUE;
    return FALSE;
}
