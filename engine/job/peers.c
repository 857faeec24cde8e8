/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/peers.h"

#include "engine/host/address.h"

typedef struct {
    DrvPeer *peer;
    guint users;
} SharedPeer;

struct _DrvPeers {
    DrvTransfer *transfer; /* borrowed */
    guint lanes;
    GHashTable *shared; /* "HOST:PORT" → SharedPeer */
};

static void
free_shared(gpointer data)
{
    SharedPeer *shared = data;
    drv_peer_unref(shared->peer);
    g_free(shared);
}

DrvPeers *
drv_peers_new(guint lanes)
{
    DrvPeers *peers = g_new0(DrvPeers, 1);
    peers->lanes = lanes;
    peers->shared = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_shared);
    return peers;
}

void
drv_peers_set_transfer(DrvPeers *peers, DrvTransfer *transfer)
{
    peers->transfer = transfer;
}

void
drv_peers_free(DrvPeers *peers)
{
    GHashTableIter iter;
    gpointer shared;
    if (peers == NULL)
        return;
    /* Some may still be waiting for an answer. */
    g_hash_table_iter_init(&iter, peers->shared);
    while (g_hash_table_iter_next(&iter, NULL, &shared))
        drv_peer_close(((SharedPeer *)shared)->peer);
    g_hash_table_unref(peers->shared);
    g_free(peers);
}

DrvPeer *
drv_peers_get(DrvPeers *peers, const char *host, guint16 port, guint lanes)
{
    g_autofree char *key = drv_address_format(host, port);
    SharedPeer *shared = g_hash_table_lookup(peers->shared, key);
    if (lanes == 0)
        lanes = peers->lanes;
    if (shared != NULL && drv_peer_is_dead(shared->peer)) {
        g_hash_table_remove(peers->shared, key);
        shared = NULL;
    }
    if (shared == NULL) {
        shared = g_new0(SharedPeer, 1);
        shared->peer = drv_peer_connect(peers->transfer, host, port, lanes);
        g_hash_table_insert(peers->shared, g_steal_pointer(&key), shared);
    } else {
        drv_session_want_lanes(drv_peer_session(shared->peer), lanes);
    }
    shared->users++;
    return drv_peer_ref(shared->peer);
}

static gboolean
is_unused(gpointer key, gpointer value, gpointer peer)
{
    SharedPeer *shared = value;
    if (shared->peer != peer || --shared->users > 0)
        return FALSE;
    drv_peer_close(shared->peer);
    return TRUE;
}

void
drv_peers_put(DrvPeers *peers, DrvPeer *peer)
{
    g_hash_table_foreach_remove(peers->shared, is_unused, peer);
    drv_peer_unref(peer);
}
