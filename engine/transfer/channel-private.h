/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/channel.h"
#include "engine/transfer/window.h"

/* What channel.c and session.c share: the part of a channel that the session's lock guards. */
struct _DrvChannel {
    gatomicrefcount refs;
    DrvSession *session; /* fixed; referenced */
    DrvWorker *worker;
    DrvEndpoint *endpoint;
    DrvChannelParams params; /* but for 'codec' */

    gint codec; /* atomic: DrvCodec */

    /* home worker only */
    DrvTxFlow tx;
    DrvRxFlow rx;
    DrvWindow window;
    DrvTimer ack_timer;
    guint depth;              /* the endpoint's, which may be gone */
    gsize unacked;            /* bytes delivered since the last ack */
    guint16 delivering_flags; /* of the last piece that the endpoint holds */
    guint16 sent_flags;       /* DRV_DATA_* given to drv_channel_send() so far */
    guint16 waiting_flags;    /* of these, those that the peer has no room for yet */
    guint16 received_flags;   /* those delivered */
    GError *reset;            /* why an endpoint broke: the first reason */
    gboolean wants_room;
    gboolean started;
    gboolean stopped;
    gboolean done; /* stopped because both directions came to their end */

    /* control thread only */
    gboolean closed;

    /* under the session's lock */
    DrvSendQueue queue;
    DrvProgress ack; /* to be told to the peer */
    gboolean ack_queued;
    GList ack_link;

    GMutex stats_lock;
    DrvChannelStats stats; /* under stats_lock */
};
