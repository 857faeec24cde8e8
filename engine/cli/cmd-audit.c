/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "engine/cli/common.h"
#include "engine/cli/units.h"
#include "engine/host/audit.h"

#define HELP                                                                                       \
    "Tells whether a daemon's audit log (audit.log in its state directory) is whole: that no\n"    \
    "entry was changed, taken out or put in, and that its end was not cut off. With --digest,\n"   \
    "also that an entry with a digest that was noted earlier, on another host at best, is still\n" \
    "there. Needs no daemon.\n"                                                                    \
    "Exit status: 0 it is whole, 1 it is not, 2 wrong use."

static gboolean
is_digest(const char *text)
{
    return strlen(text) == DRV_AUDIT_DIGEST &&
           strspn(text, "0123456789abcdefABCDEF") == DRV_AUDIT_DIGEST;
}

int
drv_cmd_audit(DrvCli *cli, int argc, char **argv)
{
    g_autofree char *noted = NULL;
    const GOptionEntry entries[] = {
        {"digest", 0, 0, G_OPTION_ARG_STRING, &noted, "Of an entry that must be there", "DIGEST"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    DrvAuditEnd end;
    if (!drv_cli_parse(cli, entries, "verify FILE", HELP, 2, 2, &argc, &argv, &error))
        return drv_cli_fail(error);
    g_autofree char *path = drv_format_text(argv[2], 255);
    if (!g_str_equal(argv[1], "verify"))
        g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE,
                    "there is no 'audit %s': it is 'drover audit verify FILE'", argv[1]);
    else if (noted != NULL && !is_digest(noted))
        g_set_error(&error, DRV_ERROR, DRV_ERROR_USAGE,
                    "--digest must be the %d hexadecimal digits that 'drover audit verify' told "
                    "earlier",
                    DRV_AUDIT_DIGEST);
    else if (drv_audit_verify(argv[2], noted, &end, &error))
        printf("%s is whole: %" G_GUINT64_FORMAT " entries, the last one's digest is %s\n", path,
               end.entries, end.digest);
    return error != NULL ? drv_cli_fail(error) : DRV_EXIT_DONE;
}
