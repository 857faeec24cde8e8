/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/settings.h"

#include "qmp/json.h"

#define CAPABILITY(name) "{\"capability\":\"" name "\",\"state\":false}"

static JsonNode *
known(const char *text)
{
    g_autoptr(GError) error = NULL;
    JsonNode *node = json_from_string(text, &error);
    g_assert_no_error(error);
    return node;
}

/* What would be set of a capability: 0 or 1; -1: it is left as it is. */
static int
capability(JsonNode *args, const char *name)
{
    JsonArray *all = qmp_get_array(qmp_node_object(args), "capabilities");
    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *entry = json_array_get_object_element(all, i);
        if (g_str_equal(json_object_get_string_member(entry, "capability"), name))
            return json_object_get_boolean_member(entry, "state");
    }
    return -1;
}

static gint64
parameter(JsonNode *args, const char *name)
{
    gint64 value = -1;
    qmp_get_int(qmp_node_object(args), name, &value);
    return value;
}

/* QEMU's own ways to slow a guest down are touched only where the user wants it slowed down. */
static void
test_throttle(void)
{
    g_autoptr(JsonNode) all = known(
        "[" CAPABILITY("events") "," CAPABILITY("auto-converge") "," CAPABILITY("dirty-limit") "]");
    g_autoptr(JsonNode) none = known("{}");
    const DrvSettings wait = {.downtime_ms = 300}, throttle = {.throttle = TRUE};
    g_autoptr(JsonNode) left = drv_settings_capabilities(all, &wait);
    g_assert_cmpint(capability(left, "events"), ==, 1);
    g_assert_cmpint(capability(left, "auto-converge"), ==, -1);
    g_assert_cmpint(capability(left, "dirty-limit"), ==, -1);
    g_autoptr(JsonNode) untouched = drv_settings_parameters(none, &wait);
    g_assert_cmpint(parameter(untouched, "max-cpu-throttle"), ==, -1);
    g_assert_cmpint(parameter(untouched, "downtime-limit"), ==, 300);

    g_autoptr(JsonNode) set = drv_settings_capabilities(all, &throttle);
    g_assert_cmpint(capability(set, "auto-converge"), ==, 1);
    g_assert_cmpint(capability(set, "dirty-limit"), ==, 0);
    /* Ready, but held down until it is decided. */
    g_autoptr(JsonNode) ready = drv_settings_parameters(none, &throttle);
    g_assert_cmpint(parameter(ready, "max-cpu-throttle"), ==, 1);
    g_assert_cmpint(parameter(ready, "throttle-trigger-threshold"), ==, 100);
    g_autoptr(JsonNode) go = drv_settings_throttle(70);
    g_assert_cmpint(parameter(go, "max-cpu-throttle"), ==, 70);
    g_assert_cmpint(parameter(go, "cpu-throttle-initial"), ==, 70);
    g_assert_cmpint(parameter(go, "throttle-trigger-threshold"), ==, 1);
    g_autoptr(JsonNode) longer = drv_settings_longer_downtime(900);
    g_assert_cmpint(parameter(longer, "downtime-limit"), ==, 900);
    g_assert_cmpint(parameter(longer, "max-bandwidth"), ==, -1);
}

/* All of it is put back, and nothing else. */
static void
test_restore(void)
{
    g_autoptr(JsonNode) before =
        known("{\"downtime-limit\":250,\"max-cpu-throttle\":99,\"cpu-throttle-initial\":20,"
              "\"cpu-throttle-increment\":10,\"throttle-trigger-threshold\":50,"
              "\"cpu-throttle-tailslow\":false}");
    g_autoptr(JsonNode) back = drv_settings_restore_parameters(before);
    g_assert_cmpint(parameter(back, "downtime-limit"), ==, 250);
    g_assert_cmpint(parameter(back, "max-cpu-throttle"), ==, 99);
    g_assert_cmpint(parameter(back, "cpu-throttle-initial"), ==, 20);
    g_assert_cmpint(parameter(back, "cpu-throttle-increment"), ==, 10);
    g_assert_cmpint(parameter(back, "throttle-trigger-threshold"), ==, 50);
    g_assert_cmpuint(json_object_get_size(qmp_node_object(back)), ==, 5);

    g_autoptr(JsonNode) on = known("[{\"capability\":\"auto-converge\",\"state\":true},"
                                   "{\"capability\":\"zero-blocks\",\"state\":true}]");
    g_autoptr(JsonNode) again = drv_settings_restore_capabilities(on);
    g_assert_cmpint(capability(again, "auto-converge"), ==, 1);
    g_assert_cmpint(capability(again, "zero-blocks"), ==, -1);
    g_autoptr(JsonNode) odd = known("7");
    g_assert_null(drv_settings_restore_capabilities(odd));
    g_assert_null(drv_settings_restore_parameters(odd));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/settings/throttle", test_throttle);
    g_test_add_func("/settings/restore", test_restore);
    return g_test_run();
}
