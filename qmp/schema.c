/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The schema is a graph: entities by name (QEMU makes the names of types up: "0", "143" ...) that
 * refer to each other, with cycles. A question walks it along a path, one segment a step, with the
 * set of types it may be at: a member that exists in several variants leads to several types.
 *
 * A step opens up the set (arrays to their elements, unions to their branches, alternates to their
 * choices) with a worklist and never visits a type twice. So it ends after one look at each entity
 * at most, whatever a hostile schema refers to, and nothing here recurses.
 */
#include "qmp/schema.h"

#include "qmp/error.h"
#include "qmp/json.h"

struct _QmpSchema {
    GHashTable *entities; /* name → JsonObject; both owned by reply */
    JsonNode *reply;
};

typedef GHashTable TypeSet; /* of names, borrowed from the schema */

QmpSchema *
qmp_schema_new(JsonNode *reply, GError **error)
{
    JsonArray *array = qmp_node_array(reply);
    if (array == NULL) {
        g_set_error_literal(error, QMP_ERROR, QMP_ERROR_UNEXPECTED,
                            "QEMU answered 'query-qmp-schema' with something else than a list");
        return NULL;
    }
    QmpSchema *schema = g_new(QmpSchema, 1);
    schema->reply = json_node_ref(reply);
    schema->entities = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < json_array_get_length(array); i++) {
        JsonObject *entity = qmp_node_object(json_array_get_element(array, i));
        const char *name = qmp_get_string(entity, "name");
        if (name != NULL)
            g_hash_table_insert(schema->entities, (char *)name, entity);
    }
    return schema;
}

void
qmp_schema_free(QmpSchema *schema)
{
    if (schema == NULL)
        return;
    g_hash_table_unref(schema->entities);
    json_node_unref(schema->reply);
    g_free(schema);
}

static JsonObject *
find(QmpSchema *schema, const char *name, const char *meta_type)
{
    JsonObject *entity = name != NULL ? g_hash_table_lookup(schema->entities, name) : NULL;
    return g_strcmp0(qmp_get_string(entity, "meta-type"), meta_type) == 0 ? entity : NULL;
}

gboolean
qmp_schema_has_event(QmpSchema *schema, const char *event)
{
    return find(schema, event, "event") != NULL;
}

static void
add_type(TypeSet *set, GQueue *work, const char *type)
{
    if (type != NULL && g_hash_table_add(set, (char *)type))
        g_queue_push_tail(work, (char *)type);
}

/* Adds what each object in entity[list] has under 'key'. */
static void
add_types_of(TypeSet *set, GQueue *work, JsonObject *entity, const char *list, const char *key)
{
    JsonArray *array = qmp_get_array(entity, list);
    for (guint i = 0; array != NULL && i < json_array_get_length(array); i++) {
        JsonObject *item = qmp_node_object(json_array_get_element(array, i));
        add_type(set, work, qmp_get_string(item, key));
    }
}

/* Opens the set up: all that a value of one of its types may be. */
static void
open_up(QmpSchema *schema, TypeSet *set)
{
    g_auto(GQueue) work = G_QUEUE_INIT;
    GHashTableIter iter;
    gpointer name;
    g_hash_table_iter_init(&iter, set);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_queue_push_tail(&work, name);

    while ((name = g_queue_pop_head(&work)) != NULL) {
        JsonObject *entity;
        if ((entity = find(schema, name, "array")) != NULL)
            add_type(set, &work, qmp_get_string(entity, "element-type"));
        else if ((entity = find(schema, name, "object")) != NULL)
            add_types_of(set, &work, entity, "variants", "type");
        else if ((entity = find(schema, name, "alternate")) != NULL)
            add_types_of(set, &work, entity, "members", "type");
    }
}

/* The types of the members called 'name' of the types in 'from'. Transfer full. */
static TypeSet *
step(QmpSchema *schema, TypeSet *from, const char *name)
{
    TypeSet *to = g_hash_table_new(g_str_hash, g_str_equal);
    GHashTableIter iter;
    gpointer type;
    g_hash_table_iter_init(&iter, from);
    while (g_hash_table_iter_next(&iter, &type, NULL)) {
        JsonArray *members = qmp_get_array(find(schema, type, "object"), "members");
        for (guint i = 0; members != NULL && i < json_array_get_length(members); i++) {
            JsonObject *item = qmp_node_object(json_array_get_element(members, i));
            const char *item_type = qmp_get_string(item, "type");
            if (item_type != NULL && g_strcmp0(qmp_get_string(item, "name"), name) == 0)
                g_hash_table_add(to, (char *)item_type);
        }
    }
    open_up(schema, to);
    return to;
}

static gboolean
array_has_string(JsonArray *array, const char *value)
{
    for (guint i = 0; array != NULL && i < json_array_get_length(array); i++) {
        if (g_strcmp0(qmp_node_string(json_array_get_element(array, i)), value) == 0)
            return TRUE;
    }
    return FALSE;
}

static gboolean
any_enum_has(QmpSchema *schema, TypeSet *set, const char *value)
{
    GHashTableIter iter;
    gpointer type;
    g_hash_table_iter_init(&iter, set);
    while (g_hash_table_iter_next(&iter, &type, NULL)) {
        if (array_has_string(qmp_get_array(find(schema, type, "enum"), "values"), value))
            return TRUE;
    }
    return FALSE;
}

gboolean
qmp_schema_command_has(QmpSchema *schema, const char *command, const char *side, const char *path,
                       const char *value)
{
    const char *start = qmp_get_string(find(schema, command, "command"), side);
    if (start == NULL)
        return FALSE;
    g_autoptr(GHashTable) set = g_hash_table_new(g_str_hash, g_str_equal);
    g_hash_table_add(set, (char *)start);
    open_up(schema, set);

    g_auto(GStrv) segments = g_strsplit(path, "/", -1);
    for (char **s = segments; *s != NULL && g_hash_table_size(set) > 0; s++) {
        TypeSet *next = step(schema, set, *s);
        g_hash_table_unref(set);
        set = next;
    }
    if (value != NULL)
        return any_enum_has(schema, set, value);
    return g_hash_table_size(set) > 0;
}
