/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"

/*
 * 'drover disks': a VM's disks as drover sees them, and with "to" what there is of them at another
 * host, where with "create" what is absent is made. A job of kind "disks", in no journal, which
 * ends by itself; docs/http-api.md has 'spec' and result. DRV_ERROR_USAGE.
 */
DrvJob *drv_disks_look_new(DrvServices *services, const char *id, JsonObject *spec, GError **error);
