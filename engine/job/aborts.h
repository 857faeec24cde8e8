/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/peers.h"

/* The aborts that could not be delivered when their jobs were rolled back: each destination is
 * told to drop its half as soon as it can be reached. Control thread only. */
typedef struct _DrvAborts DrvAborts;

DrvAborts *drv_aborts_new(DrvPeers *peers);
/* What is not delivered yet is forgotten. */
void drv_aborts_free(DrvAborts *aborts);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvAborts, drv_aborts_free)

/* Tells the destination at 'to' ("ADDR:PORT") to drop its half of the job. */
void drv_aborts_add(DrvAborts *aborts, const char *id, const char *to);
