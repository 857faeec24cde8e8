/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/journal.h"
#include "engine/job/peers.h"

/*
 * The aborts that could not be delivered when their jobs were rolled back: each destination is told
 * to drop its half as soon as it can be reached, also by the next daemon (the journal has them as
 * 'abort_due'). Who is not heard of within DRV_ABORT_DAYS is left to a person. Control thread only.
 */
typedef struct _DrvAborts DrvAborts;

/* Both are borrowed. */
DrvAborts *drv_aborts_new(DrvJournal *journal, DrvPeers *peers);
/* What is not delivered yet stays in the journal. */
void drv_aborts_free(DrvAborts *aborts);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvAborts, drv_aborts_free)

#define DRV_ABORT_DAYS 7

/* Of a source's job that has ended: tells the destination, and then the journal that it was told.
 */
void drv_aborts_add(DrvAborts *aborts, const DrvJobRecord *rec);
