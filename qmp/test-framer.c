/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/error.h"
#include "qmp/framer.h"
#include "qmp/message.h"

#include <string.h>

static const QmpLimits small = {
    .max_message = 100, .max_depth = 4, .max_values = 10, .max_inflight = 1, .max_unsent = 1};

/* All objects in 'text', pushed in pieces of 'piece' bytes, joined by '|'; then "!" on an error. */
static char *
cut(const QmpLimits *limits, const char *text, gsize len, gsize piece)
{
    g_autoptr(QmpFramer) framer = qmp_framer_new(limits);
    GString *out = g_string_new(NULL);
    for (gsize at = 0; at < len; at += piece) {
        qmp_framer_push(framer, text + at, MIN(piece, len - at));
        for (;;) {
            const char *object;
            gsize object_len;
            g_autoptr(GError) error = NULL;
            if (!qmp_framer_next(framer, &object, &object_len, &error)) {
                g_assert_error(error, QMP_ERROR, QMP_ERROR_PROTOCOL);
                g_string_append_c(out, '!');
                return g_string_free(out, FALSE);
            }
            if (object == NULL)
                break;
            g_string_append_len(out, object, (gssize)object_len);
            g_string_append_c(out, '|');
        }
    }
    return g_string_free(out, FALSE);
}

static void
check(const char *text, const char *expected)
{
    for (gsize piece = 1; piece <= strlen(text) + 1; piece++) {
        g_autofree char *out = cut(&small, text, strlen(text), piece);
        g_assert_cmpstr(out, ==, expected);
    }
}

static void
test_cutting(void)
{
    check("{}", "{}|");
    check(" \r\n{} \n {\"a\":1}\r\n{", "{}|{\"a\":1}|");
    check("{\n  \"a\": {\n  }\n}\n{}", "{\n  \"a\": {\n  }\n}|{}|"); /* pretty=on */
    check("{\"a}\":\"{[\\\"}\"}{}", "{\"a}\":\"{[\\\"}\"}|{}|");     /* braces in strings */
    check("{\"a\":\"\\u00e9\\ud83d\\ude00\\\\\"}", "{\"a\":\"\\u00e9\\ud83d\\ude00\\\\\"}|");
    check("", "");
}

static void
test_garbage(void)
{
    check("SSH-2.0", "!");
    check("[]", "!");
    check("{}}", "{}|!");
    check("{/* \" */}", "!"); /* a comment would hide braces from us */
    check("{'a':1}", "!");
    check("{\"a\n\":1}", "!");
    check("{\"\\x\":1}", "!");
    check("{\"\\u12g4\":1}", "!");
    check("{\"\\ud83d\"}", "!");
    check("{\"\\ud83dx\"}", "!");
    check("{\"\\ud83d\\n\"}", "!");
    check("{\"\\ud83d\\u0041\"}", "!");
    check("{\"\\ude00\"}", "!");
    check("{\"\\u0000\"}", "!");
}

static void
test_limits(void)
{
    check("{\"a\":[[[]]]}", "{\"a\":[[[]]]}|");
    check("{\"a\":[[[[]]]]}", "!");
    check("{\"a\":[1,2,3,4,5,6,7,8,9]}", "{\"a\":[1,2,3,4,5,6,7,8,9]}|");
    check("{\"a\":[1,2,3,4,5,6,7,8,9,10]}", "!");
    check("{\"a\":[1,2,3,4,5]}{\"a\":[1,2,3,4,5]}", /* counted for each object anew */
          "{\"a\":[1,2,3,4,5]}|{\"a\":[1,2,3,4,5]}|");

    g_autofree char *fill = g_strnfill(92, 'x');
    g_autofree char *fits = g_strdup_printf("{\"a\":\"%s\"}{}", fill);
    g_autofree char *long_one = g_strdup_printf("{\"a\":\"%sxy\"}", fill);
    g_autofree char *out = cut(&small, fits, strlen(fits), 7);
    g_assert_true(g_str_has_suffix(out, "\"}|{}|"));
    check(long_one, "!");
}

