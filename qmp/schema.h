/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/* Private to libqmp: the reply to query-qmp-schema and the questions one has for it. No I/O. */
typedef struct _QmpSchema QmpSchema;

/* Entries that are no schema entities are ignored. NULL with QMP_ERROR_UNEXPECTED when 'reply'
 * (borrowed) is no array. */
QmpSchema *qmp_schema_new(JsonNode *reply, GError **error);
void qmp_schema_free(QmpSchema *schema);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpSchema, qmp_schema_free)

gboolean qmp_schema_has_event(QmpSchema *schema, const char *event);

/* Whether 'path' ("a" or "a/b/c") exists below the command's type named by 'side' ("arg-type" or
 * "ret-type"), and is an enumeration with 'value', when that is not NULL. */
gboolean qmp_schema_command_has(QmpSchema *schema, const char *command, const char *side,
                                const char *path, const char *value);
