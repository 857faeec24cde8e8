/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"
#include "engine/job/spec.h"

/* A prediction: measures a guest and the way to another host, and changes nothing. A job of kind
 * "predict", which is in no journal and ends by itself within half a minute. 'spec' (taken) is that
 * of the migration it is about. */
DrvJob *drv_predict_new(DrvServices *services, const char *id, DrvJobSpec *spec, GError **error);

/* The specification of a migration whose destination's QEMU need not be named. DRV_ERROR_USAGE. */
DrvJobSpec *drv_predict_spec(JsonObject *object, GError **error);

/* What was last predicted of such a migration, if that was not long ago, for its report; NULL:
 * nothing. 'jobs' (of DrvJob) are those that are over, the latest last. Owned by the caller. */
JsonObject *drv_predict_earlier(GPtrArray *jobs, const DrvJobSpec *spec);

/* The other end: a peer asks for a probe of the link. 'ends' (of DrvProbe) keeps it until it is
 * over. */
void drv_predict_accept(DrvServices *services, GPtrArray *ends, DrvPeer *peer, guint64 call,
                        JsonObject *args);
