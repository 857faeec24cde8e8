/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/trail.h"

#include <string.h>

#include "common/json.h"
#include "engine/host/audit.h"

#define REFUSED_EVERY_US G_USEC_PER_SEC

struct _DrvTrail {
    DrvAudit *audit;
    gint64 refused_us; /* monotonic: when a refusal was last written; 0: never */
    gint64 unwritten;  /* refusals since */
};

DrvTrail *
drv_trail_new(const char *state_dir, GError **error)
{
    DrvAudit *audit = drv_audit_open(state_dir, error);
    if (audit == NULL)
        return NULL;
    DrvTrail *trail = g_new0(DrvTrail, 1);
    trail->audit = audit;
    return trail;
}

void
drv_trail_free(DrvTrail *trail)
{
    if (trail == NULL)
        return;
    drv_audit_close(trail->audit);
    g_free(trail);
}

static void
put(JsonObject *what, const char *name, const char *text)
{
    if (text != NULL)
        json_object_set_string_member(what, name, text);
}

/* Of a job's or a call's description, that which says what goes where. */
static void
put_places(JsonObject *what, JsonObject *from)
{
    static const char *const names[] = {"qmp",  "image",  "listen",  "to", "dest_qmp",
                                        "dest", "format", "connect", "run"};
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        put(what, names[i], drv_json_string(from, names[i], NULL));
}

void
drv_trail_job(DrvTrail *trail, const char *event, const DrvJob *job)
{
    const DrvJobRecord *rec = job->rec;
    JsonObject *what = json_object_new();
    g_autoptr(JsonObject) spec =
        rec->spec != NULL ? drv_json_parse_object(rec->spec, strlen(rec->spec), NULL) : NULL;
    put(what, "job", rec->id);
    put(what, "kind", job->ops->kind);
    put(what, "role", drv_role_name(rec->role));
    put(what, "vm", rec->vm);
    put(what, "peer", rec->peer);
    put_places(what, spec);
    put(what, "state", drv_state_name(rec->state));
    put(what, "error", job->error != NULL ? job->error->message : NULL);
    drv_audit_add(trail->audit, event, what);
}

void
drv_trail_asked(DrvTrail *trail, gint64 uid, const char *text, const char *job, const GError *why)
{
    JsonObject *what = json_object_new();
    if (uid >= 0)
        json_object_set_int_member(what, "uid", uid);
    put(what, "what", text);
    put(what, "job", job);
    put(what, "error", why != NULL ? why->message : NULL);
    drv_audit_add(trail->audit, "asked", what);
}

void
drv_trail_call(DrvTrail *trail, const char *peer, const char *op, JsonObject *args,
               const GError *why)
{
    gint64 now = g_get_monotonic_time();
    if (why != NULL && trail->refused_us != 0 && now - trail->refused_us < REFUSED_EVERY_US) {
        trail->unwritten++;
        return;
    }
    JsonObject *what = json_object_new();
    put(what, "peer", peer);
    put(what, "what", op);
    put_places(what, args);
    if (why != NULL) {
        put(what, "error", why->message);
        json_object_set_int_member(what, "unwritten", trail->unwritten);
        trail->refused_us = now;
        trail->unwritten = 0;
    }
    drv_audit_add(trail->audit, why != NULL ? "refused" : "called", what);
}
