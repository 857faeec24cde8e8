/* SPDX-License-Identifier: Apache-2.0 */

/* qmp-watch SOCKET: says what QEMU is behind a QMP socket, then prints its events until it ends. */
#include "qmp/qmp.h"

#include <glib-unix.h>

typedef struct {
    GMainLoop *loop;
    QmpClient *client;
    int status;
} Watch;

static void
fail(Watch *watch, GError *error)
{
    g_printerr("qmp-watch: %s\n", error->message);
    g_error_free(error);
    watch->status = 1;
    g_main_loop_quit(watch->loop);
}

static void
on_event(QmpClient *client, const char *name, JsonObject *data, gint64 timestamp_us,
         gpointer user_data)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    json_node_set_object(node, data);
    g_autofree char *text = data != NULL ? json_to_string(node, FALSE) : g_strdup("");
    g_print("%.6f %s %s\n", timestamp_us / 1e6, name, text);
}

static void
on_closed(QmpClient *client, const GError *error, gpointer user_data)
{
    Watch *watch = user_data;
    g_print("%s\n", error->message);
    g_main_loop_quit(watch->loop);
}

static void
on_features(GObject *object, GAsyncResult *result, gpointer user_data)
{
    GError *error = NULL;
    g_autoptr(QmpFeatures) features = qmp_features_probe_finish(QMP_CLIENT(object), result, &error);
    if (features == NULL) {
        fail(user_data, error);
        return;
    }
    g_autofree char *names =
        g_strjoinv(" ", (char **)qmp_features_get_migration_capabilities(features));
    g_print("migration capabilities: %s\n", names);
}

static void
on_status(GObject *object, GAsyncResult *result, gpointer user_data)
{
    GError *error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(object), result, &error);
    if (reply == NULL) {
        fail(user_data, error);
        return;
    }
    const char *status = qmp_get_string(qmp_node_object(reply), "status");
    g_print("status: %s\n", status != NULL ? status : "unknown");
}

static void
on_connected(GObject *object, GAsyncResult *result, gpointer user_data)
{
    Watch *watch = user_data;
    GError *error = NULL;
    watch->client = qmp_client_connect_finish(result, &error);
    if (watch->client == NULL) {
        fail(watch, error);
        return;
    }
    const QmpVersion *version = qmp_client_get_version(watch->client);
    g_print("QEMU %d.%d.%d %s, pid %d\n", version->major, version->minor, version->micro,
            version->package, (int)qmp_client_get_peer_pid(watch->client));
    g_signal_connect(watch->client, "event", G_CALLBACK(on_event), watch);
    g_signal_connect(watch->client, "closed", G_CALLBACK(on_closed), watch);
    qmp_client_execute_async(watch->client, "query-status", NULL, 5000, NULL, on_status, watch);
    qmp_features_probe_async(watch->client, 5000, NULL, on_features, watch);
}

static gboolean
on_interrupt(gpointer user_data)
{
    Watch *watch = user_data;
    if (watch->client != NULL)
        qmp_client_close(watch->client); /* "closed" ends the loop */
    else
        g_main_loop_quit(watch->loop);
    return G_SOURCE_CONTINUE;
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        g_printerr("usage: qmp-watch SOCKET\n");
        return 2;
    }
    Watch watch = {.loop = g_main_loop_new(NULL, FALSE)};
    g_unix_signal_add(SIGINT, on_interrupt, &watch);
    qmp_client_connect_async(argv[1], 5000, NULL, on_connected, &watch);
    g_main_loop_run(watch.loop);
    g_clear_object(&watch.client);
    g_main_loop_unref(watch.loop);
    return watch.status;
}
