/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/peer.h"

/* The sessions that this daemon has opened, one for each address, shared by all jobs that want to
 * talk to it. Control thread only. */
typedef struct _DrvPeers DrvPeers;

/* 'lanes': of a session for which nobody names a number; 0: as many as fit. */
DrvPeers *drv_peers_new(guint lanes);
/* Once, before the first drv_peers_get(); borrowed. */
void drv_peers_set_transfer(DrvPeers *peers, DrvTransfer *transfer);
/* Closes what is left. */
void drv_peers_free(DrvPeers *peers);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvPeers, drv_peers_free)

/* The session with the daemon at 'host':'port', opened if there is none or it is dead. Referenced;
 * give it back with drv_peers_put(), which closes the session when nobody uses it any more. */
DrvPeer *drv_peers_get(DrvPeers *peers, const char *host, guint16 port, guint lanes);
void drv_peers_put(DrvPeers *peers, DrvPeer *peer);
