/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/steps.h"
#include "qmp/qmp.h"

/*
 * A step that is a command of QEMU's, or several in turn. What QEMU says is heard as long as the
 * step is the one at hand; what comes later is nobody's.
 *
 * 'reply' is borrowed, and NULL when there is an error, of which the callee may take what it wants:
 * drv_steps_fail(&self->steps, g_steal_pointer(error)).
 */
typedef void (*DrvAnswered)(gpointer owner, JsonNode *reply, GError **error);

/* Takes the ticket, whose owner is given up with 'unref' in the end, and 'args'. 'answered' NULL:
 * the step is over when QEMU has done it, and has failed when it has not. */
void drv_steps_ask(DrvSteps *steps, DrvTicket *ticket, GDestroyNotify unref, QmpClient *qmp,
                   const char *command, JsonNode *args, guint timeout_ms, DrvAnswered answered);
/* The same with a descriptor (borrowed) that goes with the command. */
void drv_steps_ask_with_fd(DrvSteps *steps, DrvTicket *ticket, GDestroyNotify unref, QmpClient *qmp,
                           const char *command, JsonNode *args, int fd, guint timeout_ms,
                           DrvAnswered answered);
