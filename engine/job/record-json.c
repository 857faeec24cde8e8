/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/record-json.h"

#include "common/json.h"

#include <string.h>

static void
set_time(JsonObject *object, const char *member, gint64 realtime_us)
{
    g_autoptr(GDateTime) when = g_date_time_new_from_unix_utc(realtime_us / G_USEC_PER_SEC);
    g_autofree char *text = when != NULL ? g_date_time_format(when, "%Y-%m-%dT%H:%M:%SZ") : NULL;
    if (text != NULL)
        json_object_set_string_member(object, member, text);
}

static void
set_text(JsonObject *object, const char *member, const char *value)
{
    if (value != NULL)
        json_object_set_string_member(object, member, value);
    else
        json_object_set_null_member(object, member);
}

JsonObject *
drv_job_record_to_json(const DrvJobRecord *rec, const char *kind)
{
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "job", rec->id);
    json_object_set_string_member(object, "kind", kind);
    json_object_set_string_member(object, "role", drv_role_name(rec->role));
    set_text(object, "vm", rec->vm);
    set_text(object, "peer", rec->peer);
    json_object_set_string_member(object, "state", drv_state_name(rec->state));
    set_time(object, "created", rec->created_us);
    set_time(object, "updated", rec->updated_us);
    json_object_set_boolean_member(object, "final", drv_state_is_final(rec->state));
    if (rec->error_message != NULL) {
        JsonObject *error = json_object_new();
        set_text(error, "class", rec->error_class);
        set_text(error, "message", rec->error_message);
        json_object_set_object_member(object, "error", error);
    } else {
        json_object_set_null_member(object, "error");
    }
    json_object_set_null_member(object, "progress");
    JsonObject *result =
        rec->result != NULL ? drv_json_parse_object(rec->result, strlen(rec->result), NULL) : NULL;
    if (result != NULL)
        json_object_set_object_member(object, "result", result);
    else
        json_object_set_null_member(object, "result");
    return object;
}
