/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/pieces.h"

#include <glib.h>

/*
 * An incremental parser of a QEMU multifd channel (docs/qemu-stream.md), with the rules of the main
 * stream's (stream.h): the bytes of all events are the input, and what is not understood is opaque.
 */
typedef struct _DrvMultifd DrvMultifd;

/* A head of pages, in bytes: fields up to the offsets, and room for these, at 4096 bytes a page. */
#define DRV_MULTIFD_FIXED_LEN 320
#define DRV_MULTIFD_MAX_PAGES (DRV_MULTIFD_PACKET_BYTES / 4096)
#define DRV_MULTIFD_HEAD_LEN (DRV_MULTIFD_FIXED_LEN + 8 * DRV_MULTIFD_MAX_PAGES)
/* Where in it the numbers of pages and bytes are. */
#define DRV_MULTIFD_NORMAL_AT 16
#define DRV_MULTIFD_SIZE_AT 20
#define DRV_MULTIFD_ZERO_AT 32

#define DRV_MULTIFD_PACKET_BYTES (512 * 1024) /* of pages, at most, in a packet */

/* Bits of a packet's flags */
#define DRV_MULTIFD_SYNC 0x01u
#define DRV_MULTIFD_COMPRESSION 0x3eu /* 0: none */
#define DRV_MULTIFD_DEVICE_STATE 0x40u

typedef enum {
    DRV_MULTIFD_OPAQUE, /* compressed pages, device state, what is not understood */
    DRV_MULTIFD_INIT,   /* the channel's first bytes: channel */
    DRV_MULTIFD_PACKET, /* a packet's head; its data follow in further events */
    DRV_MULTIFD_PAGES,  /* pages: some of the packet's normal pages */
} DrvMultifdKind;

typedef struct {
    guint32 flags;
    guint64 number;   /* packet_num; 0 with device state */
    guint32 normal;   /* pages that follow, in the packet's data */
    guint32 zero;     /* pages that are zero */
    guint32 data_len; /* bytes that follow */
    char block[256];  /* id of the RAM block, or of the device */
    guint32 instance; /* with device state */
} DrvMultifdPacket;

typedef struct {
    DrvMultifdKind kind;
    DrvPiece piece;
    union {
        guint8 channel;
        struct {
            guint32 first; /* index among the packet's pages; drv_multifd_offset() */
            guint32 count; /* piece.unit has so many pages, one after the other */
        } pages;
    };
} DrvMultifdEvent;

/* 'page_len': bytes of a target page, a power of two from 1 KiB to 64 KiB. */
DrvMultifd *drv_multifd_new(guint32 page_len);
void drv_multifd_free(DrvMultifd *multifd);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvMultifd, drv_multifd_free)

/* As drv_stream_push(), _next(), _flush() and _exact(). */
void drv_multifd_push(DrvMultifd *multifd, const void *data, gsize len);
gboolean drv_multifd_next(DrvMultifd *multifd, DrvMultifdEvent *event);
gboolean drv_multifd_flush(DrvMultifd *multifd, DrvMultifdEvent *event);
gboolean drv_multifd_exact(const DrvMultifd *multifd);

/* The packet whose head came last. */
const DrvMultifdPacket *drv_multifd_packet(const DrvMultifd *multifd);

/*
 * Where page 'i' of that packet is in its block: the normal ones first, then the zero pages. A
 * multiple of the page's length; whether it is in the block, this parser cannot know.
 */
guint64 drv_multifd_offset(const DrvMultifd *multifd, guint32 i);
