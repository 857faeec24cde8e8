/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "common/json.h"

#include <string.h>

static JsonObject *
parse(const char *text, GError **error)
{
    return drv_json_parse_object(text, strlen(text), error);
}

static void
test_getters(void)
{
    g_autoptr(JsonObject) o = parse(
        "{\"s\":\"x\",\"i\":7,\"d\":1.5,\"b\":true,\"o\":{\"i\":1},\"a\":[{},2],\"n\":null}", NULL);
    g_assert_nonnull(o);
    g_assert_cmpstr(drv_json_string(o, "s", "f"), ==, "x");
    g_assert_cmpint(drv_json_int(o, "i", 0), ==, 7);
    g_assert_cmpfloat(drv_json_double(o, "d", 0), ==, 1.5);
    g_assert_cmpfloat(drv_json_double(o, "i", 0), ==, 7);
    g_assert_true(drv_json_bool(o, "b", FALSE));
    g_assert_cmpint(drv_json_int(drv_json_object(o, "o"), "i", 0), ==, 1);
    g_assert_nonnull(drv_json_element(drv_json_array(o, "a"), 0));

    /* Wrong types and absent members give the fallback, silently. */
    g_assert_cmpstr(drv_json_string(o, "i", "f"), ==, "f");
    g_assert_cmpint(drv_json_int(o, "s", -1), ==, -1);
    g_assert_cmpint(drv_json_int(o, "n", -1), ==, -1);
    g_assert_cmpint(drv_json_int(NULL, "n", -1), ==, -1);
    g_assert_true(drv_json_bool(o, "o", TRUE));
    g_assert_null(drv_json_object(o, "a"));
    g_assert_null(drv_json_array(o, "missing"));
    g_assert_null(drv_json_element(drv_json_array(o, "a"), 1));
    g_assert_null(drv_json_element(drv_json_array(o, "a"), 9));
}

static void
test_refusals(void)
{
    const char *bad[] = {"", "[1]", "{", "{\"a\":}", "nonsense"};
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(parse(bad[i], &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    g_autoptr(GString) deep = g_string_new("{\"a\":");
    for (guint i = 0; i < 100000; i++)
        g_string_append_c(deep, '[');
    g_autoptr(GError) error = NULL;
    g_assert_null(parse(deep->str, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    /* Brackets within strings do not nest. */
    g_autoptr(JsonObject) o =
        parse("{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[\"}", NULL);
    g_assert_nonnull(o);
}

static void
test_text(void)
{
    g_autoptr(JsonObject) o = parse("{\"a\": 1}", NULL);
    g_autofree char *text = drv_json_text(o);
    g_assert_cmpstr(text, ==, "{\"a\":1}");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/getters", test_getters);
    g_test_add_func("/json/refusals", test_refusals);
    g_test_add_func("/json/text", test_text);
    return g_test_run();
}
