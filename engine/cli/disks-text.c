/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include <string.h>

#include "common/json.h"
#include "engine/cli/units.h"

/* A VM's disks in words. All of it comes from outside: texts are made fit for a terminal. */

static char *
text_of(JsonObject *o, const char *name)
{
    return drv_format_text(drv_json_string(o, name, ""), 400);
}

static void
append_line(GString *out, const char *name, const char *text)
{
    if (*text != '\0')
        g_string_append_printf(out, "  %-8s %s\n", name, text);
}

static void
append_member(GString *out, const char *name, JsonObject *o, const char *member)
{
    g_autofree char *text = text_of(o, member);
    append_line(out, name, text);
}

static void
append_title(GString *out, JsonObject *disk)
{
    g_autofree char *id = text_of(disk, "id");
    g_autofree char *format = text_of(disk, "format");
    g_autofree char *why_not = text_of(disk, "why_not");
    g_autofree char *size = drv_format_bytes(drv_json_number(disk, "size", 0));
    double allocated = drv_json_number(disk, "allocated", -1);
    g_autofree char *taken = drv_format_bytes(MAX(allocated, 0));
    g_string_append_printf(out, "%s  ", id);
    if (*format != '\0')
        g_string_append_printf(out, "%s, %s", format, size);
    if (*format != '\0' && allocated >= 0)
        g_string_append_printf(out, " (takes up %s)", taken);
    if (*format != '\0')
        g_string_append(out, ", ");
    if (drv_json_flag(disk, "moved", FALSE))
        g_string_append(out, "moved by --disks mirror\n");
    else
        g_string_append_printf(out, "not moved: %s\n", why_not);
}

static void
append_chain(GString *out, JsonArray *chain)
{
    for (guint i = 0; chain != NULL && i < json_array_get_length(chain); i++) {
        g_autofree char *file = text_of(drv_json_element(chain, i), "file");
        g_autofree char *format = text_of(drv_json_element(chain, i), "format");
        g_autofree char *line = g_strdup_printf("%s (%s)", file, format);
        append_line(out, i == 0 ? "backing" : "", line);
    }
}

/* An array of texts; 'name' before each. */
static void
append_texts(GString *out, const char *name, JsonArray *texts)
{
    for (guint i = 0; texts != NULL && i < json_array_get_length(texts); i++) {
        JsonNode *node = json_array_get_element(texts, i);
        if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING)
            continue;
        g_autofree char *text = drv_format_text(json_node_get_string(node), 400);
        g_string_append_printf(out, "%s%s\n", name, text);
    }
}

static void
append_dest(GString *out, JsonObject *dest)
{
    static const struct {
        const char *state, *words;
    } states[] = {{"created", "created"},
                  {"kept", "was there already, and is left as it is"},
                  {"absent", "not there: --create makes it"}};
    const char *state = drv_json_string(dest, "state", ""), *words = state;
    for (guint i = 0; i < G_N_ELEMENTS(states); i++) {
        if (g_str_equal(states[i].state, state))
            words = states[i].words;
    }
    g_autofree char *file = text_of(dest, "file");
    g_autofree char *format = text_of(dest, "format");
    g_autofree char *shown = drv_format_text(words, 60);
    g_autofree char *line = g_strdup_printf("%s (%s): %s", file, format, shown);
    if (dest != NULL)
        append_line(out, "there", line);
}

static void
append_disk(GString *out, JsonObject *disk)
{
    append_title(out, disk);
    append_member(out, "device", disk, "device");
    append_member(out, "node", disk, "node");
    append_member(out, "file", disk, "file");
    append_chain(out, drv_json_array(disk, "backing"));
    append_texts(out, "  left     ", drv_json_array(disk, "stays_behind"));
    append_dest(out, drv_json_object(disk, "dest"));
}

char *
drv_render_disks(JsonObject *job)
{
    GString *out = g_string_new(NULL);
    JsonObject *result = drv_json_object(job, "result");
    JsonArray *disks = drv_json_array(result, "disks");
    guint count = disks != NULL ? json_array_get_length(disks) : 0;
    for (guint i = 0; i < count; i++)
        append_disk(out, drv_json_element(disks, i));
    if (count == 0)
        g_string_append(out, "the VM has no disks\n");
    append_texts(out, "warning: ", drv_json_array(result, "warnings"));
    return g_string_free(out, FALSE);
}
