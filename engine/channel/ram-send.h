/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "dirty-tracking/rounds.h"
#include "engine/channel/codec.h"
#include "precopy/batch-writer.h"

/*
 * The source's half of direct mode: QEMU's stream becomes batches of pages (docs/pages.md), which
 * the other end places into the guest's memory. One for all channels of a job.
 */
typedef struct _DrvRamSender DrvRamSender;

/* 'placeable': the blocks whose pages the receiver places itself, by id and size; 'multifd': the
 * channels that come beside the main stream, all of them; 'digest' the secret that the receiver was
 * told. Errors: no random numbers. */
DrvRamSender *drv_ram_sender_new(const DrvRamBlock *placeable, guint n, guint multifd,
                                 const guint8 digest[DRV_PAGE_SECRET], gsize dedup_memory,
                                 GError **error);
/* Before the first codec: duplicates are also looked for among the pages that the destination keeps
 * for other guests. A reference is taken; for 'always' see drv_kept_pages_join(). */
void drv_ram_sender_use_kept(DrvRamSender *sender, DrvKeptPages *kept, gboolean always);
/* Any thread. Whether the guest stands still: then no page of another one is waited for. */
void drv_ram_sender_hurry(DrvRamSender *sender, gboolean hurry);
DrvRamSender *drv_ram_sender_ref(DrvRamSender *sender);
void drv_ram_sender_unref(DrvRamSender *sender);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvRamSender, drv_ram_sender_unref)

/* The codec of channel 'index', 0 for the main stream: takes pages out towards the peer; what comes
 * back passes as it is. */
DrvChannelCodec *drv_ram_sender_codec(DrvRamSender *sender, guint index);

typedef struct {
    DrvPageCounts pages;
    guint64 stream;      /* bytes that QEMU has sent */
    guint64 state;       /* bytes of memory held for the pages' hashes */
    gboolean understood; /* the stream still is: pages are placed */
} DrvRamSenderStats;

/* What came by, round for round, as long as the stream is understood. The caller says when a round
 * begins or the last one ends. Lives as long as the sender. */
DrvRounds *drv_ram_sender_rounds(DrvRamSender *sender);

/* Bytes that QEMU has sent. Any thread, at any rate. */
guint64 drv_ram_sender_stream(DrvRamSender *sender);
/* When the last page had come by (monotonic); 0: not yet, or the stream is not understood. Any
 * thread. */
gint64 drv_ram_sender_ended(DrvRamSender *sender);
/* Whether all of the stream has been understood so far. Any thread, at any rate. */
gboolean drv_ram_sender_understood(DrvRamSender *sender);
/* Why it was not, as a clause; NULL: it was. Static. */
const char *drv_ram_sender_why_not(DrvRamSender *sender);
/* All of it. Any thread; walks the pages' state to see how much of it is in memory, so not for what
 * is asked again and again. */
void drv_ram_sender_get_stats(DrvRamSender *sender, DrvRamSenderStats *stats);
