/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/pool.h"

#include <glib.h>

/*
 * The bytes of drover's wire protocol: docs/wire-protocol.md holds the tables. Encoding and
 * decoding only, no I/O; everything decoded is checked, whatever sent it.
 */

#define DRV_WIRE_VERSION 1
#define DRV_FRAME_HEADER 40
/* Raw bytes in one frame at most, and what an encoder may make of them (it sends them raw if it
 * would be more). */
#define DRV_FRAME_RAW_MAX DRV_CHUNK_SIZE
#define DRV_HELLO_MAX 4096
#define DRV_MAX_LANES 16
#define DRV_NAME_MAX 255

typedef enum {
    DRV_FRAME_HELLO = 1,   /* first frame of a lane, from the connecting side */
    DRV_FRAME_WELCOME = 2, /* its answer */
    DRV_FRAME_REFUSE = 3,  /* its other answer: a reason, then the lane ends */
    DRV_FRAME_PING = 4,    /* asks for a PONG */
    DRV_FRAME_PONG = 5,
    DRV_FRAME_ACK = 6,  /* how far a channel has come */
    DRV_FRAME_DATA = 7, /* a piece of a channel */
    DRV_FRAME_BYE = 8,  /* the session ends on purpose */
} DrvFrameType;

typedef enum {
    DRV_CODEC_NONE,
    DRV_CODEC_LZ4,
    DRV_CODEC_ZSTD,
    DRV_CODEC_COUNT,
    DRV_CODEC_AUTO = DRV_CODEC_COUNT, /* a policy, never on the wire */
} DrvCodec;

/* Flags of DATA frames. */
#define DRV_DATA_EOF 0x0001   /* the sender's endpoint has said its last: half-close */
#define DRV_DATA_RESET 0x0002 /* the sender's endpoint broke: close both ways */
#define DRV_DATA_FLAGS (DRV_DATA_EOF | DRV_DATA_RESET)

/* XXH3-128 of a frame's raw bytes. */
typedef struct {
    guint64 high;
    guint64 low;
} DrvChecksum;

typedef struct {
    DrvFrameType type;
    DrvCodec codec;
    guint16 flags;
    guint32 channel;
    guint64 seq;
    guint32 raw_len;
    guint32 wire_len; /* bytes that follow the header */
    DrvChecksum checksum;
} DrvFrameHeader;

void drv_frame_encode(const DrvFrameHeader *header, guint8 out[DRV_FRAME_HEADER]);
/* FALSE with DRV_ERROR_PROTOCOL when any field is out of its bounds. */
gboolean drv_frame_decode(const guint8 in[DRV_FRAME_HEADER], DrvFrameHeader *header,
                          GError **error);

DrvChecksum drv_checksum(const void *data, gsize len);
gboolean drv_checksum_equal(DrvChecksum a, DrvChecksum b);

/* How far a channel has come, seen from its receiver. */
typedef struct {
    guint32 channel;
    guint64 received;  /* all frames before this sequence number have arrived */
    guint64 delivered; /* all frames before this one have reached the endpoint */
} DrvProgress;

#define DRV_ACK_BYTES 20
void drv_ack_encode(const DrvProgress *ack, guint8 out[DRV_ACK_BYTES]);
gboolean drv_ack_decode(const guint8 *in, gsize len, DrvProgress *ack, GError **error);

/* The payload of HELLO and WELCOME. In a HELLO, 'session' all zero asks for a new session;
 * otherwise the lane wants to join that session and 'secret' proves that it may. A WELCOME carries
 * the session's id and secret. Both carry how far every channel has come, so that nothing that
 * arrived is sent again. */
typedef struct {
    guint16 version_min;
    guint16 version_max; /* in a WELCOME both are the version chosen */
    guint64 features;    /* bits the sender insists on */
    guint8 session[16];
    guint8 secret[32];
    guint16 lane;
    char *name;       /* of the host, for people; owned */
    GArray *progress; /* of DrvProgress; owned */
} DrvHello;

/* No feature bits are defined in version 1. */
#define DRV_FEATURES_KNOWN G_GUINT64_CONSTANT(0)
/* Channels that a hello has room to speak of; acks bring the others up to date. */
#define DRV_HELLO_CHANNELS 128

DrvHello *drv_hello_new(void);
void drv_hello_free(DrvHello *hello);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvHello, drv_hello_free)
GByteArray *drv_hello_encode(const DrvHello *hello);
DrvHello *drv_hello_decode(const guint8 *in, gsize len, GError **error);
/* Whether this build can talk to the hello's sender; if not, the sentence names both versions. */
gboolean drv_hello_compatible(const DrvHello *hello, GError **error);
gboolean drv_hello_wants_new(const DrvHello *hello);

const char *drv_codec_name(DrvCodec codec); /* "none", "lz4", "zstd", "auto" */
gboolean drv_codec_parse(const char *name, DrvCodec *codec);
