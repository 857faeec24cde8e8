/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "common/exposition.h"
#include "engine/api/server.h"
#include "engine/host/address.h"
#include "engine/host/config.h"
#include "engine/host/notify.h"
#include "engine/host/pki.h"
#include "engine/host/sandbox.h"
#include "engine/daemon/jobs.h"

#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* droverd: puts the parts together and runs the main loop. */

/* An orderly end waits so long for migrations to be called off. */
#define STOP_S 15

typedef struct {
    DrvConfig *config;
    char *name;
    GMainLoop *loop;
    DrvJobs *jobs;
    DrvTopology *topology; /* as at the start; NULL: nothing is placed */
    DrvTransfer *transfer;
    DrvApiServer *api;
    char *listening; /* "ADDR:PORT", as bound */
    gint64 since;    /* monotonic */
    int status;      /* to exit with */
} Daemon;

/* --- the API --- */

static JsonNode *
object_node(JsonObject *object)
{
    return object != NULL ? json_node_init_object(json_node_alloc(), object) : NULL;
}

static JsonNode *
take_object(JsonObject *object)
{
    JsonNode *node = object_node(object);
    if (object != NULL)
        json_object_unref(object);
    return node;
}

static JsonNode *
api_status(gpointer self)
{
    Daemon *daemon = self;
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "name", daemon->name);
    json_object_set_string_member(object, "version", DRV_VERSION);
    json_object_set_string_member(object, "listen", daemon->listening);
    json_object_set_int_member(object, "active_jobs", drv_jobs_active(daemon->jobs));
    json_object_set_int_member(object, "uptime_s",
                               (g_get_monotonic_time() - daemon->since) / G_USEC_PER_SEC);
    return take_object(object);
}

/* Names of the process's own are those that Prometheus's libraries give them everywhere. */
static char *
api_metrics(gpointer self)
{
    Daemon *daemon = self;
    GString *out = g_string_new(NULL);
    g_autofree char *who =
        drv_exposition_labels("name", daemon->name, "version", DRV_VERSION, NULL);
    drv_exposition_head(out, "drover_info", "gauge", "Which daemon this is.");
    drv_exposition_value(out, "drover_info", who, 1);
    drv_exposition_head(out, "drover_uptime_seconds", "gauge", "Since it was started.");
    drv_exposition_value(out, "drover_uptime_seconds", "",
                         (double)((g_get_monotonic_time() - daemon->since) / G_USEC_PER_SEC));
    drv_exposition_head(out, "process_cpu_seconds_total", "counter", "User and system time.");
    drv_exposition_value(out, "process_cpu_seconds_total", "", drv_process_cpu_seconds());
    drv_jobs_metrics(daemon->jobs, out);
    return g_string_free(out, FALSE);
}

static JsonNode *
api_list(gpointer self, guint limit, GError **error)
{
    JsonArray *array = drv_jobs_list(((Daemon *)self)->jobs, limit, error);
    if (array == NULL)
        return NULL;
    JsonNode *node = json_node_init_array(json_node_alloc(), array);
    json_array_unref(array);
    return node;
}

static JsonNode *
api_show(gpointer self, const char *id, GError **error)
{
    return take_object(drv_jobs_show(((Daemon *)self)->jobs, id, error));
}

static char *
api_migrate(gpointer self, JsonObject *spec, GError **error)
{
    return drv_jobs_migrate(((Daemon *)self)->jobs, spec, error);
}

static char *
api_tunnel(gpointer self, JsonObject *spec, GError **error)
{
    return drv_jobs_tunnel(((Daemon *)self)->jobs, spec, error);
}

static char *
api_copy(gpointer self, JsonObject *spec, GError **error)
{
    return drv_jobs_copy(((Daemon *)self)->jobs, spec, error);
}

static char *
api_predict(gpointer self, JsonObject *spec, GError **error)
{
    return drv_jobs_predict(((Daemon *)self)->jobs, spec, error);
}

static JsonNode *
api_numa(gpointer self)
{
    return take_object(drv_jobs_numa(((Daemon *)self)->jobs));
}

static char *
api_numa_look(gpointer self, JsonObject *spec, GError **error)
{
    return drv_jobs_numa_look(((Daemon *)self)->jobs, spec, error);
}

static char *
api_disks(gpointer self, JsonObject *spec, GError **error)
{
    return drv_jobs_disks(((Daemon *)self)->jobs, spec, error);
}

