/* SPDX-License-Identifier: Apache-2.0 */
#include "common/exposition.h"

void
drv_exposition_head(GString *out, const char *name, const char *type, const char *help)
{
    g_string_append_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void
drv_exposition_value(GString *out, const char *name, const char *labels, double value)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];
    g_string_append(out, name);
    if (*labels != '\0')
        g_string_append_printf(out, "{%s}", labels);
    /* Not printf: it writes a comma where the locale does. */
    g_string_append_printf(out, " %s\n", g_ascii_formatd(text, sizeof text, "%.15g", value));
}

static void
append_escaped(GString *out, const char *value)
{
    for (; *value != '\0'; value++) {
        if (*value == '\n')
            g_string_append(out, "\\n");
        else if (*value == '\\' || *value == '"')
            g_string_append_printf(out, "\\%c", *value);
        else
            g_string_append_c(out, *value);
    }
}

char *
drv_exposition_labels(const char *name, ...)
{
    GString *out = g_string_new(NULL);
    va_list args;
    va_start(args, name);
    for (const char *label = name; label != NULL; label = va_arg(args, const char *)) {
        g_string_append_printf(out, "%s%s=\"", out->len > 0 ? "," : "", label);
        append_escaped(out, va_arg(args, const char *));
        g_string_append_c(out, '"');
    }
    va_end(args);
    return g_string_free(out, FALSE);
}
