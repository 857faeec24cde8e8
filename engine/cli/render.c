/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include <math.h>
#include <string.h>

#include "common/json.h"
#include "engine/cli/units.h"

/*
 * The progress line is made of segments in a fixed order. On a narrow terminal the least important
 * ones are dropped, one by one, until the rest fits; what never goes is the state.
 */
typedef struct {
    char *text;
    guint rank; /* 0: most important */
} Segment;

static void
segment_clear(gpointer data)
{
    g_free(((Segment *)data)->text);
}

G_GNUC_PRINTF(3, 4)
static void
add(GArray *line, guint rank, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    Segment segment = {g_strdup_vprintf(format, args), rank};
    va_end(args);
    g_array_append_val(line, segment);
}

static void
add_rates(GArray *line, JsonObject *progress)
{
    double raw = drv_json_number(progress, "raw_rate", -1) / 0x1p20;
    double wire = drv_json_number(progress, "wire_rate", -1) / 0x1p20;
    double dirty = drv_json_number(progress, "dirty_rate", -1) / 0x1p20;
    if (raw >= 0)
        add(line, 4, "%.*f MiB/s", raw < 9.95 ? 1 : 0, raw);
    if (wire >= 0)
        add(line, 5, "%.*f MiB/s wire", wire < 9.95 ? 1 : 0, wire);
    if (dirty >= 0)
        add(line, 7, "%.*f MiB/s dirty", dirty < 9.95 ? 1 : 0, dirty);
    double set = drv_json_number(progress, "working_set", -1);
    if (set > 0) {
        g_autofree char *text = drv_format_bytes(set);
        add(line, 11, "in %s", text);
    }
    double throttled = drv_json_number(progress, "throttle_pct", 0);
    if (throttled > 0)
        add(line, 3, "slowed by %.0f%%", throttled);
}

static void
add_times(GArray *line, JsonObject *progress)
{
    double remaining = drv_json_number(progress, "remaining", -1);
    double expected = drv_json_number(progress, "expected_ms", -1);
    double downtime = drv_json_number(progress, "expected_downtime_ms", -1);
    if (remaining >= 0) {
        g_autofree char *text = drv_format_bytes(remaining);
        add(line, 6, "%s left", text);
    }
    if (expected >= 0) {
        g_autofree char *text = drv_format_ms(expected);
        add(line, 3, "%s to go", text);
    }
    if (downtime >= 0) {
        g_autofree char *text = drv_format_ms(downtime);
        add(line, 8, "down for %s", text);
    }
}

/* The one that all wait for: disks come before the memory. FALSE: none is under way. */
static gboolean
add_disk(GArray *line, JsonObject *progress)
{
    JsonArray *disks = drv_json_array(progress, "disks");
    for (guint i = 0; disks != NULL && i < json_array_get_length(disks); i++) {
        JsonObject *disk = drv_json_element(disks, i);
        if (drv_json_flag(disk, "ready", FALSE))
            continue;
        add(line, 2, "disk %s %s%.1f%%", drv_json_string(disk, "name", "?"),
            drv_json_flag(disk, "hashing", FALSE) ? "hashed there " : "",
            CLAMP(drv_json_number(disk, "percent", 0), 0, 100));
        return TRUE;
    }
    return FALSE;
}

static void
add_progress(GArray *line, JsonObject *progress)
{
    /* Missing means that the daemon does not say, which is no reason for alarm. */
    if (!drv_json_flag(progress, "connected", TRUE))
        add(line, 1, "LINK DOWN, reconnecting");
    if (add_disk(line, progress))
        return;
    /* Before it is known how much there is, all other figures would be noughts. */
    if (drv_json_number(progress, "total", 1) <= 0)
        return;
    double percent = drv_json_number(progress, "percent", -1);
    if (percent >= 0)
        add(line, 2, "%.1f%%", MIN(percent, 100));
    double round = drv_json_number(progress, "round", 0);
    if (round >= 1)
        add(line, 9, "round %.0f", round);
    add_rates(line, progress);
    add_times(line, progress);
    double reconnects = drv_json_number(progress, "reconnects", 0);
    if (reconnects >= 1)
        add(line, 10, "%.0f reconnect%s", reconnects, reconnects > 1 ? "s" : "");
}

static gsize
line_width(GArray *line)
{
    gsize width = 0;
    for (guint i = 0; i < line->len; i++)
        width += (gsize)g_utf8_strlen(g_array_index(line, Segment, i).text, -1) + (i > 0 ? 2 : 0);
    return width;
}

static void
drop_least(GArray *line)
{
    guint least = 0;
    for (guint i = 1; i < line->len; i++) {
        if (g_array_index(line, Segment, i).rank > g_array_index(line, Segment, least).rank)
            least = i;
    }
    g_array_remove_index(line, least);
}

