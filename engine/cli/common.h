/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/cli/cli.h"

/* What the commands share. */

/*
 * Takes a command's options out of argv, --api among them, and checks that between 'min' and 'max'
 * arguments are left after argv[0]. 'usage' is what follows "drover COMMAND [OPTION...]" in the
 * help, which '--help' prints before it exits; 'help' explains. DRV_ERROR_USAGE.
 */
gboolean drv_cli_parse(DrvCli *cli, const GOptionEntry *entries, const char *usage,
                       const char *help, int min, int max, int *argc, char ***argv, GError **error);

/* A client of the chosen socket. */
DrvClient *drv_cli_connect(DrvCli *cli, GError **error);

/* Prints "drover: MESSAGE" to stderr and returns the exit status that fits. */
int drv_cli_fail(const GError *error);

/* Prints an object to stdout as one line. */
void drv_cli_print_json(JsonObject *object);

/* The id of the job that 'text' is, or is the beginning of. Owned by the caller. Fails with
 * DRV_ERROR_USAGE, or as drv_client_call() does. */
char *drv_cli_find_job(DrvClient *client, const char *text, GError **error);

/* The newest job that has not ended; the same. */
char *drv_cli_find_active(DrvClient *client, GError **error);

/*
 * Tells how a job ended, and returns the exit status. 'job' is its object, or what was last known
 * of it (or NULL) when 'error' says why its end is not known. 'promise_ms' as for
 * drv_render_summary().
 */
int drv_cli_tell_end(const char *id, JsonObject *job, const GError *error, gboolean json,
                     double promise_ms);
