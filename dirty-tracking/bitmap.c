/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/bitmap.h"

#include <string.h>

/*
 * A leaf knows how many of its pages are set. Where that is none or all it has no words: the first
 * round of a migration marks every page there is, and costs nothing. The last leaf may stand for
 * fewer pages than the others; the bits of its words beyond them are never set.
 */
#define LEAF_PAGES 4096u
#define LEAF_WORDS (LEAF_PAGES / 64)
#define LEAF_BYTES (LEAF_WORDS * sizeof(guint64))

typedef struct {
    guint64 *words; /* NULL: none is set, or all */
    guint count;
} Leaf;

struct _DrvBitmap {
    guint64 size;
    guint64 count;
    gsize n_leaves;
    gsize allocated; /* leaves that have words */
    Leaf leaves[];
};

DrvBitmap *
drv_bitmap_new(guint64 size)
{
    g_return_val_if_fail(size <= DRV_BITMAP_MAX, NULL);
    gsize n = (size + LEAF_PAGES - 1) / LEAF_PAGES;
    DrvBitmap *bitmap = g_malloc0(sizeof *bitmap + n * sizeof(Leaf));
    bitmap->size = size;
    bitmap->n_leaves = n;
    return bitmap;
}

void
drv_bitmap_free(DrvBitmap *bitmap)
{
    if (bitmap == NULL)
        return;
    drv_bitmap_clear(bitmap);
    g_free(bitmap);
}

guint64
drv_bitmap_size(const DrvBitmap *bitmap)
{
    return bitmap->size;
}

gsize
drv_bitmap_memory(const DrvBitmap *bitmap)
{
    return sizeof *bitmap + bitmap->n_leaves * sizeof(Leaf) + bitmap->allocated * LEAF_BYTES;
}

guint64
drv_bitmap_count(const DrvBitmap *bitmap)
{
    return bitmap->count;
}

/* --- one leaf --- */

/* How many pages the leaf stands for. */
static guint
span(const DrvBitmap *bitmap, gsize leaf)
{
    return (guint)MIN(LEAF_PAGES, bitmap->size - leaf * LEAF_PAGES);
}

/* The bits from 'from' up to but not including 'to', 0 to 64, of a word. */
static guint64
mask(guint from, guint to)
{
    guint64 below = to < 64 ? (G_GUINT64_CONSTANT(1) << to) - 1 : G_MAXUINT64;
    return from < 64 ? below & (G_MAXUINT64 << from) : 0;
}

/* As mask(), of the 'word'th word, for bits that are counted from the leaf's beginning. */
static guint64
mask_in_word(guint word, guint from, guint to)
{
    guint base = word * 64;
    if (to <= base || from >= base + 64)
        return 0;
    return mask(from > base ? from - base : 0, MIN(to - base, 64));
}

static guint64
word_of(const DrvBitmap *bitmap, gsize at, guint word)
{
    const Leaf *leaf = &bitmap->leaves[at];
    if (leaf->words != NULL)
        return leaf->words[word];
    return leaf->count > 0 ? mask_in_word(word, 0, span(bitmap, at)) : 0;
}

static void
set_count(DrvBitmap *bitmap, gsize at, guint count)
{
    Leaf *leaf = &bitmap->leaves[at];
    bitmap->count = bitmap->count - leaf->count + count;
    leaf->count = count;
    if (leaf->words != NULL && (count == 0 || count == span(bitmap, at))) {
        g_clear_pointer(&leaf->words, g_free);
        bitmap->allocated--;
    }
}

static guint64 *
words_of(DrvBitmap *bitmap, gsize at)
{
    Leaf *leaf = &bitmap->leaves[at];
    if (leaf->words == NULL) {
        guint64 *words = g_new(guint64, LEAF_WORDS);
        for (guint i = 0; i < LEAF_WORDS; i++)
            words[i] = word_of(bitmap, at, i);
        leaf->words = words;
        bitmap->allocated++;
    }
    return leaf->words;
}

static void
recount(DrvBitmap *bitmap, gsize at)
{
    const guint64 *words = bitmap->leaves[at].words;
    guint count = 0;
    for (guint i = 0; i < LEAF_WORDS; i++)
        count += (guint)__builtin_popcountll(words[i]);
    set_count(bitmap, at, count);
}

static void
set_in_leaf(DrvBitmap *bitmap, gsize at, guint from, guint to)
{
    guint added = 0;
    if (bitmap->leaves[at].count == span(bitmap, at))
        return;
    if (from == 0 && to == span(bitmap, at)) {
        set_count(bitmap, at, to);
        return;
    }
    guint64 *words = words_of(bitmap, at);
    for (guint i = from / 64; i <= (to - 1) / 64; i++) {
        guint64 bits = mask_in_word(i, from, to);
        added += (guint)__builtin_popcountll(bits & ~words[i]);
        words[i] |= bits;
    }
    set_count(bitmap, at, bitmap->leaves[at].count + added);
}

/* --- all of it --- */

static gboolean
within(const DrvBitmap *bitmap, guint64 first, guint64 count)
{
    return first <= bitmap->size && count <= bitmap->size - first;
}

guint64
drv_bitmap_set(DrvBitmap *bitmap, guint64 first, guint64 count)
{
    g_return_val_if_fail(within(bitmap, first, count), 0);
    guint64 before = bitmap->count;
    while (count > 0) {
        guint from = (guint)(first % LEAF_PAGES);
        guint64 n = MIN(count, LEAF_PAGES - from);
        set_in_leaf(bitmap, first / LEAF_PAGES, from, from + (guint)n);
        first += n;
        count -= n;
    }
    return bitmap->count - before;
}

