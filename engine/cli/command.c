/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/command.h"

const DrvFollowOptions drv_command_looks = {.cancels = TRUE, .reconnect_s = 1};

int
drv_command_run(DrvCli *cli, const char *path, JsonObject *spec, const DrvFollowOptions *how,
                gboolean json, double promise_ms, GError **error)
{
    g_autoptr(DrvClient) client = drv_cli_connect(cli, error);
    if (client == NULL)
        return -1;
    g_autoptr(DrvFollow) follow = drv_follow_new(client, how);
    g_autofree char *id = drv_follow_submit(follow, path, spec, error);
    if (id == NULL)
        return -1;
    g_autoptr(JsonObject) last = NULL;
    g_autoptr(GError) why = NULL;
    g_autoptr(JsonObject) job = drv_follow_run(follow, id, DRV_FOLLOW_TO_END, &last, &why);
    return drv_cli_tell_end(id, job != NULL ? job : last, why, json, promise_ms);
}