char *
drv_render_progress(JsonObject *job, guint width)
{
    g_autoptr(GArray) line = g_array_new(FALSE, FALSE, sizeof(Segment));
    g_array_set_clear_func(line, segment_clear);
    g_autofree char *state = drv_format_text(drv_json_string(job, "state", "?"), 20);
    add(line, 0, "%s", state);
    JsonObject *progress = drv_json_object(job, "progress");
    if (progress != NULL && !drv_json_flag(job, "final", FALSE))
        add_progress(line, progress);
    while (width > 0 && line->len > 1 && line_width(line) > width)
        drop_least(line);
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; i < line->len; i++)
        g_string_append_printf(text, "%s%s", i > 0 ? "  " : "",
                               g_array_index(line, Segment, i).text);
    return drv_format_text(text->str, width > 0 ? (glong)width : G_MAXLONG);
}

double
drv_render_created(JsonObject *job)
{
    const char *text = drv_json_string(job, "created", "");
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(text, utc);
    return time != NULL ? (double)g_date_time_to_unix(time) : 0;
}

static char *
table_detail(JsonObject *job)
{
    JsonObject *error = drv_json_object(job, "error");
    if (error != NULL)
        return g_strdup(drv_json_string(error, "message", "failed"));
    JsonObject *result = drv_json_object(job, "result");
    double downtime = drv_json_number(result, "downtime_ms", -1);
    double total = drv_json_number(result, "total_ms", -1);
    if (total >= 0 && downtime >= 0) {
        g_autofree char *took = drv_format_ms(total);
        g_autofree char *down = drv_format_ms(downtime);
        return g_strdup_printf("took %s, down %s", took, down);
    }
    JsonObject *progress = drv_json_object(job, "progress");
    double percent = drv_json_number(progress, "percent", -1);
    if (drv_json_flag(job, "final", FALSE) || progress == NULL)
        return g_strdup("");
    if (!drv_json_flag(progress, "connected", TRUE))
        return g_strdup("link down, reconnecting");
    return percent >= 0 ? g_strdup_printf("%.1f%%", MIN(percent, 100)) : g_strdup("");
}

#define COLUMNS 8

static void
table_row(JsonObject *job, double now_s, char *cells[COLUMNS])
{
    static const char *const names[] = {"job", "kind", "vm", "state", "role", "peer"};
    guint column = 0;
    for (; column < G_N_ELEMENTS(names); column++)
        cells[column] =
            drv_format_text(drv_json_string(job, names[column], "-"), column == 0 ? 64 : 40);
    double created = drv_render_created(job);
    cells[column++] = created > 0 ? drv_format_age(now_s - created) : g_strdup("-");
    g_autofree char *detail = table_detail(job);
    cells[column] = drv_format_text(detail, G_MAXLONG);
}

static void
table_print(GString *out, char *const cells[COLUMNS], const glong widths[COLUMNS], guint width)
{
    g_autoptr(GString) line = g_string_new(NULL);
    for (guint i = 0; i < COLUMNS; i++) {
        g_string_append(line, cells[i]);
        for (glong pad = g_utf8_strlen(cells[i], -1); pad < widths[i] + 2; pad++)
            g_string_append_c(line, ' ');
    }
    g_strchomp(line->str);
    g_autofree char *fit = drv_format_text(line->str, width > 0 ? (glong)width : G_MAXLONG);
    g_string_append_printf(out, "%s\n", fit);
}

char *
drv_render_table(JsonArray *jobs, double now_s, guint width)
{
    static const char *const titles[COLUMNS] = {"ID",   "KIND", "VM",  "STATE",
                                                "ROLE", "PEER", "AGE", "DETAIL"};
    guint rows = 1 + json_array_get_length(jobs);
    g_autofree char **cells = g_new0(char *, (gsize)rows *COLUMNS);
    glong widths[COLUMNS] = {0};
    for (guint row = 0; row < rows; row++) {
        char **at = &cells[row * COLUMNS];
        JsonNode *node = row > 0 ? json_array_get_element(jobs, row - 1) : NULL;
        if (row == 0) {
            for (guint i = 0; i < COLUMNS; i++)
                at[i] = g_strdup(titles[i]);
        } else {
            table_row(JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL, now_s, at);
        }
        for (guint i = 0; i < COLUMNS; i++)
            widths[i] = MAX(widths[i], g_utf8_strlen(at[i], -1));
    }
    GString *out = g_string_new(NULL);
    for (guint row = 0; row < rows; row++) {
        table_print(out, &cells[row * COLUMNS], widths, width);
        for (guint i = 0; i < COLUMNS; i++)
            g_free(cells[row * COLUMNS + i]);
    }
    return g_string_free(out, FALSE);
}
