/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/units.h"

#include <math.h>
#include <string.h>

char *
drv_format_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    guint unit = 0;
    if (!isfinite(bytes) || bytes < 0)
        bytes = 0;
    /* 1023.95 would be printed as 1024.0. */
    while (bytes >= (unit == 0 ? 1024 : 1023.95) && unit + 1 < G_N_ELEMENTS(units)) {
        bytes /= 1024;
        unit++;
    }
    return g_strdup_printf("%.*f %s", unit > 0 && bytes < 99.95 ? 1 : 0, bytes, units[unit]);
}

char *
drv_format_ms(double ms)
{
    if (!isfinite(ms) || ms < 0)
        ms = 0;
    if (ms < 999.5)
        return g_strdup_printf("%.0f ms", ms);
    if (ms < 59950)
        return g_strdup_printf("%.1f s", ms / 1000);
    guint64 s = ms < 1e15 ? (guint64)(ms / 1000 + 0.5) : (guint64)1e12;
    if (s < 3600)
        return g_strdup_printf("%u min %u s", (guint)(s / 60), (guint)(s % 60));
    guint64 min = s / 60;
    if (min < 24 * 60)
        return g_strdup_printf("%u h %u min", (guint)(min / 60), (guint)(min % 60));
    return g_strdup_printf("%" G_GUINT64_FORMAT " d %u h", min / (24 * 60), (guint)(min / 60 % 24));
}

char *
drv_format_age(double seconds)
{
    static const struct {
        double size;
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    if (!isfinite(seconds) || seconds < 0)
        seconds = 0;
    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        if (seconds >= units[i].size)
            return g_strdup_printf("%.0f %s", floor(seconds / units[i].size), units[i].name);
    }
    return g_strdup("0 s");
}

char *
drv_format_text(const char *text, glong max)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);
    glong count = 0;
    for (const char *p = valid; *p != '\0'; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        if (count++ >= max) {
            if (max >= 3)
                g_string_truncate(out,
                                  (gsize)(g_utf8_offset_to_pointer(out->str, max - 3) - out->str));
            g_string_append(out, max >= 3 ? "..." : "");
            break;
        }
        if (c == '\n' || c == '\t')
            c = ' '; /* others' messages may have lines */
        g_string_append_unichar(out, g_unichar_isprint(c) && c != 0xfffd ? c : '?');
    }
    return g_string_free(out, FALSE);
}

typedef struct {
    const char *name;
    double factor;
} Unit;

static gboolean
parse(const char *text, const Unit *units, guint64 *value)
{
    /* g_ascii_strtod() also takes signs, hexadecimal numbers and names. */
    if (!g_ascii_isdigit(text[0]) || text[strspn(text, "0")] == 'x' ||
        text[strspn(text, "0")] == 'X')
        return FALSE;
    gsize digits = strspn(text, "0123456789.");
    g_autofree char *number = g_strndup(text, digits);
    char *end;
    double count = g_ascii_strtod(number, &end);
    if (*end != '\0')
        return FALSE;
    const char *name = text + digits + strspn(text + digits, " ");
    for (guint i = 0; units[i].name != NULL; i++) {
        if (g_ascii_strcasecmp(units[i].name, name) != 0)
            continue;
        double result = count * units[i].factor;
        if (!(result <= 4611686018427387904.0) || result != floor(result))
            return FALSE;
        *value = (guint64)result;
        return TRUE;
    }
    return FALSE;
}

gboolean
drv_parse_bytes(const char *text, guint64 *bytes)
{
    static const Unit units[] = {
        {"", 1},       {"B", 1},        {"K", 0x1p10},   {"KiB", 0x1p10}, {"kB", 1e3},
        {"M", 0x1p20}, {"MiB", 0x1p20}, {"MB", 1e6},     {"G", 0x1p30},   {"GiB", 0x1p30},
        {"GB", 1e9},   {"T", 0x1p40},   {"TiB", 0x1p40}, {"TB", 1e12},    {NULL, 0},
    };
    return parse(text, units, bytes);
}

gboolean
drv_parse_seconds(const char *text, guint64 *seconds)
{
    static const Unit units[] = {{"", 1},     {"s", 1},     {"m", 60}, {"min", 60},
                                 {"h", 3600}, {"d", 86400}, {NULL, 0}};
    return parse(text, units, seconds);
}

gboolean
drv_parse_ms(const char *text, guint64 *ms)
{
    static const Unit units[] = {{"", 1},      {"ms", 1},      {"s", 1000},
                                 {"m", 60000}, {"min", 60000}, {NULL, 0}};
    return parse(text, units, ms);
}
