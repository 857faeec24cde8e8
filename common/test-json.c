/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"

#include <string.h>

#include "common/error.h"

static void
assert_refused(const char *text, gsize len, const char *why)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_json_parse_object(text, len, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
    if (strstr(error->message, why) == NULL)
        g_error("\"%s\" does not say \"%s\"", error->message, why);
}

static void
test_refused(void)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "not a JSON object"},
        {"{", "not JSON: "},
        {"[]", "not a JSON object"},
        {"null", "not a JSON object"},
        {"12", "not a JSON object"},
        {"\xff\xfe", "UTF-8"},
        {"{\"a\":}", "not JSON: "},
        {"{\"a\":1} x", "after its end"},
        {"{} {}", "after its end"},
        {"1{\"a\":1}", "not a JSON object"},
        {"\"a\" {}", "not a JSON object"},
        {"{\"a\":/**/1}", "JSON does not know"},
        {"{\"a\":'b'}", "JSON does not know"},
        {"var a = {}", "JSON does not know"},
        {"{\"a\":\"\\377\"}", "a backslash"},
        {"{\"\\x\":1}", "a backslash"},
        {"{\"a\":\"\\u00g0\"}", "a backslash"},
        {"{\"a\":\"\\u00", "a backslash"},
        {"{\"a\":\"\\", "a backslash"},
        {"{\"a\":\"\\ud800\"}", "not JSON: "},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        assert_refused(cases[i].text, strlen(cases[i].text), cases[i].why);
    assert_refused("{}\0", 3, "UTF-8");
}

/* A megabyte of brackets must not become a megabyte of stack frames. */
static void
test_depth(void)
{
    gsize len = 1 << 20;
    g_autofree char *deep = g_malloc(len);
    memset(deep, '[', len);
    assert_refused(deep, len, "nested more than 32 levels");

    /* Nor may a quote in what the parser takes for a comment hide them. */
    memcpy(deep, "{\"a\":/*\"*/", 10);
    assert_refused(deep, len, "JSON does not know");

    /* Brackets in a string are no nesting, whatever is escaped before them. */
    const char *fine = "{\"a\":\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\\\"}";
    g_autoptr(JsonObject) object = drv_json_parse_object(fine, strlen(fine), NULL);
    g_assert_nonnull(object);

    g_autoptr(GString) edge = g_string_new("{\"a\":");
    for (guint i = 1; i < DRV_JSON_MAX_DEPTH; i++)
        g_string_append_c(edge, '[');
    for (guint i = 1; i < DRV_JSON_MAX_DEPTH; i++)
        g_string_append_c(edge, ']');
    g_string_append_c(edge, '}');
    g_autoptr(JsonObject) deepest = drv_json_parse_object(edge->str, edge->len, NULL);
    g_assert_nonnull(deepest);
}

/* Each class survives the way to the other end, an unknown one becomes "io". */
static void
test_errors(void)
{
    for (int code = 0; code < DRV_ERROR_LAST; code++) {
        g_autoptr(GError) sent = g_error_new(DRV_ERROR, code, "this \"is\" why");
        g_autoptr(JsonNode) node = drv_json_error(sent);
        g_autoptr(GError) got = NULL;
        g_assert_true(drv_json_get_error(json_node_get_object(node), &got));
        g_assert_error(got, DRV_ERROR, code);
        g_assert_cmpstr(got->message, ==, sent->message);
    }
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{}", NULL},
        {"{\"error\":null}", NULL},
        {"{\"error\":\"x\"}", NULL},
        {"{\"error\":{}}", "failed without saying why"},
        {"{\"error\":{\"class\":7,\"message\":[]}}", "failed without saying why"},
        {"{\"error\":{\"class\":\"new\",\"message\":\"m\"}}", "m"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonObject) object =
            drv_json_parse_object(cases[i].text, strlen(cases[i].text), NULL);
        g_autoptr(GError) got = NULL;
        g_assert_cmpint(drv_json_get_error(object, &got), ==, cases[i].message != NULL);
        if (cases[i].message == NULL)
            continue;
        g_assert_error(got, DRV_ERROR, DRV_ERROR_IO);
        g_assert_cmpstr(got->message, ==, cases[i].message);
    }
}

