/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/bitmap.h"

/* Neither a multiple of a leaf nor of a word. */
#define SIZE 10007

/* A bitmap beside the plainest thing that does the same. */
typedef struct {
    DrvBitmap *bitmap;
    gboolean plain[SIZE];
} Both;

static void
both_set(Both *both, guint64 first, guint64 count)
{
    guint64 added = 0;
    for (guint64 i = first; i < first + count; i++) {
        added += !both->plain[i];
        both->plain[i] = TRUE;
    }
    g_assert_cmpuint(drv_bitmap_set(both->bitmap, first, count), ==, added);
}

static void
both_compare(const Both *both)
{
    guint64 count = 0, first, len, next = 0;
    for (guint64 i = 0; i < SIZE; i++) {
        g_assert_cmpint(drv_bitmap_test(both->bitmap, i), ==, both->plain[i]);
        count += both->plain[i];
    }
    g_assert_cmpuint(drv_bitmap_count(both->bitmap), ==, count);
    while (drv_bitmap_next_run(both->bitmap, next, &first, &len)) {
        for (guint64 i = next; i < first; i++)
            g_assert_false(both->plain[i]);
        for (guint64 i = first; i < first + len; i++)
            g_assert_true(both->plain[i]);
        g_assert_true(first + len == SIZE || !both->plain[first + len]);
        next = first + len;
    }
    for (guint64 i = next; i < SIZE; i++)
        g_assert_false(both->plain[i]);
}

static void
both_fill(Both *both, guint runs, guint64 longest)
{
    both->bitmap = drv_bitmap_new(SIZE);
    for (guint i = 0; i < runs; i++) {
        guint64 first = (guint64)g_test_rand_int_range(0, SIZE);
        guint64 len = (guint64)g_test_rand_int_range(1, (gint32)longest);
        both_set(both, first, MIN(len, SIZE - first));
    }
}

static Both *
both_new(guint runs, guint64 longest)
{
    Both *both = g_new0(Both, 1);
    both_fill(both, runs, longest);
    return both;
}

static void
both_free(Both *both)
{
    drv_bitmap_free(both->bitmap);
    g_free(both);
}

/* Few short runs, many long ones, and so many that whole leaves are full. */
static const struct {
    guint runs;
    guint64 longest;
} shapes[] = {{0, 2}, {5, 70}, {300, 3}, {40, 400}, {12, 5000}};

static void
test_runs(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Both *both = both_new(shapes[i].runs, shapes[i].longest);
        both_compare(both);
        for (guint n = 0; n < 200; n++) {
            guint64 first = (guint64)g_test_rand_int_range(0, SIZE), count = 0;
            guint64 len = (guint64)g_test_rand_int_range(0, (gint32)(SIZE - first));
            for (guint64 p = first; p < first + len; p++)
                count += both->plain[p];
            g_assert_cmpuint(drv_bitmap_count_run(both->bitmap, first, len), ==, count);
        }
        drv_bitmap_clear(both->bitmap);
        g_assert_cmpuint(drv_bitmap_count(both->bitmap), ==, 0);
        both_free(both);
    }
}

static void
combine(Both *a, Both *b)
{
    const DrvBitmap *any[] = {a->bitmap, b->bitmap};
    guint64 in_both = 0, in_any = 0;
    for (guint64 i = 0; i < SIZE; i++) {
        in_both += a->plain[i] && b->plain[i];
        in_any += a->plain[i] || b->plain[i];
    }
    g_assert_cmpuint(drv_bitmap_count_both(a->bitmap, b->bitmap), ==, in_both);
    g_assert_cmpuint(drv_bitmap_count_any(any, 2), ==, in_any);

    drv_bitmap_or(a->bitmap, b->bitmap);
    for (guint64 i = 0; i < SIZE; i++)
        a->plain[i] |= b->plain[i];
    both_compare(a);

    Both *less = both_new(20, 900);
    drv_bitmap_and_not(a->bitmap, less->bitmap);
    for (guint64 i = 0; i < SIZE; i++)
        a->plain[i] &= !less->plain[i];
    both_compare(a);
    drv_bitmap_and_not(a->bitmap, a->bitmap);
    g_assert_cmpuint(drv_bitmap_count(a->bitmap), ==, 0);
    both_free(less);
}

static void
test_combining(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(shapes); i++)
        for (guint j = 0; j < G_N_ELEMENTS(shapes); j++) {
            Both *a = both_new(shapes[i].runs, shapes[i].longest);
            Both *b = both_new(shapes[j].runs, shapes[j].longest);
            combine(a, b);
            both_free(a);
            both_free(b);
        }
}

/* Full and empty cost the same; what is between costs one leaf each; a TiB of guest fits. */
static void
test_memory(void)
{
    const guint64 tib = G_GUINT64_CONSTANT(1) << 28;
    g_autoptr(DrvBitmap) bitmap = drv_bitmap_new(tib);
    gsize empty = drv_bitmap_memory(bitmap);
    g_assert_cmpuint(empty, <=, 16 * (tib / 4096) + 64);
    g_assert_cmpuint(drv_bitmap_set(bitmap, 0, tib), ==, tib);
    g_assert_cmpuint(drv_bitmap_memory(bitmap), ==, empty);
    drv_bitmap_clear(bitmap);
    drv_bitmap_set(bitmap, 4095, 2);
    g_assert_cmpuint(drv_bitmap_memory(bitmap), ==, empty + 2 * 512);
    drv_bitmap_set(bitmap, 0, 4095);
    drv_bitmap_set(bitmap, 4097, 4095);
    g_assert_cmpuint(drv_bitmap_count(bitmap), ==, 8192);
    g_assert_cmpuint(drv_bitmap_memory(bitmap), ==, empty);
}

static void
test_nothing(void)
{
    g_autoptr(DrvBitmap) bitmap = drv_bitmap_new(0);
    guint64 first, count;
    g_assert_cmpuint(drv_bitmap_set(bitmap, 0, 0), ==, 0);
    g_assert_false(drv_bitmap_next_run(bitmap, 0, &first, &count));
    g_assert_cmpuint(drv_bitmap_count_any(NULL, 0), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bitmap/runs", test_runs);
    g_test_add_func("/bitmap/combining", test_combining);
    g_test_add_func("/bitmap/memory", test_memory);
    g_test_add_func("/bitmap/nothing", test_nothing);
    return g_test_run();
}
