/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/options.h"

#include <gio/gio.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/follow.h"
#include "engine/cli/units.h"

static gboolean
refuse(const DrvOption *option, const char *text, const char *allowed, GError **error)
{
    g_autofree char *shown = drv_format_text(text, 80);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "--%s is '%s': it must be %s", option->name,
                shown, allowed);
    return FALSE;
}

static gboolean
parse_number(const DrvOption *option, const char *text, guint64 *value)
{
    switch (option->kind) {
    case DRV_OPTION_BYTES:
        return drv_parse_bytes(text, value);
    case DRV_OPTION_SECONDS:
        return drv_parse_seconds(text, value);
    case DRV_OPTION_MS:
        return drv_parse_ms(text, value);
    default:
        return g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, value, NULL);
    }
}

static const char *
unit(const DrvOption *option)
{
    switch (option->kind) {
    case DRV_OPTION_BYTES:
        return " bytes (units as in 64K or 1.5GiB)";
    case DRV_OPTION_SECONDS:
        return " seconds (or as in 90s, 10m, 2h)";
    case DRV_OPTION_MS:
        return " milliseconds (or as in 2s)";
    default:
        return "";
    }
}

static gboolean
take_number(const DrvOption *option, const char *text, JsonObject *spec, GError **error)
{
    guint64 value;
    if (!parse_number(option, text, &value) ||
        ((value < option->min || value > option->max) && (value != 0 || option->zero == NULL))) {
        g_autofree char *allowed = g_strdup_printf(
            "from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT "%s%s%s%s", option->min, option->max,
            unit(option), option->zero != NULL ? ", or 0 (" : "",
            option->zero != NULL ? option->zero : "", option->zero != NULL ? ")" : "");
        return refuse(option, text, allowed, error);
    }
    json_object_set_int_member(spec, option->member, (gint64)value);
    return TRUE;
}

static gboolean
take_choice(const DrvOption *option, const char *text, JsonObject *spec, GError **error)
{
    for (guint i = 0; option->choices[i] != NULL; i++) {
        if (g_str_equal(option->choices[i], text)) {
            json_object_set_string_member(spec, option->member, text);
            return TRUE;
        }
    }
    g_autofree char *list = g_strjoinv(", ", (char **)option->choices);
    g_autofree char *allowed = g_strconcat("one of ", list, NULL);
    return refuse(option, text, allowed, error);
}

gboolean
drv_option_take(const DrvOption *option, const char *text, JsonObject *spec, GError **error)
{
    if (text == NULL && option->required) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "--%s is missing: it is needed",
                    option->name);
        return FALSE;
    }
    if (text == NULL)
        return TRUE;
    switch (option->kind) {
    case DRV_OPTION_CHOICE:
        return take_choice(option, text, spec, error);
    case DRV_OPTION_TEXT:
    case DRV_OPTION_PATH:
        break;
    default:
        return take_number(option, text, spec, error);
    }
    /* The text goes into JSON. */
    if (text[0] == '\0' || !g_utf8_validate(text, -1, NULL))
        return refuse(option, text, "text in UTF-8, and not empty", error);
    g_autofree char *absolute =
        option->kind == DRV_OPTION_PATH ? g_canonicalize_filename(text, NULL) : g_strdup(text);
    json_object_set_string_member(spec, option->member, absolute);
    return TRUE;
}

gboolean
drv_options_take(const DrvOption *options, guint n, const char *const *texts, JsonObject *spec,
                 GError **error)
{
    for (guint i = 0; i < n; i++) {
        if (!drv_option_take(&options[i], texts[i], spec, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
drv_option_reconnect(const char *text, guint *seconds, GError **error)
{
    static const DrvOption option = {"reconnect", "s", DRV_OPTION_SECONDS, .min = 1, .max = 86400};
    g_autoptr(JsonObject) holder = json_object_new();
    if (!drv_option_take(&option, text, holder, error))
        return FALSE;
    *seconds = (guint)drv_json_number(holder, "s", DRV_FOLLOW_RECONNECT_S);
    return TRUE;
}
