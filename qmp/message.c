/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/message.h"

#include "qmp/error.h"
#include "qmp/json.h"

/* QEMU gives real time in two integers, both -1 when the clock could not be read. */
static gint64
parse_timestamp(JsonObject *timestamp)
{
    gint64 s, us;
    if (!qmp_get_int(timestamp, "seconds", &s) || !qmp_get_int(timestamp, "microseconds", &us))
        return -1;
    if (s < 0 || s >= G_MAXINT64 / G_USEC_PER_SEC || us < 0 || us >= G_USEC_PER_SEC)
        return -1;
    return s * G_USEC_PER_SEC + us;
}

/* Which kind the object is, its fields filled in. FALSE when it is none. */
static gboolean
take_apart(QmpMessage *m, JsonObject *object)
{
    JsonObject *refusal = qmp_get_object(object, "error");
    m->id = qmp_get_string(object, "id");
    if ((m->value = json_object_get_member(object, "return")) != NULL) {
        m->kind = QMP_MESSAGE_RETURN;
        return TRUE;
    }
    if (refusal != NULL) {
        m->kind = QMP_MESSAGE_ERROR;
        m->error_class = qmp_get_string(refusal, "class");
        m->desc = qmp_get_string(refusal, "desc");
        return m->error_class != NULL && m->desc != NULL;
    }
    if ((m->event = qmp_get_string(object, "event")) != NULL) {
        m->kind = QMP_MESSAGE_EVENT;
        m->data = qmp_get_object(object, "data");
        m->timestamp_us = parse_timestamp(qmp_get_object(object, "timestamp"));
        return TRUE;
    }
    m->kind = QMP_MESSAGE_GREETING;
    m->greeting = qmp_get_object(object, "QMP");
    return m->greeting != NULL;
}

gboolean
qmp_message_parse(QmpMessage *message, const char *text, gsize len, GError **error)
{
    g_autoptr(GError) reason = NULL;
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    *message = (QmpMessage){0};

    if (!g_utf8_validate_len(text, len, NULL)) {
        g_set_error_literal(error, QMP_ERROR, QMP_ERROR_PROTOCOL, "a message is not UTF-8");
        return FALSE;
    }
    if (!json_parser_load_from_data(parser, text, (gssize)len, &reason)) {
        g_set_error(error, QMP_ERROR, QMP_ERROR_PROTOCOL, "a message is not JSON: %s",
                    reason->message);
        return FALSE;
    }
    message->root = json_parser_steal_root(parser);
    JsonObject *object = qmp_node_object(message->root);
    if (object == NULL || !take_apart(message, object)) {
        qmp_message_clear(message);
        g_set_error_literal(error, QMP_ERROR, QMP_ERROR_PROTOCOL,
                            "a message is neither a greeting nor a reply nor an event");
        return FALSE;
    }
    return TRUE;
}

void
qmp_message_clear(QmpMessage *message)
{
    g_clear_pointer(&message->root, json_node_unref);
    *message = (QmpMessage){0};
}
