/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "common/error.h"
#include "engine/cli/common.h"
#include "engine/cli/units.h"
#include "engine/host/pki.h"

#define HELP                                                                                       \
    "Makes DIR/ca.pem, a private authority, and a key and certificate a host in DIR/NAME, where\n" \
    "NAME and each ADDR (a host name or an IP address) are what other hosts reach it by. Copy\n"   \
    "DIR/NAME to that host, for droverd's --pki. DIR/ca-key.pem stays here, and is used when\n"    \
    "hosts are added later."

static void
tell(const char *dir, char **hosts)
{
    for (guint i = 0; hosts[i] != NULL; i++) {
        g_auto(GStrv) parts = g_strsplit(hosts[i], "=", 2);
        g_autofree char *name = drv_format_text(parts[0], 255);
        printf("%s/%s: copy it to %s, for droverd --pki\n", dir, name, name);
    }
}

int
drv_cmd_pki(DrvCli *cli, int argc, char **argv)
{
    g_auto(GStrv) hosts = NULL;
    const GOptionEntry entries[] = {
        {"host", 0, 0, G_OPTION_ARG_STRING_ARRAY, &hosts, "A host; may be given several times",
         "NAME[=ADDR,...]"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    if (!drv_cli_parse(cli, entries, "init DIR --host NAME[=ADDR,...]", HELP, 2, 2, &argc, &argv,
                       &error))
        return drv_cli_fail(error);
    if (!g_str_equal(argv[1], "init")) {
        g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE,
                    "there is no 'pki %s': it is 'drover pki init DIR --host NAME[=ADDR,...]'",
                    argv[1]);
        return drv_cli_fail(error);
    }
    if (hosts == NULL) {
        g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--host is missing: name at least one host, as NAME or NAME=ADDR,ADDR...");
        return drv_cli_fail(error);
    }
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    for (guint i = 0; hosts[i] != NULL; i++)
        g_ptr_array_add(list, hosts[i]);
    if (!drv_pki_init(argv[2], list, &error)) {
        drv_cli_fail(error);
        return DRV_EXIT_USAGE; /* whatever it was, no VM is concerned */
    }
    tell(argv[2], hosts);
    return DRV_EXIT_DONE;
}
