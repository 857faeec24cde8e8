/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/error.h"
#include "qmp/json.h"

#include <string.h>

static void
check(JsonNode *node, const char *expected)
{
    g_autoptr(JsonNode) owned = node;
    g_autofree char *text = json_to_string(owned, FALSE);
    g_assert_cmpstr(text, ==, expected);
}

static void
test_args(void)
{
    check(qmp_args(NULL, NULL), "{}");
    check(qmp_args("uri", "s", "unix:/x", "detach", "b", TRUE, "n", "i", -3, "big", "x", G_MAXINT64,
                   "d", "d", 0.5, NULL),
          "{\"uri\":\"unix:/x\",\"detach\":true,\"n\":-3,\"big\":9223372036854775807,\"d\":0.5}");
    check(qmp_args("tls", "s", NULL, "more", "o", NULL, "last", "b", FALSE, NULL),
          "{\"last\":false}");
    check(qmp_args("capabilities", "o",
                   qmp_list(qmp_args("capability", "s", "events", "state", "b", TRUE, NULL),
                            qmp_args("capability", "s", "xbzrle", "state", "b", FALSE, NULL), NULL),
                   NULL),
          "{\"capabilities\":[{\"capability\":\"events\",\"state\":true},"
          "{\"capability\":\"xbzrle\",\"state\":false}]}");
    check(qmp_list(NULL, NULL), "[]");
}

static void
test_getters(void)
{
    g_autoptr(JsonNode) node = json_from_string(
        "{\"s\":\"t\",\"i\":5,\"d\":1.5,\"b\":true,\"o\":{\"in\":1},\"a\":[1],\"n\":null,"
        "\"inf\":1e999}",
        NULL);
    JsonObject *o = qmp_node_object(node);
    static const char *const names[] = {"s", "i", "d", "b", "o", "a", "n", "missing"};
    /* Every getter on every type: right or NULL, and never a complaint from json-glib. */
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        gint64 n;
        double d;
        gboolean b;
        const char *name = names[i];
        g_assert_cmpint(qmp_get_string(o, name) != NULL, ==, name[0] == 's');
        g_assert_cmpint(qmp_get_int(o, name, &n), ==, name[0] == 'i');
        g_assert_cmpint(qmp_get_double(o, name, &d), ==, name[0] == 'i' || name[0] == 'd');
        g_assert_cmpint(qmp_get_bool(o, name, &b), ==, name[0] == 'b');
        g_assert_cmpint(qmp_get_object(o, name) != NULL, ==, name[0] == 'o');
        g_assert_cmpint(qmp_get_array(o, name) != NULL, ==, name[0] == 'a');
    }
    gint64 n;
    double d;
    g_assert_true(qmp_get_int(qmp_get_object(o, "o"), "in", &n));
    g_assert_cmpint(n, ==, 1);
    g_assert_false(qmp_get_double(o, "inf", &d));
    /* NULL chains. */
    g_assert_false(qmp_get_int(qmp_get_object(qmp_node_object(NULL), "o"), "in", &n));
    g_assert_null(qmp_node_array(NULL));
    g_assert_null(qmp_node_string(NULL));
}

static void
test_error(void)
{
    GError *error = qmp_error_new_command("device_add", "DeviceNotFound", "no\n\x1b[31m 'x'");
    g_assert_error(error, QMP_ERROR, QMP_ERROR_COMMAND);
    g_assert_cmpstr(error->message, ==, "QEMU refused 'device_add': no  [31m 'x' (DeviceNotFound)");
    g_prefix_error(&error, "preparing: ");
    g_autoptr(GError) copy = g_error_copy(error);
    g_clear_error(&error);
    g_assert_cmpstr(qmp_error_get_class(copy), ==, "DeviceNotFound");
    g_assert_cmpstr(qmp_error_get_desc(copy), ==, "no\n\x1b[31m 'x'");
    g_assert_true(qmp_error_is_class(copy, "DeviceNotFound"));
    g_assert_false(qmp_error_is_class(copy, "GenericError"));

    g_autoptr(GError) generic = qmp_error_new_command("migrate", "GenericError", "busy");
    g_assert_cmpstr(generic->message, ==, "QEMU refused 'migrate': busy");

    g_autofree char *words = g_strnfill(100000, 'w');
    g_autoptr(GError) wordy = qmp_error_new_command("migrate", "GenericError", words);
    g_assert_cmpuint(strlen(wordy->message), <, 2000);
    g_assert_cmpstr(qmp_error_get_desc(wordy), ==, words);

    g_autoptr(GError) other = g_error_new(QMP_ERROR, QMP_ERROR_CLOSED, "x");
    g_autoptr(GError) foreign = g_error_new(G_FILE_ERROR, 0, "x");
    g_assert_null(qmp_error_get_class(other));
    g_assert_null(qmp_error_get_class(foreign));
    g_assert_null(qmp_error_get_desc(NULL));
    g_assert_false(qmp_error_is_class(NULL, "GenericError"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/args", test_args);
    g_test_add_func("/json/getters", test_getters);
    g_test_add_func("/json/error", test_error);
    return g_test_run();
}
