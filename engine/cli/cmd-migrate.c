/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "common/json.h"
#include "engine/cli/command.h"
#include "engine/cli/migrate-off.h"
#include "engine/cli/options.h"

#define DEFAULT_DOWNTIME_MS 300 /* the daemon's, too */

static const DrvOption options[] = {
    {"qmp", "qmp", DRV_OPTION_PATH, .required = TRUE},
    {"to", "to", DRV_OPTION_TEXT, .required = TRUE},
    {"dest-qmp", "dest_qmp", DRV_OPTION_PATH, .required = TRUE},
    {"name", "name", DRV_OPTION_TEXT},
    {"lanes", "lanes", DRV_OPTION_COUNT, .min = 1, .max = 16},
    {"codec", "codec", DRV_OPTION_CHOICE, .choices = {"auto", "none", "lz4", "zstd"}},
    {"mode", "mode", DRV_OPTION_CHOICE, .choices = {"auto", "relay", "direct"}},
    {"dedup-memory", "dedup_memory", DRV_OPTION_BYTES, .min = 65536,
     .max = G_GUINT64_CONSTANT(16) << 30, .zero = "no duplicates are found"},
    {"multifd", "multifd", DRV_OPTION_COUNT, .min = 0, .max = 255},
    {"bandwidth", "bandwidth", DRV_OPTION_BYTES, .min = 65536, .max = G_GUINT64_CONSTANT(1) << 40,
     .zero = "unlimited"},
    {"downtime", "downtime_ms", DRV_OPTION_MS, .min = 1, .max = 2000000},
    {"max-downtime", "max_downtime_ms", DRV_OPTION_MS, .min = 1, .max = 2000000},
    {"converge", "converge", DRV_OPTION_CHOICE, .choices = {"wait", "throttle", "give-up"}},
    {"timeout", "timeout_s", DRV_OPTION_SECONDS, .min = 1, .max = 30 * 86400, .zero = "none"},
    {"verify", "verify", DRV_OPTION_CHOICE, .choices = {"stream", "memory", "none"}},
    {"disks", "disks", DRV_OPTION_CHOICE, .choices = {"none", "mirror"}},
    {"disks-chain", "disks_chain", DRV_OPTION_CHOICE, .choices = {"flatten", "keep"}},
    {"drop-timeout", "drop_timeout_s", DRV_OPTION_SECONDS, .min = 1, .max = 86400},
};

enum {
    QMP,
    TO,
    DEST_QMP,
    NAME,
    LANES,
    CODEC,
    MODE,
    DEDUP_MEMORY,
    MULTIFD,
    BANDWIDTH,
    DOWNTIME,
    MAX_DOWNTIME,
    CONVERGE,
    TIMEOUT,
    VERIFY,
    DISKS,
    DISKS_CHAIN,
    DROP_TIMEOUT,
    COUNT
};

G_STATIC_ASSERT(G_N_ELEMENTS(options) == COUNT);

#define HELP                                                                                       \
    "Moves a running VM: its QEMU is the one at --qmp, and goes on as the one that waits at\n"     \
    "--dest-qmp, on the host whose droverd is at --to. Interrupt it once to cancel: the VM "       \
    "stays\n"                                                                                      \
    "at the source. A VM that is off moves with --off and a --disk for each of its images, "       \
    "which\n"                                                                                      \
    "are copied; those here stay. Exit status: 0 it runs at the destination, 1 failed, 2 wrong\n"  \
    "use, 3 in doubt or not known, 4 cancelled."

typedef struct {
    char *text[COUNT];
    gboolean keep_source, disks_overwrite, disks_delta, json;
    char *reconnect;
    gboolean off;
    char **disks, **base;
    char *dest_dir, *format, *dest_format, *since;
} Given;

