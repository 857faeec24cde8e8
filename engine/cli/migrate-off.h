/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/cli/cli.h"

#include <glib.h>

/*
 * 'drover migrate --off': the disk images of a VM whose QEMU does not run, each by a copy job of
 * its own, followed and told of as one.
 */
typedef struct {
    char **disks;   /* "IMAGE" or "IMAGE=/PATH" over there; NULL: none given */
    char **base;    /* the digest of each, for 'since'; NULL: none given */
    char *dest_dir; /* where those without a path go; NULL: to the same path as here */
    const char *to, *name, *format, *dest_format, *since, *lanes, *bandwidth, *drop_timeout,
        *reconnect; /* or NULL */
    gboolean json;
} DrvOffParams;

/* The exit status; -1 with 'error' where not all could be begun. */
int drv_cli_migrate_off(DrvCli *cli, const DrvOffParams *params, GError **error);
