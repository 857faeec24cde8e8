/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * Pleasant JSON for QMP: arguments in one expression, and replies read without trusting them.
 */

/*
 * An object from (name, format, value) triples, ended by NULL. Transfer full. Formats:
 *   "s" const char *   "b" gboolean   "i" int   "x" gint64   "d" double
 *   "o" JsonNode *, any value, taken over
 * A NULL string or node leaves its member out, which is how QMP says "not given".
 *
 *   qmp_args("uri", "s", "unix:/run/x", "detach", "b", TRUE, NULL)
 */
JsonNode *qmp_args(const char *name, ...) G_GNUC_NULL_TERMINATED;

/* An array of the given nodes, each taken over, ended by NULL. Transfer full. */
JsonNode *qmp_list(JsonNode *first, ...) G_GNUC_NULL_TERMINATED;

/*
 * Reading what came from QEMU. json-glib's own getters complain (and under G_DEBUG=fatal-criticals
 * abort) when a member is missing or of another type; these say NULL or FALSE. They take a NULL
 * node or object as well, so they chain. What they return is borrowed.
 */
JsonObject *qmp_node_object(JsonNode *node);
JsonArray *qmp_node_array(JsonNode *node);
const char *qmp_node_string(JsonNode *node);

JsonObject *qmp_get_object(JsonObject *object, const char *name);
JsonArray *qmp_get_array(JsonObject *object, const char *name);
const char *qmp_get_string(JsonObject *object, const char *name);
/* These set *value only when they return TRUE. json-glib knows 64 bit signed integers only: one
 * above G_MAXINT64 arrives negative. */
gboolean qmp_get_int(JsonObject *object, const char *name, gint64 *value);
gboolean qmp_get_double(JsonObject *object, const char *name, double *value); /* integers too */
gboolean qmp_get_bool(JsonObject *object, const char *name, gboolean *value);