static gboolean
api_cancel(gpointer self, const char *id, GError **error)
{
    return drv_jobs_cancel(((Daemon *)self)->jobs, id, error);
}

static gboolean
api_resolve(gpointer self, const char *id, const char *run_on, GError **error)
{
    return drv_jobs_resolve(((Daemon *)self)->jobs, id, g_str_equal(run_on, "source"), error);
}

static void
api_asked(gpointer self, gint64 uid, const char *what, const char *job, const GError *error)
{
    drv_trail_asked(drv_jobs_trail(((Daemon *)self)->jobs), uid, what, job, error);
}

static const DrvApiBackend backend = {
    .status = api_status,
    .metrics = api_metrics,
    .list_jobs = api_list,
    .show_job = api_show,
    .migrate = api_migrate,
    .tunnel = api_tunnel,
    .copy = api_copy,
    .predict = api_predict,
    .numa = api_numa,
    .numa_look = api_numa_look,
    .disks = api_disks,
    .cancel = api_cancel,
    .resolve = api_resolve,
    .asked = api_asked,
};

/* --- what the parts tell --- */

static void
job_changed(const char *id, gpointer data)
{
    Daemon *daemon = data;
    if (daemon->api != NULL)
        drv_api_server_job_changed(daemon->api, id);
}

static void
journal_failed(const GError *error, gpointer data)
{
    /* Not an orderly end: nothing may be done that the journal does not know of. */
    g_printerr("droverd: %s: ending at once; started again, it goes by what is on the disk\n",
               error->message);
    _exit(EXIT_FAILURE);
}

static void
incoming(DrvSession *session, gpointer data)
{
    drv_jobs_incoming(((Daemon *)data)->jobs, session);
}

static gboolean
stop_now(gpointer data)
{
    g_main_loop_quit(((Daemon *)data)->loop);
    return G_SOURCE_CONTINUE;
}

static gboolean
stop_if_idle(gpointer data)
{
    Daemon *daemon = data;
    if (!drv_jobs_cancel_all(daemon->jobs))
        g_main_loop_quit(daemon->loop);
    return G_SOURCE_CONTINUE;
}

/* The first signal calls off what can be called off, so that no guest waits stopped for the next
 * daemon; the second, or the time limit, ends it. */
static gboolean
on_signal(gpointer data)
{
    Daemon *daemon = data;
    drv_notify("STOPPING=1");
    if (daemon->status != 0 || !drv_jobs_cancel_all(daemon->jobs)) {
        g_main_loop_quit(daemon->loop);
    } else {
        g_message("calling off the migrations that are under way");
        g_timeout_add(50, stop_if_idle, daemon);
        g_timeout_add_seconds(STOP_S, stop_now, daemon);
    }
    return G_SOURCE_REMOVE;
}

/* --- the start --- */

static void
set_log_level(DrvLogLevel level)
{
    /* GLib prints up to "message" by itself; "info" and "debug" are asked for by domain. */
    if (level == DRV_LOG_DEBUG)
        g_setenv("G_MESSAGES_DEBUG", "all", FALSE);
    /* Standard output is for the line that says we are ready. */
    g_log_writer_default_set_use_stderr(TRUE);
}

static GLogWriterOutput
write_log(GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer data)
{
    static const GLogLevelFlags limits[] = {
        [DRV_LOG_ERROR] = G_LOG_LEVEL_CRITICAL,
        [DRV_LOG_WARNING] = G_LOG_LEVEL_WARNING,
        [DRV_LOG_INFO] = G_LOG_LEVEL_MESSAGE,
        [DRV_LOG_DEBUG] = G_LOG_LEVEL_DEBUG,
    };
    DrvLogLevel limit = GPOINTER_TO_INT(data);
    if ((level & G_LOG_LEVEL_MASK) > limits[limit])
        return G_LOG_WRITER_HANDLED;
    if (g_log_writer_is_journald(fileno(stderr)))
        return g_log_writer_journald(level, fields, n_fields, NULL);
    return g_log_writer_standard_streams(level, fields, n_fields, NULL);
}

/* For tests of a host with other nodes than the one at hand: DROVER_TEST_NUMA=DIR has its sysfs and
 * procfs. */
static const char *
root_of_host(void)
{
#ifdef DRV_TEST_HOOKS
    return g_getenv("DROVER_TEST_NUMA");
#else
    return NULL;
#endif
}

