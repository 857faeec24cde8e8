/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/cli/client.h"

/* The drover command. All of it, but for 'pki init' and
 * 'audit verify', goes through the daemon's API. */

typedef enum {
    DRV_EXIT_DONE = 0,      /* as asked; of a migration: the VM runs at the destination */
    DRV_EXIT_FAILED = 1,    /* of a migration: the VM still runs at the source */
    DRV_EXIT_USAGE = 2,     /* nothing was touched */
    DRV_EXIT_IN_DOUBT = 3,  /* the end is not known */
    DRV_EXIT_CANCELLED = 4, /* the VM runs at the source */
} DrvExit;

/* What every command is given. */
typedef struct {
    char *api; /* the socket; owned */
} DrvCli;

/* Runs the command in argv, and returns the exit status of the process. argv's array is changed. */
int drv_cli_main(int argc, char **argv);

/* Commands. argv[0] is the command's name. */
int drv_cmd_migrate(DrvCli *cli, int argc, char **argv);
int drv_cmd_convert(DrvCli *cli, int argc, char **argv);
int drv_cmd_copy(DrvCli *cli, int argc, char **argv);
int drv_cmd_predict(DrvCli *cli, int argc, char **argv);
int drv_cmd_tunnel(DrvCli *cli, int argc, char **argv);
int drv_cmd_jobs(DrvCli *cli, int argc, char **argv);
int drv_cmd_show(DrvCli *cli, int argc, char **argv);
int drv_cmd_watch(DrvCli *cli, int argc, char **argv);
int drv_cmd_cancel(DrvCli *cli, int argc, char **argv);
int drv_cmd_resolve(DrvCli *cli, int argc, char **argv);
int drv_cmd_numa(DrvCli *cli, int argc, char **argv);
int drv_cmd_disks(DrvCli *cli, int argc, char **argv);
int drv_cmd_status(DrvCli *cli, int argc, char **argv);
int drv_cmd_audit(DrvCli *cli, int argc, char **argv);
int drv_cmd_pki(DrvCli *cli, int argc, char **argv);
