/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/window.h"

#define SAMPLE_US 250000

void
drv_window_init(DrvWindow *window, gint64 now_us)
{
    *window = (DrvWindow){.limit = DRV_WINDOW_FLOOR, .since = now_us};
}

void
drv_window_delivered(DrvWindow *window, guint64 bytes, gint64 rtt_us, gint64 now_us)
{
    window->bytes += bytes;
    gint64 elapsed = now_us - window->since;
    if (elapsed < SAMPLE_US)
        return;
    window->rates[window->next] = (double)window->bytes * G_USEC_PER_SEC / (double)elapsed;
    window->next = (window->next + 1) % G_N_ELEMENTS(window->rates);
    window->bytes = 0;
    window->since = now_us;

    double best = 0;
    for (guint i = 0; i < G_N_ELEMENTS(window->rates); i++)
        best = MAX(best, window->rates[i]);
    double delay = (double)(rtt_us + DRV_WINDOW_SCHEDULING_US) / G_USEC_PER_SEC;
    window->limit = MAX(DRV_WINDOW_FLOOR, (gsize)(2 * best * delay));
}
