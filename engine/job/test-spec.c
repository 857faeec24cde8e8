/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/spec.h"

#include <string.h>

#include "common/error.h"

#define LEAST "\"qmp\":\"/run/a.qmp\",\"to\":\"host2:7001\",\"dest_qmp\":\"/run/b.qmp\""
#define WITH(more) "{" LEAST "," more "}"

static DrvJobSpec *
parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    DrvJobSpec *spec = drv_job_spec_parse(text, &error);
    g_assert_no_error(error);
    return spec;
}

static void
test_defaults(void)
{
    g_autoptr(DrvJobSpec) spec = parse("{" LEAST "}");
    g_assert_cmpstr(spec->qmp, ==, "/run/a.qmp");
    g_assert_cmpstr(spec->to, ==, "host2:7001");
    g_assert_cmpstr(spec->dest_qmp, ==, "/run/b.qmp");
    g_assert_null(spec->name);
    g_assert_cmpint(spec->lanes, ==, 0);
    g_assert_cmpint(spec->codec, ==, DRV_SPEC_CODEC_AUTO);
    g_assert_cmpint(spec->mode, ==, DRV_SPEC_MODE_AUTO);
    g_assert_cmpint(spec->multifd, ==, 0);
    g_assert_cmpint(spec->bandwidth, ==, 0);
    g_assert_cmpint(spec->downtime_ms, ==, 300);
    g_assert_cmpint(spec->max_downtime_ms, ==, 0);
    g_assert_cmpint(spec->converge, ==, DRV_SPEC_CONVERGE_WAIT);
    g_assert_cmpint(spec->timeout_s, ==, 0);
    g_assert_cmpint(spec->verify, ==, DRV_SPEC_VERIFY_STREAM);
    g_assert_cmpint(spec->disks, ==, DRV_SPEC_DISKS_NONE);
    g_assert_cmpint(spec->drop_timeout_s, ==, 60);
    g_assert_false(spec->keep_source);
}

/* What was not given is not written down as if it had been. */
static void
test_not_given(void)
{
    g_autoptr(DrvJobSpec) spec = parse("{\"qmp\":\"/a\",\"to\":\"h:1\",\"dest_qmp\":\"/b\"}");
    g_autoptr(JsonObject) object = drv_job_spec_to_json(spec);
    g_assert_cmpint(spec->dedup_memory, ==, DRV_SPEC_AUTO);
    g_assert_false(json_object_has_member(object, "dedup_memory"));
}

static void
test_everything(void)
{
    static const char text[] =
        "{\"qmp\":\"/run/a.qmp\",\"to\":\"[fd00::2]:7001\",\"dest_qmp\":\"/run/b.qmp\","
        "\"name\":\"w\xc3\xb6rk er\",\"lanes\":16,\"codec\":\"zstd\",\"mode\":\"direct\","
        "\"dedup_memory\":65536,\"multifd\":255,\"bandwidth\":65536,\"downtime_ms\":1999999,"
        "\"max_downtime_ms\":2000000,\"converge\":\"throttle\",\"timeout_s\":3600,"
        "\"verify\":\"none\",\"disks\":\"mirror\",\"disks_chain\":\"keep\","
        "\"disks_overwrite\":true,\"disks_delta\":false,\"drop_timeout_s\":1,\"keep_source\":true}";
    g_autoptr(DrvJobSpec) spec = parse(text);
    g_assert_cmpstr(spec->name, ==, "w\xc3\xb6rk er");
    g_assert_cmpint(spec->lanes, ==, 16);
    g_assert_cmpint(spec->codec, ==, DRV_SPEC_CODEC_ZSTD);
    g_assert_cmpint(spec->mode, ==, DRV_SPEC_MODE_DIRECT);
    g_assert_cmpint(spec->dedup_memory, ==, 65536);
    g_assert_cmpint(spec->multifd, ==, 255);
    g_assert_cmpint(spec->bandwidth, ==, 65536);
    g_assert_cmpint(spec->downtime_ms, ==, 1999999);
    g_assert_cmpint(spec->max_downtime_ms, ==, 2000000);
    g_assert_cmpint(spec->converge, ==, DRV_SPEC_CONVERGE_THROTTLE);
    g_assert_cmpint(spec->timeout_s, ==, 3600);
    g_assert_cmpint(spec->verify, ==, DRV_SPEC_VERIFY_NONE);
    g_assert_cmpint(spec->disks, ==, DRV_SPEC_DISKS_MIRROR);
    g_assert_cmpint(spec->disks_chain, ==, DRV_SPEC_CHAIN_KEEP);
    g_assert_true(spec->disks_overwrite);
    g_assert_cmpint(spec->drop_timeout_s, ==, 1);
    g_assert_true(spec->keep_source);

    /* What the journal keeps is what was asked. */
    g_autofree char *again = drv_job_spec_to_text(spec);
    g_assert_cmpstr(again, ==, text);
}

