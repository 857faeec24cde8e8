/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include <math.h>
#include <string.h>

#include "common/json.h"
#include "engine/cli/units.h"

/* What a job came to, in words. The other half of render.h. */

static char *
vm_name(JsonObject *job)
{
    const char *name = drv_json_string(job, "vm", "");
    return drv_format_text(name[0] != '\0' ? name : "the VM", 60);
}

static void
append_downtime(GString *out, double downtime_ms, double promise_ms)
{
    g_autofree char *down = drv_format_ms(downtime_ms);
    g_autofree char *promise = drv_format_ms(promise_ms);
    g_string_append_printf(out, ", and was down for %s", down);
    if (promise_ms > 0)
        g_string_append_printf(out, " (%s were allowed: %s)", promise,
                               downtime_ms <= promise_ms ? "kept" : "BROKEN");
}

/* "2.0 GiB of memory as 700 MiB on the wire (2.9 to 1)". */
static void
append_bytes(GString *out, JsonObject *part, const char *what)
{
    double raw = drv_json_number(part, "bytes", 0), wire = drv_json_number(part, "wire_bytes", -1);
    if (raw <= 0 || wire < 0)
        return;
    g_autofree char *raw_text = drv_format_bytes(raw);
    g_autofree char *wire_text = drv_format_bytes(wire);
    g_string_append_printf(out, "  %s of %s as %s on the wire", raw_text, what, wire_text);
    if (wire > 0)
        g_string_append_printf(out, " (%.1f to 1)", raw / wire);
    g_string_append_c(out, '\n');
}

static void
append_count(GString *out, JsonObject *result, const char *member, const char *one)
{
    double count = drv_json_number(result, member, -1);
    if (count >= 0)
        g_string_append_printf(out, "%.0f %s%s, ", count, one, count == 1 ? "" : "s");
}

static void
append_how(GString *out, JsonObject *result)
{
    JsonObject *verify = drv_json_object(result, "verify");
    g_autofree char *mode = drv_format_text(drv_json_string(result, "mode", "?"), 20);
    gboolean stream = g_str_equal(drv_json_string(verify, "stream", "off"), "match");
    gboolean memory = g_str_equal(drv_json_string(verify, "memory", "off"), "match");
    g_string_append(out, "  ");
    append_count(out, result, "rounds", "round");
    append_count(out, result, "lanes", "lane");
    append_count(out, result, "reconnects", "reconnect");
    g_string_append_printf(out, "mode %s, %s\n", mode,
                           stream && memory ? "stream and memory verified"
                           : memory         ? "memory verified"
                           : stream         ? "stream verified"
                                            : "not verified");
}

static void
indented_line(GString *out, const char *name, const char *text)
{
    g_string_append_printf(out, "  %s\n", text);
}

static gboolean
is_kind(JsonObject *job, const char *kind)
{
    return g_str_equal(drv_json_string(job, "kind", ""), kind);
}

char *
drv_render_summary(JsonObject *job, double promise_ms)
{
    if (is_kind(job, "predict"))
        return drv_render_prediction(job);
    if (is_kind(job, "copy"))
        return drv_render_copy(job);
    if (is_kind(job, "numa"))
        return drv_render_numa(drv_json_object(job, "result"));
    if (is_kind(job, "disks"))
        return drv_render_disks(job);
    GString *out = g_string_new(NULL);
    g_autofree char *vm = vm_name(job);
    JsonObject *result = drv_json_object(job, "result");
    promise_ms = drv_json_number(result, "downtime_limit_ms", promise_ms);
    gboolean here = g_str_equal(drv_json_string(job, "role", ""), "dest");
    g_autofree char *peer = drv_format_text(drv_json_string(job, "peer", "the destination"), 60);
    if (here)
        g_string_append_printf(out, "%s now runs here", vm);
    else
        g_string_append_printf(out, "%s now runs at %s", vm, peer);
    double total = drv_json_number(result, "total_ms", -1);
    double downtime = drv_json_number(result, "downtime_ms", -1);
    if (total >= 0) {
        g_autofree char *took = drv_format_ms(total);
        g_string_append_printf(out, ": it moved in %s", took);
        if (downtime >= 0)
            append_downtime(out, downtime, promise_ms);
    }
    g_string_append_c(out, '\n');
    if (result == NULL)
        return g_string_free(out, FALSE);
    append_bytes(out, drv_json_object(result, "ram"), "memory");
    append_bytes(out, drv_json_object(result, "disk"), "disks");
    append_how(out, result);
    drv_render_course(result, indented_line, out);
    return g_string_free(out, FALSE);
}

