/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"
#include "engine/job/spec.h"

/* The source's half of a live migration. Takes the record, whose spec was checked; fails only for
 * one from a journal that this version cannot read. */
DrvJob *drv_live_source_new(DrvServices *services, DrvJobRecord *rec, GError **error);
