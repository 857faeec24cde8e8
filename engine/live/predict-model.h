/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "dirty-tracking/predict.h"
#include "engine/channel/guest-sample.h"
#include "engine/host/dirty-rate.h"
#include "engine/job/spec.h"

/* What was measured before a migration, what the model of dirty-tracking/ is fed with for it, and
 * the object that tells of both. No I/O. */

#define DRV_LINK_RATES 64

/* How fast a probe went, in steps of the same length. */
typedef struct {
    double rates[DRV_LINK_RATES]; /* bytes a second */
    guint n;
    guint64 bytes; /* in all */
    gint64 us;
    gint64 rtt_us; /* 0: not known */
} DrvLinkMeasure;

typedef struct {
    const DrvJobSpec *spec; /* borrowed, as the next */
    const DrvVm *vm;
    DrvDirtyRate dirty[2]; /* by length; none for a guest that does not run */
    guint n_dirty;
    DrvGuestSample sample; /* 'pages' is 0: there is none */
    DrvLinkMeasure link;
    guint threads; /* that pack */
} DrvMeasured;

/* The lower and upper tenth of the rates (but at least a third of the mean) and the one in the
 * middle; what came of the whole where there are too few. */
DrvRange drv_link_range(const DrvLinkMeasure *link);

/* 'codec' is set to the one that promises most. */
void drv_predict_fill(const DrvMeasured *measured, DrvPredictInput *input, DrvCodec *codec);

/* The result of a job of kind "predict": docs/http-api.md. Owned by the caller. */
JsonObject *drv_predict_result(const DrvMeasured *measured, const char *id, const char *vm);
