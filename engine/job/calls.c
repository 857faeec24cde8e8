/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/calls.h"

typedef struct {
    guint kind;
    DrvPeer *peer; /* referenced */
    guint64 id;
} OpenCall;

struct _DrvCalls {
    GPtrArray *open; /* of OpenCall */
};

static void
free_call(gpointer data)
{
    OpenCall *call = data;
    drv_peer_unref(call->peer);
    g_free(call);
}

DrvCalls *
drv_calls_new(void)
{
    DrvCalls *calls = g_new0(DrvCalls, 1);
    calls->open = g_ptr_array_new_with_free_func(free_call);
    return calls;
}

void
drv_calls_free(DrvCalls *calls)
{
    if (calls == NULL)
        return;
    g_ptr_array_unref(calls->open);
    g_free(calls);
}

void
drv_calls_add(DrvCalls *calls, guint kind, DrvPeer *peer, guint64 id)
{
    for (guint i = 0; i < calls->open->len; i++) {
        OpenCall *call = calls->open->pdata[i];
        if (call->kind == kind && call->peer == peer) {
            call->id = id;
            return;
        }
    }
    OpenCall *call = g_new(OpenCall, 1);
    *call = (OpenCall){kind, drv_peer_ref(peer), id};
    g_ptr_array_add(calls->open, call);
}

gboolean
drv_calls_wait(const DrvCalls *calls, guint kind)
{
    for (guint i = 0; i < calls->open->len; i++)
        if (((const OpenCall *)calls->open->pdata[i])->kind == kind)
            return TRUE;
    return FALSE;
}

void
drv_calls_answer(DrvCalls *calls, guint kind, JsonObject *ok)
{
    for (guint i = calls->open->len; i > 0; i--) {
        OpenCall *call = calls->open->pdata[i - 1];
        if (call->kind != kind)
            continue;
        drv_peer_answer(call->peer, call->id, json_object_ref(ok));
        g_ptr_array_remove_index(calls->open, i - 1);
    }
}

void
drv_calls_refuse(DrvCalls *calls, guint kind, const GError *error)
{
    for (guint i = calls->open->len; i > 0; i--) {
        OpenCall *call = calls->open->pdata[i - 1];
        if (call->kind != kind)
            continue;
        drv_peer_refuse(call->peer, call->id, error);
        g_ptr_array_remove_index(calls->open, i - 1);
    }
}

void
drv_calls_forget(DrvCalls *calls, DrvPeer *peer)
{
    for (guint i = calls->open->len; i > 0; i--)
        if (((OpenCall *)calls->open->pdata[i - 1])->peer == peer)
            g_ptr_array_remove_index(calls->open, i - 1);
}
