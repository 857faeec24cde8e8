/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/shaper.h"

/* What an idle bucket saves up: enough to keep the link busy between two looks at the clock. */
#define BURST_US 10000

struct _DrvShaper {
    gatomicrefcount refs;
    GMutex lock; /* all that follows */
    guint64 rate;
    double balance; /* bytes; below zero when overdrawn */
    gint64 at;
};

DrvShaper *
drv_shaper_new(guint64 rate, gint64 now_us)
{
    DrvShaper *shaper = g_new0(DrvShaper, 1);
    g_atomic_ref_count_init(&shaper->refs);
    g_mutex_init(&shaper->lock);
    shaper->rate = rate;
    shaper->at = now_us;
    return shaper;
}

DrvShaper *
drv_shaper_ref(DrvShaper *shaper)
{
    g_atomic_ref_count_inc(&shaper->refs);
    return shaper;
}

void
drv_shaper_unref(DrvShaper *shaper)
{
    if (shaper != NULL && g_atomic_ref_count_dec(&shaper->refs)) {
        g_mutex_clear(&shaper->lock);
        g_free(shaper);
    }
}

static void
refill(DrvShaper *shaper, gint64 now_us)
{
    double per_us = (double)shaper->rate / G_USEC_PER_SEC;
    if (now_us > shaper->at) {
        shaper->balance += per_us * (double)(now_us - shaper->at);
        shaper->balance = MIN(shaper->balance, per_us * BURST_US);
        shaper->at = now_us;
    }
}

gint64
drv_shaper_ready_at(DrvShaper *shaper, gint64 now_us)
{
    gint64 at = now_us;
    if (shaper == NULL)
        return at;
    g_mutex_lock(&shaper->lock);
    if (shaper->rate > 0) {
        refill(shaper, now_us);
        if (shaper->balance < 0)
            at += 1 + (gint64)(-shaper->balance * G_USEC_PER_SEC / (double)shaper->rate);
    }
    g_mutex_unlock(&shaper->lock);
    return at;
}

void
drv_shaper_charge(DrvShaper *shaper, gsize bytes, gint64 now_us)
{
    if (shaper == NULL)
        return;
    g_mutex_lock(&shaper->lock);
    if (shaper->rate > 0) {
        refill(shaper, now_us);
        shaper->balance -= (double)bytes;
    }
    g_mutex_unlock(&shaper->lock);
}

void
drv_shaper_set_rate(DrvShaper *shaper, guint64 rate, gint64 now_us)
{
    g_mutex_lock(&shaper->lock);
    refill(shaper, now_us);
    shaper->rate = rate;
    shaper->balance = 0;
    shaper->at = now_us;
    g_mutex_unlock(&shaper->lock);
}
