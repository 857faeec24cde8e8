/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/lane.h"
#include "engine/transfer/session-private.h"
#include "engine/transfer/transfer.h"

/* A lane's insides, shared by lane.c (its life), lane-tx.c and lane-rx.c. All of it belongs to the
 * lane's worker but for what is marked. */

typedef enum {
    LANE_CONNECTING,
    LANE_HANDSHAKE, /* TLS */
    LANE_GREETING,  /* TLS stands; HELLO or WELCOME is awaited */
    LANE_UP,
    LANE_CLOSING, /* last words are being flushed, what arrives is dropped */
    LANE_DEAD,    /* operations are being waited for */
} LaneState;

/* Who makes TLS records of what a lane sends. */
typedef enum {
    SEAL_OPENSSL,
    SEAL_PENDING, /* the kernel is asked when the handshake's last bytes have left */
    SEAL_KERNEL,
} LaneSealer;

/* Going out: frames are sealed into 'fill' while 'flight' is being written. */
typedef struct {
    DrvOp op;
    DrvChunk *fill; /* the TLS pipe's 'out' points here */
    DrvChunk *flight;
    gsize flight_len;
    gsize flight_sent;

    GQueue own;            /* of GByteArray: whole frames of the lane's own, before all others */
    GByteArray *own_frame; /* the one being sealed */

    DrvFrame *frame; /* the channel frame being sealed, and its channel */
    DrvChannel *channel;
    guint8 header[DRV_FRAME_HEADER];
    const guint8 *payload;
    gsize payload_len;
    gsize sealed; /* bytes of header and payload already in TLS records */
    guint64 since_rekey;
    LaneSealer sealer;

    guint8 *encoded; /* room for a frame's compressed payload; made when needed */
    guint8 staging[DRV_TLS_RECORD];
    DrvTimer retry; /* a shaper lets go */
} LaneTx;

/* Coming in: ciphertext is read into 'chunk', decrypted into a header, then into the payload's
 * place. */
typedef struct {
    DrvOp op;
    DrvChunk *chunk;

    guint8 header_bytes[DRV_FRAME_HEADER];
    DrvFrameHeader header;
    gboolean in_payload;
    gsize have; /* bytes of header or payload so far */

    DrvChannel *channel; /* of a DATA frame; NULL: unknown, its frames are dropped */
    DrvChunk *raw;       /* where the frame's raw bytes go; NULL for a frame to be dropped */
    guint8 *encoded;     /* where its compressed ones do; made when needed */
    gint64 last;         /* when something last arrived */
    gboolean answered;   /* something has that shows that the peer can read us */
    gboolean starved;    /* a frame waits for a chunk; nothing is read meanwhile */
    DrvTimer hunger;     /* when to look again */
} LaneRx;

struct _DrvLane {
    gatomicrefcount refs;  /* any thread */
    gint woken;            /* atomic: a wake is on its way */
    DrvTransfer *transfer; /* fixed */
    DrvWorker *worker;
    guint slot;           /* fixed once it has a session */
    guint64 serial;       /* under the session's lock */
    DrvLaneTarget target; /* fixed; for a connecting lane */
    gboolean connects;    /* fixed */
    gboolean again;       /* fixed: the one before could not be read, or could not read */

    DrvSession *session; /* referenced; NULL until an accepted lane has greeted */
    LaneState state;
    gboolean stranger; /* accepted, and has not greeted yet */
    gboolean released;
    int fd;
    SSL *ssl;
    DrvTlsPipe pipe;
    DrvCompressor *compressor;
    DrvOp connect_op;
    DrvTimer deadline; /* of connecting and greeting; of closing */
    DrvTimer ping;
    DrvTimer stall;
    LaneTx tx;
    LaneRx rx;
};

/* lane.c */

/* The lane is broken: tells the session and goes. 'permanent': a new one would fare no better. */
void lane_die(DrvLane *lane, const GError *error, gboolean permanent);
/* Lets what is queued go out, then ends. */
void lane_close_after_flush(DrvLane *lane);
/* Like lane_close_after_flush(), for a lane that connects and is not up: another takes its place,
 * without the session being told. */
void lane_try_again(DrvLane *lane);
/* Called when an operation of a dead lane has ended. */
void lane_release_if_idle(DrvLane *lane);
/* The TLS handshake has come to its end. */
void lane_handshake_done(DrvLane *lane);
/* A whole frame of the lane's own has arrived. */
void lane_take_control(DrvLane *lane, const DrvFrameHeader *header, const guint8 *payload);
/* A buffer for its socket: of the pool, or of the heap when that has none left, so that no host's
 * lanes keep another's from coming. Strangers are few, and so are the lanes that a host may have.
 */
DrvChunk *lane_take_buffer(DrvLane *lane);
/* Something was sent: looks from time to time whether the peer's TCP says that it has it, until it
 * has all. */
void lane_watch_stall(DrvLane *lane);
/* How errors call the other end. Borrowed. */
const char *lane_label(DrvLane *lane);

/* lane-tx.c */
void lane_tx_init(DrvLane *lane);
void lane_tx_clear(DrvLane *lane);
/* Queues a frame of the lane's own. */
void lane_tx_own(DrvLane *lane, DrvFrameType type, const guint8 *payload, gsize len);
/* Seals and sends as much as there is room for. */
void lane_tx_pump(DrvLane *lane);
/* Sends what TLS itself has to say (handshake messages, alerts). */
void lane_tx_flush(DrvLane *lane);
gboolean lane_tx_idle(DrvLane *lane);
/* Lets the kernel seal what is sent, if it should and can. After the handshake, before the first
 * frame. */
void lane_tx_offer_kernel(DrvLane *lane);

/* lane-rx.c */
void lane_rx_init(DrvLane *lane);
void lane_rx_clear(DrvLane *lane);
void lane_rx_start(DrvLane *lane);
