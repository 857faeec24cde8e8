/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec.h"
#include "engine/channel/guest-place.h"
#include "engine/channel/guest-ram.h"
#include "engine/transfer/transfer.h"
#include "precopy/batch.h"
#include "precopy/page-store.h"

/*
 * The destination's half of direct mode: places the pages of batches (docs/pages.md) into the
 * guest's memory, on all data threads, in the order that the batches ask for, and leaves the rest
 * of the stream to QEMU. One for all channels of a job.
 */
typedef struct _DrvRamPlacer DrvRamPlacer;

/* Takes 'ram', whose blocks are the ones that are placed. 'failed' is called once, on the control
 * thread, when a batch makes no sense or a page cannot be written; nothing is placed any more
 * then. */
DrvRamPlacer *drv_ram_placer_new(DrvTransfer *transfer, DrvGuestRam *ram,
                                 const guint8 digest[DRV_PAGE_SECRET],
                                 void (*failed)(const GError *error, gpointer data), gpointer data);
/* Before the first codec: pages may be kept there, for other guests of the same source, and be
 * taken from there. A reference is taken. */
void drv_ram_placer_use_store(DrvRamPlacer *placer, DrvPageStore *store);
/* Control thread: 'failed' is not called any more; channels may go on using it. */
void drv_ram_placer_drop(DrvRamPlacer *placer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvRamPlacer, drv_ram_placer_drop)

/* Before a channel uses it: the pages of the 'n' blocks of 'ram' are to come to be as their
 * policies say, each batch's by a thread that is near to the node of its first. */
void drv_ram_placer_place(DrvRamPlacer *placer, const DrvPolicy *policies, guint n);
/* Any thread. Where they have come to be. */
void drv_ram_placer_placed(DrvRamPlacer *placer, DrvGuestPlaced *placed);

/* The codec of the main stream's channel: takes batches from the peer; what goes back passes as it
 * is. */
DrvChannelCodec *drv_ram_placer_codec(DrvRamPlacer *placer);

/* Any thread. FALSE with why when something went wrong: the guest's memory is not what it should
 * be. */
gboolean drv_ram_placer_check(DrvRamPlacer *placer, GError **error);