/* Every choice goes in and out under its own name. */
static void
test_choices(void)
{
    static const struct {
        const char *member, *values[4];
    } cases[] = {{"codec", {"auto", "none", "lz4", "zstd"}},
                 {"mode", {"auto", "relay", "direct"}},
                 {"converge", {"wait", "throttle", "give-up"}},
                 {"verify", {"stream", "memory", "none"}},
                 {"disks", {"none", "mirror"}},
                 {"disks_chain", {"flatten", "keep"}}};
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        for (guint j = 0; j < 4 && cases[i].values[j] != NULL; j++) {
            g_autofree char *text =
                g_strdup_printf(WITH("\"%s\":\"%s\""), cases[i].member, cases[i].values[j]);
            g_autoptr(DrvJobSpec) spec = parse(text);
            g_autoptr(JsonObject) object = drv_job_spec_to_json(spec);
            g_assert_cmpstr(json_object_get_string_member(object, cases[i].member), ==,
                            cases[i].values[j]);
        }
    }
}

static void
test_refused(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{\"to\":\"h:1\",\"dest_qmp\":\"/b\"}", "\"qmp\" is missing"},
        {"{\"qmp\":\"/a\",\"dest_qmp\":\"/b\"}", "\"to\" is missing"},
        {"{\"qmp\":\"/a\",\"to\":\"h:1\"}", "\"dest_qmp\" is missing"},
        {WITH("\"lane\":1"), "\"lane\" is not known: a job has qmp, to, dest_qmp, name, lanes"},
        {WITH("\"a\\nb\":1"), "\"a\\nb\" is not known"},
        {WITH("\"lanes\":17"),
         "\"lanes\" is 17: it must be a whole number from 1 to 16, or 0 (automatic)"},
        {WITH("\"lanes\":-1"), "\"lanes\" is -1"},
        {WITH("\"lanes\":\"4\""), "\"lanes\" is \"4\": it must be a whole number"},
        {WITH("\"lanes\":4.5"), "\"lanes\" is 4.5"},
        {WITH("\"lanes\":null"), "\"lanes\" is null"},
        {WITH("\"lanes\":[1]"), "\"lanes\" is [1]"},
        {WITH("\"lanes\":true"), "\"lanes\" is true"},
        {WITH("\"multifd\":256"), "from 1 to 255, or 0 (none)"},
        {WITH("\"bandwidth\":1000"), "from 65536 to 1099511627776, or 0 (unlimited)"},
        {WITH("\"bandwidth\":-65536"), "\"bandwidth\" is -65536"},
        {WITH("\"downtime_ms\":0"),
         "\"downtime_ms\" is 0: it must be a whole number from 1 to 2000000"},
        {WITH("\"downtime_ms\":2000001"), "\"downtime_ms\" is 2000001"},
        {WITH("\"max_downtime_ms\":2000001"), "from 1 to 2000000, or 0 (not above downtime_ms)"},
        {WITH("\"max_downtime_ms\":299"),
         "\"max_downtime_ms\" is 299, which is below \"downtime_ms\", 300: make it larger, or"},
        {WITH("\"downtime_ms\":500,\"max_downtime_ms\":499"), "is below \"downtime_ms\", 500"},
        {WITH("\"disks_delta\":true"),
         "\"disks_delta\" is of whole disks that move: set \"disks\" to"},
        {WITH("\"disks_delta\":true,\"disks\":\"mirror\",\"disks_chain\":\"keep\""),
         "set \"disks_chain\" to \"flatten\", or leave it out"},
        {WITH("\"converge\":\"stop\""), "one of \"wait\", \"throttle\", \"give-up\""},
        {WITH("\"timeout_s\":2592001"), "from 1 to 2592000, or 0 (none)"},
        {WITH("\"drop_timeout_s\":0"), "from 1 to 86400"},
        {WITH("\"drop_timeout_s\":86401"), "from 1 to 86400"},
        {WITH("\"codec\":\"gzip\""),
         "\"codec\" is \"gzip\": it must be one of \"auto\", \"none\", \"lz4\", \"zstd\""},
        {WITH("\"codec\":\"LZ4\""), "\"codec\" is \"LZ4\""},
        {WITH("\"codec\":1"), "\"codec\" is 1"},
        {WITH("\"codec\":{}"), "\"codec\" is {}"},
        {WITH("\"mode\":\"\""), "one of \"auto\", \"relay\", \"direct\""},
        {WITH("\"verify\":false"), "one of \"stream\", \"memory\", \"none\""},
        {WITH("\"disks\":\"all\""), "one of \"none\", \"mirror\""},
        {WITH("\"disks_chain\":1"), "one of \"flatten\", \"keep\""},
        {WITH("\"keep_source\":1"), "\"keep_source\" is 1: it must be true or false"},
        {WITH("\"keep_source\":null"), "\"keep_source\" is null: it must be true or false"},
        {WITH("\"name\":\"\""), "\"name\" is \"\": it must be 1 to 255 bytes"},
        {WITH("\"name\":\"a\\nb\""), "without control characters"},
        {WITH("\"name\":7"), "\"name\" is 7: it must be a string"},
        {"{\"qmp\":\"a.qmp\",\"to\":\"h:1\",\"dest_qmp\":\"/b\"}",
         "\"qmp\" is \"a.qmp\": it must be an absolute path"},
        {"{\"qmp\":\"/a\",\"to\":\"h:1\",\"dest_qmp\":\"\"}", "\"dest_qmp\" is \"\""},
        {"{\"qmp\":{},\"to\":\"h:1\",\"dest_qmp\":\"/b\"}", "\"qmp\" is {}: it must be a string"},
        {"{\"qmp\":\"/a\",\"to\":\"h\",\"dest_qmp\":\"/b\"}",
         "\"to\": 'h' is not an ADDR:PORT: the port is missing"},
        {"{\"qmp\":\"/a\",\"to\":\"h:0\",\"dest_qmp\":\"/b\"}", "a port from 1 to 65535"},
        {"[]", "not a JSON object"},
        {"", "not a JSON object"},
        {"{", "the job is not JSON: "},
        {"null", "not a JSON object"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(DrvJobSpec) spec = drv_job_spec_parse(cases[i].text, &error);
        if (spec != NULL)
            g_error("taken, but should not be: %s", cases[i].text);
        g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
        if (strstr(error->message, cases[i].says) == NULL)
            g_error("%s gave: %s", cases[i].text, error->message);
    }
}

