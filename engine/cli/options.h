/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/* Options of the command line as members of a job's specification. */
typedef enum {
    DRV_OPTION_TEXT,
    DRV_OPTION_PATH,    /* made absolute: the daemon's working directory is another */
    DRV_OPTION_COUNT,   /* a whole number */
    DRV_OPTION_BYTES,   /* the same, with a unit as drv_parse_bytes() takes it */
    DRV_OPTION_SECONDS, /* drv_parse_seconds() */
    DRV_OPTION_MS,      /* drv_parse_ms() */
    DRV_OPTION_CHOICE
} DrvOptionKind;

typedef struct {
    const char *name;   /* without dashes */
    const char *member; /* of the specification */
    DrvOptionKind kind;
    gboolean required;
    guint64 min, max;
    const char *zero;       /* 0 is allowed as well, and means this */
    const char *choices[5]; /* NULL ends them */
} DrvOption;

/* Checks what was given (NULL: nothing, and nothing is set) and sets the member. DRV_ERROR_USAGE
 * names the option, the value and what is allowed. */
gboolean drv_option_take(const DrvOption *option, const char *text, JsonObject *spec,
                         GError **error);

/* The same for 'n' of them. */
gboolean drv_options_take(const DrvOption *options, guint n, const char *const *texts,
                          JsonObject *spec, GError **error);

/* --reconnect, in seconds; its default where 'text' is NULL. */
gboolean drv_option_reconnect(const char *text, guint *seconds, GError **error);
