/* SPDX-License-Identifier: Apache-2.0 */

/* What QEMU, or whatever listens where it should, answers. The first byte says how it is cut: the
 * same messages come out as when all of it comes at once, whole and within the limits. */
#include "qmp/framer.h"
#include "qmp/message.h"
#include "tests/fuzz/fuzz.h"

static const QmpLimits limits = {.max_message = 4096, .max_depth = 16, .max_values = 256};

static void
see_message(const char *text, gsize len)
{
    g_auto(QmpMessage) message = {0};
    g_autoptr(GError) error = NULL;
    g_assert(len > 0 && len <= limits.max_message);
    if (!qmp_message_parse(&message, text, len, &error)) {
        g_assert(error != NULL && g_utf8_validate(error->message, -1, NULL));
        return;
    }
    g_assert(error == NULL && message.root != NULL);
    g_assert(message.kind != QMP_MESSAGE_GREETING || message.greeting != NULL);
    g_assert(message.kind != QMP_MESSAGE_RETURN || message.value != NULL);
    g_assert(message.kind != QMP_MESSAGE_ERROR || (message.error_class && message.desc));
    g_assert(message.kind != QMP_MESSAGE_EVENT || message.event != NULL);
}

/* All messages, each with a NUL behind it, and whether the framer gave up. */
static GByteArray *
take_all(const guint8 *data, gsize size, gsize piece)
{
    GByteArray *out = g_byte_array_new();
    g_autoptr(QmpFramer) framer = qmp_framer_new(&limits);
    gboolean good = TRUE;
    for (gsize at = 0; at < size && good; at += piece) {
        const char *text = NULL;
        gsize len = 0;
        qmp_framer_push(framer, data + at, MIN(piece, size - at));
        while ((good = qmp_framer_next(framer, &text, &len, NULL)) && text != NULL) {
            g_byte_array_append(out, (const guint8 *)text, (guint)len);
            g_byte_array_append(out, (const guint8 *)"", 1);
            see_message(text, len);
        }
        g_assert(qmp_framer_partial(framer) <= limits.max_message + piece);
    }
    g_byte_array_append(out, (const guint8 *)(good ? "\1" : "\xff"), 1);
    return out;
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    if (size < 1)
        return 0;
    g_autoptr(GByteArray) whole = take_all(data + 1, size - 1, size);
    g_autoptr(GByteArray) cut = take_all(data + 1, size - 1, fuzz_piece(data[0]));
    g_assert(whole->len == cut->len && memcmp(whole->data, cut->data, cut->len) == 0);
    return 0;
}