/* A journal that somebody has written to does not run us out of stack. */
static void
test_deep(void)
{
    g_autofree char *text = g_strnfill(1000000, '[');
    g_autoptr(GError) error = NULL;
    memcpy(text, "{\"name\":", 8);
    g_assert_null(drv_job_spec_parse(text, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
    g_assert_nonnull(strstr(error->message, "the job is not acceptable JSON: it is nested"));
}

/* What a client makes long, the message does not. */
static void
test_long_values(void)
{
    g_autofree char *path = g_strnfill(100000, 'x');
    path[0] = '/';
    g_autofree char *text =
        g_strdup_printf("{\"qmp\":\"%s\",\"to\":\"h:1\",\"dest_qmp\":\"/b\"}", path);
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_job_spec_parse(text, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
    g_assert_cmpuint(strlen(error->message), <, 250);

    /* The longest that a socket's address holds is fine, one more is not. */
    for (guint len = 107; len <= 108; len++) {
        path[len] = '\0';
        g_autofree char *fits =
            g_strdup_printf("{\"qmp\":\"%s\",\"to\":\"h:1\",\"dest_qmp\":\"/b\"}", path);
        g_autoptr(DrvJobSpec) spec = drv_job_spec_parse(fits, NULL);
        g_assert_cmpint(spec != NULL, ==, len == 107);
        path[len] = 'x';
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/spec/defaults", test_defaults);
    g_test_add_func("/spec/everything", test_everything);
    g_test_add_func("/spec/not-given", test_not_given);
    g_test_add_func("/spec/choices", test_choices);
    g_test_add_func("/spec/refused", test_refused);
    g_test_add_func("/spec/long-values", test_long_values);
    g_test_add_func("/spec/deep", test_deep);
    return g_test_run();
}
