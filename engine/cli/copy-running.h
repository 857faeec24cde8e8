/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/cli/cli.h"

/*
 * 'drover copy --qmp' of several disks of a running guest.
 */
typedef struct {
    char **disks;         /* "ID" or "ID=/PATH" over there; NULL: all that the guest writes to */
    const char *dest_dir; /* where those without a path go; NULL: to the same path as here */
    JsonObject *common;   /* of each job's specification, with "qmp" */
    guint reconnect_s;
    gboolean json;
} DrvCopyRunningParams;

/* The exit status; -1 with 'error' where not all could be begun. */
int drv_cli_copy_running(DrvCli *cli, const DrvCopyRunningParams *params, GError **error);
