/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/settings.h"

#include "qmp/json.h"

/* What a migration through drover needs to be on or off. Others (switchover-ack ...) stay as the
 * guest's owner set them. QEMU's own encryption and compression go off because drover does both,
 * and because with them its stream could not be looked into. */
static const struct {
    const char *name;
    enum {
        ON,
        OFF,
        MULTIFD,     /* if there are channels */
        PAUSE,       /* if there are disks to be mirrored */
        THROTTLE,    /* on if drover may throttle; else as it is */
        NO_THROTTLE, /* off if drover may throttle; else as it is */
    } when;
} capabilities[] = {
    {"events", ON},
    {"return-path",
     ON}, /* without it a source calls itself completed when the bytes have left it */
    {"multifd", MULTIFD},
    {"xbzrle", OFF},
    {"compress", OFF},
    {"postcopy-ram", OFF},
    {"postcopy-preempt", OFF},
    {"x-colo", OFF},
    {"background-snapshot", OFF},
    {"zero-copy-send", OFF},
    {"mapped-ram", OFF},
    {"x-ignore-shared", OFF},
    {"release-ram", OFF}, /* would give away pages that a roll-back needs */
    {"block", OFF},
    {"pause-before-switchover", PAUSE},
    {"auto-converge", THROTTLE},
    {"dirty-limit", NO_THROTTLE}, /* QEMU has either of them, and would decide by itself */
};

static gboolean
knows_capability(JsonNode *known, const char *name)
{
    JsonArray *all = qmp_node_array(known);
    for (guint i = 0; all != NULL && i < json_array_get_length(all); i++) {
        JsonObject *entry = qmp_node_object(json_array_get_element(all, i));
        if (g_strcmp0(qmp_get_string(entry, "capability"), name) == 0)
            return TRUE;
    }
    return FALSE;
}

static gboolean
is_on(guint i, const DrvSettings *settings)
{
    switch (capabilities[i].when) {
    case ON:
    case THROTTLE:
        return TRUE;
    case MULTIFD:
        return settings->multifd > 0;
    case PAUSE:
        return settings->pause;
    default:
        return FALSE;
    }
}

JsonNode *
drv_settings_capabilities(JsonNode *known, const DrvSettings *settings)
{
    JsonArray *list = json_array_new();
    for (guint i = 0; i < G_N_ELEMENTS(capabilities); i++) {
        gboolean throttles =
            capabilities[i].when == THROTTLE || capabilities[i].when == NO_THROTTLE;
        if (!knows_capability(known, capabilities[i].name) || (throttles && !settings->throttle))
            continue;
        JsonObject *entry = json_object_new();
        json_object_set_string_member(entry, "capability", capabilities[i].name);
        json_object_set_boolean_member(entry, "state", is_on(i, settings));
        json_array_add_object_element(list, entry);
    }
    JsonNode *node = json_node_alloc();
    json_node_init_array(node, list);
    json_array_unref(list);
    return qmp_args("capabilities", "o", node, NULL);
}

/* QEMU's auto-converge begins as soon as half as much is written as gets across, in small steps. In
 * drover it is the convergence controller that decides when and how much: until then it throttles
 * by one percent at most, and afterwards at once by what was decided. */
static void
set_throttle(JsonObject *object, guint pct, guint trigger)
{
    json_object_set_int_member(object, "throttle-trigger-threshold", trigger);
    json_object_set_int_member(object, "cpu-throttle-initial", pct);
    json_object_set_int_member(object, "cpu-throttle-increment", 99);
    json_object_set_int_member(object, "max-cpu-throttle", pct);
}

static JsonNode *
object_node(JsonObject *object)
{
    JsonNode *node = json_node_alloc();
    json_node_take_object(json_node_init(node, JSON_NODE_OBJECT), object);
    return node;
}

JsonNode *
drv_settings_longer_downtime(guint ms)
{
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "downtime-limit", ms);
    return object_node(object);
}

JsonNode *
drv_settings_throttle(guint pct)
{
    JsonObject *object = json_object_new();
    set_throttle(object, CLAMP(pct, 1, 99), 1);
    return object_node(object);
}

static gboolean
knows_parameter(JsonNode *known, const char *name)
{
    JsonObject *all = qmp_node_object(known);
    return all != NULL && json_object_has_member(all, name);
}

JsonNode *
drv_settings_parameters(JsonNode *known, const DrvSettings *settings)
{
    JsonObject *object = json_object_new();
    /* drover shapes; QEMU's own default of 128 MiB/s would hold everything up. 0 is no limit. */
    json_object_set_int_member(object, "max-bandwidth", 0);
    if (settings->downtime_ms > 0)
        json_object_set_int_member(object, "downtime-limit", settings->downtime_ms);
    if (settings->throttle)
        set_throttle(object, 1, 100);
    if (settings->multifd > 0) {
        json_object_set_int_member(object, "multifd-channels", settings->multifd);
        if (knows_parameter(known, "multifd-compression"))
            json_object_set_string_member(object, "multifd-compression", "none");
    }
    if (knows_parameter(known, "tls-creds"))
        json_object_set_string_member(object, "tls-creds", "");
    return object_node(object);
}

JsonNode *
drv_settings_restore_capabilities(JsonNode *known)
{
    JsonArray *all = qmp_node_array(known);
    if (all == NULL)
        return NULL;
    JsonArray *list = json_array_new();
    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *entry = qmp_node_object(json_array_get_element(all, i));
        const char *name = qmp_get_string(entry, "capability");
        for (guint k = 0; name != NULL && k < G_N_ELEMENTS(capabilities); k++)
            if (g_str_equal(name, capabilities[k].name))
                json_array_add_object_element(list, json_object_ref(entry));
    }
    JsonNode *node = json_node_alloc();
    json_node_init_array(node, list);
    json_array_unref(list);
    return qmp_args("capabilities", "o", node, NULL);
}

JsonNode *
drv_settings_restore_parameters(JsonNode *known)
{
    static const char *const names[] = {"max-bandwidth",
                                        "downtime-limit",
                                        "multifd-channels",
                                        "multifd-compression",
                                        "tls-creds",
                                        "avail-switchover-bandwidth",
                                        "throttle-trigger-threshold",
                                        "cpu-throttle-initial",
                                        "cpu-throttle-increment",
                                        "max-cpu-throttle"};
    JsonObject *old = qmp_node_object(known);
    if (old == NULL)
        return NULL;
    JsonObject *object = json_object_new();
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        JsonNode *value = json_object_get_member(old, names[i]);
        if (value != NULL)
            json_object_set_member(object, names[i], json_node_copy(value));
    }
    return object_node(object);
}
