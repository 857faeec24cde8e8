/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Gives up, for the process and for all that it starts, what neither has any business with: nobody
 * who gets hold of droverd gets hold of the kernel as well. Before there are other threads; there
 * is no way back. FALSE and DRV_ERROR_IO when the kernel does not do it: what was given up by then
 * stays given up.
 */
gboolean drv_sandbox_enter(GError **error);

/* The system calls that are refused, NULL-terminated. */
const char *const *drv_sandbox_refused(void);
