/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * How many raw bytes a channel may have in flight: about twice the bandwidth-delay product, never
 * less than a floor.
 *
 * Why bounded so tightly: QEMU decides to switch over from the rate at which its socket drains.
 * What lies in a relay's buffer looks sent to QEMU, so a deep buffer makes it stop the guest too
 * early, and the downtime promise is broken by the time the buffer needs to drain.
 *
 * Bandwidth is the highest rate of delivery seen over the last second or so, in raw bytes (codecs
 * make it larger than the link's). Delay is TCP's own smallest round trip, which our queue cannot
 * inflate as a round trip measured over frames would, plus an allowance for the four processes on
 * the way to be scheduled.
 */
#define DRV_WINDOW_FLOOR ((gsize)1024 * 1024)
#define DRV_WINDOW_SCHEDULING_US 2000

typedef struct {
    gsize limit;  /* bytes allowed in flight now */
    gint64 since; /* the running sample */
    guint64 bytes;
    double rates[4]; /* bytes a second of the last samples */
    guint next;
} DrvWindow;

void drv_window_init(DrvWindow *window, gint64 now_us);
/* 'bytes' more were delivered; the link's smallest round trip is 'rtt_us' (0: not known). */
void drv_window_delivered(DrvWindow *window, guint64 bytes, gint64 rtt_us, gint64 now_us);
