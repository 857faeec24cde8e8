/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/look.h"

#include "common/json.h"

#define QMP_CONNECT_MS 3000

DrvTicket *
drv_look_ticket(DrvLook *look)
{
    return drv_job_ticket(&look->steps);
}

void
drv_look_step_done(DrvLook *look, GError *error)
{
    look->needs_peer = FALSE;
    drv_steps_over(&look->steps, error);
}

/* --- the end --- */

void
drv_look_close_qmp(DrvLook *look)
{
    if (look->qmp != NULL)
        qmp_client_close(look->qmp);
    g_clear_object(&look->qmp);
}

static void
drop_all(DrvLook *look)
{
    drv_steps_drop(&look->steps);
    if (look->ops->drop != NULL)
        look->ops->drop(look);
    drv_look_close_qmp(look);
    if (look->peer == NULL)
        return;
    DrvPeer *peer = g_steal_pointer(&look->peer);
    drv_peer_unlisten(peer, look);
    drv_peers_put(drv_services_peers(look->base.services), peer);
}

static void
end(DrvLook *look, DrvJobState state)
{
    g_autoptr(DrvJob) keep = drv_job_ref(&look->base);
    drop_all(look);
    if (drv_state_is_final(drv_job_state(&look->base)))
        return;
    drv_job_move(&look->base, state, NULL);
    drv_job_leave(&look->base);
}

static void
done(gpointer owner, GError *error)
{
    DrvLook *look = owner;
    if (error != NULL) {
        drv_job_set_error(&look->base, error);
        g_error_free(error);
        end(look, DRV_STATE_FAILED);
        return;
    }
    g_autoptr(JsonObject) result = look->ops->result(look);
    look->base.rec->result = drv_json_text(result);
    end(look, DRV_STATE_DONE);
}

/* --- the job --- */

void
drv_look_init(DrvLook *look, const DrvLookOps *ops, DrvServices *services, DrvJobRecord *rec)
{
    look->ops = ops;
    rec->created_us = rec->updated_us = g_get_real_time();
    drv_job_init(&look->base, &ops->job, services, rec, FALSE);
}

void
drv_look_start(DrvJob *job)
{
    DrvLook *look = (DrvLook *)job;
    g_autoptr(DrvJob) keep = drv_job_ref(job);
    drv_job_move(job, DRV_STATE_PREPARING, NULL);
    drv_steps_start(&look->steps, look->ops->steps, look, done);
}

gboolean
drv_look_cancel(DrvJob *job, GError **error)
{
    end((DrvLook *)job, DRV_STATE_CANCELLED);
    return TRUE;
}

void
drv_look_free(DrvJob *job)
{
    DrvLook *look = (DrvLook *)job;
    drop_all(look);
    look->ops->clear(look);
    g_free(look);
}

/* --- QEMU --- */

static void
qmp_connected(GObject *source, GAsyncResult *result, gpointer ticket)
{
    g_autoptr(DrvJob) keep = NULL;
    GError *error = NULL;
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    DrvLook *look = drv_job_redeem(ticket, &keep);
    if (look == NULL) {
        g_clear_error(&error);
        return;
    }
    look->qmp = g_steal_pointer(&client);
    drv_look_step_done(look, error);
}

void
drv_look_connect_qmp(DrvLook *look, const char *path)
{
    qmp_client_connect_async(path, QMP_CONNECT_MS, look->steps.cancellable, qmp_connected,
                             drv_look_ticket(look));
}

/* --- the peer --- */

static void
peer_connected(DrvPeer *peer, gpointer data)
{
    DrvLook *look = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&look->base);
    if (!look->await_peer)
        return;
    look->await_peer = FALSE;
    drv_look_step_done(look, NULL);
}

static void
peer_lost(DrvPeer *peer, const GError *why, gpointer data)
{
    DrvLook *look = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&look->base);
    if (look->ops->lost != NULL)
        look->ops->lost(look, why);
}

static void
peer_dead(DrvPeer *peer, const GError *why, gpointer data)
{
    DrvLook *look = data;
    g_autoptr(DrvJob) keep = drv_job_ref(&look->base);
    if (!drv_steps_running(&look->steps))
        return;
    GError *error = g_error_copy(why);
    if (look->needs_peer) {
        drv_steps_fail(&look->steps, error);
        return;
    }
    g_prefix_error(&error, "the destination's daemon cannot be used: ");
    drv_steps_drop(&look->steps);
    done(look, error);
}

static const DrvPeerOps peer_ops = {
    .connected = peer_connected,
    .lost = peer_lost,
    .dead = peer_dead,
};

void
drv_look_connect_peer(DrvLook *look, const char *host, guint16 port, guint lanes)
{
    look->peer = drv_peers_get(drv_services_peers(look->base.services), host, port, lanes);
    drv_peer_listen(look->peer, &peer_ops, look);
    look->await_peer = look->needs_peer = !drv_peer_is_connected(look->peer);
    if (!look->await_peer)
        drv_steps_next(&look->steps);
}
