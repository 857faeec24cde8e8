/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/live/predict-model.h"

/*
 * A prediction that costs nothing: from the first round of the migration itself, which brings all
 * memory while the guest writes. It knows what the link, the codec and QEMU do together, but the
 * guest's writing for one length of time only, and nothing of what deltas will save. No I/O.
 */
typedef struct {
    double ram;          /* bytes */
    double seconds;      /* that the round took */
    guint64 normal;      /* bytes of its pages that are not zero */
    guint64 dirtied;     /* bytes that the guest wrote to meanwhile */
    guint64 wire;        /* bytes on the link */
    gboolean direct;     /* pages that come again may come as deltas */
    guint downtime_ms;   /* the limit */
    DrvLinkMeasure link; /* of the wire, as it went; 'bytes' and 'us' are not looked at */
} DrvFirstRound;

void drv_predict_round_fill(const DrvFirstRound *round, DrvPredictInput *input);

/* What a report keeps of a prediction, to be read beside the outcome: its verdict and the figures
 * that can be compared. 'made' is "before" the migration, or after its "first-round", 'ms' earlier
 * than it began or after that. Owned by the caller. */
JsonObject *drv_predict_brief(JsonObject *prediction, const char *made, gint64 ms);

/* The same of a first round; NULL where that was too short to say anything. */
JsonObject *drv_predict_round(const DrvFirstRound *round, gint64 ms);
