/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/aborts.h"

#include "engine/host/address.h"

/* An abort that could not be delivered is tried again for so long. */
#define FIRST_S 1
#define AGAIN_S 3
#define TRIES 100

typedef struct {
    DrvAborts *aborts; /* NULL: they are gone */
    char *id;
    char *host;
    guint16 port;
    guint tries;
    DrvPeer *peer;  /* while it is being called */
    GSource *timer; /* until it is called again */
} Abort;

struct _DrvAborts {
    DrvPeers *peers;
    GPtrArray *due; /* of Abort */
};

static gboolean try(gpointer data);

static void
stop_timer(Abort *abort)
{
    if (abort->timer != NULL) {
        g_source_destroy(abort->timer);
        g_clear_pointer(&abort->timer, g_source_unref);
    }
}

static void
try_in(Abort *abort, guint seconds)
{
    abort->timer = g_timeout_source_new_seconds(seconds);
    g_source_set_callback(abort->timer, try, abort, NULL);
    g_source_attach(abort->timer, g_main_context_get_thread_default());
}

static void
free_abort(Abort *abort)
{
    stop_timer(abort);
    g_free(abort->id);
    g_free(abort->host);
    g_free(abort);
}

static void
settle(Abort *abort)
{
    g_ptr_array_remove_fast(abort->aborts->due, abort);
    free_abort(abort);
}

static void
answered(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    Abort *abort = data;
    if (abort->aborts == NULL) { /* with the session, and all that waited for it */
        free_abort(abort);
        return;
    }
    gboolean over = ok != NULL || !drv_peer_is_dead(peer);
    drv_peers_put(abort->aborts->peers, g_steal_pointer(&abort->peer));
    if (over || ++abort->tries >= TRIES)
        settle(abort);
    else
        try_in(abort, AGAIN_S);
}

static gboolean
try(gpointer data)
{
    Abort *abort = data;
    JsonObject *args = json_object_new();
    stop_timer(abort);
    json_object_set_string_member(args, "job", abort->id);
    abort->peer = drv_peers_get(abort->aborts->peers, abort->host, abort->port, 0);
    drv_peer_call(abort->peer, "job.abort", args, answered, abort);
    return G_SOURCE_REMOVE;
}

void
drv_aborts_add(DrvAborts *aborts, const char *id, const char *to)
{
    g_autofree char *host = NULL;
    guint16 port;
    if (!drv_address_parse(to, &host, &port, NULL))
        return;
    Abort *abort = g_new0(Abort, 1);
    abort->aborts = aborts;
    abort->id = g_strdup(id);
    abort->host = g_steal_pointer(&host);
    abort->port = port;
    g_ptr_array_add(aborts->due, abort);
    try_in(abort, FIRST_S);
}

DrvAborts *
drv_aborts_new(DrvPeers *peers)
{
    DrvAborts *aborts = g_new0(DrvAborts, 1);
    aborts->peers = peers;
    aborts->due = g_ptr_array_new();
    return aborts;
}

void
drv_aborts_free(DrvAborts *aborts)
{
    if (aborts == NULL)
        return;
    while (aborts->due->len > 0) {
        Abort *abort = g_ptr_array_steal_index_fast(aborts->due, 0);
        abort->aborts = NULL;
        if (abort->peer == NULL)
            free_abort(abort); /* else the peer still owes it an answer */
        else
            drv_peers_put(aborts->peers, g_steal_pointer(&abort->peer));
    }
    g_ptr_array_unref(aborts->due);
    g_free(aborts);
}
