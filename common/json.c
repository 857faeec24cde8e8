/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"

#include "common/error.h"

static gboolean
too_deep(const char *text, gsize len)
{
    guint depth = 0;
    gboolean in_string = FALSE;
    for (gsize i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = FALSE;
        } else if (c == '"') {
            in_string = TRUE;
        } else if (c == '{' || c == '[') {
            if (++depth > DRV_JSON_DEPTH)
                return TRUE;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return FALSE;
}

JsonObject *
drv_json_parse_object(const char *text, gsize len, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    g_autoptr(GError) why = NULL;
    if (too_deep(text, len)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "the JSON is nested more than %d deep",
                    DRV_JSON_DEPTH);
        return NULL;
    }
    if (!json_parser_load_from_data(parser, text, (gssize)len, &why)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "this is not JSON: %s", why->message);
        return NULL;
    }
    JsonNode *root = json_parser_get_root(parser);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "a JSON object was expected");
        return NULL;
    }
    return json_node_dup_object(root);
}

char *
drv_json_text(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_alloc();
    json_node_init_object(node, object);
    return json_to_string(node, FALSE);
}

static JsonNode *
member_of_type(JsonObject *object, const char *member, GType type)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, member) : NULL;
    return node != NULL && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type
               ? node
               : NULL;
}

const char *
drv_json_string(JsonObject *object, const char *member, const char *fallback)
{
    JsonNode *node = member_of_type(object, member, G_TYPE_STRING);
    return node != NULL ? json_node_get_string(node) : fallback;
}

gint64
drv_json_int(JsonObject *object, const char *member, gint64 fallback)
{
    JsonNode *node = member_of_type(object, member, G_TYPE_INT64);
    return node != NULL ? json_node_get_int(node) : fallback;
}

double
drv_json_double(JsonObject *object, const char *member, double fallback)
{
    JsonNode *node = member_of_type(object, member, G_TYPE_DOUBLE);
    return node != NULL ? json_node_get_double(node)
                        : (double)drv_json_int(object, member, (gint64)fallback);
}

gboolean
drv_json_bool(JsonObject *object, const char *member, gboolean fallback)
{
    JsonNode *node = member_of_type(object, member, G_TYPE_BOOLEAN);
    return node != NULL ? json_node_get_boolean(node) : fallback;
}

JsonObject *
drv_json_object(JsonObject *object, const char *member)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, member) : NULL;
    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

JsonArray *
drv_json_array(JsonObject *object, const char *member)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, member) : NULL;
    return node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

JsonObject *
drv_json_element(JsonArray *array, guint index)
{
    JsonNode *node = array != NULL && index < json_array_get_length(array)
                         ? json_array_get_element(array, index)
                         : NULL;
    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}
