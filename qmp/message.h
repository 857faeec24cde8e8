/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/* Private to libqmp: one message from a QMP server, taken apart and checked. No I/O. */
typedef enum {
    QMP_MESSAGE_GREETING,
    QMP_MESSAGE_RETURN,
    QMP_MESSAGE_ERROR,
    QMP_MESSAGE_EVENT,
} QmpMessageKind;

typedef struct {
    QmpMessageKind kind;
    JsonNode *root; /* owned; all that follows is borrowed from it */

    JsonObject *greeting;    /* GREETING: what is under "QMP" */
    const char *id;          /* RETURN, ERROR: NULL when missing or not a string */
    JsonNode *value;         /* RETURN */
    const char *error_class; /* ERROR */
    const char *desc;        /* ERROR */
    const char *event;       /* EVENT: its name */
    JsonObject *data;        /* EVENT: may be NULL */
    gint64 timestamp_us;     /* EVENT: QEMU's real time, -1 when it gave none */
} QmpMessage;

/* Parses what qmp_framer_next() cut out. FALSE with QMP_ERROR_PROTOCOL when it is none of the four
 * kinds; 'message' needs no clearing then. */
gboolean qmp_message_parse(QmpMessage *message, const char *text, gsize len, GError **error);
void qmp_message_clear(QmpMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(QmpMessage, qmp_message_clear)
