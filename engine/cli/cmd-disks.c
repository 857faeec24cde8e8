/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/error.h"
#include "engine/cli/command.h"
#include "engine/cli/options.h"

static const DrvOption options[] = {
    {"qmp", "qmp", DRV_OPTION_PATH, .required = TRUE},
    {"to", "to", DRV_OPTION_TEXT},
    {"chain", "chain", DRV_OPTION_CHOICE, .choices = {"flatten", "keep"}},
    {"dest-dir", "dest_dir", DRV_OPTION_TEXT},
    {"dest-format", "dest_format", DRV_OPTION_TEXT},
};

enum { QMP, TO, CHAIN, DEST_DIR, DEST_FORMAT, COUNT };

G_STATIC_ASSERT(G_N_ELEMENTS(options) == COUNT);

#define HELP                                                                                       \
    "Lists a VM's disks: where they are, how large, and whether 'migrate --disks mirror' moves\n"  \
    "them. With --to also what there is of them at another host; with --create, what is absent\n"  \
    "there is made: blank, of the same size, format and options, for the QEMU that is going to\n"  \
    "wait for the VM. All are made or none, and what is there is never written to. Exit status:\n" \
    "0 done, 1 failed, 2 wrong use, 4 cancelled."

typedef struct {
    char *text[COUNT];
    char **dest;
    gboolean create, json;
} Given;

static gboolean
parse(DrvCli *cli, Given *given, int argc, char **argv, GError **error)
{
    char **text = given->text;
    const GOptionEntry entries[] = {
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME, &text[QMP], "The VM's QMP socket", "SOCKET"},
        {"to", 0, 0, G_OPTION_ARG_STRING, &text[TO], "The destination's droverd", "ADDR:PORT"},
        {"create", 0, 0, G_OPTION_ARG_NONE, &given->create, "Make the images that are absent there",
         NULL},
        {"dest-dir", 0, 0, G_OPTION_ARG_FILENAME, &text[DEST_DIR],
         "The folder of the images there; the same as here where not given", "DIR"},
        {"dest", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &given->dest,
         "The path of one disk's image there; may be repeated", "DISK=PATH"},
        {"dest-format", 0, 0, G_OPTION_ARG_STRING, &text[DEST_FORMAT],
         "Their format there; the same as here where not given", "FORMAT"},
        {"chain", 0, 0, G_OPTION_ARG_STRING, &text[CHAIN],
         "flatten (default), or keep: with the same backing files, which are there", "HOW"},
        {"json", 0, 0, G_OPTION_ARG_NONE, &given->json, "Print JSON", NULL},
        G_OPTION_ENTRY_NULL,
    };
    return drv_cli_parse(cli, entries, "--qmp SOCKET [--to ADDR:PORT]", HELP, 0, 0, &argc, &argv,
                         error);
}

/* The other host has no working directory of ours. */
static gboolean
check_absolute(const char *option, const char *path, GError **error)
{
    if (g_path_is_absolute(path))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "--%s '%s' must be an absolute path on the other host", option, path);
    return FALSE;
}

/* A disk may have a '=' in its name, an absolute path begins after the last "=/". */
static gboolean
take_dest(JsonObject *paths, const char *text, GError **error)
{
    const char *equals = g_strrstr(text, "=/");
    if (equals == NULL || equals == text || !g_utf8_validate(text, -1, NULL)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--dest '%s' must be DISK=PATH with an absolute path on the other host", text);
        return FALSE;
    }
    g_autofree char *name = g_strndup(text, (gsize)(equals - text));
    json_object_set_string_member(paths, name, equals + 1);
    return TRUE;
}

static JsonObject *
make_spec(const Given *given, GError **error)
{
    g_autoptr(JsonObject) spec = json_object_new();
    if (!drv_options_take(options, COUNT, (const char *const *)given->text, spec, error))
        return NULL;
    if (given->text[DEST_DIR] != NULL && !check_absolute("dest-dir", given->text[DEST_DIR], error))
        return NULL;
    if (given->create)
        json_object_set_boolean_member(spec, "create", TRUE);
    if (given->dest == NULL)
        return g_steal_pointer(&spec);
    JsonObject *paths = json_object_new();
    json_object_set_object_member(spec, "dest", paths);
    for (guint i = 0; given->dest[i] != NULL; i++) {
        if (!take_dest(paths, given->dest[i], error))
            return NULL;
    }
    return g_steal_pointer(&spec);
}

static gboolean
check_to(const Given *given, GError **error)
{
    if (given->text[TO] != NULL ||
        !(given->create || given->dest != NULL || given->text[DEST_DIR] != NULL ||
          given->text[DEST_FORMAT] != NULL))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "--to is missing: say at which host the images are to be");
    return FALSE;
}

static int
disks(DrvCli *cli, const Given *given, GError **error)
{
    g_autoptr(JsonObject) spec = check_to(given, error) ? make_spec(given, error) : NULL;
    if (spec == NULL)
        return -1;
    return drv_command_run(cli, "/v1/disks", spec, &drv_command_looks, given->json, 0, error);
}

int
drv_cmd_disks(DrvCli *cli, int argc, char **argv)
{
    Given given = {0};
    g_autoptr(GError) error = NULL;
    int status = parse(cli, &given, argc, argv, &error) ? disks(cli, &given, &error) : -1;
    for (guint i = 0; i < COUNT; i++)
        g_free(given.text[i]);
    g_strfreev(given.dest);
    return error != NULL ? drv_cli_fail(error) : status;
}
