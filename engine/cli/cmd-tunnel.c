/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/cli/common.h"
#include "engine/cli/follow.h"
#include "engine/cli/options.h"
#include "engine/cli/render.h"

static const DrvOption options[] = {
    {"listen", "listen", DRV_OPTION_PATH, .required = TRUE},
    {"to", "to", DRV_OPTION_TEXT, .required = TRUE},
    {"connect", "connect", DRV_OPTION_PATH, .required = TRUE},
};

#define HELP                                                                                       \
    "Makes the unix socket --listen here another end of the unix socket --connect on the host\n"   \
    "whose droverd is at --to. Returns when it serves; droverd keeps it until 'drover cancel'.\n"  \
    "With --foreground it lives as long as this command, and an interrupt ends it."

/* Past its preparation, a tunnel serves; one that is final already has failed. */
static int
tell_start(const char *id, JsonObject *job, gboolean json, JsonObject *spec)
{
    if (drv_json_flag(job, "final", FALSE))
        return drv_cli_tell_end(id, job, NULL, json, 0);
    if (json)
        drv_cli_print_json(job);
    else
        printf("tunnel %s: %s leads to %s at %s ('drover cancel %s' ends it)\n", id,
               drv_json_string(spec, "listen", "?"), drv_json_string(spec, "connect", "?"),
               drv_json_string(spec, "to", "?"), id);
    return DRV_EXIT_DONE;
}

/* Ended as it was asked to: for a tunnel in the foreground that is its success. */
static int
tell_end(const char *id, JsonObject *job, JsonObject *last, const GError *why, gboolean json)
{
    if (why == NULL && g_str_equal(drv_json_string(job, "state", ""), "cancelled")) {
        g_autofree char *outcome = drv_render_outcome(job);
        fprintf(stderr, "%s\n", outcome);
        if (json)
            drv_cli_print_json(job);
        return DRV_EXIT_DONE;
    }
    return drv_cli_tell_end(id, job != NULL ? job : last, why, json, 0);
}

static int
run(DrvClient *client, JsonObject *spec, gboolean foreground, gboolean json, GError **error)
{
    DrvFollowOptions how = {.cancels = TRUE, .reconnect_s = DRV_FOLLOW_RECONNECT_S};
    g_autoptr(DrvFollow) follow = drv_follow_new(client, &how);
    g_autofree char *id = drv_follow_submit(follow, "/v1/tunnels", spec, error);
    if (id == NULL)
        return -1;
    g_autoptr(JsonObject) last = NULL;
    g_autoptr(GError) why = NULL;
    g_autoptr(JsonObject) start = drv_follow_run(follow, id, DRV_FOLLOW_TO_SERVE, &last, &why);
    if (start == NULL)
        return drv_cli_tell_end(id, last, why, json, 0);
    if (!foreground || drv_json_flag(start, "final", FALSE))
        return tell_start(id, start, json, spec);
    fprintf(stderr, "tunnel %s serves %s\n", id, drv_json_string(spec, "listen", "?"));
    g_autoptr(JsonObject) end = drv_follow_run(follow, id, DRV_FOLLOW_TO_END, &last, &why);
    return tell_end(id, end, last, why, json);
}

int
drv_cmd_tunnel(DrvCli *cli, int argc, char **argv)
{
    g_autofree char *listen = NULL, *to = NULL, *connect = NULL;
    gboolean json = FALSE, foreground = FALSE;
    const GOptionEntry entries[] = {
        {"listen", 0, 0, G_OPTION_ARG_FILENAME, &listen, "The socket to make here", "SOCKET"},
        {"to", 0, 0, G_OPTION_ARG_STRING, &to, "The other host's droverd", "ADDR:PORT"},
        {"connect", 0, 0, G_OPTION_ARG_FILENAME, &connect, "The socket over there", "SOCKET"},
        {"foreground", 0, 0, G_OPTION_ARG_NONE, &foreground, "Stay, and end it with this command",
         NULL},
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print the job as JSON", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    if (!drv_cli_parse(cli, entries, "--listen SOCKET --to ADDR:PORT --connect SOCKET", HELP, 0, 0,
                       &argc, &argv, &error))
        return drv_cli_fail(error);
    const char *given[G_N_ELEMENTS(options)] = {listen, to, connect};
    g_autoptr(JsonObject) spec = json_object_new();
    if (!drv_options_take(options, G_N_ELEMENTS(options), given, spec, &error))
        return drv_cli_fail(error);
    g_autoptr(DrvClient) client = drv_cli_connect(cli, &error);
    int status = client != NULL ? run(client, spec, foreground, json, &error) : -1;
    return error != NULL ? drv_cli_fail(error) : status;
}