static gboolean
parse(DrvCli *cli, Given *given, int argc, char **argv, GError **error)
{
    char **text = given->text;
    const GOptionEntry entries[] = {
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME, &text[QMP], "The source QEMU's QMP socket", "SOCKET"},
        {"to", 0, 0, G_OPTION_ARG_STRING, &text[TO], "The destination's droverd", "ADDR:PORT"},
        {"dest-qmp", 0, 0, G_OPTION_ARG_FILENAME, &text[DEST_QMP],
         "The QMP socket, over there, of a QEMU started with -incoming defer -S", "SOCKET"},
        {"name", 0, 0, G_OPTION_ARG_STRING, &text[NAME], "What to call the VM", "VM"},
        {"json", 0, 0, G_OPTION_ARG_NONE, &given->json, "End with the report as JSON on stdout",
         NULL},
        {"lanes", 0, 0, G_OPTION_ARG_STRING, &text[LANES], "Connections, 1 to 16", "N"},
        {"codec", 0, 0, G_OPTION_ARG_STRING, &text[CODEC], "auto, none, lz4 or zstd", "CODEC"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &text[MODE], "auto, relay or direct", "MODE"},
        {"dedup-memory", 0, 0, G_OPTION_ARG_STRING, &text[DEDUP_MEMORY],
         "Memory for finding duplicate pages, also of other VMs; 0: none are found", "BYTES"},
        {"multifd", 0, 0, G_OPTION_ARG_STRING, &text[MULTIFD],
         "QEMU's multifd channels, 0 (none) to 255", "N"},
        {"bandwidth", 0, 0, G_OPTION_ARG_STRING, &text[BANDWIDTH],
         "Most bytes a second, as in 100M; 0: unlimited", "BYTES/S"},
        {"downtime", 0, 0, G_OPTION_ARG_STRING, &text[DOWNTIME],
         "How long the VM may be down, in ms (300)", "MS"},
        {"max-downtime", 0, 0, G_OPTION_ARG_STRING, &text[MAX_DOWNTIME],
         "How long it may become, if it does not converge otherwise", "MS"},
        {"converge", 0, 0, G_OPTION_ARG_STRING, &text[CONVERGE],
         "wait (default), throttle or give-up, when the VM writes too fast", "HOW"},
        {"timeout", 0, 0, G_OPTION_ARG_STRING, &text[TIMEOUT],
         "Give up after so many seconds, or as in 10m", "S"},
        {"verify", 0, 0, G_OPTION_ARG_STRING, &text[VERIFY], "stream (default), memory or none",
         "WHAT"},
        {"disks", 0, 0, G_OPTION_ARG_STRING, &text[DISKS], "none (default) or mirror", "HOW"},
        {"disks-chain", 0, 0, G_OPTION_ARG_STRING, &text[DISKS_CHAIN],
         "Of backing files: flatten (default) or keep", "HOW"},
        {"disks-overwrite", 0, 0, G_OPTION_ARG_NONE, &given->disks_overwrite,
         "Also disks that hold data at the destination", NULL},
        {"disks-delta", 0, 0, G_OPTION_ARG_NONE, &given->disks_delta,
         "The destination's disks hold older versions: send only what differs", NULL},
        {"drop-timeout", 0, 0, G_OPTION_ARG_STRING, &text[DROP_TIMEOUT],
         "How long a lost link is waited for (60)", "S"},
        {"keep-source", 0, 0, G_OPTION_ARG_NONE, &given->keep_source,
         "Leave the source's QEMU there, stopped", NULL},
        {"reconnect", 0, 0, G_OPTION_ARG_STRING, &given->reconnect,
         "How long to wait for a droverd that went away (30)", "S"},
        {"off", 0, 0, G_OPTION_ARG_NONE, &given->off,
         "The VM is off: move its disk images, with --disk", NULL},
        {"disk", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &given->disks,
         "With --off, for each disk: its image, and where it is to be over there", "IMAGE[=PATH]"},
        {"dest-dir", 0, 0, G_OPTION_ARG_FILENAME, &given->dest_dir,
         "With --off: the folder over there for those without a PATH", "FOLDER"},
        {"format", 0, 0, G_OPTION_ARG_STRING, &given->format,
         "With --off: the images', as QEMU sees it where not given", "FORMAT"},
        {"dest-format", 0, 0, G_OPTION_ARG_STRING, &given->dest_format,
         "With --off: theirs over there, as here where not given", "FORMAT"},
        {"since", 0, 0, G_OPTION_ARG_STRING, &given->since,
         "With --off: reads only what this bitmap in each image says was changed since --base",
         "BITMAP"},
        {"base", 0, 0, G_OPTION_ARG_STRING_ARRAY, &given->base,
         "With --since, for each disk, in their order: the digest that its copy reported",
         "DIGEST"},
        G_OPTION_ENTRY_NULL,
    };
    return drv_cli_parse(cli, entries,
                         "--to ADDR:PORT --qmp SOCKET --dest-qmp SOCKET|--off --disk IMAGE", HELP,
                         0, 0, &argc, &argv, error);
}

