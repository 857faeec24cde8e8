/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "common/error.h"
#include "engine/cli/common.h"
#include "engine/cli/units.h"

#define DEFAULT_API "/run/drover/api.sock"

static const struct {
    const char *name;
    int (*run)(DrvCli *cli, int argc, char **argv);
    const char *what;
} commands[] = {
    {"migrate", drv_cmd_migrate, "move a running VM to another host"},
    {"predict", drv_cmd_predict, "say how a migration would go"},
    {"copy", drv_cmd_copy, "copy a stopped VM's disk image to another host"},
    {"convert", drv_cmd_convert, "make a disk image of another, on this host"},
    {"disks", drv_cmd_disks, "list a VM's disks, and make images for them elsewhere"},
    {"jobs", drv_cmd_jobs, "list the jobs"},
    {"show", drv_cmd_show, "tell all about a job"},
    {"watch", drv_cmd_watch, "follow a job to its end"},
    {"cancel", drv_cmd_cancel, "cancel a job, or end a tunnel"},
    {"resolve", drv_cmd_resolve, "decide a job that is in doubt"},
    {"tunnel", drv_cmd_tunnel, "make one unix socket here another on another host"},
    {"numa", drv_cmd_numa, "tell this host's NUMA nodes, and where a VM is on them"},
    {"status", drv_cmd_status, "tell how the daemon is"},
    {"audit", drv_cmd_audit, "tell whether an audit log is whole"},
    {"pki", drv_cmd_pki, "make keys and certificates for hosts"},
};

static char *
list_commands(void)
{
    GString *text = g_string_new("Commands ('drover COMMAND --help' tells more):\n");
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++)
        g_string_append_printf(text, "  %-10s %s\n", commands[i].name, commands[i].what);
    g_string_append(text, "\nThe socket is --api, else $DROVER_API, else " DEFAULT_API ".");
    return g_string_free(text, FALSE);
}

static int
run(DrvCli *cli, int argc, char **argv, GError **error)
{
    if (argc < 2) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "no command was given: 'drover --help' lists them");
        return -1;
    }
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(commands[i].name, argv[1]))
            return commands[i].run(cli, argc - 1, argv + 1);
    }
    g_autofree char *shown = drv_format_text(argv[1], 40);
    g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                "there is no command '%s': 'drover --help' lists them", shown);
    return -1;
}

/* GLib would convert the help to the locale's encoding, which this program has not asked for. */
static void
print_as_it_is(const char *text)
{
    fputs(text, stdout);
}

int
drv_cli_main(int argc, char **argv)
{
    DrvCli cli = {0};
    gboolean version = FALSE;
    const GOptionEntry entries[] = {
        {"api", 0, 0, G_OPTION_ARG_FILENAME, &cli.api, "The daemon's API", "SOCKET"},
        {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Print the version", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GOptionContext) context = g_option_context_new("COMMAND ...");
    g_autofree char *list = list_commands();
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_strict_posix(context, TRUE); /* the rest is the command's */
    g_option_context_set_summary(context, "drover moves running virtual machines between hosts.");
    g_option_context_set_description(context, list);
    g_set_prgname("drover");
    g_set_print_handler(print_as_it_is);

    g_autoptr(GError) error = NULL;
    int status = DRV_EXIT_DONE;
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        error->message[0] = g_ascii_tolower(error->message[0]);
        fprintf(stderr, "drover: %s (see 'drover --help')\n", error->message);
        g_clear_error(&error);
        status = DRV_EXIT_USAGE;
    } else if (version) {
        puts("drover " DRV_VERSION);
    } else {
        if (cli.api == NULL)
            cli.api = g_strdup(g_getenv("DROVER_API"));
        if (cli.api == NULL)
            cli.api = g_strdup(DEFAULT_API);
        status = run(&cli, argc, argv, &error);
    }
    if (error != NULL)
        status = drv_cli_fail(error);
    g_free(cli.api);
    return status;
}
