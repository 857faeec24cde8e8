/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <unistd.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/common.h"
#include "engine/cli/display.h"
#include "engine/cli/render.h"

/* The commands that only look: jobs, show, status. */

static double
now_s(void)
{
    return (double)g_get_real_time() / G_USEC_PER_SEC;
}

/* Asks one question. 'path' is owned by the caller. */
static JsonObject *
ask(DrvCli *cli, const char *path, GError **error)
{
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    return client != NULL ? drv_client_call(client, "GET", path, NULL, NULL, error) : NULL;
}

static void
print_table(JsonObject *reply)
{
    JsonArray *jobs = drv_json_array(reply, "jobs");
    if (jobs == NULL || json_array_get_length(jobs) == 0) {
        fputs("no jobs\n", stderr);
        return;
    }
    g_autofree char *table = drv_render_table(jobs, now_s(), drv_display_width(STDOUT_FILENO));
    fputs(table, stdout);
}

int
drv_cmd_jobs(DrvCli *cli, int argc, char **argv)
{
    gboolean json = FALSE;
    int limit = 50;
    const GOptionEntry entries[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
        {"limit", 0, 0, G_OPTION_ARG_INT, &limit, "The newest N only, 1 to 1000 (50)", "N"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    if (!drv_cli_parse(cli, entries, "", "Lists the jobs that this host's droverd knows.", 0, 0,
                       &argc, &argv, &error))
        return drv_cli_fail(error);
    if (limit < 1 || limit > 1000) {
        g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--limit is '%d': it must be from 1 to 1000", limit);
        return drv_cli_fail(error);
    }
    g_autofree char *path = g_strdup_printf("/v1/jobs?limit=%d", limit);
    g_autoptr(JsonObject) reply = ask(cli, path, &error);
    if (reply == NULL)
        return drv_cli_fail(error);
    if (json)
        drv_cli_print_json(reply);
    else
        print_table(reply);
    return DRV_EXIT_DONE;
}

int
drv_cmd_show(DrvCli *cli, int argc, char **argv)
{
    gboolean json = FALSE;
    const GOptionEntry entries[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    if (!drv_cli_parse(cli, entries, "ID",
                       "Tells all about a job. The beginning of its ID is enough.", 1, 1, &argc,
                       &argv, &error))
        return drv_cli_fail(error);
    g_autoptr(DrvClient) client = drv_cli_connect(cli, &error);
    g_autofree char *id = client != NULL ? drv_cli_find_job(client, argv[1], &error) : NULL;
    if (id == NULL)
        return drv_cli_fail(error);
    g_autofree char *path = drv_client_job_path(id, "");
    g_autoptr(JsonObject) job = drv_client_call(client, "GET", path, NULL, NULL, &error);
    if (job == NULL)
        return drv_cli_fail(error);
    if (json) {
        drv_cli_print_json(job);
    } else {
        g_autofree char *report = drv_render_report(job, now_s());
        fputs(report, stdout);
    }
    return DRV_EXIT_DONE;
}

int
drv_cmd_status(DrvCli *cli, int argc, char **argv)
{
    gboolean json = FALSE;
    const GOptionEntry entries[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    if (!drv_cli_parse(cli, entries, "", "Tells how this host's droverd is.", 0, 0, &argc, &argv,
                       &error))
        return drv_cli_fail(error);
    g_autoptr(JsonObject) status = ask(cli, "/v1/status", &error);
    if (status == NULL)
        return drv_cli_fail(error);
    if (json) {
        drv_cli_print_json(status);
    } else {
        g_autofree char *text = drv_render_status(status);
        fputs(text, stdout);
    }
    return DRV_EXIT_DONE;
}
