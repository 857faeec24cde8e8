/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/channel-set.h"
#include "engine/job/job.h"

/* A tunnel: a unix socket here whose every connection is one to a unix socket at the peer. A job of
 * kind "tunnel", which is in no journal and lives until it is cancelled or the session dies.
 * 'spec': listen, to, connect. DRV_ERROR_USAGE. */
DrvJob *drv_tunnel_new(DrvServices *services, const char *id, JsonObject *spec, GError **error);

/* The other end: a peer asks for a connection to a unix socket here, and is answered. 'ends' keeps
 * it until it is over. FALSE with what the peer was refused with. */
gboolean drv_tunnel_accept(DrvServices *services, GPtrArray *ends, DrvPeer *peer, guint64 call,
                           JsonObject *args, GError **error);
