/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/common.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/render.h"
#include "engine/cli/units.h"

/* Local calls are answered at once; a daemon that is silent for so long hangs. */
#define TIMEOUT_S 30

gboolean
drv_cli_parse(DrvCli *cli, const GOptionEntry *entries, const char *usage, const char *help,
              int min, int max, int *argc, char ***argv, GError **error)
{
    g_autofree char *name = g_strdup((*argv)[0]);
    g_autofree char *program = g_strconcat("drover ", name, NULL);
    g_autoptr(GOptionContext) context = g_option_context_new(usage);
    g_autofree char *api = NULL;
    const GOptionEntry common[] = {
        {"api", 0, 0, G_OPTION_ARG_FILENAME, &api, "The daemon's API", "SOCKET"},
        G_OPTION_ENTRY_NULL,
    };
    if (entries != NULL)
        g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_add_main_entries(context, common, NULL);
    g_option_context_set_summary(context, help);
    g_set_prgname(program); /* so that the help says it */
    (*argv)[0] = program;
    g_autoptr(GError) why = NULL;
    gboolean ok = g_option_context_parse(context, argc, argv, &why);
    (*argv)[0] = NULL;
    g_set_prgname("drover");
    if (!ok) {
        why->message[0] = g_ascii_tolower(why->message[0]);
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "%s (see 'drover %s --help')", why->message,
                    name);
        return FALSE;
    }
    if (*argc - 1 < min || *argc - 1 > max) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "%s: it is 'drover %s%s%s'%s",
                    *argc - 1 < min ? "something is missing" : "too many arguments", name,
                    usage[0] != '\0' ? " " : "", usage,
                    entries != NULL ? ", with the options that --help lists" : "");
        return FALSE;
    }
    if (api != NULL) {
        g_free(cli->api);
        cli->api = g_steal_pointer(&api);
    }
    return TRUE;
}

DrvClient *
drv_cli_connect(DrvCli *cli, GError **error)
{
    return drv_client_new(cli->api, TIMEOUT_S, error);
}

static DrvExit
exit_status(const GError *error)
{
    if (error->domain != DRV_ERROR)
        return DRV_EXIT_FAILED;
    switch ((DrvErrorCode)error->code) {
    case DRV_ERROR_USAGE:
    case DRV_ERROR_NOT_FOUND:
    case DRV_ERROR_UNREACHABLE:
    case DRV_ERROR_PROTOCOL:
        return DRV_EXIT_USAGE;
    case DRV_ERROR_IN_DOUBT:
        return DRV_EXIT_IN_DOUBT;
    case DRV_ERROR_CANCELLED:
        return DRV_EXIT_CANCELLED;
    default:
        return DRV_EXIT_FAILED;
    }
}

int
drv_cli_fail(const GError *error)
{
    g_autofree char *message = drv_format_text(error->message, 4000);
    fprintf(stderr, "drover: %s\n", message);
    return exit_status(error);
}

void
drv_cli_print_json(JsonObject *object)
{
    g_autoptr(JsonNode) node = drv_json_take_object(json_object_ref(object));
    g_autofree char *text = drv_json_to_text(node);
    puts(text);
}

static JsonArray *
list_jobs(DrvClient *client, JsonObject **reply, GError **error)
{
    *reply = drv_client_call(client, "GET", "/v1/jobs?limit=1000", NULL, NULL, error);
    JsonArray *jobs = drv_json_array(*reply, "jobs");
    if (*reply != NULL && jobs == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "droverd at %s did not list its jobs",
                    drv_client_socket(client));
    return jobs;
}

static JsonObject *
element(JsonArray *jobs, guint i)
{
    JsonNode *node = json_array_get_element(jobs, i);
    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* A daemon that holds both ends of a job lists its id twice; that is still one job. */
static char *
find_prefix(JsonArray *jobs, const char *text, GError **error)
{
    const char *found = NULL;
    for (guint i = 0; i < json_array_get_length(jobs); i++) {
        const char *id = drv_json_string(element(jobs, i), "job", "");
        if (!g_str_has_prefix(id, text) || (found != NULL && g_str_equal(id, found)))
            continue;
        if (found != NULL) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "'%s' is the beginning of several jobs' ids (%s, %s ...): give more of it",
                        text, found, id);
            return NULL;
        }
        found = id;
    }
    if (found == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "there is no job '%s': 'drover jobs' lists them", text);
    return g_strdup(found);
}

