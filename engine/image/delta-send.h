/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec-nbd.h"
#include "engine/image/delta-writer.h"

/* The codec, at the source, of the channel of a disk that the destination has an older version of.
 * Takes references. What goes back passes as it is. */
DrvChannelCodec *drv_delta_send_new(DrvDeltaKnown *known, DrvNbdTally *tally);
