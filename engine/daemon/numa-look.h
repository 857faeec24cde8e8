/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"

/* The host's NUMA nodes as they are now, with the data threads and buffers on them:
 * docs/http-api.md. Owned by the caller. */
JsonObject *drv_numa_host(DrvServices *services);

/* Looks where a VM and its memory are on them. A job of kind "numa", in no journal, which ends by
 * itself; its result is the host as above, with a "guest". 'spec' has "qmp". DRV_ERROR_USAGE. */
DrvJob *drv_numa_look_new(DrvServices *services, const char *id, JsonObject *spec, GError **error);
