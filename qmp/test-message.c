/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/error.h"
#include "qmp/json.h"
#include "qmp/message.h"

#include <string.h>

static void
parse(QmpMessage *message, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_assert_true(qmp_message_parse(message, text, strlen(text), &error));
    g_assert_no_error(error);
}

static void
refuse(const char *text, const char *expected)
{
    QmpMessage message;
    g_autoptr(GError) error = NULL;
    g_assert_false(qmp_message_parse(&message, text, strlen(text), &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(error->message, expected));
    g_assert_null(message.root);
}

static void
test_reply(void)
{
    g_auto(QmpMessage) m = {0};
    parse(&m, "{\"return\": {\"a\": 1}, \"id\": \"x\"}");
    g_assert_cmpint(m.kind, ==, QMP_MESSAGE_RETURN);
    g_assert_cmpstr(m.id, ==, "x");
    g_assert_nonnull(qmp_node_object(m.value));

    g_auto(QmpMessage) number = {0};
    parse(&number, "{\"return\": null, \"id\": 5}"); /* an id we never use */
    g_assert_cmpint(number.kind, ==, QMP_MESSAGE_RETURN);
    g_assert_null(number.id);

    g_auto(QmpMessage) e = {0};
    parse(&e, "{\"error\": {\"class\": \"C\", \"desc\": \"D\"}}");
    g_assert_cmpint(e.kind, ==, QMP_MESSAGE_ERROR);
    g_assert_cmpstr(e.error_class, ==, "C");
    g_assert_cmpstr(e.desc, ==, "D");
    g_assert_null(e.id);
}

static gint64
timestamp(const char *seconds, const char *microseconds)
{
    g_auto(QmpMessage) m = {0};
    g_autofree char *text = g_strdup_printf("{\"event\": \"E\", \"timestamp\": {\"seconds\": %s, "
                                            "\"microseconds\": %s}}",
                                            seconds, microseconds);
    parse(&m, text);
    return m.timestamp_us;
}

static void
test_event(void)
{
    g_auto(QmpMessage) m = {0};
    parse(&m, "{\"event\": \"STOP\", \"data\": {\"a\": 1}, "
              "\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 5}}");
    g_assert_cmpint(m.kind, ==, QMP_MESSAGE_EVENT);
    g_assert_cmpstr(m.event, ==, "STOP");
    g_assert_nonnull(m.data);
    g_assert_cmpint(m.timestamp_us, ==, G_GINT64_CONSTANT(1700000000000005));

    g_auto(QmpMessage) bare = {0};
    parse(&bare, "{\"event\": \"STOP\"}");
    g_assert_null(bare.data);
    g_assert_cmpint(bare.timestamp_us, ==, -1);

    g_assert_cmpint(timestamp("2", "3"), ==, 2000003);
    g_assert_cmpint(timestamp("-1", "-1"), ==, -1);
    g_assert_cmpint(timestamp("9223372036854775807", "0"), ==, -1);
    g_assert_cmpint(timestamp("1", "1000000"), ==, -1);
    g_assert_cmpint(timestamp("\"1\"", "0"), ==, -1);
}

static void
test_greeting(void)
{
    g_auto(QmpMessage) m = {0};
    parse(&m, "{\"QMP\": {}}");
    g_assert_cmpint(m.kind, ==, QMP_MESSAGE_GREETING);
    g_assert_nonnull(m.greeting);
}

static void
test_refused(void)
{
    refuse("{}", "neither a greeting");
    refuse("{\"QMP\": 1}", "neither a greeting");
    refuse("{\"event\": 7}", "neither a greeting");
    refuse("{\"error\": \"no\"}", "neither a greeting");
    refuse("{\"error\": {\"class\": \"C\"}, \"id\": \"x\"}", "neither a greeting");
    refuse("{\"error\": {\"desc\": \"D\"}, \"id\": \"x\"}", "neither a greeting");
    refuse("{\"a\": }", "not JSON");
    refuse("{\"a\": 1]", "not JSON");
    refuse("{\"return\": \"\xff\"}", "not UTF-8");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/message/reply", test_reply);
    g_test_add_func("/message/event", test_event);
    g_test_add_func("/message/greeting", test_greeting);
    g_test_add_func("/message/refused", test_refused);
    return g_test_run();
}
