/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec.h"

/*
 * The codec of a disk's channel at the source: passes the bytes as they are, and counts what is
 * written in them. One tally for all disks of a job.
 */
typedef struct _DrvNbdTally DrvNbdTally;

typedef struct {
    guint64 data_bytes;
    guint64 zero_bytes;
} DrvNbdFigures;

DrvNbdTally *drv_nbd_tally_new(void);
DrvNbdTally *drv_nbd_tally_ref(DrvNbdTally *tally);
void drv_nbd_tally_unref(DrvNbdTally *tally);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvNbdTally, drv_nbd_tally_unref)
/* Any thread. */
void drv_nbd_tally_add(DrvNbdTally *tally, guint64 data_bytes, guint64 zero_bytes);
void drv_nbd_tally_get(DrvNbdTally *tally, DrvNbdFigures *figures);

DrvChannelCodec *drv_codec_nbd_new(DrvNbdTally *tally);
