/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

#include "engine/job/journal.h"

/* What the API shows of a record alone: docs/http-api.md. Owned by the caller. */
JsonObject *drv_job_record_to_json(const DrvJobRecord *rec, const char *kind);
