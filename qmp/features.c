/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/features.h"

#include "qmp/json.h"
#include "qmp/schema.h"

struct _QmpFeatures {
    GHashTable *commands; /* set of names, owned */
    char **capabilities;  /* sorted */
    QmpSchema *schema;    /* NULL: the server has none */
};

/* ---- From replies ---- */

static gboolean
not_a_list(const char *command, GError **error)
{
    g_set_error(error, QMP_ERROR, QMP_ERROR_UNEXPECTED,
                "QEMU answered '%s' with something else than a list of objects", command);
    return FALSE;
}

/* Appends member 'key' (a string) of each object in the list to 'names'. A NULL reply is empty. */
static gboolean
collect(GPtrArray *names, JsonNode *reply, const char *command, const char *key, GError **error)
{
    JsonArray *array = qmp_node_array(reply);
    if (reply != NULL && array == NULL)
        return not_a_list(command, error);
    for (guint i = 0; array != NULL && i < json_array_get_length(array); i++) {
        JsonObject *item = qmp_node_object(json_array_get_element(array, i));
        const char *name = qmp_get_string(item, key);
        if (name == NULL)
            return not_a_list(command, error);
        g_ptr_array_add(names, g_strdup(name));
    }
    return TRUE;
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
    return g_strcmp0(*(char *const *)a, *(char *const *)b);
}

static void
clear(gpointer data)
{
    QmpFeatures *features = data;
    g_clear_pointer(&features->commands, g_hash_table_unref);
    g_clear_pointer(&features->capabilities, g_strfreev);
    g_clear_pointer(&features->schema, qmp_schema_free);
}

QmpFeatures *
qmp_features_new(JsonNode *commands, JsonNode *capabilities, JsonNode *schema, GError **error)
{
    g_autoptr(QmpFeatures) features = g_atomic_rc_box_new0(QmpFeatures);
    g_autoptr(GPtrArray) command_names = g_ptr_array_new();
    g_autoptr(GPtrArray) capability_names = g_ptr_array_new();

    features->commands = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    gboolean ok = commands != NULL
                      ? collect(command_names, commands, "query-commands", "name", error)
                      : not_a_list("query-commands", error);
    for (guint i = 0; i < command_names->len; i++)
        g_hash_table_add(features->commands, g_ptr_array_index(command_names, i));

    ok = ok &&
         collect(capability_names, capabilities, "query-migrate-capabilities", "capability", error);
    g_ptr_array_sort(capability_names, compare_names);
    g_ptr_array_add(capability_names, NULL);
    features->capabilities = (char **)g_ptr_array_free(g_steal_pointer(&capability_names), FALSE);

    if (ok && schema != NULL) {
        features->schema = qmp_schema_new(schema, error);
        ok = features->schema != NULL;
    }
    return ok ? g_steal_pointer(&features) : NULL;
}

QmpFeatures *
qmp_features_ref(QmpFeatures *features)
{
    return g_atomic_rc_box_acquire(features);
}

void
qmp_features_unref(QmpFeatures *features)
{
    g_atomic_rc_box_release_full(features, clear);
}

/* ---- Questions ---- */

gboolean
qmp_features_has_command(QmpFeatures *features, const char *command)
{
    return g_hash_table_contains(features->commands, command);
}

gboolean
qmp_features_has_event(QmpFeatures *features, const char *event)
{
    return features->schema != NULL && qmp_schema_has_event(features->schema, event);
}

gboolean
qmp_features_has_migration_capability(QmpFeatures *features, const char *capability)
{
    return g_strv_contains((const char *const *)features->capabilities, capability);
}

gboolean
qmp_features_command_accepts(QmpFeatures *features, const char *command, const char *argument)
{
    return features->schema != NULL &&
           qmp_schema_command_has(features->schema, command, "arg-type", argument, NULL);
}

gboolean
qmp_features_argument_allows(QmpFeatures *features, const char *command, const char *argument,
                             const char *value)
{
    return features->schema != NULL && value != NULL &&
           qmp_schema_command_has(features->schema, command, "arg-type", argument, value);
}

gboolean
qmp_features_command_returns(QmpFeatures *features, const char *command, const char *member)
{
    return features->schema != NULL &&
           qmp_schema_command_has(features->schema, command, "ret-type", member, NULL);
}

const char *const *
qmp_features_get_migration_capabilities(QmpFeatures *features)
{
    return (const char *const *)features->capabilities;
}

/* ---- Probing: one query after the other ---- */

static const char *const queries[] = {"query-commands", "query-migrate-capabilities",
                                      "query-qmp-schema"};

typedef struct {
    JsonNode *replies[G_N_ELEMENTS(queries)]; /* NULL: the server does not know the query */
    guint at;
    guint timeout_ms;
} Probe;

static void
probe_free(gpointer data)
{
    Probe *probe = data;
    for (guint i = 0; i < G_N_ELEMENTS(queries); i++)
        g_clear_pointer(&probe->replies[i], json_node_unref);
    g_free(probe);
}

static void on_reply(GObject *object, GAsyncResult *result, gpointer user_data);

/* Takes 'task' over. */
static void
ask(GTask *task)
{
    Probe *probe = g_task_get_task_data(task);
    qmp_client_execute_async(g_task_get_source_object(task), queries[probe->at], NULL,
                             probe->timeout_ms, g_task_get_cancellable(task), on_reply, task);
}

static void
on_reply(GObject *object, GAsyncResult *result, gpointer user_data)
{
    g_autoptr(GTask) task = user_data;
    Probe *probe = g_task_get_task_data(task);
    GError *error = NULL;
    JsonNode *reply = qmp_client_execute_finish(QMP_CLIENT(object), result, &error);
    if (reply == NULL && probe->at > 0 && qmp_error_is_class(error, "CommandNotFound"))
        g_clear_error(&error);
    if (error != NULL) {
        g_task_return_error(task, error);
        return;
    }
    probe->replies[probe->at++] = reply;
    if (probe->at < G_N_ELEMENTS(queries)) {
        ask(g_steal_pointer(&task));
        return;
    }
    QmpFeatures *features =
        qmp_features_new(probe->replies[0], probe->replies[1], probe->replies[2], &error);
    if (features != NULL)
        g_task_return_pointer(task, features, (GDestroyNotify)qmp_features_unref);
    else
        g_task_return_error(task, error);
}

void
qmp_features_probe_async(QmpClient *client, guint timeout_ms, GCancellable *cancellable,
                         GAsyncReadyCallback callback, gpointer user_data)
{
    g_return_if_fail(QMP_IS_CLIENT(client));
    GTask *task = g_task_new(client, cancellable, callback, user_data);
    g_task_set_source_tag(task, qmp_features_probe_async);
    g_task_set_check_cancellable(task, FALSE);
    Probe *probe = g_new0(Probe, 1);
    probe->timeout_ms = timeout_ms;
    g_task_set_task_data(task, probe, probe_free);
    ask(task);
}

QmpFeatures *
qmp_features_probe_finish(QmpClient *client, GAsyncResult *result, GError **error)
{
    g_return_val_if_fail(g_task_is_valid(result, client), NULL);
    return g_task_propagate_pointer(G_TASK(result), error);
}
