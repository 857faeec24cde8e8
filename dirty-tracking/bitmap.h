/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * A set of page numbers below a fixed size, in two levels: leaves of 4096 pages, of which only
 * those that are partly set take memory of their own. An empty set takes 16 bytes a leaf (4 bytes a
 * MiB of guest RAM), and so does a full one; the worst is 36 bytes a MiB. Not for several threads
 * at once.
 */
typedef struct _DrvBitmap DrvBitmap;

/* 'size' in pages, at most DRV_BITMAP_MAX: the caller checks what comes from elsewhere. */
#define DRV_BITMAP_MAX (G_GUINT64_CONSTANT(1) << 32)
DrvBitmap *drv_bitmap_new(guint64 size);
void drv_bitmap_free(DrvBitmap *bitmap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvBitmap, drv_bitmap_free)

guint64 drv_bitmap_size(const DrvBitmap *bitmap);
/* Bytes that it takes now. */
gsize drv_bitmap_memory(const DrvBitmap *bitmap);

/* Sets a run, which must lie within the size, and returns how many of it were not set before. */
guint64 drv_bitmap_set(DrvBitmap *bitmap, guint64 first, guint64 count);
/* Empties it and gives back its leaves. */
void drv_bitmap_clear(DrvBitmap *bitmap);

gboolean drv_bitmap_test(const DrvBitmap *bitmap, guint64 page);
guint64 drv_bitmap_count(const DrvBitmap *bitmap);
/* How many of a run, which must lie within the size, are set. */
guint64 drv_bitmap_count_run(const DrvBitmap *bitmap, guint64 first, guint64 count);

/* The first run of set pages that begins or goes on at 'from'; FALSE when none is left. */
gboolean drv_bitmap_next_run(const DrvBitmap *bitmap, guint64 from, guint64 *first, guint64 *count);

/* Those of several bitmaps must be of the same size. */
void drv_bitmap_or(DrvBitmap *into, const DrvBitmap *from);
void drv_bitmap_and_not(DrvBitmap *from, const DrvBitmap *what);
/* Pages set in both; in any of 'n'. Nothing is allocated. */
guint64 drv_bitmap_count_both(const DrvBitmap *a, const DrvBitmap *b);
guint64 drv_bitmap_count_any(const DrvBitmap *const *bitmaps, guint n);
