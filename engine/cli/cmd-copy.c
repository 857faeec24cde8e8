/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/cli/command.h"
#include "engine/cli/copy-running.h"
#include "engine/cli/options.h"

#include <string.h>

static const DrvOption options[] = {
    {"to", "to", DRV_OPTION_TEXT, .required = TRUE},
    {"qmp", "qmp", DRV_OPTION_PATH},
    {"bitmap", "bitmap", DRV_OPTION_TEXT},
    {"scratch", "scratch", DRV_OPTION_PATH},
    {"format", "format", DRV_OPTION_TEXT},
    {"dest-format", "dest_format", DRV_OPTION_TEXT},
    {"delta", "delta", DRV_OPTION_CHOICE, .choices = {"auto", "off"}},
    {"since", "since", DRV_OPTION_TEXT},
    {"base", "base", DRV_OPTION_TEXT},
    {"lanes", "lanes", DRV_OPTION_COUNT, .min = 1, .max = 16},
    {"bandwidth", "bandwidth", DRV_OPTION_BYTES, .min = 65536, .max = G_GUINT64_CONSTANT(1) << 40,
     .zero = "unlimited"},
    {"drop-timeout", "drop_timeout_s", DRV_OPTION_SECONDS, .min = 1, .max = 86400},
};

enum {
    TO,
    QMP,
    BITMAP,
    SCRATCH,
    FORMAT,
    DEST_FORMAT,
    DELTA,
    SINCE,
    BASE,
    LANES,
    BANDWIDTH,
    DROP_TIMEOUT,
    COUNT
};

G_STATIC_ASSERT(G_N_ELEMENTS(options) == COUNT);

/* Of one image. */
static const DrvOption dest_option = {"dest", "dest", DRV_OPTION_TEXT, .required = TRUE},
                       disk_option = {"disk", "disk", DRV_OPTION_TEXT};

#define HELP                                                                                       \
    "Copies the disk image IMAGE of a stopped VM to the host whose droverd is at --to, where it\n" \
    "appears at --dest when it is complete; or, with --qmp and --disk, a disk of a running VM "    \
    "as\n"                                                                                         \
    "it is at one moment, without the VM noticing. With --qmp and without --dest several disks "   \
    "are\n"                                                                                        \
    "copied one after the other, all that the VM writes to if there is no --disk; they get "       \
    "their\n"                                                                                      \
    "names over there together. What is there already, of an older version or of a copy that "     \
    "was\n"                                                                                        \
    "cut short, is not sent again. Interrupt it once to cancel. Exit status: 0 done, 1 failed, "   \
    "2\n"                                                                                          \
    "wrong use, 3 not known, 4 cancelled."

typedef struct {
    char *text[COUNT];
    char **options, **disks;
    char *dest, *dest_dir;
    gboolean compress, json;
    char *reconnect;
} Given;

static gboolean
parse(DrvCli *cli, Given *given, int *argc, char ***argv, GError **error)
{
    char **text = given->text;
    const GOptionEntry entries[] = {
        {"to", 0, 0, G_OPTION_ARG_STRING, &text[TO], "The destination's droverd", "ADDR:PORT"},
        {"dest", 0, 0, G_OPTION_ARG_FILENAME, &given->dest, "The path of the image over there",
         "PATH"},
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME, &text[QMP],
         "Of a running VM, whose disks are copied instead of IMAGE", "SOCKET"},
        {"disk", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &given->disks,
         "Which: the id of its drive or device, or its node's name; may be repeated", "ID[=PATH]"},
        {"dest-dir", 0, 0, G_OPTION_ARG_FILENAME, &given->dest_dir,
         "With --qmp: the folder over there for disks without a PATH; the same as here where not "
         "given",
         "FOLDER"},
        {"bitmap", 0, 0, G_OPTION_ARG_STRING, &text[BITMAP],
         "Begin this bitmap in the disk's qcow2 image, for --since another time", "NAME"},
        {"scratch", 0, 0, G_OPTION_ARG_FILENAME, &text[SCRATCH],
         "Where what the VM overwrites meanwhile is kept; droverd's state directory if not given",
         "FOLDER"},
        {"format", 0, 0, G_OPTION_ARG_STRING, &text[FORMAT],
         "IMAGE's; as QEMU sees it where not given", "FORMAT"},
        {"dest-format", 0, 0, G_OPTION_ARG_STRING, &text[DEST_FORMAT],
         "Over there; IMAGE's where not given", "FORMAT"},
        {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &given->options,
         "Of the format over there, as for qemu-img create", "NAME=VALUE,..."},
        {"compress", 0, 0, G_OPTION_ARG_NONE, &given->compress, "Compress every cluster of a qcow2",
         NULL},
        {"delta", 0, 0, G_OPTION_ARG_STRING, &text[DELTA],
         "auto (default), or off: nothing of an older version is used", "HOW"},
        {"since", 0, 0, G_OPTION_ARG_STRING, &text[SINCE],
         "Reads only what this bitmap in IMAGE says was changed since the copy of --base",
         "BITMAP"},
        {"base", 0, 0, G_OPTION_ARG_STRING, &text[BASE], "The digest which that copy reported",
         "DIGEST"},
        {"lanes", 0, 0, G_OPTION_ARG_STRING, &text[LANES], "Connections, 1 to 16", "N"},
        {"bandwidth", 0, 0, G_OPTION_ARG_STRING, &text[BANDWIDTH],
         "Most bytes a second, as in 100M; 0: unlimited", "BYTES/S"},
        {"drop-timeout", 0, 0, G_OPTION_ARG_STRING, &text[DROP_TIMEOUT],
         "How long a lost link is waited for (60)", "S"},
        {"reconnect", 0, 0, G_OPTION_ARG_STRING, &given->reconnect,
         "How long to wait for a droverd that went away (30)", "S"},
        {"json", 0, 0, G_OPTION_ARG_NONE, &given->json, "End with the report as JSON on stdout",
         NULL},
        G_OPTION_ENTRY_NULL,
    };
    return drv_cli_parse(cli, entries,
                         "--to ADDR:PORT IMAGE --dest PATH|--qmp SOCKET [--disk ID[=PATH]...]",
                         HELP, 0, 1, argc, argv, error);
}

