/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/features.h"
#include "qmp/json.h"

/* A small QEMU: a union within a union, an alternate, arrays, an enumeration, and a type that is
 * made of itself. */
static const char schema[] =
    "[{'name':'migrate','meta-type':'command','arg-type':'1','ret-type':'0'},"
    "{'name':'STOP','meta-type':'event','arg-type':'0'},"
    "{'name':'query-x','meta-type':'command','arg-type':'0','ret-type':'[6]'},"
    "{'name':'bare','meta-type':'command'},"
    "{'name':'0','meta-type':'object','members':[]},"
    "{'name':'1','meta-type':'object','members':[{'name':'uri','type':'str'},"
    "  {'name':'channels','type':'[2]'},{'name':'mode','type':'5'}]},"
    "{'name':'[2]','meta-type':'array','element-type':'2'},"
    "{'name':'2','meta-type':'object','members':[{'name':'addr','type':'3'}]},"
    "{'name':'3','meta-type':'object','tag':'transport',"
    "  'members':[{'name':'transport','type':'str'}],"
    "  'variants':[{'case':'a','type':'4'},{'case':'b','type':'0'}]},"
    "{'name':'4','meta-type':'object','members':[],'variants':[{'case':'c','type':'7'}]},"
    "{'name':'7','meta-type':'object','members':[{'name':'path','type':'str'}]},"
    "{'name':'5','meta-type':'alternate','members':[{'type':'enum'},{'type':'str'}]},"
    "{'name':'enum','meta-type':'enum','values':['fast','slow']},"
    "{'name':'[6]','meta-type':'array','element-type':'6'},"
    "{'name':'6','meta-type':'object','members':[{'name':'self','type':'6'}]},"
    "{'name':'str','meta-type':'builtin'}]";

static JsonNode *
json(const char *text)
{
    g_autofree char *quoted = g_strdelimit(g_strdup(text), "'", '"');
    g_autoptr(GError) error = NULL;
    JsonNode *node = json_from_string(quoted, &error);
    g_assert_no_error(error);
    return node;
}

static QmpFeatures *
features_for(const char *schema_text)
{
    g_autoptr(JsonNode) commands = json("[{'name':'migrate'},{'name':'query-x'}]");
    g_autoptr(JsonNode) capabilities = json("[{'capability':'multifd','state':false},"
                                            "{'capability':'events','state':true}]");
    g_autoptr(JsonNode) node = json(schema_text);
    g_autoptr(GError) error = NULL;
    QmpFeatures *features = qmp_features_new(commands, capabilities, node, &error);
    g_assert_no_error(error);
    return features;
}

static void
test_questions(void)
{
    g_autoptr(QmpFeatures) f = features_for(schema);
    g_assert_true(qmp_features_has_command(f, "migrate"));
    g_assert_false(qmp_features_has_command(f, "bare")); /* described, but disabled */
    g_assert_true(qmp_features_has_event(f, "STOP"));
    g_assert_false(qmp_features_has_event(f, "migrate"));
    g_assert_true(qmp_features_has_migration_capability(f, "multifd"));
    g_assert_false(qmp_features_has_migration_capability(f, "xbzrle"));
    g_assert_cmpstr(qmp_features_get_migration_capabilities(f)[0], ==, "events");
    g_assert_cmpstr(qmp_features_get_migration_capabilities(f)[1], ==, "multifd");
    g_assert_null(qmp_features_get_migration_capabilities(f)[2]);

    g_assert_true(qmp_features_command_accepts(f, "migrate", "uri"));
    g_assert_false(qmp_features_command_accepts(f, "migrate", "url"));
    g_assert_false(qmp_features_command_accepts(f, "nothing", "uri"));
    g_assert_false(qmp_features_command_accepts(f, "bare", "uri"));
    g_assert_false(qmp_features_command_accepts(f, "STOP", "uri"));
    g_assert_true(qmp_features_command_accepts(f, "migrate", "channels/addr/transport"));
    g_assert_true(qmp_features_command_accepts(f, "migrate", "channels/addr/path"));
    g_assert_false(qmp_features_command_accepts(f, "migrate", "channels/transport"));
    g_assert_false(qmp_features_command_accepts(f, "migrate", "uri/x"));
    g_assert_false(qmp_features_command_accepts(f, "migrate", "channels//addr"));

    g_assert_true(qmp_features_argument_allows(f, "migrate", "mode", "slow"));
    g_assert_false(qmp_features_argument_allows(f, "migrate", "mode", "slower"));
    g_assert_false(qmp_features_argument_allows(f, "migrate", "uri", "slow"));

    g_assert_true(qmp_features_command_returns(f, "query-x", "self/self/self/self"));
    g_assert_false(qmp_features_command_returns(f, "query-x", "self/other"));
}

