/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/units.h"

#include <math.h>

static void
test_bytes(void)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0 B"},          {1, "1 B"},           {1023, "1023 B"},    {1024, "1.0 KiB"},
        {1536, "1.5 KiB"},   {102348, "99.9 KiB"}, {102400, "100 KiB"}, {1048575, "1.0 MiB"},
        {0x1p30, "1.0 GiB"}, {0x1p60, "1024 PiB"}, {-5, "0 B"},         {NAN, "0 B"},
        {INFINITY, "0 B"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = drv_format_bytes(cases[i].value);
        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

static void
test_times(void)
{
    static const struct {
        double ms;
        const char *text, *age; /* of as many milliseconds */
    } cases[] = {
        {0, "0 ms", "0 s"},
        {84.4, "84 ms", "0 s"},
        {999.6, "1.0 s", "0 s"},
        {12340, "12.3 s", "12 s"},
        {59960, "1 min 0 s", "59 s"},
        {125000, "2 min 5 s", "2 min"},
        {3780000, "1 h 3 min", "1 h"},
        {187200000, "2 d 4 h", "2 d"},
        {-1, "0 ms", "0 s"},
        {NAN, "0 ms", "0 s"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = drv_format_ms(cases[i].ms);
        g_autofree char *age = drv_format_age(cases[i].ms / 1000);
        g_assert_cmpstr(text, ==, cases[i].text);
        g_assert_cmpstr(age, ==, cases[i].age);
    }
    g_autofree char *huge = drv_format_ms(1e300);
    g_assert_true(g_str_has_suffix(huge, " h"));
}

static void
test_text(void)
{
    static const struct {
        const char *in;
        glong max;
        const char *out;
    } cases[] = {
        {"web1", 10, "web1"},
        {"a\033[2Jb\nc\td\x7f", 20, "a?[2Jb c d?"},
        {"bad \xff\xfe", 20, "bad ??"},
        {"h\xc3\xa9llo", 5, "h\xc3\xa9llo"},
        {"h\xc3\xa9llo world", 6, "h\xc3\xa9l..."},
        {"abcdef", 2, "ab"},
        {"", 5, ""},
        {"\xe2\x80\xae"
         "evil",
         20, "?evil"}, /* right-to-left override */
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = drv_format_text(cases[i].in, cases[i].max);
        g_assert_cmpstr(text, ==, cases[i].out);
    }
}

static void
test_parse(void)
{
    static const struct {
        gboolean (*parse)(const char *text, guint64 *value);
        const char *text;
        guint64 value;
    } good[] = {
        {drv_parse_bytes, "0", 0},
        {drv_parse_bytes, "65536", 65536},
        {drv_parse_bytes, "64K", 65536},
        {drv_parse_bytes, "64 kib", 65536},
        {drv_parse_bytes, "1.5GiB", 1610612736},
        {drv_parse_bytes, "10MB", 10000000},
        {drv_parse_bytes, "100m", 104857600},
        {drv_parse_bytes, "1T", G_GUINT64_CONSTANT(1) << 40},
        {drv_parse_seconds, "90", 90},
        {drv_parse_seconds, "90s", 90},
        {drv_parse_seconds, "1.5m", 90},
        {drv_parse_seconds, "2h", 7200},
        {drv_parse_seconds, "1d", 86400},
        {drv_parse_ms, "300", 300},
        {drv_parse_ms, "300ms", 300},
        {drv_parse_ms, "0.5s", 500},
    };
    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        guint64 value = 1;
        g_assert_true(good[i].parse(good[i].text, &value));
        g_assert_cmpuint(value, ==, good[i].value);
    }
    static const char *const bad[] = {"",    "-1",   "+1",   "x",    "1X",  "1.2.3",
                                      ".5",  "0x10", "00x1", "1e3",  " 1",  "1.0001",
                                      "nan", "inf",  "K",    "1K/s", "1KK", "99999999999999999999"};
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        guint64 value = 77;
        g_assert_false(drv_parse_bytes(bad[i], &value));
        g_assert_false(drv_parse_seconds(bad[i], &value));
        g_assert_false(drv_parse_ms(bad[i], &value));
        g_assert_cmpuint(value, ==, 77);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/units/bytes", test_bytes);
    g_test_add_func("/units/times", test_times);
    g_test_add_func("/units/text", test_text);
    g_test_add_func("/units/parse", test_parse);
    return g_test_run();
}
