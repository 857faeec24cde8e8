/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/command.h"
#include "engine/cli/options.h"
#include "engine/cli/render.h"

#define HELP                                                                                       \
    "Tells this host's NUMA nodes: CPUs, memory, huge pages, network cards, and where droverd's\n" \
    "data threads are. With --qmp also where a VM is on them: the pages of its memory and the\n"   \
    "CPUs of its virtual CPUs. Nothing is changed."

static int
tell_host(DrvCli *cli, gboolean json, GError **error)
{
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    g_autoptr(JsonObject) host =
        client != NULL ? drv_client_call(client, "GET", "/v1/numa", NULL, NULL, error) : NULL;
    if (host == NULL)
        return -1;
    if (json) {
        drv_cli_print_json(host);
    } else {
        g_autofree char *text = drv_render_numa(host);
        fputs(text, stdout);
    }
    return DRV_EXIT_DONE;
}

static int
tell_guest(DrvCli *cli, const char *qmp, gboolean json, GError **error)
{
    static const DrvOption option = {"qmp", "qmp", DRV_OPTION_PATH, .required = TRUE};
    g_autoptr(JsonObject) spec = json_object_new();
    if (!drv_option_take(&option, qmp, spec, error))
        return -1;
    return drv_command_run(cli, "/v1/numa", spec, &drv_command_looks, json, 0, error);
}

int
drv_cmd_numa(DrvCli *cli, int argc, char **argv)
{
    gboolean json = FALSE;
    g_autofree char *qmp = NULL;
    const GOptionEntry entries[] = {
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME, &qmp, "A VM's QMP socket on this host", "SOCKET"},
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    int status = -1;
    if (drv_cli_parse(cli, entries, "[--qmp SOCKET]", HELP, 0, 0, &argc, &argv, &error))
        status = qmp != NULL ? tell_guest(cli, qmp, json, &error) : tell_host(cli, json, &error);
    return error != NULL ? drv_cli_fail(error) : status;
}
