/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The bytes of a QMP server are a sequence of JSON objects. QEMU ends each with a line end, but
 * with
 * "-mon pretty=on" it puts line ends inside as well. So objects are cut out by their braces.
 *
 * That takes a scan of every byte, once, as it arrives, and the same scan keeps json-glib safe,
 * which trusts its input more than one may trust a stranger:
 *  - its parser recurses for every '{' and '[', so the depth is bounded here;
 *  - it allocates some hundred bytes for a value that takes two in JSON, so values are counted;
 *  - it knows comments and other quotes, in which braces would count for us and not for it: outside
 *    of strings only the characters of strict JSON pass;
 *  - what it makes of a broken escape depends on its version, so escapes are checked.
 * Grammar is left to the parser.
 */
#include "qmp/framer.h"

#include "qmp/error.h"

#include <string.h>

typedef enum {
    SCAN_OUTSIDE, /* between tokens or in a number or word */
    SCAN_STRING,
    SCAN_ESCAPE,     /* after a backslash */
    SCAN_HEX,        /* in the four digits of \uXXXX */
    SCAN_LOW_ESCAPE, /* after a high surrogate: a backslash must follow, */
    SCAN_LOW_U,      /* and then a 'u' */
} ScanState;

struct _QmpFramer {
    const QmpLimits *limits; /* borrowed */
    GByteArray *buf;
    gsize start; /* of the object being scanned, in buf; what is before is consumed */
    gsize pos;   /* of the next byte to scan */

    /* Within the object being scanned */
    ScanState state;
    guint depth;
    guint values;
    guint hex_left;
    gunichar code;
    gboolean after_high; /* the escape being read must be a low surrogate */

    gboolean failed;
};

QmpFramer *
qmp_framer_new(const QmpLimits *limits)
{
    QmpFramer *framer = g_new0(QmpFramer, 1);
    framer->limits = limits;
    framer->buf = g_byte_array_new();
    return framer;
}

void
qmp_framer_free(QmpFramer *framer)
{
    if (framer == NULL)
        return;
    g_byte_array_unref(framer->buf);
    g_free(framer);
}

void
qmp_framer_push(QmpFramer *framer, const void *data, gsize len)
{
    if (framer->start == framer->buf->len && framer->start > 1 << 16) {
        /* A schema came by: do not keep its size for the connection's life. */
        g_byte_array_unref(framer->buf);
        framer->buf = g_byte_array_new();
    } else if (framer->start > 0) {
        g_byte_array_remove_range(framer->buf, 0, framer->start);
    }
    framer->pos -= framer->start;
    framer->start = 0;
    g_byte_array_append(framer->buf, data, len);
}

gsize
qmp_framer_partial(const QmpFramer *framer)
{
    return framer->depth > 0 ? framer->buf->len - framer->start : 0;
}

/* Each scan function takes one byte and returns NULL, or what is wrong with it. */

static const char *
scan_open(QmpFramer *f)
{
    if (++f->depth > f->limits->max_depth)
        return "objects are nested too deeply";
    if (++f->values > f->limits->max_values)
        return "a message has too many values";
    return NULL;
}

static const char *
scan_outside(QmpFramer *f, guint8 c)
{
    switch (c) {
    case '{':
    case '[':
        return scan_open(f);
    case '}':
    case ']':
        f->depth--;
        return NULL;
    case ',':
        return ++f->values > f->limits->max_values ? "a message has too many values" : NULL;
    case '"':
        f->state = SCAN_STRING;
        return NULL;
    case ':':
    case ' ':
    case '\t':
    case '\r':
    case '\n':
    case '+':
    case '-':
    case '.':
        return NULL;
    default:
        return g_ascii_isalnum(c) ? NULL : "a character that JSON does not have";
    }
}

static const char *
scan_string(QmpFramer *f, guint8 c)
{
    if (c == '"')
        f->state = SCAN_OUTSIDE;
    else if (c == '\\')
        f->state = SCAN_ESCAPE;
    else if (c < 0x20)
        return "a control character in a string";
    return NULL;
}