char *
drv_cli_find_job(DrvClient *client, const char *text, GError **error)
{
    if (text[0] == '\0') {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "the job's id is empty: 'drover jobs' lists them");
        return NULL;
    }
    if (strchr(text, '/') != NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "there is no job '%s': 'drover jobs' lists them", text);
        return NULL;
    }
    /* First as it is: the daemon knows more jobs than it lists. */
    g_autoptr(GError) why = NULL;
    g_autofree char *path = drv_client_job_path(text, "");
    g_autoptr(JsonObject) job = drv_client_call(client, "GET", path, NULL, NULL, &why);
    if (job != NULL)
        return g_strdup(drv_json_string(job, "job", text));
    if (!g_error_matches(why, DRV_ERROR, DRV_ERROR_NOT_FOUND)) {
        g_propagate_error(error, g_steal_pointer(&why));
        return NULL;
    }
    g_autoptr(JsonObject) reply = NULL;
    JsonArray *jobs = list_jobs(client, &reply, error);
    return jobs != NULL ? find_prefix(jobs, text, error) : NULL;
}

char *
drv_cli_find_active(DrvClient *client, GError **error)
{
    g_autoptr(JsonObject) reply = NULL;
    JsonArray *jobs = list_jobs(client, &reply, error);
    if (jobs == NULL)
        return NULL;
    for (guint i = 0; i < json_array_get_length(jobs); i++) { /* the newest comes first */
        JsonObject *job = element(jobs, i);
        const char *id = drv_json_string(job, "job", NULL);
        if (id != NULL && !drv_json_flag(job, "final", FALSE))
            return g_strdup(id);
    }
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "no job is active: 'drover jobs' lists those that have ended");
    return NULL;
}

static DrvExit
job_exit(JsonObject *job)
{
    static const struct {
        const char *state;
        DrvExit status;
    } map[] = {
        {"done", DRV_EXIT_DONE}, {"failed", DRV_EXIT_FAILED}, {"cancelled", DRV_EXIT_CANCELLED}};
    for (guint i = 0; i < G_N_ELEMENTS(map); i++) {
        if (g_str_equal(map[i].state, drv_json_string(job, "state", "")))
            return map[i].status;
    }
    return DRV_EXIT_IN_DOUBT;
}

static void
set_text(JsonObject *object, const char *name, const char *text)
{
    if (text != NULL)
        json_object_set_string_member(object, name, text);
    else
        json_object_set_null_member(object, name);
}

/* What scripts get where the daemon has no report: the members that can be told. */
static JsonObject *
short_result(const char *id, JsonObject *job, const GError *error)
{
    JsonObject *result = json_object_new();
    const char *state = error != NULL ? "in-doubt" : drv_json_string(job, "state", "in-doubt");
    set_text(result, "job", id);
    set_text(result, "vm", drv_json_string(job, "vm", NULL));
    set_text(result, "state", g_str_equal(state, "done") ? "completed" : state);
    set_text(result, "error",
             error != NULL ? error->message
                           : drv_json_string(drv_json_object(job, "error"), "message", NULL));
    return result;
}

int
drv_cli_tell_end(const char *id, JsonObject *job, const GError *error, gboolean json,
                 double promise_ms)
{
    DrvExit status = error != NULL ? exit_status(error) : job_exit(job);
    if (error != NULL) {
        drv_cli_fail(error);
    } else if (status != DRV_EXIT_DONE) {
        g_autofree char *outcome = drv_render_outcome(job);
        fprintf(stderr, "drover: %s\n", outcome);
    } else if (!json) {
        g_autofree char *summary = drv_render_summary(job, promise_ms);
        fputs(summary, stdout);
    }
    if (json) {
        JsonObject *result = error == NULL ? drv_json_object(job, "result") : NULL;
        g_autoptr(JsonObject) printed =
            result != NULL ? json_object_ref(result) : short_result(id, job, error);
        drv_cli_print_json(printed);
    }
    return status;
}
