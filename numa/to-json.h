/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "numa/topology.h"

#include <json-glib/json-glib.h>

/* "nodes", "nics", "usable" and "isolated", as docs/http-api.md has them. Owned by the caller. */
JsonObject *drv_topology_to_json(const DrvTopology *topology);
