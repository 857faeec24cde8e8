/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/session.h"
#include "engine/transfer/tls.h"
#include "engine/transfer/worker.h"

/*
 * A lane: one TCP connection with TLS, on one worker. It pulls frames from its session, encodes,
 * encrypts and sends them; it receives, decrypts, decodes and checks frames and hands them to their
 * channels. It knows nothing of order or of repetition. When it breaks it says so once and is gone;
 * a new lane takes its place.
 */
typedef struct _DrvLane DrvLane;

/* Where a lane connects to. */
typedef struct {
    struct sockaddr_storage address;
    socklen_t address_len;
    char *host;  /* what the certificate must carry */
    char *label; /* "HOST:PORT", for errors */
} DrvLaneTarget;

/* From the control thread: connects lane 'slot' of 'session' on 'worker'. Ends in
 * drv_session_lane_up() or _down(). */
void drv_lane_connect(DrvSession *session, DrvTransfer *transfer, DrvWorker *worker, guint slot,
                      const DrvLaneTarget *target);
/* Gives a socket a receive window that fits long and queued links. Before it connects or listens:
 * TCP fixes the window's scale then. */
void drv_lane_widen_window(int fd);
/* On the worker: serves a connection that a peer made. Takes the descriptor. */
void drv_lane_accept(DrvTransfer *transfer, DrvWorker *worker, int fd);

DrvLane *drv_lane_ref(DrvLane *lane);
void drv_lane_unref(DrvLane *lane);

/* From any thread: there may be something to send. */
void drv_lane_wake(DrvLane *lane);
/* From any thread: ends the lane. With 'bye', the peer is told first that the session is over. */
void drv_lane_close(DrvLane *lane, gboolean bye);

guint drv_lane_slot(const DrvLane *lane);
/* What tells this lane's frames from those of the lanes before it: given by the session when the
 * lane comes up, and guarded by the session's lock. */
guint64 drv_lane_serial(const DrvLane *lane);
void drv_lane_set_serial(DrvLane *lane, guint64 serial);

/* A lane on which nothing arrived for so long is dead, however quiet its socket; and when it asks
 * for a sign of life. */
#define DRV_LANE_SILENCE_US (5 * G_USEC_PER_SEC)
#define DRV_LANE_PING_US (1 * G_USEC_PER_SEC)
