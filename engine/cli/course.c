/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include <string.h>

#include "common/json.h"
#include "engine/cli/units.h"

/* How a migration went, beside what it came to: what was done so that it would end. */

/* What a sentence says before its figures. */
static char *
without_figures(const char *sentence)
{
    const char *figures = strstr(sentence, ": ");
    g_autofree char *head =
        figures != NULL ? g_strndup(sentence, (gsize)(figures - sentence)) : NULL;
    return drv_format_text(head != NULL ? head : sentence, 200);
}

static void
add_measures(JsonObject *result, DrvRenderLine line, GString *out)
{
    JsonArray *measures = drv_json_array(result, "measures");
    for (guint i = 0; measures != NULL && i < MIN(json_array_get_length(measures), 16); i++) {
        JsonObject *measure = drv_json_element(measures, i);
        g_autofree char *why = without_figures(drv_json_string(measure, "why", "?"));
        g_autofree char *at = drv_format_ms(drv_json_number(measure, "at_ms", 0));
        g_autofree char *text = g_strdup_printf("after %s: %s", at, why);
        line(out, "measure", text);
    }
}

static void
add_throttle(JsonObject *result, DrvRenderLine line, GString *out)
{
    const char *how = drv_json_string(result, "throttle", "none");
    double pct = drv_json_number(result, "throttle_pct", 0);
    g_autofree char *text = g_strdup_printf("its CPUs had up to %.0f%% less time", pct);
    if (g_str_equal(how, "cpus"))
        line(out, "slowed down", text);
    else if (g_str_equal(how, "dirty-limit"))
        line(out, "slowed down", "its CPUs were held back when they wrote too much");
}

/* "36 ms for the last memory, 3 ms for the devices, 12 ms to load them, 4 ms to commit". */
static void
add_downtime(JsonObject *result, DrvRenderLine line, GString *out)
{
    static const struct {
        const char *member, *what;
    } parts[] = {{"ram_ms", "for the last memory"},
                 {"devices_ms", "for the devices"},
                 {"send_ms", "for the last memory and the devices"},
                 {"load_ms", "to load them"},
                 {"commit_ms", "to commit"}};
    JsonObject *downtime = drv_json_object(result, "downtime");
    gboolean told_apart = drv_json_number(downtime, "ram_ms", -1) >= 0;
    g_autoptr(GString) text = g_string_new("down ");
    gsize empty = text->len;
    for (guint i = 0; i < G_N_ELEMENTS(parts); i++) {
        double ms = drv_json_number(downtime, parts[i].member, -1);
        g_autofree char *shown = drv_format_ms(ms);
        if (ms >= 0 && (i != 2 || !told_apart))
            g_string_append_printf(text, "%s%s %s", text->len > empty ? ", " : "", shown,
                                   parts[i].what);
    }
    if (text->len > empty)
        line(out, "downtime", text->str);
}

void
drv_render_course(JsonObject *result, DrvRenderLine line, GString *out)
{
    add_downtime(result, line, out);
    add_measures(result, line, out);
    add_throttle(result, line, out);
}