/* What each image's copy has. */
static JsonObject *
make_common(const Given *given, GError **error)
{
    g_autoptr(JsonObject) spec = json_object_new();
    if (!drv_options_take(options, COUNT, (const char *const *)given->text, spec, error))
        return NULL;
    if (given->options != NULL) {
        g_autofree char *joined = g_strjoinv(",", given->options);
        json_object_set_string_member(spec, "options", joined);
    }
    if (given->compress)
        json_object_set_boolean_member(spec, "compress", TRUE);
    return g_steal_pointer(&spec);
}

/* An option that would be without effect is a mistake. */
static gboolean
check_one(const Given *given, GError **error)
{
    if (given->dest_dir != NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--dest-dir is for disks of running guests, and goes without --dest: leave one "
                    "of them out");
    else if (given->dest != NULL && !g_path_is_absolute(given->dest))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--dest '%s' must be an absolute path on the other host", given->dest);
    else if (given->disks != NULL &&
             (given->disks[1] != NULL || strstr(given->disks[0], "=/") != NULL))
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--dest is the path of one disk: leave it out, and give --disk ID=PATH for "
                    "each, or --dest-dir");
    else
        return TRUE;
    return FALSE;
}

/* The daemon's working directory is another, and the other host has none of ours. */
static gboolean
add_one(const Given *given, const char *image, JsonObject *spec, GError **error)
{
    if (image != NULL) {
        g_autofree char *absolute = g_canonicalize_filename(image, NULL);
        json_object_set_string_member(spec, "image", absolute);
    }
    return check_one(given, error) && drv_option_take(&dest_option, given->dest, spec, error) &&
           (given->disks == NULL || drv_option_take(&disk_option, given->disks[0], spec, error));
}

static int
copy(DrvCli *cli, const Given *given, const char *image, GError **error)
{
    DrvFollowOptions how = {.cancels = TRUE};
    gboolean several = image == NULL && given->text[QMP] != NULL && given->dest == NULL;
    g_autoptr(JsonObject) spec = make_common(given, error);
    if (spec == NULL || !drv_option_reconnect(given->reconnect, &how.reconnect_s, error) ||
        (!several && !add_one(given, image, spec, error)))
        return -1;
    if (!several)
        return drv_command_run(cli, "/v1/copies", spec, &how, given->json, 0, error);
    const DrvCopyRunningParams params = {given->disks, given->dest_dir, spec, how.reconnect_s,
                                         given->json};
    return drv_cli_copy_running(cli, &params, error);
}

int
drv_cmd_copy(DrvCli *cli, int argc, char **argv)
{
    Given given = {0};
    g_autoptr(GError) error = NULL;
    int status = -1;
    if (parse(cli, &given, &argc, &argv, &error))
        status = copy(cli, &given, argc > 1 ? argv[1] : NULL, &error);
    for (guint i = 0; i < COUNT; i++)
        g_free(given.text[i]);
    g_strfreev(given.options);
    g_strfreev(given.disks);
    g_free(given.dest);
    g_free(given.dest_dir);
    g_free(given.reconnect);
    return error != NULL ? drv_cli_fail(error) : status;
}
