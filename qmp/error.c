/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/error.h"

/* What a message quotes of QEMU's words; the whole of them is in qmp_error_get_desc(). */
#define QUOTE_MAX 1000

typedef struct {
    char *error_class;
    char *desc;
} QmpErrorPrivate;

static void
qmp_error_private_init(QmpErrorPrivate *priv)
{
}

static void
qmp_error_private_copy(const QmpErrorPrivate *src, QmpErrorPrivate *dest)
{
    dest->error_class = g_strdup(src->error_class);
    dest->desc = g_strdup(src->desc);
}

static void
qmp_error_private_clear(QmpErrorPrivate *priv)
{
    g_free(priv->error_class);
    g_free(priv->desc);
}

G_DEFINE_EXTENDED_ERROR(QmpError, qmp_error)

const char *
qmp_error_get_class(const GError *error)
{
    if (error == NULL || error->domain != QMP_ERROR)
        return NULL;
    return qmp_error_get_private(error)->error_class;
}

const char *
qmp_error_get_desc(const GError *error)
{
    if (error == NULL || error->domain != QMP_ERROR)
        return NULL;
    return qmp_error_get_private(error)->desc;
}

gboolean
qmp_error_is_class(const GError *error, const char *error_class)
{
    return g_strcmp0(qmp_error_get_class(error), error_class) == 0 && error_class != NULL;
}

/* One printable line: a description may carry line ends, or, from a hostile QEMU, terminal
 * escapes. */
static char *
printable(const char *text)
{
    GString *out = g_string_new(NULL);
    for (const char *p = text; *p != '\0' && out->len < QUOTE_MAX; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        g_string_append_unichar(out, g_unichar_isprint(c) ? c : ' ');
    }
    g_strchomp(out->str);
    return g_string_free(out, FALSE);
}

GError *
qmp_error_new_command(const char *command, const char *error_class, const char *desc)
{
    g_autofree char *words = printable(desc);
    g_autofree char *kind = printable(error_class);
    gboolean generic = g_str_equal(error_class, "GenericError");
    GError *error =
        g_error_new(QMP_ERROR, QMP_ERROR_COMMAND, "QEMU refused '%s': %s%s%s%s", command, words,
                    generic ? "" : " (", generic ? "" : kind, generic ? "" : ")");
    QmpErrorPrivate *priv = qmp_error_get_private(error);
    priv->error_class = g_strdup(error_class);
    priv->desc = g_strdup(desc);
    return error;
}