/* None of these may crash, hang or make json-glib complain; the answer is always no. */
static void
test_hostile(void)
{
    static const char *const hostile[] = {
        "[]",
        "[1,null,'x',[],{}]",
        "[{'name':5,'meta-type':'command'}]",
        "[{'name':'migrate'}]",
        "[{'name':'migrate','meta-type':'command','arg-type':7}]",
        "[{'name':'migrate','meta-type':'command','arg-type':'nowhere'}]",
        "[{'name':'migrate','meta-type':'command','arg-type':'migrate'}]",
        "[{'name':'migrate','meta-type':'command','arg-type':'a'},"
        "{'name':'a','meta-type':'array','element-type':'a'}]",
        "[{'name':'migrate','meta-type':'command','arg-type':'a'},"
        "{'name':'a','meta-type':'object','members':{},'variants':[{'type':'b'},4,{'type':[]}]},"
        "{'name':'b','meta-type':'alternate','members':[{'type':'a'},{'type':'b'},null]}]",
        "[{'name':'migrate','meta-type':'command','arg-type':'a'},"
        "{'name':'a','meta-type':'object','members':[5,{},{'name':'uri'},{'name':'uri',"
        "'type':null}]}]",
        "[{'name':'migrate','meta-type':'command','arg-type':'a'},"
        "{'name':'a','meta-type':'enum','values':[1,{},null]}]",
    };
    for (guint i = 0; i < G_N_ELEMENTS(hostile); i++) {
        g_autoptr(QmpFeatures) f = features_for(hostile[i]);
        g_assert_false(qmp_features_command_accepts(f, "migrate", "uri"));
        g_assert_false(qmp_features_argument_allows(f, "migrate", "uri", "x"));
        g_assert_false(qmp_features_command_returns(f, "migrate", "uri"));
        g_assert_false(qmp_features_has_event(f, "migrate"));
    }
}

/* Many unions that all branch to each other: a walk of every way through them would never end. */
static void
test_maze(void)
{
    GString *text = g_string_new("[{'name':'migrate','meta-type':'command','arg-type':'t0'}");
    for (guint i = 0; i < 100; i++) {
        g_string_append_printf(text, ",{'name':'t%u','meta-type':'object','variants':[", i);
        for (guint j = 0; j < 100; j++)
            g_string_append_printf(text, "%s{'type':'t%u'}", j == 0 ? "" : ",", j);
        g_string_append_printf(text, "],'members':[{'name':'m%u','type':'t%u'}]}", i, i);
    }
    g_string_append_c(text, ']');
    g_autoptr(QmpFeatures) f = features_for(text->str);
    g_assert_true(qmp_features_command_accepts(f, "migrate", "m99"));
    g_assert_true(qmp_features_command_accepts(f, "migrate", "m5/m7/m9/m11"));
    g_assert_false(qmp_features_command_accepts(f, "migrate", "m5/m7/none"));
    g_string_free(text, TRUE);
}

static void
refuse(const char *commands, const char *capabilities, const char *schema_text, const char *message)
{
    g_autoptr(JsonNode) a = commands != NULL ? json(commands) : NULL;
    g_autoptr(JsonNode) b = json(capabilities);
    g_autoptr(JsonNode) c = json(schema_text);
    g_autoptr(GError) error = NULL;
    g_assert_null(qmp_features_new(a, b, c, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_UNEXPECTED);
    g_assert_nonnull(strstr(error->message, message));
}

static void
test_unexpected(void)
{
    refuse(NULL, "[]", "[]", "query-commands");
    refuse("{}", "[]", "[]", "query-commands");
    refuse("[1]", "[]", "[]", "query-commands");
    refuse("[]", "[{'capability':1}]", "[]", "query-migrate-capabilities");
    refuse("[]", "[]", "'x'", "query-qmp-schema");

    g_autoptr(JsonNode) commands = json("[{'name':'a'}]");
    g_autoptr(QmpFeatures) f = qmp_features_new(commands, NULL, NULL, NULL);
    g_autoptr(QmpFeatures) again = qmp_features_ref(f);
    g_assert_true(qmp_features_has_command(again, "a"));
    g_assert_false(qmp_features_has_event(f, "STOP"));
    g_assert_false(qmp_features_command_accepts(f, "a", "b"));
    g_assert_null(qmp_features_get_migration_capabilities(f)[0]);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/features/questions", test_questions);
    g_test_add_func("/features/hostile", test_hostile);
    g_test_add_func("/features/maze", test_maze);
    g_test_add_func("/features/unexpected", test_unexpected);
    return g_test_run();
}
