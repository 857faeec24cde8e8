/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * What an NBD client says after the handshake, read along as it goes by: how much it writes, and
 * how much of that as zeroes without data. It changes nothing, so a stream that it does not
 * understand costs figures and savings and nothing else: then it is lost, and says no more. No I/O,
 * bounded state.
 */
#define DRV_NBD_HEADER_MAX 32

/* The types of requests that matter to anybody here. */
typedef enum {
    DRV_NBD_READ = 0,
    DRV_NBD_WRITE = 1,
    DRV_NBD_DISCONNECT = 2,
    DRV_NBD_FLUSH = 3,
    DRV_NBD_TRIM = 4,
    DRV_NBD_CACHE = 5,
    DRV_NBD_WRITE_ZEROES = 6,
    DRV_NBD_BLOCK_STATUS = 7,
} DrvNbdType;

typedef struct {
    guint8 header[DRV_NBD_HEADER_MAX]; /* of the message at hand, as far as it has come */
    guint have;                        /* 0: it is whole */
    guint want;
    guint64 skip;     /* bytes of data that follow it */
    gboolean payload; /* ... and are written to the disk */
    gboolean lost;

    guint16 type;   /* of the latest request, DrvNbdType or another, ... */
    guint64 offset; /* ... about so many bytes of the disk from here on */
    guint64 length;

    guint64 data_bytes; /* written with data, of which so much has gone by */
    guint64 zero_bytes; /* told to be zeroes */
    guint64 requests;
} DrvNbdRequests;

void drv_nbd_requests_init(DrvNbdRequests *self);
/* A part of what the client says that is all header, or all data: returns how long that is, at most
 * 'len', and has dealt with it. All of it, when lost. */
gsize drv_nbd_requests_step(DrvNbdRequests *self, const guint8 *data, gsize len);
/* All of it. */
void drv_nbd_requests_feed(DrvNbdRequests *self, const guint8 *data, gsize len);
