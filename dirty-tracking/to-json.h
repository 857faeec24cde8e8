/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "dirty-tracking/predict.h"
#include "dirty-tracking/rounds.h"

#include <json-glib/json-glib.h>

/* For reports, progress and the API: docs/http-api.md describes the objects. Owned by the caller.
 */

/* With a history of at most 'history' rounds and 'hot' hot regions. */
JsonObject *drv_rounds_to_json(DrvRounds *rounds, guint history, guint hot);

/* What was asked for and what came out. */
JsonObject *drv_prediction_to_json(const DrvPredictInput *input, const DrvPrediction *prediction);
