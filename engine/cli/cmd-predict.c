/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "common/json.h"
#include "engine/cli/command.h"
#include "engine/cli/options.h"

/* A part of what migrate takes, with the same meaning. */
static const DrvOption options[] = {
    {"qmp", "qmp", DRV_OPTION_PATH, .required = TRUE},
    {"to", "to", DRV_OPTION_TEXT, .required = TRUE},
    {"name", "name", DRV_OPTION_TEXT},
    {"lanes", "lanes", DRV_OPTION_COUNT, .min = 1, .max = 16},
    {"codec", "codec", DRV_OPTION_CHOICE, .choices = {"auto", "none", "lz4", "zstd"}},
    {"mode", "mode", DRV_OPTION_CHOICE, .choices = {"auto", "relay", "direct"}},
    {"bandwidth", "bandwidth", DRV_OPTION_BYTES, .min = 65536, .max = G_GUINT64_CONSTANT(1) << 40,
     .zero = "unlimited"},
    {"downtime", "downtime_ms", DRV_OPTION_MS, .min = 1, .max = 2000000},
};

enum { QMP, TO, NAME, LANES, CODEC, MODE, BANDWIDTH, DOWNTIME, COUNT };

G_STATIC_ASSERT(G_N_ELEMENTS(options) == COUNT);

#define HELP                                                                                       \
    "Says whether a migration would converge, how long it would take and how long the VM would\n"  \
    "be down, each with a range and how sure that is. Looks at the VM for some seconds and "       \
    "sends\n"                                                                                      \
    "a burst over the link; nothing is changed. Exit status: 0 whatever is predicted, 1 failed,\n" \
    "2 wrong use, 4 cancelled."

static gboolean
parse(DrvCli *cli, char **text, gboolean *json, int argc, char **argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME, &text[QMP], "The VM's QMP socket", "SOCKET"},
        {"to", 0, 0, G_OPTION_ARG_STRING, &text[TO], "The destination's droverd", "ADDR:PORT"},
        {"name", 0, 0, G_OPTION_ARG_STRING, &text[NAME], "What to call the VM", "VM"},
        {"json", 0, 0, G_OPTION_ARG_NONE, json, "End with the prediction as JSON on stdout", NULL},
        {"lanes", 0, 0, G_OPTION_ARG_STRING, &text[LANES], "Connections, 1 to 16", "N"},
        {"codec", 0, 0, G_OPTION_ARG_STRING, &text[CODEC], "auto, none, lz4 or zstd", "CODEC"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &text[MODE], "auto, relay or direct", "MODE"},
        {"bandwidth", 0, 0, G_OPTION_ARG_STRING, &text[BANDWIDTH],
         "Most bytes a second, as in 100M; 0: unlimited", "BYTES/S"},
        {"downtime", 0, 0, G_OPTION_ARG_STRING, &text[DOWNTIME],
         "How long the VM may be down, in ms (300)", "MS"},
        G_OPTION_ENTRY_NULL,
    };
    return drv_cli_parse(cli, entries, "--qmp SOCKET --to ADDR:PORT", HELP, 0, 0, &argc, &argv,
                         error);
}

static JsonObject *
make_spec(char **text, GError **error)
{
    g_autoptr(JsonObject) spec = json_object_new();
    if (!drv_options_take(options, COUNT, (const char *const *)text, spec, error))
        return NULL;
    return g_steal_pointer(&spec);
}

static int
predict(DrvCli *cli, char **text, gboolean json, GError **error)
{
    g_autoptr(JsonObject) spec = make_spec(text, error);
    if (spec == NULL)
        return -1;
    return drv_command_run(cli, "/v1/predict", spec, &drv_command_looks, json, 0, error);
}

int
drv_cmd_predict(DrvCli *cli, int argc, char **argv)
{
    char *text[COUNT] = {NULL};
    gboolean json = FALSE;
    g_autoptr(GError) error = NULL;
    int status =
        parse(cli, text, &json, argc, argv, &error) ? predict(cli, text, json, &error) : -1;
    for (guint i = 0; i < COUNT; i++)
        g_free(text[i]);
    return error != NULL ? drv_cli_fail(error) : status;
}
