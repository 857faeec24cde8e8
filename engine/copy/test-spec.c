/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/spec.h"

#include "common/error.h"

#define IMAGE "{\"image\":\"/a\",\"to\":\"h:1\",\"dest\":\"/b\""
#define RUNNING "{\"qmp\":\"/q\",\"disk\":\"d\",\"to\":\"h:1\",\"dest\":\"/b\""

static void
test_group(void)
{
    static const char text[] = IMAGE ",\"kind\":\"copy\",\"group\":\"g-1\",\"of\":3}";
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvCopySpec) spec = drv_copy_spec_parse(text, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(spec->group, ==, "g-1");
    g_assert_cmpint(spec->of, ==, 3);
    g_autofree char *group = drv_copy_spec_group(text);
    g_assert_cmpstr(group, ==, "g-1");
    g_assert_null(drv_copy_spec_qmp(text));
    g_autoptr(DrvCopySpec) running =
        drv_copy_spec_parse(RUNNING ",\"group\":\"g\",\"of\":2}", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(running->group, ==, "g");
    g_assert_null(drv_copy_spec_group(IMAGE ",\"group\":\"g\"}")); /* of another kind */
    g_assert_null(drv_copy_spec_group("{"));
    g_assert_null(drv_copy_spec_group(NULL));
}

static void
test_wrong_group(void)
{
    static const struct {
        const char *text, *error;
    } wrong[] = {
        {IMAGE ",\"group\":\"g\"}", "\"group\" and \"of\" go together*"},
        {IMAGE ",\"of\":2}", "\"group\" and \"of\" go together*"},
        {IMAGE ",\"group\":\"g/\",\"of\":2}", "\"group\" is 'g/': it must be*"},
        {IMAGE ",\"group\":\"g\",\"of\":1}", "\"of\" is 1: it must be a whole number from 2 to 64"},
        {IMAGE ",\"group\":\"g\",\"of\":65}", "\"of\" is 65: it must be*"},
        {RUNNING ",\"of\":2}", "\"group\" and \"of\" go together*"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(drv_copy_spec_parse(wrong[i].text, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_USAGE);
        g_test_message("%s", error->message);
        g_assert_true(g_pattern_match_simple(wrong[i].error, error->message));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/copy/spec/group", test_group);
    g_test_add_func("/engine/copy/spec/wrong-group", test_wrong_group);
    return g_test_run();
}
