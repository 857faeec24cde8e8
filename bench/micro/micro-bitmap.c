/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "dirty-tracking/bitmap.h"

/*
 * What rounds cost: the bitmap of a guest of 64 GiB is filled from the runs of a round, walked, and
 * joined with another, for guests that write everywhere a little, in few places, or everything.
 */
#define PAGES ((guint64)16 << 20)

typedef struct {
    DrvBitmap *bitmap, *other;
    guint64 run, step; /* pages written, from one start to the next */
    guint64 seen;
} Scan;

static void
fill(gpointer data)
{
    Scan *scan = data;
    drv_bitmap_clear(scan->bitmap);
    for (guint64 at = 0; at + scan->run <= PAGES; at += scan->step)
        drv_bitmap_set(scan->bitmap, at, scan->run);
}

static void
walk(gpointer data)
{
    Scan *scan = data;
    guint64 at = 0, count;
    while (drv_bitmap_next_run(scan->bitmap, at, &at, &count)) {
        scan->seen += count;
        at += count;
    }
}

static void
join(gpointer data)
{
    Scan *scan = data;
    drv_bitmap_or(scan->other, scan->bitmap);
}

static void
both(gpointer data)
{
    Scan *scan = data;
    scan->seen += drv_bitmap_count_both(scan->bitmap, scan->other);
}

static void
measure(const char *writer, guint64 run, guint64 step)
{
    static const struct {
        const char *name;
        MicroWork work;
    } works[] = {{"fill", fill}, {"scan", walk}, {"or", join}, {"count both", both}};
    g_autoptr(DrvBitmap) bitmap = drv_bitmap_new(PAGES);
    g_autoptr(DrvBitmap) other = drv_bitmap_new(PAGES);
    Scan scan = {.bitmap = bitmap, .other = other, .run = run, .step = step};
    for (guint i = 0; i < G_N_ELEMENTS(works); i++) {
        g_autofree char *name = g_strdup_printf("bitmap, %s, %s", writer, works[i].name);
        micro_run(name, 0, works[i].work, &scan);
    }
}

int
main(void)
{
    measure("every 16th page", 1, 16);
    measure("2 MiB in 1 GiB", 512, 262144);
    measure("all", PAGES, PAGES);
    return 0;
}
