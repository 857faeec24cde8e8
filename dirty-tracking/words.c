/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/words-private.h"

char *
drv_words_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    guint unit = 0;
    for (; unit + 1 < G_N_ELEMENTS(units) && bytes >= 1023.5; unit++)
        bytes /= 1024;
    return g_strdup_printf(unit > 0 && bytes < 9.95 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

char *
drv_words_ms(double ms)
{
    if (ms < 999.5)
        return g_strdup_printf("%.0f ms", ms);
    if (ms < 99.5e3)
        return g_strdup_printf(ms < 9.95e3 ? "%.1f s" : "%.0f s", ms / 1000);
    return ms < 6e6 ? g_strdup_printf("%.0f min", ms / 60e3)
                    : g_strdup_printf("%.0f h", ms / 3600e3);
}
