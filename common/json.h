/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * JSON from others, read without trust: a parser that is safe against nesting, and getters that
 * take a wrong type for an absent member instead of crashing or warning.
 */

/* Nesting beyond this is refused before json-glib's recursive parser sees it. */
#define DRV_JSON_DEPTH 32

/* Parses an object from 'len' bytes. DRV_ERROR_PROTOCOL when it is anything else. */
JsonObject *drv_json_parse_object(const char *text, gsize len, GError **error);
/* One line of text, without a newline. */
char *drv_json_text(JsonObject *object);

/* A member's value, or the fallback when it is missing or of another type. Strings are borrowed
 * from the object. */
const char *drv_json_string(JsonObject *object, const char *member, const char *fallback);
gint64 drv_json_int(JsonObject *object, const char *member, gint64 fallback);
double drv_json_double(JsonObject *object, const char *member, double fallback);
gboolean drv_json_bool(JsonObject *object, const char *member, gboolean fallback);
/* Borrowed; NULL when missing or of another type. */
JsonObject *drv_json_object(JsonObject *object, const char *member);
JsonArray *drv_json_array(JsonObject *object, const char *member);
/* An array's element as an object; NULL when it is none. Borrowed. */
JsonObject *drv_json_element(JsonArray *array, guint index);
