/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/fake-backend.h"

#include <string.h>

#include "common/error.h"
#include "common/json.h"

#define GIVE_UP_S 30

static gboolean
refused(FakeBackend *fake, GError **error)
{
    if (fake->refusal != NULL)
        g_propagate_error(error, g_steal_pointer(&fake->refusal));
    else if (!fake->mute)
        return FALSE;
    fake->mute = FALSE;
    return TRUE;
}

static JsonObject *
find(FakeBackend *fake, const char *id)
{
    for (guint i = 0; i < fake->jobs->len; i++) {
        JsonObject *job = g_ptr_array_index(fake->jobs, i);
        if (g_str_equal(json_object_get_string_member(job, "job"), id))
            return job;
    }
    return NULL;
}

static JsonNode *
fake_status(gpointer self)
{
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "version", "0.1.0");
    json_object_set_string_member(object, "name", "alpha");
    json_object_set_int_member(object, "uptime_s", 61);
    return drv_json_take_object(object);
}

static JsonNode *
fake_list(gpointer self, guint limit, GError **error)
{
    FakeBackend *fake = self;
    if (refused(fake, error))
        return NULL;
    JsonArray *array = json_array_new();
    for (guint i = 0; i < MIN(limit, fake->jobs->len); i++)
        json_array_add_object_element(
            array, json_object_ref(g_ptr_array_index(fake->jobs, fake->jobs->len - 1 - i)));
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);
    json_node_take_array(node, array);
    return node;
}

static JsonNode *
fake_show(gpointer self, const char *id, GError **error)
{
    FakeBackend *fake = self;
    if (refused(fake, error))
        return NULL;
    JsonObject *job = find(fake, id);
    fake->shows++;
    g_free(fake->shown);
    fake->shown = g_strdup(id);
    if (job != NULL)
        return drv_json_take_object(json_object_ref(job));
    g_set_error(error, DRV_ERROR, DRV_ERROR_NOT_FOUND, "there is no job %s", id);
    return NULL;
}

static char *
start(FakeBackend *fake, const char *kind, JsonObject *spec, GError **error)
{
    if (refused(fake, error))
        return NULL;
    g_clear_pointer(&fake->spec, json_object_unref);
    fake->spec = json_object_ref(spec);
    g_autofree char *id = g_strdup_printf("new-%u", ++fake->started);
    g_autofree char *json =
        g_strdup_printf("{\"job\":\"%s\",\"kind\":\"%s\",\"role\":\"source\",\"vm\":\"web1\","
                        "\"peer\":\"10.0.0.2:7000\",\"state\":\"queued\","
                        "\"created\":\"2026-01-02T03:04:05Z\",\"error\":null,\"final\":false,"
                        "\"progress\":null,\"result\":null}",
                        id, kind);
    fake_backend_add(fake, json);
    return g_steal_pointer(&id);
}

static char *
fake_migrate(gpointer self, JsonObject *spec, GError **error)
{
    return start(self, "migrate", spec, error);
}

static char *
fake_tunnel(gpointer self, JsonObject *spec, GError **error)
{
    return start(self, "tunnel", spec, error);
}

static char *
fake_copy(gpointer self, JsonObject *spec, GError **error)
{
    return start(self, "copy", spec, error);
}

static char *
fake_predict(gpointer self, JsonObject *spec, GError **error)
{
    return start(self, "predict", spec, error);
}

static char *
fake_metrics(gpointer self)
{
    return g_strdup("fake_up 1\n");
}

static JsonNode *
fake_numa(gpointer self)
{
    JsonObject *object = json_object_new();
    JsonArray *nodes = json_array_new();
    JsonObject *node = json_object_new();
    json_object_set_int_member(node, "node", 0);
    json_object_set_string_member(node, "cpus", "0-7");
    json_object_set_int_member(node, "memory", (gint64)64 << 30);
    json_object_set_int_member(node, "available", (gint64)32 << 30);
    json_array_add_object_element(nodes, node);
    json_object_set_array_member(object, "nodes", nodes);
    return drv_json_take_object(object);
}

static char *
fake_numa_look(gpointer self, JsonObject *spec, GError **error)
{
    return start(self, "numa", spec, error);
}

static char *
fake_disks(gpointer self, JsonObject *spec, GError **error)
{
    return start(self, "disks", spec, error);
}