static JsonObject *
make_spec(const Given *given, GError **error)
{
    g_autoptr(JsonObject) spec = json_object_new();
    if (!drv_options_take(options, COUNT, (const char *const *)given->text, spec, error))
        return NULL;
    if (given->keep_source)
        json_object_set_boolean_member(spec, "keep_source", TRUE);
    if (given->disks_overwrite)
        json_object_set_boolean_member(spec, "disks_overwrite", TRUE);
    if (given->disks_delta)
        json_object_set_boolean_member(spec, "disks_delta", TRUE);
    return g_steal_pointer(&spec);
}

static int
migrate(DrvCli *cli, const Given *given, GError **error)
{
    DrvFollowOptions how = {.cancels = TRUE};
    g_autoptr(JsonObject) spec = make_spec(given, error);
    if (spec == NULL || !drv_option_reconnect(given->reconnect, &how.reconnect_s, error))
        return -1;
    return drv_command_run(cli, "/v1/migrate", spec, &how, given->json,
                           drv_json_number(spec, "downtime_ms", DEFAULT_DOWNTIME_MS), error);
}

/* An option that would be without effect is a mistake. */
static gboolean
check_off(const Given *given, GError **error)
{
    static const int shared[] = {TO, NAME, LANES, BANDWIDTH, DROP_TIMEOUT};
    const char *wrong = given->keep_source       ? "keep-source"
                        : given->disks_overwrite ? "disks-overwrite"
                                                 : NULL;
    if (!given->off) {
        wrong = given->disks != NULL         ? "disk"
                : given->dest_format != NULL ? "dest-format"
                : given->dest_dir != NULL    ? "dest-dir"
                : given->format != NULL      ? "format"
                : given->since != NULL       ? "since"
                : given->base != NULL        ? "base"
                                             : NULL;
        if (wrong != NULL)
            g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                        "--%s is for a VM that is off: give --off, too, or leave it out", wrong);
        return wrong == NULL;
    }
    for (int i = 0; i < COUNT && wrong == NULL; i++) {
        gboolean allowed = given->text[i] == NULL;
        for (guint k = 0; k < G_N_ELEMENTS(shared); k++)
            allowed = allowed || i == shared[k];
        wrong = allowed ? NULL : options[i].name;
    }
    if (wrong != NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--%s is for a VM whose QEMU runs: leave it out with --off", wrong);
    return wrong == NULL;
}

static int
migrate_off(DrvCli *cli, const Given *given, GError **error)
{
    const DrvOffParams params = {
        .disks = given->disks,
        .dest_dir = given->dest_dir,
        .to = given->text[TO],
        .name = given->text[NAME],
        .format = given->format,
        .dest_format = given->dest_format,
        .since = given->since,
        .base = given->base,
        .lanes = given->text[LANES],
        .bandwidth = given->text[BANDWIDTH],
        .drop_timeout = given->text[DROP_TIMEOUT],
        .reconnect = given->reconnect,
        .json = given->json,
    };
    return drv_cli_migrate_off(cli, &params, error);
}

int
drv_cmd_migrate(DrvCli *cli, int argc, char **argv)
{
    Given given = {0};
    g_autoptr(GError) error = NULL;
    int status = -1;
    if (parse(cli, &given, argc, argv, &error) && check_off(&given, &error))
        status = given.off ? migrate_off(cli, &given, &error) : migrate(cli, &given, &error);
    for (guint i = 0; i < COUNT; i++)
        g_free(given.text[i]);
    g_free(given.reconnect);
    g_strfreev(given.disks);
    g_free(given.dest_dir);
    g_free(given.format);
    g_free(given.dest_format);
    g_free(given.since);
    g_strfreev(given.base);
    return error != NULL ? drv_cli_fail(error) : status;
}
