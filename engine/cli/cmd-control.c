/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/common.h"
#include "engine/cli/follow.h"
#include "engine/cli/options.h"

/* The commands for a job that is there already: watch, cancel, resolve. */

static int
watch(DrvCli *cli, const char *text, const char *reconnect, gboolean json, GError **error)
{
    DrvFollowOptions how = {0};
    if (!drv_option_reconnect(reconnect, &how.reconnect_s, error))
        return -1;
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    if (client == NULL)
        return -1;
    g_autofree char *id =
        text != NULL ? drv_cli_find_job(client, text, error) : drv_cli_find_active(client, error);
    if (id == NULL)
        return -1;
    g_autoptr(DrvFollow) follow = drv_follow_new(client, &how);
    g_autoptr(JsonObject) last = NULL;
    g_autoptr(GError) why = NULL;
    g_autoptr(JsonObject) job = drv_follow_run(follow, id, DRV_FOLLOW_TO_END, &last, &why);
    return drv_cli_tell_end(id, job != NULL ? job : last, why, json, 0);
}

int
drv_cmd_watch(DrvCli *cli, int argc, char **argv)
{
    gboolean json = FALSE;
    g_autofree char *reconnect = NULL;
    const GOptionEntry entries[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "End with the report as JSON on stdout", NULL},
        {"reconnect", 0, 0, G_OPTION_ARG_STRING, &reconnect,
         "How long to wait for a droverd that went away (30)", "S"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    int status = -1;
    if (drv_cli_parse(cli, entries, "[ID]",
                      "Follows a job to its end, without ID the newest that is active, and exits\n"
                      "with its status. An interrupt ends the watch, not the job.",
                      0, 1, &argc, &argv, &error))
        status = watch(cli, argc > 1 ? argv[1] : NULL, reconnect, json, &error);
    return error != NULL ? drv_cli_fail(error) : status;
}

/* Posts to the job that 'text' names, and gives its object. */
static JsonObject *
post(DrvCli *cli, const char *text, const char *rest, JsonObject *body, GError **error)
{
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    g_autofree char *id = client != NULL ? drv_cli_find_job(client, text, error) : NULL;
    if (id == NULL)
        return NULL;
    g_autofree char *path = drv_client_job_path(id, rest);
    return drv_client_call(client, "POST", path, body, NULL, error);
}

int
drv_cmd_cancel(DrvCli *cli, int argc, char **argv)
{
    gboolean json = FALSE;
    const GOptionEntry entries[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print the job as JSON", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    if (!drv_cli_parse(
            cli, entries, "ID",
            "Asks for a job to be cancelled, and does not wait: 'drover watch ID' does.\n"
            "The VM stays at the source. A tunnel ends.",
            1, 1, &argc, &argv, &error))
        return drv_cli_fail(error);
    g_autoptr(JsonObject) job = post(cli, argv[1], "/cancel", NULL, &error);
    if (job == NULL)
        return drv_cli_fail(error);
    const char *id = drv_json_string(job, "job", argv[1]);
    if (json)
        drv_cli_print_json(job);
    else if (drv_json_flag(job, "final", FALSE))
        printf("job %s is %s\n", id, drv_json_string(job, "state", "cancelled"));
    else
        printf("cancelling job %s ('drover watch %s' waits for its end)\n", id, id);
    return DRV_EXIT_DONE;
}

int
drv_cmd_resolve(DrvCli *cli, int argc, char **argv)
{
    static const DrvOption option = {"run-on", "run_on", DRV_OPTION_CHOICE, .required = TRUE,
                                     .choices = {"source", "dest"}};
    gboolean json = FALSE;
    g_autofree char *run_on = NULL;
    const GOptionEntry entries[] = {
        {"run-on", 0, 0, G_OPTION_ARG_STRING, &run_on, "Where the VM shall run: source or dest",
         "WHERE"},
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print the job as JSON", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) body = json_object_new();
    if (!drv_cli_parse(
            cli, entries, "ID --run-on source|dest",
            "Decides a job that is in doubt. First make sure of it: a VM that is said to\n"
            "run at one host while it runs at the other is there twice, on one disk.",
            1, 1, &argc, &argv, &error) ||
        !drv_option_take(&option, run_on, body, &error))
        return drv_cli_fail(error);
    g_autoptr(JsonObject) job = post(cli, argv[1], "/resolve", body, &error);
    if (job == NULL)
        return drv_cli_fail(error);
    const char *id = drv_json_string(job, "job", argv[1]);
    if (json)
        drv_cli_print_json(job);
    else
        printf("job %s is %s; the VM shall run at the %s\n", id, drv_json_string(job, "state", "?"),
               g_str_equal(run_on, "dest") ? "destination" : "source");
    return DRV_EXIT_DONE;
}
