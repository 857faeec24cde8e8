/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include "common/json.h"
#include "engine/cli/units.h"

/* What a guest wrote to while it was migrated: its rounds, and where most of it was. */

/* Of many rounds so many of the first and of the last are shown: the middle is more of the same. */
#define EACH_END 8u

static void
add_round(JsonObject *round, DrvRenderLine line, GString *out)
{
    double pass = drv_json_number(round, "pass", 0), last = drv_json_number(round, "last_pass", 0);
    double rate = drv_json_number(round, "dirty_rate", -1);
    g_autofree char *took = drv_format_ms(drv_json_number(round, "ms", 0));
    g_autofree char *bytes = drv_format_bytes(drv_json_number(round, "bytes", 0));
    g_autofree char *again = drv_format_bytes(drv_json_number(round, "again", 0) * 4096);
    g_autofree char *written = drv_format_bytes(rate);
    g_autofree char *name = last > pass ? g_strdup_printf("rounds %.0f-%.0f", pass, last)
                                        : g_strdup_printf("round %.0f", pass);
    g_autoptr(GString) text = g_string_new(NULL);
    g_string_printf(text, "%s in %s", bytes, took);
    if (pass > 1)
        g_string_append_printf(text, ", %s of it again", again);
    if (rate >= 0)
        g_string_append_printf(text, "; %s a second were written to", written);
    line(out, name, text->str);
}

static void
add_hot(JsonObject *region, DrvRenderLine line, GString *out)
{
    g_autofree char *block = drv_format_text(drv_json_string(region, "block", "?"), 60);
    g_autofree char *size = drv_format_bytes(drv_json_number(region, "pages", 0) * 4096);
    g_autofree char *text = g_strdup_printf(
        "%s, %s from 0x%" G_GINT64_MODIFIER "x on: %.0f pages in %.0f rounds", block, size,
        (guint64)CLAMP(drv_json_number(region, "first_page", 0), 0, 0x1p51) * 4096,
        drv_json_number(region, "count", 0), drv_json_number(region, "rounds", 0));
    line(out, "written most", text);
}

void
drv_render_rounds(JsonObject *result, DrvRenderLine line, GString *out)
{
    JsonArray *rounds = drv_json_array(result, "rounds_detail");
    JsonArray *hot = drv_json_array(result, "hot_regions");
    guint n = rounds != NULL ? json_array_get_length(rounds) : 0;
    for (guint i = 0; i < n; i++) {
        JsonObject *round = drv_json_element(rounds, i);
        if (i == EACH_END && n > 2 * EACH_END) {
            line(out, "", "... (all of them: drover show --json)");
            i = n - EACH_END - 1;
        } else if (round != NULL) {
            add_round(round, line, out);
        }
    }
    for (guint i = 0; hot != NULL && i < MIN(json_array_get_length(hot), 8); i++) {
        JsonObject *region = drv_json_element(hot, i);
        if (region != NULL)
            add_hot(region, line, out);
    }
}
