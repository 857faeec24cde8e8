/* SPDX-License-Identifier: Apache-2.0 */
#include "common/exposition.h"

static void
test_values(void)
{
    g_autoptr(GString) out = g_string_new(NULL);
    drv_exposition_head(out, "drover_jobs", "gauge", "Jobs.");
    drv_exposition_value(out, "drover_jobs", "", 2);
    drv_exposition_value(out, "drover_jobs", "kind=\"copy\"", 0.25);
    drv_exposition_value(out, "drover_jobs", "", 1234567890123);
    g_assert_cmpstr(out->str, ==,
                    "# HELP drover_jobs Jobs.\n# TYPE drover_jobs gauge\ndrover_jobs 2\n"
                    "drover_jobs{kind=\"copy\"} 0.25\ndrover_jobs 1234567890123\n");
}

static void
test_labels(void)
{
    g_autofree char *one = drv_exposition_labels("name", "alpha", NULL);
    g_autofree char *odd = drv_exposition_labels("a", "x\"y", "b", "1\\2\n3", NULL);
    g_assert_cmpstr(one, ==, "name=\"alpha\"");
    g_assert_cmpstr(odd, ==, "a=\"x\\\"y\",b=\"1\\\\2\\n3\"");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exposition/values", test_values);
    g_test_add_func("/exposition/labels", test_labels);
    return g_test_run();
}
