/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"

/* The destination's half of a live migration: obeys the source. */

/* For a job.prepare from 'peer', which is answered later. DRV_ERROR_PROTOCOL for arguments that
 * make no sense. */
DrvJob *drv_live_dest_new(DrvServices *services, DrvPeer *peer, guint64 call, JsonObject *args,
                          GError **error);
/* Whether its source has opened no channel yet. */
gboolean drv_live_dest_is_preparing(DrvJob *job);
/* From the journal. */
DrvJob *drv_live_dest_restored(DrvServices *services, DrvJobRecord *rec);

/* The source's further calls, each answered now or later. Only the peer that prepared the job may
 * make them. */
void drv_live_dest_channel(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args);
void drv_live_dest_disk(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args);
void drv_live_dest_hashed(DrvJob *job, DrvPeer *peer, guint64 call);
void drv_live_dest_leaves(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args);
void drv_live_dest_digest(DrvJob *job, DrvPeer *peer, guint64 call, JsonObject *args);
void drv_live_dest_commit(DrvJob *job, DrvPeer *peer, guint64 call);
void drv_live_dest_abort(DrvJob *job, DrvPeer *peer, guint64 call, gboolean cancelled);
