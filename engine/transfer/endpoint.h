/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/flow.h"

/*
 * The local end of a channel: a socket, later a disk image or a guest's RAM. A channel drives its
 * endpoint through this table and the endpoint answers with the drv_channel_* functions of
 * channel.h; all of it on the channel's worker.
 */
typedef struct _DrvEndpoint DrvEndpoint;

typedef struct {
    /* The channel is open: begin to send. */
    void (*start)(DrvEndpoint *endpoint, DrvChannel *channel);
    /* Take the next piece of the peer's bytes (the reference passes); its flags may say that it is
     * the last one or that the peer's end broke. Answer with drv_channel_delivered(), then or
     * later, in the order of delivery. So many as 'depth' may be unanswered; after one with flags
     * no other comes before it is. */
    void (*deliver)(DrvEndpoint *endpoint, DrvFrame *frame);
    /* drv_channel_may_send() was FALSE and now is TRUE. */
    void (*room)(DrvEndpoint *endpoint);
    /* All frames before this number (drv_channel_sent_frames()) have been delivered at the peer's
     * end. May be NULL. */
    void (*acknowledged)(DrvEndpoint *endpoint, guint64 frames);
    /* All that was sent has been delivered at the peer's end. May be NULL. */
    void (*settled)(DrvEndpoint *endpoint);
    /* The channel is over: release everything. Last call; the channel must not be used any more. */
    void (*stop)(DrvEndpoint *endpoint);
} DrvEndpointOps;

struct _DrvEndpoint {
    const DrvEndpointOps *ops;
    guint depth; /* at least 1; fixed once the endpoint was started */
};
