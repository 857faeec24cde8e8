/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-place.h"
#include "engine/job/journal.h"

/*
 * What this daemon has done since it started, for those who watch many daemons: sums over its jobs,
 * each added as it ends, from its report. docs/http-api.md lists them. Control thread only.
 */
typedef struct _DrvTally DrvTally;

DrvTally *drv_tally_new(void);
void drv_tally_free(DrvTally *tally);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvTally, drv_tally_free)

/* A job of that kind is over; what its report has and the tally sums is added. */
void drv_tally_ended(DrvTally *tally, const char *kind, const DrvJobRecord *rec);
/* Pages of a guest were placed with regard to NUMA nodes, and where they have come to be. */
void drv_tally_placed(DrvTally *tally, const DrvGuestPlaced *placed);

/* Appends all sums in Prometheus's text format. */
void drv_tally_write(const DrvTally *tally, GString *out);