static const char *
scan_escape(QmpFramer *f, guint8 c)
{
    if (c == 'u') {
        f->state = SCAN_HEX;
        f->hex_left = 4;
        f->code = 0;
        return NULL;
    }
    f->state = SCAN_STRING;
    return c != '\0' && strchr("\"\\/bfnrt", c) != NULL ? NULL : "an escape JSON does not have";
}

static const char *
scan_code_complete(QmpFramer *f)
{
    gboolean high = f->code >= 0xd800 && f->code < 0xdc00;
    gboolean low = f->code >= 0xdc00 && f->code < 0xe000;
    if (low != f->after_high)
        return "half of a surrogate pair";
    if (f->code == 0)
        return "a NUL in a string";
    f->after_high = high;
    f->state = high ? SCAN_LOW_ESCAPE : SCAN_STRING;
    return NULL;
}

static const char *
scan_hex(QmpFramer *f, guint8 c)
{
    if (!g_ascii_isxdigit(c))
        return "an escape JSON does not have";
    f->code = f->code << 4 | (guint)g_ascii_xdigit_value(c);
    return --f->hex_left == 0 ? scan_code_complete(f) : NULL;
}

static const char *
scan_byte(QmpFramer *f, guint8 c)
{
    switch (f->state) {
    case SCAN_OUTSIDE:
        return scan_outside(f, c);
    case SCAN_STRING:
        return scan_string(f, c);
    case SCAN_ESCAPE:
        return scan_escape(f, c);
    case SCAN_HEX:
        return scan_hex(f, c);
    case SCAN_LOW_ESCAPE:
        f->state = SCAN_LOW_U;
        return c == '\\' ? NULL : "half of a surrogate pair";
    case SCAN_LOW_U:
        return c == 'u' ? scan_escape(f, c) : "half of a surrogate pair";
    }
    g_assert_not_reached();
}

/* What the peer sent first, for a message that a person reads. */
static char *
quote_start(const QmpFramer *framer)
{
    gsize n = MIN(framer->buf->len - framer->start, 40);
    g_autofree char *bytes = g_strndup((const char *)framer->buf->data + framer->start, n);
    for (char *p = bytes; *p != '\0'; p++)
        *p = g_ascii_isprint(*p) ? *p : '.';
    return g_steal_pointer(&bytes);
}

static gboolean
fail(QmpFramer *framer, const char *what, GError **error)
{
    g_autofree char *start = quote_start(framer);
    framer->failed = TRUE;
    g_set_error(error, QMP_ERROR, QMP_ERROR_PROTOCOL, "%s, in a message that begins with '%s'",
                what, start);
    return FALSE;
}

static void
skip_space(QmpFramer *framer)
{
    const guint8 *data = framer->buf->data;
    while (framer->pos < framer->buf->len && g_ascii_isspace(data[framer->pos]))
        framer->pos++;
    framer->start = framer->pos;
}

gboolean
qmp_framer_next(QmpFramer *framer, const char **text, gsize *len, GError **error)
{
    *text = NULL;
    *len = 0;
    if (framer->failed) {
        g_set_error_literal(error, QMP_ERROR, QMP_ERROR_PROTOCOL, "garbage came before");
        return FALSE;
    }
    if (framer->depth == 0) {
        skip_space(framer);
        framer->values = 0;
        if (framer->pos < framer->buf->len && framer->buf->data[framer->pos] != '{')
            return fail(framer, "not a JSON object", error);
    }
    while (framer->pos < framer->buf->len) {
        const char *wrong = scan_byte(framer, framer->buf->data[framer->pos++]);
        if (wrong == NULL && framer->pos - framer->start > framer->limits->max_message)
            wrong = "a message is too long";
        if (wrong != NULL)
            return fail(framer, wrong, error);
        if (framer->depth == 0) {
            *text = (const char *)framer->buf->data + framer->start;
            *len = framer->pos - framer->start;
            framer->start = framer->pos;
            return TRUE;
        }
    }
    return TRUE;
}
