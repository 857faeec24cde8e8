/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/tunnel.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/listener.h"
#include "engine/daemon/tunnel-allow.h"
#include "engine/host/address.h"
#include "engine/job/allow.h"

#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    DrvJob base;
    char *listen;
    char *to;
    char *connect;
    char *host;
    guint16 port;
    DrvListener *listener;
    DrvPeer *peer;
    GPtrArray *connections; /* of DrvChannelSet, one channel each */
    DrvChannelTotals over;  /* of the connections that have ended */
    gboolean lost;
} Tunnel;

static void
end(Tunnel *self, const GError *error)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&self->base);
    if (drv_state_is_final(drv_job_state(&self->base)))
        return;
    g_clear_pointer(&self->listener, drv_listener_free);
    g_ptr_array_set_size(self->connections, 0);
    if (self->peer != NULL) {
        DrvPeer *peer = g_steal_pointer(&self->peer);
        drv_peer_unlisten(peer, self);
        drv_peers_put(drv_services_peers(self->base.services), peer);
    }
    gboolean cancelled = g_error_matches(error, DRV_ERROR, DRV_ERROR_CANCELLED);
    if (!cancelled)
        drv_job_set_error(&self->base, error);
    drv_job_move(&self->base, cancelled ? DRV_STATE_CANCELLED : DRV_STATE_FAILED, NULL);
    drv_job_leave(&self->base);
}

/* --- connections --- */

static void
add_totals(DrvChannelTotals *sum, DrvChannelSet *set)
{
    DrvChannelTotals totals;
    drv_channel_set_totals(set, &totals);
    sum->raw += totals.raw;
    sum->wire += totals.wire;
}

static void
connection_changed(DrvChannelSet *set, gpointer data)
{
    Tunnel *self = data;
    if (drv_channel_set_finished(set)) {
        const GError *broken = drv_channel_set_broken(set);
        if (broken != NULL)
            g_info("tunnel %s: a connection has ended: %s", self->base.rec->id, broken->message);
        add_totals(&self->over, set);
        g_ptr_array_remove_fast(self->connections, set);
    }
}

typedef struct {
    DrvJob *job;
    DrvChannelSet *set;
} Opening;

static void
opened(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autofree Opening *opening = data;
    g_autoptr(DrvJob) job = opening->job;
    Tunnel *self = (Tunnel *)job;
    g_autoptr(GError) why = error != NULL ? g_error_copy(error) : NULL;
    if (!g_ptr_array_find(self->connections, opening->set, NULL))
        return; /* ended meanwhile */
    if (why == NULL && drv_channel_set_accepted(opening->set, ok, &why))
        return;
    g_message("tunnel %s: a connection was refused: %s", job->rec->id, why->message);
    g_ptr_array_remove_fast(self->connections, opening->set);
}

static void
take_connection(int fd, gpointer data)
{
    Tunnel *self = data;
    g_autoptr(GError) error = NULL;
    JsonObject *args = json_object_new();
    DrvChannelSet *set =
        drv_channel_set_new(drv_services_transfer(self->base.services), 8, DRV_CODEC_AUTO,
                            DRV_CLASS_BULK, NULL, connection_changed, self);
    g_ptr_array_add(self->connections, set);
    json_object_set_string_member(args, "connect", self->connect);
    if (!drv_channel_set_offer(set, self->peer, fd, args, &error)) {
        g_message("tunnel %s: a connection was refused: %s", self->base.rec->id, error->message);
        json_object_unref(args);
        g_ptr_array_remove_fast(self->connections, set);
        return;
    }
    Opening *opening = g_new(Opening, 1);
    *opening = (Opening){drv_job_ref(&self->base), set};
    drv_peer_call(self->peer, "tunnel.open", args, opened, opening);
}

static void
free_set(gpointer data)
{
    drv_channel_set_free(data);
}

/* --- the session --- */

static void
peer_connected(DrvPeer *peer, gpointer data)
{
    Tunnel *self = data;
    g_autoptr(GError) error = NULL;
    self->lost = FALSE;
    if (self->listener == NULL) {
        if (drv_allow_to(drv_services_config(self->base.services), drv_peer_name(peer), &error))
            self->listener = drv_listener_new(self->listen, take_connection, self, &error);
        if (self->listener == NULL) {
            end(self, error);
            return;
        }
        drv_job_move(&self->base, DRV_STATE_COPYING, NULL);
    }
    drv_job_changed(&self->base);
}

static void
peer_lost(DrvPeer *peer, const GError *why, gpointer data)
{
    Tunnel *self = data;
    self->lost = TRUE;
    drv_job_changed(&self->base);
}

static void
peer_dead(DrvPeer *peer, const GError *why, gpointer data)
{
    end(data, why);
}

static const DrvPeerOps peer_ops = {
    .connected = peer_connected,
    .lost = peer_lost,
    .dead = peer_dead,
};

/* --- the job --- */

static void
tunnel_start(DrvJob *job)
{
    Tunnel *self = (Tunnel *)job;
    drv_job_move(job, DRV_STATE_PREPARING, NULL);
    self->peer = drv_peers_get(drv_services_peers(job->services), self->host, self->port, 0);
    drv_peer_listen(self->peer, &peer_ops, self);
    if (drv_peer_is_connected(self->peer))
        peer_connected(self->peer, self);
}

static gboolean
tunnel_cancel(DrvJob *job, GError **error)
{
    g_autoptr(GError) why =
        g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED, "the tunnel was closed");
    end((Tunnel *)job, why);
    return TRUE;
}

