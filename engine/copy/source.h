/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/copy/group.h"
#include "engine/copy/spec.h"
#include "engine/job/job.h"

/*
 * The source's half of a copy of a stopped machine's disk: a job, journaled, and taken up again by
 * the next daemon. Its states are those of a migration, as far as they make sense: PREPARING while
 * the image and the other daemon are looked at, COPYING, and the rest is passed when the
 * destination has the image under its name.
 */

/* Takes the record and the spec; the groups are borrowed. */
DrvJob *drv_copy_new(DrvServices *services, DrvCopyGroups *groups, DrvJobRecord *rec,
                     DrvCopySpec *spec);
/* From the journal; takes the record. */
DrvJob *drv_copy_restored(DrvServices *services, DrvCopyGroups *groups, DrvJobRecord *rec,
                          GError **error);
