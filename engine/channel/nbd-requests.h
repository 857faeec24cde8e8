/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * What an NBD client says, read along as it goes by: how much it writes, and how much of that as
 * zeroes without data. It only counts, so a stream that it does not understand costs figures and
 * nothing else: then it is lost, and counts no more. No I/O, bounded state.
 */
typedef struct {
    guint8 header[32]; /* of the message at hand, as far as it has come */
    guint have;
    guint want;
    guint64 skip;     /* bytes of data that follow it */
    gboolean payload; /* ... and are written to the disk */
    gboolean lost;

    guint64 data_bytes; /* written with data, of which so much has gone by */
    guint64 zero_bytes; /* told to be zeroes */
    guint64 requests;
} DrvNbdRequests;

void drv_nbd_requests_init(DrvNbdRequests *self);
void drv_nbd_requests_feed(DrvNbdRequests *self, const guint8 *data, gsize len);
