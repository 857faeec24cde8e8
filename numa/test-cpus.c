/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/cpus.h"

static void
test_lists(void)
{
    static const struct {
        const char *text, *out;
        guint n;
    } cases[] = {
        {"", "", 0},
        {"\n", "", 0},
        {"0", "0", 1},
        {"0-3,8\n", "0-3,8", 5},
        {"\t5", "5", 1},
        {"3,2,1", "1-3", 3},
        {"7-7", "7", 1},
        {"4095", "4095", 1},
        {"4095-9999", "4095", 1},
        {"63-64", "63-64", 2},
        {"5000", "", 0},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        DrvCpus cpus;
        g_assert_true(drv_cpus_parse(cases[i].text, &cpus));
        g_autofree char *out = drv_cpus_format(&cpus);
        g_assert_cmpstr(out, ==, cases[i].out);
        g_assert_cmpuint(drv_cpus_count(&cpus), ==, cases[i].n);
        g_assert_true(drv_cpus_is_empty(&cpus) == (cases[i].n == 0));
    }
}

static void
test_refused(void)
{
    static const char *const texts[] = {"x",   "1-",  "-1",    "1,",          "1,,2", "3-1",
                                        "1 2", "0x1", "1-2-3", "99999999999", "1,\n"};
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        DrvCpus cpus;
        if (drv_cpus_parse(texts[i], &cpus))
            g_error("'%s' was taken for a list", texts[i]);
        g_assert_true(drv_cpus_is_empty(&cpus));
    }
}

static void
test_nodes(void)
{
    guint64 nodes;
    g_assert_true(drv_nodes_parse("0-1,63\n", &nodes));
    g_assert_cmphex(nodes, ==, G_GUINT64_CONSTANT(0x8000000000000003));
    g_autofree char *out = drv_nodes_format(nodes);
    g_assert_cmpstr(out, ==, "0-1,63");
    g_assert_true(drv_nodes_parse("64-80", &nodes)); /* those are not used */
    g_assert_cmphex(nodes, ==, 0);
    g_assert_false(drv_nodes_parse("zero", &nodes));
}

static void
test_sets(void)
{
    DrvCpus a, b;
    g_assert_true(drv_cpus_parse("0-5,100", &a));
    g_assert_true(drv_cpus_parse("4-9", &b));
    DrvCpus both = drv_cpus_and(&a, &b), rest = drv_cpus_without(&a, &b), all = drv_cpus_or(&a, &b);
    g_autofree char *both_text = drv_cpus_format(&both);
    g_autofree char *rest_text = drv_cpus_format(&rest);
    g_autofree char *all_text = drv_cpus_format(&all);
    g_assert_cmpstr(both_text, ==, "4-5");
    g_assert_cmpstr(rest_text, ==, "0-3,100");
    g_assert_cmpstr(all_text, ==, "0-9,100");
    g_assert_true(drv_cpus_within(&both, &a));
    g_assert_false(drv_cpus_within(&a, &b));
    g_assert_true(drv_cpus_has(&a, 100));
    g_assert_false(drv_cpus_has(&a, 99));
    g_assert_false(drv_cpus_has(&a, 100000));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpus/lists", test_lists);
    g_test_add_func("/cpus/refused", test_refused);
    g_test_add_func("/cpus/nodes", test_nodes);
    g_test_add_func("/cpus/sets", test_sets);
    return g_test_run();
}