char *
drv_render_outcome(JsonObject *job)
{
    const char *state = drv_json_string(job, "state", "");
    gboolean tunnel = is_kind(job, "tunnel"), prediction = is_kind(job, "predict");
    gboolean copy = is_kind(job, "copy");
    g_autofree char *id = drv_format_text(drv_json_string(job, "job", "?"), 64);
    g_autofree char *vm = vm_name(job);
    g_autofree char *why = drv_format_text(
        drv_json_string(drv_json_object(job, "error"), "message",
                        g_str_equal(state, "cancelled") ? "cancelled" : "no reason was given"),
        2000);
    if (g_str_equal(state, "in-doubt"))
        return g_strdup_printf("job %s is in doubt: %s; find out where %s runs, then say so with "
                               "'drover resolve %s --run-on source|dest'",
                               id, why, vm, id);
    if (tunnel && g_str_equal(state, "cancelled"))
        return g_strdup_printf("tunnel %s was ended", id);
    if (tunnel)
        return g_strdup_printf("tunnel %s failed: %s", id, why);
    if (copy && g_str_equal(state, "cancelled"))
        return g_strdup_printf("copy %s was cancelled, nothing of it is left", id);
    if (copy && g_str_equal(state, "failed"))
        return g_strdup_printf("%s (copy %s failed, the destination's name is as it was)", why, id);
    if (prediction && g_str_equal(state, "cancelled"))
        return g_strdup_printf("prediction %s was cancelled", id);
    if (prediction)
        return g_strdup_printf("%s (nothing was predicted, and nothing was changed)", why);
    if (is_kind(job, "disks") && g_str_equal(state, "cancelled"))
        return g_strdup("cancelled: images that were being made are removed");
    if (is_kind(job, "numa") || is_kind(job, "disks"))
        return g_strdup(why);
    if (g_str_equal(state, "cancelled"))
        return g_strdup_printf("job %s was cancelled, %s runs at the source", id, vm);
    if (g_str_equal(state, "failed"))
        return g_strdup_printf("%s (job %s failed, %s runs at the source)", why, id, vm);
    g_autofree char *shown = drv_format_text(state, 20);
    return g_strdup_printf("job %s ended in the unknown state '%s': look at it with 'drover show "
                           "%s'",
                           id, shown, id);
}

G_GNUC_PRINTF(3, 4)
static void
append_line(GString *out, const char *name, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *value = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *safe = drv_format_text(value, 4000);
    g_string_append_printf(out, "%-16s %s\n", name, safe);
}

static void
named_line(GString *out, const char *name, const char *text)
{
    append_line(out, name, "%s", text);
}

static void
append_pages(GString *out, JsonObject *result)
{
    static const char *const kinds[] = {"zero", "dup", "delta", "lz4", "zstd", "raw"};
    JsonObject *pages = drv_json_object(drv_json_object(result, "ram"), "pages");
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        double count = drv_json_number(pages, kinds[i], 0);
        if (count > 0)
            g_string_append_printf(text, "%s%s %.0f", text->len > 0 ? ", " : "", kinds[i], count);
    }
    if (text->len > 0)
        append_line(out, "pages", "%s", text->str);
}

/* What --verify memory did, and what it could not see. */
static void
append_memory(GString *out, JsonObject *result)
{
    JsonObject *verify = drv_json_object(result, "verify");
    JsonArray *left_out = drv_json_array(verify, "not_compared");
    const char *changed = drv_json_string(verify, "changed_by_qemu", NULL);
    double ms = drv_json_number(result, "verify_ms", -1);
    g_autofree char *took = drv_format_ms(ms);
    g_autoptr(GString) ids = g_string_new(NULL);
    if (ms >= 0)
        append_line(out, "memory", "compared in %s of the time that it was down", took);
    if (changed != NULL)
        append_line(out, "", "QEMU's own page differs, as it does under KVM: %s", changed);
    for (guint i = 0; left_out != NULL && i < json_array_get_length(left_out); i++) {
        JsonNode *node = json_array_get_element(left_out, i);
        if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING)
            g_string_append_printf(ids, "%s%s", ids->len > 0 ? ", " : "",
                                   json_node_get_string(node));
    }
    if (ids->len > 0)
        append_line(out, "", "not compared: %s", ids->str);
}

