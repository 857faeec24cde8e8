/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/services.h"

#include <json-glib/json-glib.h>

/*
 * copy.check: whether an image could be made at a path of this host, as far as that is seen without
 * making one. For a source that will copy it much later. It is (going to be) answered.
 */
void drv_copy_check(DrvServices *services, DrvPeer *peer, guint64 call, JsonObject *args);