void
drv_bitmap_clear(DrvBitmap *bitmap)
{
    for (gsize i = 0; i < bitmap->n_leaves; i++)
        set_count(bitmap, i, 0);
}

gboolean
drv_bitmap_test(const DrvBitmap *bitmap, guint64 page)
{
    g_return_val_if_fail(page < bitmap->size, FALSE);
    guint bit = (guint)(page % LEAF_PAGES);
    return (word_of(bitmap, page / LEAF_PAGES, bit / 64) >> (bit % 64)) & 1;
}

guint64
drv_bitmap_count_run(const DrvBitmap *bitmap, guint64 first, guint64 count)
{
    g_return_val_if_fail(within(bitmap, first, count), 0);
    guint64 sum = 0;
    while (count > 0) {
        gsize at = first / LEAF_PAGES;
        guint from = (guint)(first % LEAF_PAGES);
        guint n = (guint)MIN(count, LEAF_PAGES - from);
        const Leaf *leaf = &bitmap->leaves[at];
        if (leaf->words == NULL)
            sum += leaf->count > 0 ? n : 0;
        else
            for (guint i = from / 64; i <= (from + n - 1) / 64; i++)
                sum +=
                    (guint)__builtin_popcountll(leaf->words[i] & mask_in_word(i, from, from + n));
        first += n;
        count -= n;
    }
    return sum;
}

/* The first page from 'from' on that is set (or is not); the size when there is none. */
static guint64
find(const DrvBitmap *bitmap, guint64 from, gboolean set)
{
    while (from < bitmap->size) {
        gsize at = from / LEAF_PAGES;
        guint bit = (guint)(from % LEAF_PAGES);
        if (bitmap->leaves[at].count == (set ? 0 : span(bitmap, at))) {
            from = (at + 1) * LEAF_PAGES;
            continue;
        }
        guint64 word = word_of(bitmap, at, bit / 64);
        guint64 hits = (set ? word : ~word) & mask(bit % 64, 64);
        from -= bit % 64;
        if (hits != 0)
            return MIN(from + (guint)__builtin_ctzll(hits), bitmap->size);
        from += 64;
    }
    return bitmap->size;
}

gboolean
drv_bitmap_next_run(const DrvBitmap *bitmap, guint64 from, guint64 *first, guint64 *count)
{
    guint64 begin = find(bitmap, from, TRUE);
    if (begin >= bitmap->size)
        return FALSE;
    *first = begin;
    *count = find(bitmap, begin, FALSE) - begin;
    return TRUE;
}

/* --- several --- */

void
drv_bitmap_or(DrvBitmap *into, const DrvBitmap *from)
{
    g_return_if_fail(into->size == from->size);
    for (gsize at = 0; at < into->n_leaves; at++) {
        const Leaf *leaf = &from->leaves[at];
        if (leaf->words == NULL) {
            if (leaf->count > 0)
                set_count(into, at, leaf->count);
            continue;
        }
        if (into->leaves[at].count == span(into, at))
            continue;
        guint64 *words = words_of(into, at);
        for (guint i = 0; i < LEAF_WORDS; i++)
            words[i] |= leaf->words[i];
        recount(into, at);
    }
}

void
drv_bitmap_and_not(DrvBitmap *from, const DrvBitmap *what)
{
    g_return_if_fail(from->size == what->size);
    for (gsize at = 0; at < from->n_leaves; at++) {
        const Leaf *leaf = &what->leaves[at];
        if (leaf->count == 0 || from->leaves[at].count == 0)
            continue;
        if (leaf->words == NULL) {
            set_count(from, at, 0);
            continue;
        }
        guint64 *words = words_of(from, at);
        for (guint i = 0; i < LEAF_WORDS; i++)
            words[i] &= ~leaf->words[i];
        recount(from, at);
    }
}

guint64
drv_bitmap_count_both(const DrvBitmap *a, const DrvBitmap *b)
{
    g_return_val_if_fail(a->size == b->size, 0);
    guint64 sum = 0;
    for (gsize at = 0; at < a->n_leaves; at++) {
        if (a->leaves[at].count == 0 || b->leaves[at].count == 0)
            continue;
        for (guint i = 0; i < LEAF_WORDS; i++)
            sum += (guint)__builtin_popcountll(word_of(a, at, i) & word_of(b, at, i));
    }
    return sum;
}

static guint
count_any_in_leaf(const DrvBitmap *const *bitmaps, guint n, gsize at)
{
    guint64 words[LEAF_WORDS] = {0};
    guint sum = 0;
    for (guint b = 0; b < n; b++) {
        const Leaf *leaf = &bitmaps[b]->leaves[at];
        if (leaf->words == NULL && leaf->count > 0)
            return leaf->count;
        for (guint i = 0; leaf->words != NULL && i < LEAF_WORDS; i++)
            words[i] |= leaf->words[i];
    }
    for (guint i = 0; i < LEAF_WORDS; i++)
        sum += (guint)__builtin_popcountll(words[i]);
    return sum;
}

guint64
drv_bitmap_count_any(const DrvBitmap *const *bitmaps, guint n)
{
    guint64 sum = 0;
    for (guint b = 1; b < n; b++)
        g_return_val_if_fail(bitmaps[b]->size == bitmaps[0]->size, 0);
    for (gsize at = 0; n > 0 && at < bitmaps[0]->n_leaves; at++)
        sum += count_any_in_leaf(bitmaps, n, at);
    return sum;
}