/* An attack on the stack: it must be over before the parser sees it. */
static void
test_deep(void)
{
    const QmpLimits limits = QMP_LIMITS_DEFAULT;
    g_autofree char *deep = g_strnfill(8 << 20, '[');
    memcpy(deep, "{\"a\":", 5);
    g_autofree char *out = cut(&limits, deep, strlen(deep), 1 << 16);
    g_assert_cmpstr(out, ==, "!");
}

/* The deepest object that passes is one that the parser can take. */
static void
test_deepest(void)
{
    const QmpLimits limits = QMP_LIMITS_DEFAULT;
    GString *text = g_string_new("{\"return\":");
    for (guint i = 1; i < limits.max_depth; i++)
        g_string_append_c(text, '[');
    for (guint i = 1; i < limits.max_depth; i++)
        g_string_append_c(text, ']');
    g_string_append_c(text, '}');
    g_autoptr(QmpFramer) framer = qmp_framer_new(&limits);
    g_auto(QmpMessage) message = {0};
    g_autoptr(GError) error = NULL;
    const char *object;
    gsize len;
    qmp_framer_push(framer, text->str, text->len);
    g_assert_true(qmp_framer_next(framer, &object, &len, &error));
    g_assert_cmpuint(len, ==, text->len);
    g_assert_true(qmp_message_parse(&message, object, len, &error));
    g_string_free(text, TRUE);
}

static void
test_partial(void)
{
    const char *object;
    gsize len;
    g_autoptr(QmpFramer) framer = qmp_framer_new(&small);
    qmp_framer_push(framer, "{} {\"a", 6);
    g_assert_true(qmp_framer_next(framer, &object, &len, NULL));
    g_assert_cmpuint(qmp_framer_partial(framer), ==, 0);
    g_assert_true(qmp_framer_next(framer, &object, &len, NULL));
    g_assert_null(object);
    g_assert_cmpuint(qmp_framer_partial(framer), ==, 3);
}

/* Nothing that passes the framer makes the parser crash or complain: g_test makes every warning of
 * json-glib fatal. */
static void
test_mutations(void)
{
    static const char *const seeds[] = {
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
        "\"package\": \"x\"}, \"capabilities\": [\"oob\"]}}",
        "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}",
        "{\"return\": [1, -2.5e3, true, false, null, \"\\ud83d\\ude00\\n\"], \"id\": \"q-1\"}",
        "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}",
    };
    static const char tokens[] = "{}[]:,\"\\u0d8 \n1-.etfn'/*#\x80\xff";
    const QmpLimits limits = QMP_LIMITS_DEFAULT;
    guint parsed = 0;
    for (guint round = 0; round < 20000; round++) {
        g_autofree char *text = g_strdup(seeds[g_test_rand_int_range(0, G_N_ELEMENTS(seeds))]);
        gsize len = strlen(text);
        for (int n = g_test_rand_int_range(0, 4); n > 0; n--)
            text[g_test_rand_int_range(0, (gint32)len)] =
                tokens[g_test_rand_int_range(0, sizeof tokens - 1)];
        g_autoptr(QmpFramer) framer = qmp_framer_new(&limits);
        qmp_framer_push(framer, text, len);
        const char *object;
        gsize object_len;
        while (qmp_framer_next(framer, &object, &object_len, NULL) && object != NULL) {
            g_auto(QmpMessage) message = {0};
            parsed += qmp_message_parse(&message, object, object_len, NULL);
        }
    }
    g_assert_cmpuint(parsed, >, 4000); /* also the good ones went all the way */
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/framer/cutting", test_cutting);
    g_test_add_func("/framer/garbage", test_garbage);
    g_test_add_func("/framer/limits", test_limits);
    g_test_add_func("/framer/deep", test_deep);
    g_test_add_func("/framer/deepest", test_deepest);
    g_test_add_func("/framer/partial", test_partial);
    g_test_add_func("/framer/mutations", test_mutations);
    return g_test_run();
}
