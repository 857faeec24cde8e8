/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/json.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

static JsonNode *
string_node(const char *text)
{
    return text != NULL ? json_node_init_string(json_node_alloc(), text) : NULL;
}

/* The next argument as a node, or NULL for one to leave out. A macro, because a va_list that has
 * been passed to a function may not be read on portably. */
#define NEXT_NODE(format, ap)                                                                      \
    ((format) == 's'   ? string_node(va_arg(ap, const char *))                                     \
     : (format) == 'b' ? json_node_init_boolean(json_node_alloc(), va_arg(ap, gboolean) != FALSE)  \
     : (format) == 'i' ? json_node_init_int(json_node_alloc(), va_arg(ap, int))                    \
     : (format) == 'x' ? json_node_init_int(json_node_alloc(), va_arg(ap, gint64))                 \
     : (format) == 'd' ? json_node_init_double(json_node_alloc(), va_arg(ap, double))              \
                       : va_arg(ap, JsonNode *))

JsonNode *
qmp_args(const char *name, ...)
{
    JsonObject *object = json_object_new();
    va_list ap;
    va_start(ap, name);
    for (; name != NULL; name = va_arg(ap, const char *)) {
        const char *format = va_arg(ap, const char *);
        /* With a wrong format the rest of the arguments cannot be found: no way to go on. */
        if (format == NULL || format[0] == '\0' || format[1] != '\0' ||
            strchr("sbixdo", format[0]) == NULL)
            g_error("qmp_args: member '%s' has the unknown format '%s'", name, format);
        JsonNode *node = NEXT_NODE(format[0], ap);
        if (node != NULL)
            json_object_set_member(object, name, node);
    }
    va_end(ap);
    JsonNode *node = json_node_alloc();
    json_node_init_object(node, object);
    json_object_unref(object);
    return node;
}

JsonNode *
qmp_list(JsonNode *first, ...)
{
    JsonArray *array = json_array_new();
    va_list ap;
    va_start(ap, first);
    for (JsonNode *item = first; item != NULL; item = va_arg(ap, JsonNode *))
        json_array_add_element(array, item);
    va_end(ap);
    JsonNode *node = json_node_alloc();
    json_node_init_array(node, array);
    json_array_unref(array);
    return node;
}

JsonObject *
qmp_node_object(JsonNode *node)
{
    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

JsonArray *
qmp_node_array(JsonNode *node)
{
    return node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

static gboolean
holds(JsonNode *node, GType type)
{
    return node != NULL && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type;
}

const char *
qmp_node_string(JsonNode *node)
{
    return holds(node, G_TYPE_STRING) ? json_node_get_string(node) : NULL;
}

static JsonNode *
member(JsonObject *object, const char *name)
{
    return object != NULL ? json_object_get_member(object, name) : NULL;
}

JsonObject *
qmp_get_object(JsonObject *object, const char *name)
{
    return qmp_node_object(member(object, name));
}

JsonArray *
qmp_get_array(JsonObject *object, const char *name)
{
    return qmp_node_array(member(object, name));
}

const char *
qmp_get_string(JsonObject *object, const char *name)
{
    return qmp_node_string(member(object, name));
}

gboolean
qmp_get_int(JsonObject *object, const char *name, gint64 *value)
{
    JsonNode *node = member(object, name);
    if (!holds(node, G_TYPE_INT64))
        return FALSE;
    *value = json_node_get_int(node);
    return TRUE;
}

gboolean
qmp_get_double(JsonObject *object, const char *name, double *value)
{
    JsonNode *node = member(object, name);
    if (!holds(node, G_TYPE_DOUBLE) && !holds(node, G_TYPE_INT64))
        return FALSE;
    double number = json_node_get_double(node);
    if (!isfinite(number)) /* 1e999 */
        return FALSE;
    *value = number;
    return TRUE;
}

gboolean
qmp_get_bool(JsonObject *object, const char *name, gboolean *value)
{
    JsonNode *node = member(object, name);
    if (!holds(node, G_TYPE_BOOLEAN))
        return FALSE;
    *value = json_node_get_boolean(node);
    return TRUE;
}