static void
append_result(GString *out, JsonObject *result)
{
    static const struct {
        const char *member, *name;
    } times[] = {{"total_ms", "took"}, {"downtime_ms", "down for"}};
    for (guint i = 0; i < G_N_ELEMENTS(times); i++) {
        double ms = drv_json_number(result, times[i].member, -1);
        g_autofree char *text = drv_format_ms(ms);
        if (ms >= 0)
            append_line(out, times[i].name, "%s", text);
    }
    static const char *const parts[] = {"ram", "disk"};
    for (guint i = 0; i < G_N_ELEMENTS(parts); i++) {
        JsonObject *part = drv_json_object(result, parts[i]);
        g_autofree char *raw = drv_format_bytes(drv_json_number(part, "bytes", 0));
        g_autofree char *wire = drv_format_bytes(drv_json_number(part, "wire_bytes", 0));
        g_autofree char *reused = drv_format_bytes(drv_json_number(part, "reused_bytes", 0));
        gboolean delta = drv_json_number(part, "reused_bytes", 0) > 0;
        if (drv_json_number(part, "bytes", 0) > 0)
            append_line(out, parts[i], "%s, on the wire %s%s%s", raw, wire,
                        delta ? ", found there " : "", delta ? reused : "");
    }
    append_pages(out, result);
    static const char *const numbers[] = {"rounds", "lanes", "reconnects", "throttle_pct"};
    for (guint i = 0; i < G_N_ELEMENTS(numbers); i++) {
        double value = drv_json_number(result, numbers[i], -1);
        if (value >= 0)
            append_line(out, i == 3 ? "throttled" : numbers[i], "%.0f%s", value, i == 3 ? "%" : "");
    }
    JsonObject *cpu = drv_json_object(result, "cpu_s");
    if (cpu != NULL)
        append_line(out, "CPU", "%.2f s at the source, %.2f s at the destination",
                    drv_json_number(cpu, "source", 0), drv_json_number(cpu, "dest", 0));
    JsonObject *verify = drv_json_object(result, "verify");
    if (verify != NULL)
        append_line(out, "verified", "stream %s, memory %s",
                    drv_json_string(verify, "stream", "off"),
                    drv_json_string(verify, "memory", "off"));
    append_memory(out, result);
    append_line(out, "mode", "%s, %s", drv_json_string(result, "mode", "?"),
                drv_json_string(result, "accel", "?"));
    drv_render_course(result, named_line, out);
    drv_render_rounds(result, named_line, out);
}

char *
drv_render_report(JsonObject *job, double now_s)
{
    GString *out = g_string_new(NULL);
    static const char *const names[] = {"job", "kind", "vm", "role", "peer", "state"};
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *value = drv_json_string(job, names[i], NULL);
        if (value != NULL)
            append_line(out, names[i], "%s", value);
    }
    double created = drv_render_created(job);
    g_autofree char *age = drv_format_age(now_s - created);
    if (created > 0)
        append_line(out, "created", "%s (%s ago)", drv_json_string(job, "created", ""), age);
    JsonObject *error = drv_json_object(job, "error");
    if (error != NULL)
        append_line(out, "error", "%s (%s)", drv_json_string(error, "message", "?"),
                    drv_json_string(error, "class", "?"));
    JsonObject *result = drv_json_object(job, "result");
    if (drv_json_object(job, "progress") != NULL && !drv_json_flag(job, "final", FALSE)) {
        g_autofree char *progress = drv_render_progress(job, 0);
        append_line(out, "progress", "%s", progress);
    }
    if (result != NULL && is_kind(job, "predict")) {
        g_autofree char *prediction = drv_render_prediction(job);
        g_string_append_printf(out, "\n%s", prediction);
    } else if (result != NULL && is_kind(job, "copy")) {
        g_autofree char *copy = drv_render_copy(job);
        g_string_append_printf(out, "\n%s", copy);
    } else if (result != NULL) {
        append_result(out, result);
    }
    return g_string_free(out, FALSE);
}

static void
append_member(JsonObject *object, const char *name, JsonNode *node, gpointer data)
{
    g_autofree char *title = drv_format_text(name, 40);
    g_autofree char *value =
        JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
            ? json_node_dup_string(node)
            : drv_json_to_text(node);
    append_line(data, g_strdelimit(title, "_", ' '), "%s", value);
}

char *
drv_render_status(JsonObject *status)
{
    GString *out = g_string_new(NULL);
    json_object_foreach_member(status, append_member, out);
    return g_string_free(out, FALSE);
}
