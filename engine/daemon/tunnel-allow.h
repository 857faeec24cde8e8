/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Which unix sockets tunnels may join. A path is judged by where it leads: links and ".." count as
 * what they come to. 'folders' NULL: nobody has said. None in it: no tunnels. Both fail with
 * DRV_ERROR_STATE.
 */

/* Opens (O_PATH) the socket that another host's tunnel is to lead to, so that no link that is put
 * there afterwards leads elsewhere. Where nobody has said: any but those by which this host is
 * administered. -1, and DRV_ERROR_UNREACHABLE where there is none. */
int drv_tunnel_allow_to(char *const *folders, const char *path, GError **error);

/* Whether a tunnel of this host may listen there. Where nobody has said: anywhere. DRV_ERROR_USAGE
 * where it cannot. */
gboolean drv_tunnel_allow_from(char *const *folders, const char *path, GError **error);