static JsonObject *
tunnel_progress(DrvJob *job)
{
    Tunnel *self = (Tunnel *)job;
    DrvChannelTotals sum = self->over;
    DrvSessionStats link = {0};
    JsonObject *o = json_object_new();
    for (guint i = 0; i < self->connections->len; i++)
        add_totals(&sum, self->connections->pdata[i]);
    if (self->peer != NULL)
        drv_session_get_stats(drv_peer_session(self->peer), &link);
    json_object_set_int_member(o, "transferred", (gint64)sum.raw);
    json_object_set_int_member(o, "connections", self->connections->len);
    json_object_set_int_member(o, "lanes", link.lanes);
    json_object_set_int_member(o, "reconnects", link.reconnects);
    json_object_set_boolean_member(o, "connected", !self->lost);
    json_object_set_int_member(o, "elapsed_ms", (g_get_monotonic_time() - job->started_us) / 1000);
    return o;
}

static void
tunnel_free(DrvJob *job)
{
    Tunnel *self = (Tunnel *)job;
    drv_listener_free(self->listener);
    g_ptr_array_unref(self->connections);
    if (self->peer != NULL) {
        drv_peer_unlisten(self->peer, self);
        drv_peer_unref(self->peer);
    }
    g_free(self->listen);
    g_free(self->to);
    g_free(self->connect);
    g_free(self->host);
    g_free(self);
}

static const DrvJobOps tunnel_ops = {
    .kind = "tunnel",
    .start = tunnel_start,
    .cancel = tunnel_cancel,
    .progress = tunnel_progress,
    .free = tunnel_free,
};

static gboolean
check_path(const char *member, const char *path, GError **error)
{
    if (path != NULL && g_path_is_absolute(path))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "'%s' must be the absolute path of a unix socket", member);
    return FALSE;
}

DrvJob *
drv_tunnel_new(DrvServices *services, const char *id, JsonObject *spec, GError **error)
{
    const char *listen = drv_json_string(spec, "listen", NULL);
    const char *connect = drv_json_string(spec, "connect", NULL);
    const char *to = drv_json_string(spec, "to", "");
    g_autofree char *host = NULL;
    guint16 port;
    if (!check_path("listen", listen, error) || !check_path("connect", connect, error) ||
        !drv_address_parse(to, &host, &port, error))
        return NULL;
    if (!drv_tunnel_allow_from(drv_services_config(services)->tunnels_from, listen, error))
        return NULL;
    Tunnel *self = g_new0(Tunnel, 1);
    g_autofree char *text = drv_json_text(spec);
    DrvJobRecord *rec = drv_job_record_new(id, DRV_ROLE_SOURCE, text);
    rec->vm = g_path_get_basename(listen);
    rec->peer = g_strdup(to);
    rec->created_us = rec->updated_us = g_get_real_time();
    self->listen = g_strdup(listen);
    self->connect = g_strdup(connect);
    self->to = g_strdup(to);
    self->host = g_steal_pointer(&host);
    self->port = port;
    self->connections = g_ptr_array_new_with_free_func(free_set);
    drv_job_init(&self->base, &tunnel_ops, services, rec, FALSE);
    return &self->base;
}

/* --- the other end --- */

static void
far_end_changed(DrvChannelSet *set, gpointer data)
{
    GPtrArray *ends = data;
    if (drv_channel_set_finished(set))
        g_ptr_array_remove_fast(ends, set);
}

/* Whoever reaches our API can do all that we can: that is for users of this host, not for peers. */
static gboolean
is_our_own(int fd)
{
    struct ucred who = {0};
    socklen_t len = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.pid == getpid();
}

static int
connect_allowed(DrvServices *services, const char *path, GError **error)
{
    int there = drv_tunnel_allow_to(drv_services_config(services)->tunnels_to, path, error);
    if (there < 0)
        return -1;
    g_autofree char *opened = g_strdup_printf("/proc/self/fd/%d", there);
    int fd = drv_unix_connect_named(opened, path, error);
    close(there);
    return fd;
}

static DrvChannelSet *
open_far_end(DrvServices *services, GPtrArray *ends, DrvPeer *peer, JsonObject *args,
             JsonObject **ok, GError **error)
{
    const char *path = drv_json_string(args, "connect", "");
    if (!g_path_is_absolute(path)) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "a tunnel needs the absolute path of a socket");
        return NULL;
    }
    int fd = connect_allowed(services, path, error);
    if (fd < 0)
        return NULL;
    if (is_our_own(fd)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "%s is droverd's own: no tunnel leads there from another host", path);
        close(fd);
        return NULL;
    }
    g_autoptr(DrvChannelSet) set =
        drv_channel_set_new(drv_services_transfer(services), 8, DRV_CODEC_AUTO, DRV_CLASS_BULK,
                            NULL, far_end_changed, ends);
    *ok = drv_channel_set_accept(set, peer, fd, args, error);
    return *ok != NULL ? g_steal_pointer(&set) : NULL;
}

gboolean
drv_tunnel_accept(DrvServices *services, GPtrArray *ends, DrvPeer *peer, guint64 call,
                  JsonObject *args, GError **error)
{
    g_autoptr(GError) why = NULL;
    JsonObject *ok = NULL;
    DrvChannelSet *set = open_far_end(services, ends, peer, args, &ok, &why);
    if (set == NULL) {
        drv_peer_refuse(peer, call, why);
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    g_ptr_array_add(ends, set);
    drv_peer_answer(peer, call, ok);
    return TRUE;
}
