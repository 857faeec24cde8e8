/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * JSON between processes (the API, other daemons, the journal): bounded parsing, errors as objects
 * and back, and getters that never mind what the other end has put there.
 */

/* Deeper nesting than any document of ours. json-glib's parser recurses, so that a body of '['
 * alone would otherwise run it out of stack. */
#define DRV_JSON_MAX_DEPTH 32

/* The object in 'text', which need not end in NUL. Owned by the caller. Fails with
 * DRV_ERROR_USAGE for anything but one JSON object of at most DRV_JSON_MAX_DEPTH levels. */
JsonObject *drv_json_parse_object(const char *text, gsize len, GError **error);

/* Compact text. The node or object is borrowed; the text is owned by the caller. */
char *drv_json_to_text(JsonNode *node);
char *drv_json_text(JsonObject *object);

/* A node around an object, whose reference it takes. Owned by the caller. */
JsonNode *drv_json_take_object(JsonObject *object);

/* {"error":{"class":…,"message":…}}. Owned by the caller. */
JsonNode *drv_json_error(const GError *error);

/* Sets the error that such an object describes; the class becomes the DRV_ERROR code of that name,
 * or DRV_ERROR_IO. FALSE, and nothing set, where the object has no error (or it is null). */
gboolean drv_json_get_error(JsonObject *object, GError **error);

/* A member's value, or 'standard' where it is missing or of another type. Strings and objects are
 * borrowed from the object, which may itself be NULL. */
const char *drv_json_string(JsonObject *object, const char *name, const char *standard);
gint64 drv_json_int(JsonObject *object, const char *name, gint64 standard);
/* Of numbers, only those that integers can be told apart in: +-2^53. */
#define DRV_JSON_NUMBER_MAX 0x1p53
double drv_json_number(JsonObject *object, const char *name, double standard);
gboolean drv_json_flag(JsonObject *object, const char *name, gboolean standard);
JsonObject *drv_json_object(JsonObject *object, const char *name);
JsonArray *drv_json_array(JsonObject *object, const char *name);
/* An element of an array that may be NULL, as an object; NULL when it is none. Borrowed. */
JsonObject *drv_json_element(JsonArray *array, guint index);
