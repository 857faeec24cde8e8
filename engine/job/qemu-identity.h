/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

#include "qmp/qmp.h"

/*
 * Which QEMU a job is about. A QMP socket's path is no answer: after a restart of the daemon
 * another QEMU may serve it, which must not be told to quit, or to run.
 */

/* Remembers the QEMU at the other end in a job's detail, by its process id and start time. Where
 * those cannot be known (a QEMU behind a proxy, another pid namespace) nothing is remembered. */
void drv_qemu_remember(JsonObject *detail, QmpClient *client);
/* Whether it is the QEMU that was remembered, or none was; DRV_ERROR_STATE if it is another. */
gboolean drv_qemu_is_remembered(JsonObject *detail, QmpClient *client, GError **error);
/* Whether that QEMU's process is stopped, by a signal or a debugger, so that it answers nothing. */
gboolean drv_qemu_is_stopped(JsonObject *detail);
/* A pidfd of the QEMU that was remembered; -1 when it has ended or none was. */
int drv_qemu_open(JsonObject *detail);
