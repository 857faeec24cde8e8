/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/peer.h"

#include <json-glib/json-glib.h>

/*
 * copy.check: whether an image could be made at a path of this host, as far as that is seen without
 * making one. For a source that will copy it much later. It is (going to be) answered.
 * 'folders' may be used (engine/image/allowed.h; borrowed).
 */
void drv_copy_check(char *const *folders, DrvPeer *peer, guint64 call, JsonObject *args);
