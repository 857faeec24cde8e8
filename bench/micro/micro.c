/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include <stdlib.h>

#define BOUT_US (G_USEC_PER_SEC / 5)

static gdouble
bout(MicroWork work, gpointer data, guint64 times)
{
    gint64 began = g_get_monotonic_time();
    for (guint64 i = 0; i < times; i++)
        work(data);
    return (gdouble)(g_get_monotonic_time() - began) / G_USEC_PER_SEC;
}

/* So many times that a bout takes long enough for the clock, found by doubling: it warms up too. */
static guint64
enough(MicroWork work, gpointer data)
{
    guint64 times = 1;
    while (bout(work, data, times) * G_USEC_PER_SEC < BOUT_US)
        times *= 2;
    return times;
}

void
micro_run(const char *name, gsize bytes, MicroWork work, gpointer data)
{
    gdouble seconds[MICRO_BOUTS];
    guint64 times = enough(work, data);
    for (guint i = 0; i < MICRO_BOUTS; i++)
        seconds[i] = bout(work, data, times);
    micro_print(name, bytes, seconds, times);
}

static int
by_size(const void *a, const void *b)
{
    gdouble x = *(const gdouble *)a, y = *(const gdouble *)b;
    return (x > y) - (x < y);
}

void
micro_print(const char *name, gsize bytes, gdouble seconds[MICRO_BOUTS], guint64 times)
{
    qsort(seconds, MICRO_BOUTS, sizeof *seconds, by_size);
    gdouble each = 1e6 / (gdouble)times;
    g_print("%-36s %11.3f us (%.3f to %.3f)", name, seconds[MICRO_BOUTS / 2] * each,
            seconds[0] * each, seconds[MICRO_BOUTS - 1] * each);
    if (bytes > 0) {
        gdouble mib = (gdouble)bytes * (gdouble)times / (gdouble)MICRO_MIB;
        g_print("  %9.1f MiB/s", mib / seconds[MICRO_BOUTS / 2]);
    }
    g_print("\n");
}
