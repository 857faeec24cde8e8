/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"
#include "engine/job/spec.h"

/* The source's half of a live migration. Takes the record, whose spec was checked; fails only for
 * one from a journal that this version cannot read. */
DrvJob *drv_live_source_new(DrvServices *services, DrvJobRecord *rec, GError **error);

/* Whether this version can do what the spec asks for. DRV_ERROR_USAGE. */
gboolean drv_live_available(const DrvJobSpec *spec, GError **error);
