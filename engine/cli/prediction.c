/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include "common/json.h"
#include "engine/cli/units.h"

/* What a prediction came to, in words. */

typedef char *(*Format)(double value);

static double
part(JsonObject *range, const char *name)
{
    return drv_json_number(range, name, 0);
}

/* "about 12 s (9.1 s to 20 s)"; without the range where it has none. */
static char *
range_text(JsonObject *range, Format format)
{
    g_autofree char *low = format(part(range, "low"));
    g_autofree char *likely = format(part(range, "likely"));
    g_autofree char *high = format(part(range, "high"));
    if (g_str_equal(low, high))
        return g_strdup(likely);
    return g_strdup_printf("about %s (%s to %s)", likely, low, high);
}

static char *
format_rate(double bytes)
{
    g_autofree char *text = drv_format_bytes(bytes);
    return g_strconcat(text, "/s", NULL);
}

static char *
format_percent(double share)
{
    return g_strdup_printf("%.0f%%", share * 100);
}

static char *
format_ratio(double ratio)
{
    return g_strdup_printf("%.1f to 1", ratio);
}

G_GNUC_PRINTF(3, 4)
static void
append_line(GString *out, const char *name, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *value = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *safe = drv_format_text(value, 1000);
    g_string_append_printf(out, "  %-10s %s\n", name, safe);
}

static void
append_times(GString *out, JsonObject *result)
{
    JsonObject *total = drv_json_object(result, "total_ms");
    JsonObject *downtime = drv_json_object(result, "downtime_ms");
    g_autofree char *allowed = drv_format_ms(drv_json_number(result, "downtime_limit_ms", 0));
    if (total != NULL && downtime != NULL) {
        g_autofree char *took = range_text(total, drv_format_ms);
        g_autofree char *down = range_text(downtime, drv_format_ms);
        append_line(out, "total", "%s", took);
        append_line(out, "down for", "%s; memory's part of it may be %s", down, allowed);
    }
    JsonObject *needed = drv_json_object(result, "downtime_needed_ms");
    if (needed != NULL && !g_str_equal(drv_json_string(result, "converges", ""), "yes")) {
        g_autofree char *text = range_text(needed, drv_format_ms);
        append_line(out, "it would", "with --downtime of %s", text);
    }
}

static void
append_dirty(GString *out, JsonObject *result)
{
    JsonObject *dirty = drv_json_object(drv_json_object(result, "measured"), "dirty");
    JsonArray *points = drv_json_array(dirty, "points");
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; points != NULL && i < json_array_get_length(points) && i < 8; i++) {
        JsonObject *point = drv_json_element(points, i);
        g_autofree char *bytes = drv_format_bytes(drv_json_number(point, "bytes", 0));
        g_autofree char *ms = drv_format_ms(drv_json_number(point, "ms", 0));
        g_string_append_printf(text, "%s%s within %s", i > 0 ? ", " : "", bytes, ms);
    }
    if (text->len > 0)
        append_line(out, "writes to", "%s (%s)", text->str, drv_json_string(dirty, "mode", "?"));
    else if (!drv_json_flag(result, "running", TRUE))
        append_line(out, "writes to", "nothing, it does not run");
}

static void
append_rest(GString *out, JsonObject *result)
{
    JsonObject *measured = drv_json_object(result, "measured");
    g_autofree char *ram = drv_format_bytes(drv_json_number(result, "ram", 0));
    g_autofree char *used = range_text(drv_json_object(result, "nonzero"), format_percent);
    g_autofree char *link = range_text(drv_json_object(result, "link_rate"), format_rate);
    g_autofree char *ratio = range_text(drv_json_object(result, "ratio"), format_ratio);
    const char *codec = drv_json_string(result, "codec", "?");
    double rtt = drv_json_number(drv_json_object(measured, "link"), "rtt_us", 0) / 1000;
    gboolean looked = drv_json_object(measured, "memory") != NULL;
    append_line(out, "memory", "%s, of which %s in use%s", ram, used,
                looked ? "" : " (guessed: it could not be looked at)");
    append_dirty(out, result);
    if (rtt > 0)
        append_line(out, "link", "%s, round trip %.1f ms", link, rtt);
    else
        append_line(out, "link", "%s", link);
    if (g_str_equal(codec, "none"))
        append_line(out, "codec", "none");
    else
        append_line(out, "codec", "%s, %s%s", codec, ratio, looked ? "" : " (guessed)");
}

char *
drv_render_prediction(JsonObject *job)
{
    JsonObject *result = drv_json_object(job, "result");
    GString *out = g_string_new(NULL);
    g_autofree char *vm = drv_format_text(drv_json_string(job, "vm", "the VM"), 60);
    g_autofree char *peer = drv_format_text(drv_json_string(job, "peer", "?"), 60);
    g_autofree char *why = drv_format_text(drv_json_string(result, "why", "?"), 1000);
    g_string_append_printf(out, "%s to %s: %s\n", vm, peer, why);
    append_line(out, "sure", "%.0f%%", drv_json_number(result, "sure", 0) * 100);
    append_times(out, result);
    append_rest(out, result);
    return g_string_free(out, FALSE);
}
