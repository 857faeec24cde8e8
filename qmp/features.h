/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/client.h"

/*
 * What a QEMU can do, asked of itself. Distributions backport and disable features, so a version
 * number says little; its own description of its commands (query-qmp-schema) says it exactly.
 */
typedef struct _QmpFeatures QmpFeatures; /* immutable, of any thread */

/* Asks for commands, migration capabilities and schema (some 200 KiB), each within 'timeout_ms'. A
 * server without the latter two (qemu-storage-daemon has no migration) is taken to have none. */
void qmp_features_probe_async(QmpClient *client, guint timeout_ms, GCancellable *cancellable,
                              GAsyncReadyCallback callback, gpointer user_data);

/* Transfer full. NULL with the errors of qmp_client_execute_async(), or QMP_ERROR_UNEXPECTED when
 * what came is no list of commands, of capabilities or of schema entities. */
QmpFeatures *qmp_features_probe_finish(QmpClient *client, GAsyncResult *result, GError **error);

/* The same from replies at hand, for tests and for what was stored; all are borrowed, and all but
 * 'commands' may be NULL. */
QmpFeatures *qmp_features_new(JsonNode *commands, JsonNode *capabilities, JsonNode *schema,
                              GError **error);

QmpFeatures *qmp_features_ref(QmpFeatures *features);
void qmp_features_unref(QmpFeatures *features);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpFeatures, qmp_features_unref)

gboolean qmp_features_has_command(QmpFeatures *features, const char *command);
gboolean qmp_features_has_event(QmpFeatures *features, const char *event);
/* "multifd", "postcopy-ram" ... */
gboolean qmp_features_has_migration_capability(QmpFeatures *features, const char *capability);

/*
 * Whether 'command' accepts this argument, in any of its variants. A path goes into nested objects
 * and arrays: ("migrate-incoming", "exit-on-error"), ("migrate", "channels/addr/transport").
 */
gboolean qmp_features_command_accepts(QmpFeatures *features, const char *command,
                                      const char *argument);

/* Whether it accepts this word for an argument that is an enumeration:
 * ("calc-dirty-rate", "mode", "dirty-ring"). */
gboolean qmp_features_argument_allows(QmpFeatures *features, const char *command,
                                      const char *argument, const char *value);

/* Whether its return value has this member (same paths): ("query-migrate", "ram/dirty-sync-count").
 */
gboolean qmp_features_command_returns(QmpFeatures *features, const char *command,
                                      const char *member);

/* The names of the migration capabilities, sorted, NULL-terminated; owned by 'features'. */
const char *const *qmp_features_get_migration_capabilities(QmpFeatures *features);