/* In some container it may not be possible; guests are moved all the same. */
static void
enter_sandbox(const DrvConfig *config)
{
    g_autoptr(GError) error = NULL;
    if (config->sandbox && !drv_sandbox_enter(&error))
        g_warning("droverd keeps rights that it does not need: %s ('sandbox=off' under [daemon] in "
                  "the configuration file says that this is meant)",
                  error->message);
}

static gboolean
start(Daemon *daemon, GError **error)
{
    g_autofree char *host = NULL;
    guint16 port;
    DrvServicesParams jobs = {
        .config = daemon->config,
        .changed = job_changed,
        .fatal = journal_failed,
        .data = daemon,
    };
    if (!drv_address_parse(daemon->config->listen, &host, &port, error) ||
        !drv_pki_check(daemon->config->pki_dir, &daemon->name, error))
        return FALSE;
    if (daemon->config->name != NULL) {
        g_free(daemon->name);
        daemon->name = g_strdup(daemon->config->name);
    }
    if (daemon->name == NULL)
        daemon->name = g_strdup(g_get_host_name());
    daemon->topology = daemon->config->numa ? drv_topology_read(root_of_host()) : NULL;
    DrvTransferConfig transfer = {
        .name = daemon->name,
        .pki_dir = daemon->config->pki_dir,
        .threads = (guint)daemon->config->threads,
        .bandwidth = (guint64)daemon->config->bandwidth,
        .peer_sessions = (guint)daemon->config->sessions,
        .kernel_tls = daemon->config->kernel_tls,
        .huge_pages = daemon->config->huge_pages,
        .topology = daemon->topology,
        .incoming = incoming,
        .data = daemon,
    };
    daemon->jobs = drv_jobs_new(&jobs, error);
    if (daemon->jobs == NULL)
        return FALSE;
    daemon->transfer = drv_transfer_new(&transfer, error);
    if (daemon->transfer == NULL)
        return FALSE;
    drv_jobs_start(daemon->jobs, daemon->transfer);
    guint16 bound = drv_transfer_listen(daemon->transfer, host, port, error);
    if (bound == 0)
        return FALSE;
    daemon->listening = drv_address_format(host, bound);
    daemon->api = drv_api_server_new(daemon->config->api, &backend, daemon, error);
    return daemon->api != NULL &&
           (daemon->config->api_group < 0 ||
            drv_api_server_share(daemon->api, (gid_t)daemon->config->api_group, error));
}

static void
stop(Daemon *daemon)
{
    g_clear_pointer(&daemon->api, drv_api_server_free);
    g_clear_pointer(&daemon->jobs, drv_jobs_free);
    g_clear_pointer(&daemon->transfer, drv_transfer_free);
    g_clear_pointer(&daemon->topology, drv_topology_free);
    g_clear_pointer(&daemon->listening, g_free);
    g_clear_pointer(&daemon->name, g_free);
    g_clear_pointer(&daemon->loop, g_main_loop_unref);
    g_clear_pointer(&daemon->config, drv_config_free);
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    Daemon daemon = {.since = g_get_monotonic_time()};
    signal(SIGPIPE, SIG_IGN); /* a broken socket is an error of its operation */
    daemon.config = drv_config_from_args(&argc, &argv, &error);
    if (daemon.config == NULL) {
        g_printerr("droverd: %s\n", error->message);
        return 2;
    }
    if (daemon.config->show_version) {
        g_print("droverd %s\n", DRV_VERSION);
        stop(&daemon);
        return 0;
    }
    set_log_level(daemon.config->log_level);
    g_log_set_writer_func(write_log, GINT_TO_POINTER(daemon.config->log_level), NULL);
    enter_sandbox(daemon.config);
    daemon.loop = g_main_loop_new(NULL, FALSE);
    if (!start(&daemon, &error)) {
        g_printerr("droverd: %s\n", error->message);
        stop(&daemon);
        return 2;
    }
    g_unix_signal_add(SIGTERM, on_signal, &daemon);
    g_unix_signal_add(SIGINT, on_signal, &daemon);
    g_print("ready api=%s listen=%s\n", daemon.config->api, daemon.listening);
    fflush(stdout);
    drv_notify("READY=1");
    g_main_loop_run(daemon.loop);
    int status = daemon.status;
    stop(&daemon);
    return status;
}