static gboolean
fake_cancel(gpointer self, const char *id, GError **error)
{
    FakeBackend *fake = self;
    fake->cancels++;
    if (refused(fake, error))
        return FALSE;
    if (fake->cancel_refusal != NULL) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_STATE, fake->cancel_refusal);
        return FALSE;
    }
    if (find(fake, id) == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_NOT_FOUND, "there is no job %s", id);
        return FALSE;
    }
    if (fake->forgets)
        g_ptr_array_set_size(fake->jobs, 0);
    else if (fake->after_cancel != NULL)
        fake_backend_patch(fake, id, fake->after_cancel);
    return TRUE;
}

static gboolean
fake_resolve(gpointer self, const char *id, const char *run_on, GError **error)
{
    FakeBackend *fake = self;
    if (refused(fake, error))
        return FALSE;
    g_free(fake->run_on);
    fake->run_on = g_strdup(run_on);
    return TRUE;
}

static void
fake_asked(gpointer self, gint64 uid, const char *what, const char *job, const GError *error)
{
    FakeBackend *fake = self;
    g_free(fake->asked);
    fake->asked = g_strdup_printf("%s|%s|%s", what, job != NULL ? job : "",
                                  error != NULL ? error->message : "");
    fake->asked_by = uid;
}

const DrvApiBackend fake_backend_ops = {
    .asked = fake_asked,
    .status = fake_status,
    .list_jobs = fake_list,
    .show_job = fake_show,
    .migrate = fake_migrate,
    .tunnel = fake_tunnel,
    .copy = fake_copy,
    .predict = fake_predict,
    .metrics = fake_metrics,
    .numa = fake_numa,
    .numa_look = fake_numa_look,
    .disks = fake_disks,
    .cancel = fake_cancel,
    .resolve = fake_resolve,
};

FakeBackend *
fake_backend_new(void)
{
    FakeBackend *fake = g_new0(FakeBackend, 1);
    fake->jobs = g_ptr_array_new_with_free_func((GDestroyNotify)json_object_unref);
    return fake;
}

void
fake_backend_free(FakeBackend *fake)
{
    g_ptr_array_unref(fake->jobs);
    g_clear_pointer(&fake->spec, json_object_unref);
    g_clear_error(&fake->refusal);
    g_free(fake->shown);
    g_free(fake->asked);
    g_free(fake->run_on);
    g_free(fake);
}

static JsonObject *
parse(const char *json)
{
    g_autoptr(GError) error = NULL;
    JsonObject *object = drv_json_parse_object(json, strlen(json), &error);
    g_assert_no_error(error);
    return object;
}

void
fake_backend_add(FakeBackend *fake, const char *json)
{
    g_ptr_array_add(fake->jobs, parse(json));
}

/* The objects may be on their way to a client: a changed job is a new one. */
void
fake_backend_patch(FakeBackend *fake, const char *id, const char *json)
{
    g_autoptr(JsonObject) patch = parse(json);
    JsonObject *job = json_object_new();
    JsonObject *sources[] = {find(fake, id), patch};
    guint index;
    g_assert_nonnull(sources[0]);
    g_assert_true(g_ptr_array_find(fake->jobs, sources[0], &index));
    for (guint i = 0; i < G_N_ELEMENTS(sources); i++) {
        JsonObjectIter iter;
        const char *name;
        JsonNode *node;
        json_object_iter_init(&iter, sources[i]);
        while (json_object_iter_next(&iter, &name, &node))
            json_object_set_member(job, name, json_node_copy(node));
    }
    json_object_unref(sources[0]);
    fake->jobs->pdata[index] = job;
    if (fake->server != NULL)
        drv_api_server_job_changed(fake->server, id);
}

void
fake_backend_refuse(FakeBackend *fake, int code, const char *message)
{
    g_clear_error(&fake->refusal);
    fake->refusal = g_error_new_literal(DRV_ERROR, code, message);
}

static gboolean
give_up(gpointer data)
{
    g_error("waited in vain for %d s", GIVE_UP_S);
    return G_SOURCE_REMOVE;
}

void
fake_wait(const gboolean *flag)
{
    guint timer = g_timeout_add_seconds(GIVE_UP_S, give_up, NULL);
    while (!*flag)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(timer);
}

void
fake_wait_count(const guint *counter, guint n)
{
    guint timer = g_timeout_add_seconds(GIVE_UP_S, give_up, NULL);
    while (*counter < n)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(timer);
}

void
fake_wait_shown(const FakeBackend *fake, const char *id)
{
    guint timer = g_timeout_add_seconds(GIVE_UP_S, give_up, NULL);
    while (g_strcmp0(fake->shown, id) != 0)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(timer);
}
