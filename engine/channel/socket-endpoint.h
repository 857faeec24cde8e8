/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec.h"
#include "engine/transfer/endpoint.h"

/*
 * A connected stream socket as a channel's endpoint: full duplex, half-close kept. What the socket
 * gives is read only while the channel has room, so that QEMU feels the link and not a buffer.
 *
 * When the socket breaks, the peer is told (DRV_DATA_RESET) and what still arrives for it is
 * dropped; when the peer's end broke, the socket is shut down both ways.
 */

/* Takes the descriptor and the codec. */
DrvEndpoint *drv_socket_endpoint_new(int fd, DrvChannelCodec *codec);
/* Frees an endpoint that was never given to a channel. */
void drv_socket_endpoint_discard(DrvEndpoint *endpoint);
