/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/daemon/disks-spec.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/host/address.h"
#include "engine/image/probe.h"
#include "qmp/json.h"

void
drv_disks_spec_free(DrvDisksSpec *spec)
{
    if (spec == NULL)
        return;
    g_free(spec->qmp);
    g_free(spec->to);
    g_free(spec->host);
    g_free(spec->dest_dir);
    g_free(spec->dest_format);
    g_hash_table_unref(spec->dest);
    g_free(spec);
}

static gboolean
refuse(const char *name, JsonNode *node, const char *allowed, GError **error)
{
    g_autofree char *text = drv_json_to_text(node);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "\"%s\" is %.80s: it must be %s", name, text,
                allowed);
    return FALSE;
}

static gboolean
take_path(char **field, const char *name, JsonNode *node, GError **error)
{
    const char *text = qmp_node_string(node);
    if (text == NULL || !g_path_is_absolute(text))
        return refuse(name, node, "an absolute path", error);
    *field = g_strdup(text);
    return TRUE;
}

static gboolean
take_qmp(DrvDisksSpec *spec, JsonNode *node, GError **error)
{
    return take_path(&spec->qmp, "qmp", node, error);
}

static gboolean
take_to(DrvDisksSpec *spec, JsonNode *node, GError **error)
{
    spec->to = g_strdup(qmp_node_string(node));
    return (spec->to != NULL || refuse("to", node, "an ADDR:PORT", error)) &&
           drv_address_parse(spec->to, &spec->host, &spec->port, error);
}

static gboolean
take_create(DrvDisksSpec *spec, JsonNode *node, GError **error)
{
    if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_BOOLEAN)
        return refuse("create", node, "true or false", error);
    spec->create = json_node_get_boolean(node);
    return TRUE;
}

static gboolean
take_chain(DrvDisksSpec *spec, JsonNode *node, GError **error)
{
    spec->keep_chain = g_strcmp0(qmp_node_string(node), "keep") == 0;
    return spec->keep_chain || g_strcmp0(qmp_node_string(node), "flatten") == 0 ||
           refuse("chain", node, "\"flatten\" or \"keep\"", error);
}

static gboolean
take_dest_dir(DrvDisksSpec *spec, JsonNode *node, GError **error)
{
    return take_path(&spec->dest_dir, "dest_dir", node, error);
}

static gboolean
take_dest_format(DrvDisksSpec *spec, JsonNode *node, GError **error)
{
    spec->dest_format = g_strdup(qmp_node_string(node));
    return (spec->dest_format != NULL || refuse("dest_format", node, "a format", error)) &&
           drv_image_format_writable(spec->dest_format, error);
}

static gboolean
take_dest(DrvDisksSpec *spec, JsonNode *node, GError **error)
{
    if (!JSON_NODE_HOLDS_OBJECT(node))
        return refuse("dest", node, "an object of disks and paths", error);
    JsonObjectIter iter;
    const char *name;
    JsonNode *path;
    json_object_iter_init(&iter, json_node_get_object(node));
    while (json_object_iter_next(&iter, &name, &path)) {
        char *text = NULL;
        if (!take_path(&text, "dest", path, error))
            return FALSE;
        g_hash_table_replace(spec->dest, g_strdup(name), text);
    }
    return TRUE;
}

static const struct {
    const char *name;
    gboolean (*take)(DrvDisksSpec *spec, JsonNode *node, GError **error);
} members[] = {
    {"qmp", take_qmp},           {"to", take_to},
    {"create", take_create},     {"chain", take_chain},
    {"dest_dir", take_dest_dir}, {"dest_format", take_dest_format},
    {"dest", take_dest},
};

static gboolean
take(DrvDisksSpec *spec, const char *name, JsonNode *node, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(members); i++) {
        if (g_str_equal(members[i].name, name))
            return members[i].take(spec, node, error);
    }
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "\"%.40s\" is not known here: docs/http-api.md lists what is", shown);
    return FALSE;
}

static gboolean
check_together(const DrvDisksSpec *spec, GError **error)
{
    if (spec->qmp == NULL)
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_USAGE,
                            "\"qmp\" is missing: it must be the absolute path of a VM's QMP socket "
                            "on this host");
    else if (spec->to == NULL && (spec->create || spec->dest_dir != NULL ||
                                  spec->dest_format != NULL || g_hash_table_size(spec->dest) > 0))
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_USAGE,
                            "\"to\" is missing: say at which host the images are to be");
    else
        return TRUE;
    return FALSE;
}

DrvDisksSpec *
drv_disks_spec_from_json(JsonObject *object, GError **error)
{
    g_autoptr(DrvDisksSpec) spec = g_new0(DrvDisksSpec, 1);
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;
    spec->dest = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    json_object_iter_init(&iter, object);
    while (json_object_iter_next(&iter, &name, &node)) {
        if (!take(spec, name, node, error))
            return NULL;
    }
    return check_together(spec, error) ? g_steal_pointer(&spec) : NULL;
}
