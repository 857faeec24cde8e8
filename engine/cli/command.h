/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/cli/common.h"
#include "engine/cli/follow.h"

/*
 * What a command comes to that begins one job and stays with it: begins it by posting 'spec' to
 * 'path', follows it to its end, and tells how it ended ('json' and 'promise_ms' as for
 * drv_cli_tell_end()). Returns the exit status, or -1 with an error when there is no job.
 */
int drv_command_run(DrvCli *cli, const char *path, JsonObject *spec, const DrvFollowOptions *how,
                    gboolean json, double promise_ms, GError **error);

/* How a job is followed that a restarted daemon has forgotten: there is nothing to wait for. */
extern const DrvFollowOptions drv_command_looks;
