/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/services.h"

#include <json-glib/json-glib.h>

/*
 * The destination's halves of copies. They are no jobs: what there is to know of one is its file
 * under its temporary name, which a source that comes back finds again. Control thread only.
 */
typedef struct _DrvCopyEnds DrvCopyEnds;

DrvCopyEnds *drv_copy_ends_new(DrvServices *services);
/* Ends them; what they have received stays for another time. */
void drv_copy_ends_free(DrvCopyEnds *ends);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvCopyEnds, drv_copy_ends_free)

/* Whether 'op' is a call for copies; if so it is (going to be) answered. */
gboolean drv_copy_ends_call(DrvCopyEnds *ends, DrvPeer *peer, guint64 call, const char *op,
                            JsonObject *args);
/* A session has died: those of its copies wait no longer. */
void drv_copy_ends_peer_dead(DrvCopyEnds *ends, DrvPeer *peer);

/* The folders that images may be in at this host: drv_allowed_file()'s. */
char *const *drv_copy_folders(const DrvServices *services);
