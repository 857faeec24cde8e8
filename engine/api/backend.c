/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/api/backend.h"

#include <string.h>

#include "common/error.h"
#include "common/json.h"

/* What no job is called cannot be asked for: ids end up in logs and on terminals. */
static gboolean
check_id(const char *id, GError **error)
{
    gsize len = strlen(id);
    gboolean ok = len >= 1 && len <= 64;
    for (gsize i = 0; ok && i < len; i++)
        ok = g_ascii_isalnum(id[i]) || strchr("-_.", id[i]) != NULL;
    if (!ok) {
        g_autofree char *shown = g_strescape(id, NULL);
        g_set_error(error, DRV_ERROR, DRV_ERROR_NOT_FOUND, "there is no job \"%.80s\"", shown);
    }
    return ok;
}

/* A daemon that breaks the contract gives an error, not a crash of whoever asked. */
static void
broken(const char *call, GError **error)
{
    g_warning("the API's backend broke its contract in '%s'", call);
    if (error != NULL && *error == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "droverd failed to answer '%s': see its log",
                    call);
}

static JsonNode *
checked(JsonNode *node, GError *why, JsonNodeType type, const char *call, GError **error)
{
    if (node != NULL && why == NULL && json_node_get_node_type(node) == type)
        return node;
    if (node != NULL || why == NULL)
        broken(call, &why);
    g_clear_pointer(&node, json_node_unref);
    g_propagate_error(error, why);
    return NULL;
}

/* An object that is never missing. */
static JsonNode *
always(JsonNode *node, const char *call)
{
    if (node != NULL && JSON_NODE_HOLDS_OBJECT(node))
        return node;
    broken(call, NULL);
    g_clear_pointer(&node, json_node_unref);
    return drv_json_take_object(json_object_new());
}

JsonNode *
drv_api_status(const DrvApiBackend *ops, gpointer self)
{
    return always(ops->status(self), "status");
}

JsonNode *
drv_api_numa(const DrvApiBackend *ops, gpointer self)
{
    return always(ops->numa(self), "numa");
}

JsonNode *
drv_api_list_jobs(const DrvApiBackend *ops, gpointer self, guint limit, GError **error)
{
    if (limit < 1 || limit > DRV_API_MAX_LIMIT) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "\"limit\" is %u: it must be a whole number from 1 to %d", limit,
                    DRV_API_MAX_LIMIT);
        return NULL;
    }
    GError *why = NULL;
    JsonNode *node = ops->list_jobs(self, limit, &why);
    return checked(node, why, JSON_NODE_ARRAY, "list_jobs", error);
}

JsonNode *
drv_api_show_job(const DrvApiBackend *ops, gpointer self, const char *id, GError **error)
{
    if (!check_id(id, error))
        return NULL;
    GError *why = NULL;
    JsonNode *node = ops->show_job(self, id, &why);
    return checked(node, why, JSON_NODE_OBJECT, "show_job", error);
}

typedef char *(*StartFunc)(gpointer self, JsonObject *spec, GError **error);

static char *
start(StartFunc func, const char *call, gpointer self, JsonObject *spec, GError **error)
{
    GError *why = NULL;
    char *id = func(self, spec, &why);
    if (id == NULL) {
        if (why == NULL)
            broken(call, &why);
        g_propagate_error(error, why);
    }
    return id;
}

char *
drv_api_migrate(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error)
{
    return start(ops->migrate, "migrate", self, spec, error);
}

char *
drv_api_tunnel(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error)
{
    return start(ops->tunnel, "tunnel", self, spec, error);
}

char *
drv_api_copy(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error)
{
    return start(ops->copy, "copy", self, spec, error);
}

char *
drv_api_predict(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error)
{
    return start(ops->predict, "predict", self, spec, error);
}

char *
drv_api_numa_look(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error)
{
    return start(ops->numa_look, "numa_look", self, spec, error);
}

char *
drv_api_disks(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error)
{
    return start(ops->disks, "disks", self, spec, error);
}

static gboolean
done(gboolean ok, GError *why, const char *call, GError **error)
{
    if (ok)
        return TRUE;
    if (why == NULL)
        broken(call, &why);
    g_propagate_error(error, why);
    return FALSE;
}

gboolean
drv_api_cancel(const DrvApiBackend *ops, gpointer self, const char *id, GError **error)
{
    if (!check_id(id, error))
        return FALSE;
    GError *why = NULL;
    gboolean ok = ops->cancel(self, id, &why);
    return done(ok, why, "cancel", error);
}

gboolean
drv_api_resolve(const DrvApiBackend *ops, gpointer self, const char *id, const char *run_on,
                GError **error)
{
    if (!check_id(id, error))
        return FALSE;
    if (run_on == NULL || (!g_str_equal(run_on, "source") && !g_str_equal(run_on, "dest"))) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "\"run_on\" is missing or wrong: it must be \"source\" or \"dest\"");
        return FALSE;
    }
    GError *why = NULL;
    gboolean ok = ops->resolve(self, id, run_on, &why);
    return done(ok, why, "resolve", error);
}
