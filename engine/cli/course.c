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
        if (measure == NULL)
            continue;
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

/* "12 s (8.0 s to 20 s)"; without the range where it has none. */
static char *
range_text(JsonObject *range)
{
    g_autofree char *low = drv_format_ms(drv_json_number(range, "low", 0));
    g_autofree char *likely = drv_format_ms(drv_json_number(range, "likely", 0));
    g_autofree char *high = drv_format_ms(drv_json_number(range, "high", 0));
    return g_str_equal(low, high) ? g_strdup(likely)
                                  : g_strdup_printf("%s (%s to %s)", likely, low, high);
}

/* The verdict, and what was expected if it is a good one. */
static char *
expectation(JsonObject *prediction)
{
    const char *verdict = drv_json_string(prediction, "converges", "unsure");
    JsonObject *total = drv_json_object(prediction, "total_ms");
    JsonObject *downtime = drv_json_object(prediction, "downtime_ms");
    if (g_str_equal(verdict, "no") || total == NULL || downtime == NULL)
        return g_strdup("it would not converge");
    g_autofree char *took = range_text(total);
    g_autofree char *down = range_text(downtime);
    return g_strdup_printf("%s%s in all, %s down", g_str_equal(verdict, "yes") ? "" : "perhaps ",
                           took, down);
}

/* What it was to be beside what it was. */
static void
add_predictions(JsonObject *result, DrvRenderLine line, GString *out)
{
    JsonArray *all = drv_json_array(result, "predictions");
    g_autofree char *took = drv_format_ms(drv_json_number(result, "total_ms", 0));
    g_autofree char *down = drv_format_ms(drv_json_number(result, "downtime_ms", 0));
    gboolean done = g_str_equal(drv_json_string(result, "state", ""), "completed");
    for (guint i = 0; all != NULL && i < MIN(json_array_get_length(all), 4); i++) {
        JsonObject *p = drv_json_element(all, i);
        if (p == NULL)
            continue;
        gboolean before = g_str_equal(drv_json_string(p, "made", ""), "before");
        g_autofree char *expected = expectation(p);
        g_autofree char *outcome = done ? g_strdup_printf("it was %s in all, %s down", took, down)
                                        : g_strdup_printf("it ended undone after %s", took);
        g_autofree char *text = g_strdup_printf(
            "predicted %s (%.0f%% sure): %s; %s", before ? "before" : "after its first round",
            drv_json_number(p, "sure", 0) * 100, expected, outcome);
        line(out, "predicted", text);
    }
}

/* Why it was QEMU that placed the pages, where drover was to do it. */
static void
add_relay(JsonObject *result, DrvRenderLine line, GString *out)
{
    const char *reason = drv_json_string(result, "relay_reason", NULL);
    gboolean direct = g_str_equal(drv_json_string(result, "mode", ""), "direct");
    if (reason == NULL)
        return;
    g_autofree char *safe = drv_format_text(reason, 400);
    g_autofree char *text = g_strdup_printf("QEMU placed %s itself: %s",
                                            direct ? "the rest of the pages" : "the pages", safe);
    line(out, "relayed", text);
}

void
drv_render_course(JsonObject *result, DrvRenderLine line, GString *out)
{
    add_relay(result, line, out);
    add_downtime(result, line, out);
    add_measures(result, line, out);
    add_throttle(result, line, out);
    add_predictions(result, line, out);
}
