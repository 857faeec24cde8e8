/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * The daemon as the API sees it. Everything is called on the main thread and must not block: what
 * takes time goes on as a job, whose state tells how it went.
 *
 * What is returned is owned by the caller. A function that fails sets an error of DRV_ERROR; its
 * code decides the HTTP status and the class in the reply. docs/http-api.md describes the objects.
 */
typedef struct {
    /* An object about the daemon. Never NULL. */
    JsonNode *(*status)(gpointer self);

    /* What there is to count, in Prometheus's text format (common/exposition.h). Never NULL. */
    char *(*metrics)(gpointer self);

    /* An array of at most 'limit' job objects, the newest first. */
    JsonNode *(*list_jobs)(gpointer self, guint limit, GError **error);

    /* One job object. DRV_ERROR_NOT_FOUND where there is none of that id. Is also called from
     * within drv_api_server_job_changed(). */
    JsonNode *(*show_job)(gpointer self, const char *id, GError **error);

    /* Begins a migration and returns the job's id. What is wrong with the spec is DRV_ERROR_USAGE;
     * what goes wrong later is in the job. */
    char *(*migrate)(gpointer self, JsonObject *spec, GError **error);

    /* Begins to serve a tunnel ("listen", "to", "connect") and returns the id of its job, of kind
     * "tunnel", which lives until it is cancelled. */
    char *(*tunnel)(gpointer self, JsonObject *spec, GError **error);

    /* Begins a copy of a disk image ("image", "to", "dest" ...) and returns the id of its job, of
     * kind "copy". */
    char *(*copy)(gpointer self, JsonObject *spec, GError **error);

    /* Begins a prediction ("qmp", "to" and whatever a migration takes) and returns the id of its
     * job, of kind "predict", whose result it is. */
    char *(*predict)(gpointer self, JsonObject *spec, GError **error);

    /* The host's NUMA nodes. Never NULL. */
    JsonNode *(*numa)(gpointer self);

    /* Begins to look where a VM ("qmp") is on them and returns the id of its job, of kind "numa",
     * whose result it is. */
    char *(*numa_look)(gpointer self, JsonObject *spec, GError **error);

    /* Begins to look at a VM's disks ("qmp", "to", "create" ...) and returns the id of its job, of
     * kind "disks", whose result they are. */
    char *(*disks)(gpointer self, JsonObject *spec, GError **error);

    /* Asks a job to end; its state tells when it has. DRV_ERROR_STATE where it is too late. */
    gboolean (*cancel)(gpointer self, const char *id, GError **error);

    /* A person's word for a job in doubt: 'run_on' is "source" or "dest". */
    gboolean (*resolve)(gpointer self, const char *id, const char *run_on, GError **error);

    /* Somebody asked for something to be done (looking is not told of), and it was begun, with the
     * job's id where there is one, or refused. 'uid' is -1 where it is not known. May be NULL. */
    void (*asked)(gpointer self, gint64 uid, const char *what, const char *job,
                  const GError *error);
} DrvApiBackend;

/*
 * The same calls, with what comes from a request checked before and what comes from the daemon
 * checked after. 'ops' and 'self' belong together.
 */
#define DRV_API_MAX_LIMIT 1000

JsonNode *drv_api_status(const DrvApiBackend *ops, gpointer self);
JsonNode *drv_api_list_jobs(const DrvApiBackend *ops, gpointer self, guint limit, GError **error);
JsonNode *drv_api_show_job(const DrvApiBackend *ops, gpointer self, const char *id, GError **error);
char *drv_api_migrate(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error);
char *drv_api_tunnel(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error);
char *drv_api_copy(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error);
char *drv_api_predict(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error);
JsonNode *drv_api_numa(const DrvApiBackend *ops, gpointer self);
char *drv_api_numa_look(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error);
char *drv_api_disks(const DrvApiBackend *ops, gpointer self, JsonObject *spec, GError **error);
gboolean drv_api_cancel(const DrvApiBackend *ops, gpointer self, const char *id, GError **error);
gboolean drv_api_resolve(const DrvApiBackend *ops, gpointer self, const char *id,
                         const char *run_on, GError **error);
