/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/services.h"

#include <json-glib/json-glib.h>

/*
 * The destination's half of 'drover disks': images for a guest's disks are looked for and made, by
 * a thread for each call. Control thread only.
 */
typedef struct _DrvDiskMakes DrvDiskMakes;

DrvDiskMakes *drv_disk_makes_new(DrvServices *services);
/* Ends them; what they have made and nobody was told of is removed. */
void drv_disk_makes_free(DrvDiskMakes *makes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDiskMakes, drv_disk_makes_free)

/* Whether 'op' is such a call; if so it is (going to be) answered. */
gboolean drv_disk_makes_call(DrvDiskMakes *makes, DrvPeer *peer, guint64 call, const char *op,
                             JsonObject *args);
/* A session has died: nobody waits for its answers any more. */
void drv_disk_makes_peer_dead(DrvDiskMakes *makes, DrvPeer *peer);
