/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * A token bucket that may be overdrawn: something may be sent while the balance is positive, and
 * its true size is charged afterwards, when the encoder knows it. The long-run rate is exact,
 * bursts are one frame a lane. Shared by the lanes of all threads: thread-safe.
 */
typedef struct _DrvShaper DrvShaper;

/* 'rate' in bytes a second, 0 for no limit. Reference-counted. */
DrvShaper *drv_shaper_new(guint64 rate, gint64 now_us);
DrvShaper *drv_shaper_ref(DrvShaper *shaper);
void drv_shaper_unref(DrvShaper *shaper);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvShaper, drv_shaper_unref)

/* When something may be sent: 'now_us' or earlier for at once. NULL never waits. */
gint64 drv_shaper_ready_at(DrvShaper *shaper, gint64 now_us);
void drv_shaper_charge(DrvShaper *shaper, gsize bytes, gint64 now_us);
void drv_shaper_set_rate(DrvShaper *shaper, guint64 rate, gint64 now_us);
