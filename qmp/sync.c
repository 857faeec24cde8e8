/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/sync.h"

struct _QmpSync {
    GMainContext *context;
    QmpClient *client;
};

static void
on_result(GObject *object, GAsyncResult *result, gpointer user_data)
{
    GAsyncResult **out = user_data;
    *out = g_object_ref(result);
}

/* Runs the context until on_result() has been called. Transfer full. */
static GAsyncResult *
await(GMainContext *context, GAsyncResult **result)
{
    while (*result == NULL)
        g_main_context_iteration(context, TRUE);
    return *result;
}

QmpSync *
qmp_sync_connect(const char *path, guint timeout_ms, GError **error)
{
    g_autoptr(GAsyncResult) result = NULL;
    QmpSync *sync = g_new0(QmpSync, 1);
    sync->context = g_main_context_new();
    g_main_context_push_thread_default(sync->context);
    qmp_client_connect_async(path, timeout_ms, NULL, on_result, &result);
    sync->client = qmp_client_connect_finish(await(sync->context, &result), error);
    g_main_context_pop_thread_default(sync->context);
    if (sync->client == NULL)
        g_clear_pointer(&sync, qmp_sync_free);
    return sync;
}

void
qmp_sync_free(QmpSync *sync)
{
    if (sync == NULL)
        return;
    if (sync->client != NULL)
        qmp_client_close(sync->client);
    /* The farewell: "closed" is emitted, and the context holds nothing any more. */
    g_main_context_push_thread_default(sync->context);
    while (g_main_context_iteration(sync->context, FALSE))
        ;
    g_main_context_pop_thread_default(sync->context);
    g_clear_object(&sync->client);
    g_main_context_unref(sync->context);
    g_free(sync);
}

JsonNode *
qmp_sync_execute(QmpSync *sync, const char *command, JsonNode *arguments, guint timeout_ms,
                 GError **error)
{
    g_autoptr(GAsyncResult) result = NULL;
    g_main_context_push_thread_default(sync->context);
    qmp_client_execute_async(sync->client, command, arguments, timeout_ms, NULL, on_result,
                             &result);
    JsonNode *node = qmp_client_execute_finish(sync->client, await(sync->context, &result), error);
    g_main_context_pop_thread_default(sync->context);
    return node;
}

QmpFeatures *
qmp_sync_probe(QmpSync *sync, guint timeout_ms, GError **error)
{
    g_autoptr(GAsyncResult) result = NULL;
    g_main_context_push_thread_default(sync->context);
    qmp_features_probe_async(sync->client, timeout_ms, NULL, on_result, &result);
    QmpFeatures *features =
        qmp_features_probe_finish(sync->client, await(sync->context, &result), error);
    g_main_context_pop_thread_default(sync->context);
    return features;
}

char *
qmp_sync_human(QmpSync *sync, const char *line, guint timeout_ms, GError **error)
{
    g_autoptr(GAsyncResult) result = NULL;
    g_main_context_push_thread_default(sync->context);
    qmp_client_human_async(sync->client, line, timeout_ms, NULL, on_result, &result);
    char *text = qmp_client_human_finish(sync->client, await(sync->context, &result), error);
    g_main_context_pop_thread_default(sync->context);
    return text;
}

QmpClient *
qmp_sync_get_client(QmpSync *sync)
{
    return sync->client;
}

gboolean
qmp_sync_wait(QmpSync *sync)
{
    if (!qmp_client_is_closed(sync->client))
        g_main_context_iteration(sync->context, TRUE);
    return !qmp_client_is_closed(sync->client);
}