/* A sentence that quotes somebody's bytes does not make JSON of it that nobody reads. */
static void
test_odd_errors(void)
{
    g_autoptr(GError) sent =
        g_error_new_literal(DRV_ERROR, DRV_ERROR_USAGE, "it is 'w\xc3' and \xff");
    g_autoptr(JsonNode) node = drv_json_error(sent);
    g_autofree char *text = drv_json_to_text(node);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) same = drv_json_parse_object(text, strlen(text), &error);
    g_assert_no_error(error);
    g_assert_nonnull(same);
}

static void
test_getters(void)
{
    const char *text = "{\"s\":\"x\",\"i\":3,\"d\":2.5,\"b\":true,\"o\":{},\"a\":[],\"n\":null}";
    g_autoptr(JsonObject) o = drv_json_parse_object(text, strlen(text), NULL);
    g_assert_cmpstr(drv_json_string(o, "s", "-"), ==, "x");
    g_assert_cmpfloat(drv_json_number(o, "i", -1), ==, 3);
    g_assert_cmpfloat(drv_json_number(o, "d", -1), ==, 2.5);
    g_assert_true(drv_json_flag(o, "b", FALSE));
    g_assert_nonnull(drv_json_object(o, "o"));
    g_assert_nonnull(drv_json_array(o, "a"));
    static const char *const names[] = {"s", "i", "d", "b", "o", "a", "n", "missing"};
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *name = names[i];
        if (!g_str_equal(name, "s"))
            g_assert_cmpstr(drv_json_string(o, name, "-"), ==, "-");
        if (!g_str_equal(name, "i") && !g_str_equal(name, "d"))
            g_assert_cmpfloat(drv_json_number(o, name, -1), ==, -1);
        if (!g_str_equal(name, "b"))
            g_assert_false(drv_json_flag(o, name, FALSE));
        if (!g_str_equal(name, "o"))
            g_assert_null(drv_json_object(o, name));
        if (!g_str_equal(name, "a"))
            g_assert_null(drv_json_array(o, name));
    }
    g_assert_cmpstr(drv_json_string(NULL, "s", "-"), ==, "-");

    const char *large = "{\"inf\":1e999,\"much\":1e20,\"little\":-1e20,\"fits\":9007199254740992}";
    g_autoptr(JsonObject) numbers = drv_json_parse_object(large, strlen(large), NULL);
    g_assert_cmpfloat(drv_json_number(numbers, "inf", -1), ==, -1);
    g_assert_cmpfloat(drv_json_number(numbers, "much", -1), ==, -1);
    g_assert_cmpfloat(drv_json_number(numbers, "little", -1), ==, -1);
    g_assert_cmpfloat(drv_json_number(numbers, "fits", -1), ==, 0x1p53);
}

/* Wrong types and absent members give the fallback, silently. */
static void
test_integers_and_elements(void)
{
    const char *text = "{\"i\":7,\"d\":1.5,\"n\":null,\"a\":[{\"i\":1},2]}";
    g_autoptr(JsonObject) o = drv_json_parse_object(text, strlen(text), NULL);
    g_assert_cmpint(drv_json_int(o, "i", 0), ==, 7);
    g_assert_cmpint(drv_json_int(o, "d", -1), ==, -1);
    g_assert_cmpint(drv_json_int(o, "n", -1), ==, -1);
    g_assert_cmpint(drv_json_int(NULL, "i", -1), ==, -1);
    JsonArray *array = drv_json_array(o, "a");
    g_assert_cmpint(drv_json_int(drv_json_element(array, 0), "i", 0), ==, 1);
    g_assert_null(drv_json_element(array, 1));
    g_assert_null(drv_json_element(array, 2));
    g_assert_null(drv_json_element(NULL, 0));
    g_autofree char *back = drv_json_text(o);
    g_assert_cmpstr(back, ==, text);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/refused", test_refused);
    g_test_add_func("/json/depth", test_depth);
    g_test_add_func("/json/errors", test_errors);
    g_test_add_func("/json/odd-errors", test_odd_errors);
    g_test_add_func("/json/getters", test_getters);
    g_test_add_func("/json/integers-and-elements", test_integers_and_elements);
    return g_test_run();
}
