/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"

#include "common/error.h"

#include <string.h>

/* Outside of strings. The parser knows comments and other quotes as well, in which brackets would
 * count for us and not for it, and the other way round. */
static gboolean
is_json(char c)
{
    return g_ascii_isalnum(c) || (c != '\0' && strchr("{}[]:,\" \t\r\n+-.", c) != NULL);
}

/* The bytes of the escape that begins at the backslash 'text'; 0 when it is none of JSON's. The
 * parser would take octal ones, too, and make bytes of them that are not UTF-8. */
static gsize
escape_length(const char *text, gsize left)
{
    if (left < 2 || strchr("\"\\/bfnrtu", text[1]) == NULL)
        return 0;
    if (text[1] != 'u')
        return 2;
    for (gsize i = 2; i < 6; i++)
        if (i >= left || !g_ascii_isxdigit(text[i]))
            return 0;
    return 6;
}

/* What the parser does not look at: whether it is JSON's own characters, how deep brackets outside
 * of strings nest, what is escaped in strings, and whether anything but white space follows the
 * document. Whether the brackets match is left to the parser. NULL if
 * nothing is wrong. */
static const char *
wrong_shape(const char *text, gsize len)
{
    guint depth = 0;
    gboolean in_string = FALSE, ended = FALSE;
    for (gsize i = 0; i < len; i++) {
        char c = text[i];
        if (ended && !g_ascii_isspace(c))
            return "not JSON: there is something after its end";
        if (in_string) {
            gsize n = c == '\\' ? escape_length(text + i, len - i) : 1;
            if (n == 0)
                return "not JSON: a backslash in a string is followed by what may not be there";
            i += n - 1;
            in_string = c != '"';
        } else if (c == '"') {
            in_string = TRUE;
        } else if (!is_json(c)) {
            return "not JSON: it has a character outside of strings that JSON does not know";
        } else if (c == '{' || c == '[') {
            if (++depth > DRV_JSON_MAX_DEPTH)
                return "not acceptable JSON: it is nested more than " G_STRINGIFY(
                    DRV_JSON_MAX_DEPTH) " levels deep";
        } else if ((c == '}' || c == ']') && depth > 0) {
            ended = --depth == 0;
        }
    }
    return NULL;
}

/* Several documents in a row are forgotten by the parser, not freed: one that begins as an object
 * and has nothing behind its end is a single one. */
static gboolean
begins_as_object(const char *text, gsize len)
{
    gsize i = 0;
    while (i < len && g_ascii_isspace(text[i]))
        i++;
    return i < len && text[i] == '{';
}

JsonObject *
drv_json_parse_object(const char *text, gsize len, GError **error)
{
    if (!g_utf8_validate_len(text, len, NULL)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "not JSON: it is not UTF-8 text");
        return NULL;
    }
    const char *wrong = wrong_shape(text, len);
    if (wrong != NULL) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_USAGE, wrong);
        return NULL;
    }
    if (!begins_as_object(text, len)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "not a JSON object");
        return NULL;
    }
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    g_autoptr(GError) why = NULL;
    if (!json_parser_load_from_data(parser, text, (gssize)len, &why)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "not JSON: %s", why->message);
        return NULL;
    }
    JsonNode *root = json_parser_get_root(parser);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "not a JSON object");
        return NULL;
    }
    return json_node_dup_object(root);
}

char *
drv_json_to_text(JsonNode *node)
{
    return json_to_string(node, FALSE);
}

char *
drv_json_text(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    return json_to_string(node, FALSE);
}

JsonNode *
drv_json_take_object(JsonObject *object)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);
    json_node_take_object(node, object);
    return node;
}

JsonNode *
drv_json_error(const GError *error)
{
    JsonObject *inner = json_object_new();
    json_object_set_string_member(inner, "class", drv_error_name(error));
    /* It may quote what a client has sent, and be cut in the middle of a character. */
    g_autofree char *message = g_utf8_make_valid(error->message, -1);
    json_object_set_string_member(inner, "message", message);
    JsonObject *outer = json_object_new();
    json_object_set_object_member(outer, "error", inner);
    return drv_json_take_object(outer);
}

gboolean
drv_json_get_error(JsonObject *object, GError **error)
{
    JsonObject *inner = drv_json_object(object, "error");
    if (inner == NULL)
        return FALSE;
    const char *name = drv_json_string(inner, "class", "io");
    g_set_error_literal(error, DRV_ERROR, (gint)drv_error_code_parse(name),
                        drv_json_string(inner, "message", "failed without saying why"));
    return TRUE;
}

static JsonNode *
member(JsonObject *object, const char *name, JsonNodeType type)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, name) : NULL;
    return node != NULL && json_node_get_node_type(node) == type ? node : NULL;
}

const char *
drv_json_string(JsonObject *object, const char *name, const char *standard)
{
    JsonNode *node = member(object, name, JSON_NODE_VALUE);
    if (node == NULL || json_node_get_value_type(node) != G_TYPE_STRING)
        return standard;
    return json_node_get_string(node);
}

gint64
drv_json_int(JsonObject *object, const char *name, gint64 standard)
{
    JsonNode *node = member(object, name, JSON_NODE_VALUE);
    if (node == NULL || json_node_get_value_type(node) != G_TYPE_INT64)
        return standard;
    return json_node_get_int(node);
}

double
drv_json_number(JsonObject *object, const char *name, double standard)
{
    JsonNode *node = member(object, name, JSON_NODE_VALUE);
    if (node == NULL)
        return standard;
    GType type = json_node_get_value_type(node);
    if (type != G_TYPE_INT64 && type != G_TYPE_DOUBLE)
        return standard;
    /* json-glib takes 1e999 for infinity, and writes 1e20 as no parser reads it: neither may go
     * from a peer's answer into our journal or report. */
    double value = json_node_get_double(node);
    return value >= -DRV_JSON_NUMBER_MAX && value <= DRV_JSON_NUMBER_MAX ? value : standard;
}

gboolean
drv_json_flag(JsonObject *object, const char *name, gboolean standard)
{
    JsonNode *node = member(object, name, JSON_NODE_VALUE);
    if (node == NULL || json_node_get_value_type(node) != G_TYPE_BOOLEAN)
        return standard;
    return json_node_get_boolean(node);
}

JsonObject *
drv_json_object(JsonObject *object, const char *name)
{
    JsonNode *node = member(object, name, JSON_NODE_OBJECT);
    return node != NULL ? json_node_get_object(node) : NULL;
}

JsonArray *
drv_json_array(JsonObject *object, const char *name)
{
    JsonNode *node = member(object, name, JSON_NODE_ARRAY);
    return node != NULL ? json_node_get_array(node) : NULL;
}

JsonObject *
drv_json_element(JsonArray *array, guint index)
{
    JsonNode *node = array != NULL && index < json_array_get_length(array)
                         ? json_array_get_element(array, index)
                         : NULL;
    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}
