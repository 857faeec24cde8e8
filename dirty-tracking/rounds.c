/* SPDX-License-Identifier: Apache-2.0 */
#include "dirty-tracking/rounds.h"

#include "dirty-tracking/bitmap.h"

#include <string.h>

/*
 * QEMU asks the dirty log at the end of each round and then sends what it says. Nobody else may ask
 * (the kernel gives a VM's log to its own process only), but the pages that come by in a round are
 * the log as it was when the round began:
 *
 *      round 1: everything     round 2: what was         round 3: what was
 *                              written during 1          written during 2
 *   |-----------------------|------------------------|---------------- ...
 *
 * So the rate at which the guest writes during a round is known when the next one is over. The
 * first round says nothing of the guest, and is left out of all that follows.
 *
 * A bitmap for each of the last KEPT rounds (one under way among them) gives the working set, which
 * is what came by in any of them. For every 2 MiB there is a count for all time. Both are bounded
 * by the size of the guest; the history is by putting neighbours together, so that it is fine where
 * it is young and coarse where it is old.
 */
#define KEPT 4
#define REGION_BYTES (2u * 1024 * 1024)

typedef struct {
    guint32 count;
    guint32 rounds;
} Region;

typedef struct {
    guint number;
    char *id;
    guint64 pages;
    DrvBitmap *kept[KEPT];
    Region *regions;
    guint64 n_regions;
} Block;

struct _DrvRounds {
    GMutex lock; /* for all that follows but the first three */
    guint page_size;
    guint64 region_pages;
    gint64 born_us;

    GPtrArray *blocks; /* of Block, by number; NULL where there is none */
    guint64 tracked;   /* pages of all blocks */

    guint pass;
    gint64 began_us;
    guint at;       /* in 'kept': the round under way */
    gboolean bulk;  /* it is the first */
    gboolean over;  /* nothing comes any more */
    guint64 marked; /* pages of the round under way, each time that they came */

    DrvRound history[DRV_ROUNDS_HISTORY];
    guint n_history;
    DrvRoundsSummary sum;
};

static void
free_block(gpointer data)
{
    Block *block = data;
    if (block == NULL)
        return;
    for (guint i = 0; i < KEPT; i++)
        drv_bitmap_free(block->kept[i]);
    g_free(block->regions);
    g_free(block->id);
    g_free(block);
}

DrvRounds *
drv_rounds_new(guint page_size, gint64 now_us)
{
    g_return_val_if_fail(page_size > 0 && page_size <= REGION_BYTES, NULL);
    DrvRounds *rounds = g_new0(DrvRounds, 1);
    g_mutex_init(&rounds->lock);
    rounds->page_size = page_size;
    rounds->region_pages = REGION_BYTES / page_size;
    rounds->born_us = rounds->began_us = now_us;
    rounds->blocks = g_ptr_array_new_with_free_func(free_block);
    rounds->bulk = TRUE;
    return rounds;
}

void
drv_rounds_free(DrvRounds *rounds)
{
    if (rounds == NULL)
        return;
    g_ptr_array_unref(rounds->blocks);
    g_mutex_clear(&rounds->lock);
    g_free(rounds);
}

/* --- blocks and pages --- */

static Block *
find_block(DrvRounds *rounds, guint number)
{
    return number < rounds->blocks->len ? rounds->blocks->pdata[number] : NULL;
}

static Block *
block_new(const DrvRounds *rounds, guint number, const char *id, guint64 pages)
{
    Block *block = g_new0(Block, 1);
    block->number = number;
    block->id = g_strdup(id);
    block->pages = pages;
    block->n_regions = (pages + rounds->region_pages - 1) / rounds->region_pages;
    block->regions = g_new0(Region, block->n_regions);
    for (guint i = 0; i < KEPT; i++)
        block->kept[i] = drv_bitmap_new(pages);
    return block;
}

gboolean
drv_rounds_add_block(DrvRounds *rounds, guint number, const char *id, guint64 pages)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    const Block *known = find_block(rounds, number);
    if (known != NULL)
        return known->pages == pages;
    if (number >= DRV_ROUNDS_MAX_BLOCKS || pages > DRV_ROUNDS_MAX_PAGES - rounds->tracked)
        return FALSE;
    if (number >= rounds->blocks->len)
        g_ptr_array_set_size(rounds->blocks, (gint)number + 1);
    rounds->blocks->pdata[number] = block_new(rounds, number, id, pages);
    rounds->tracked += pages;
    return TRUE;
}

const char *
drv_rounds_block_id(DrvRounds *rounds, guint number)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    const Block *block = find_block(rounds, number);
    return block != NULL ? block->id : NULL;
}

void
drv_rounds_mark(DrvRounds *rounds, guint number, guint64 first, guint64 count)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    Block *block = find_block(rounds, number);
    rounds->marked += count;
    if (block != NULL && first <= block->pages && count <= block->pages - first) {
        rounds->sum.pages += drv_bitmap_set(block->kept[rounds->at], first, count);
        return;
    }
    rounds->sum.pages += count;
    rounds->sum.untracked += count;
}

gboolean
drv_rounds_is_hot(DrvRounds *rounds, guint number, guint64 page)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    const Block *block = find_block(rounds, number);
    if (block == NULL || page >= block->pages || rounds->bulk)
        return FALSE;
    for (guint i = 0; i < KEPT; i++)
        if (drv_bitmap_test(block->kept[i], page))
            return TRUE;
    return FALSE;
}

/* --- the end of a round --- */

static double
rate_of(guint64 bytes, gint64 us)
{
    return us > 0 ? (double)bytes * G_USEC_PER_SEC / (double)us : 0;
}

/* Two neighbours become one. */
static DrvRound
put_together(const DrvRound *a, const DrvRound *b)
{
    DrvRound both = *b;
    both.pass = a->pass;
    both.begin_us = a->begin_us;
    both.us = a->us + b->us;
    both.pages = a->pages + b->pages;
    both.repeated = a->repeated + b->repeated;
    both.again = a->again + b->again;
    both.bytes = a->bytes + b->bytes;
    both.dirtied = a->dirtied + b->dirtied;
    both.dirtied_known = a->dirtied_known && b->dirtied_known;
    both.dirty_rate = both.dirtied_known ? rate_of(both.dirtied, both.us) : 0;
    both.working_set = MAX(a->working_set, b->working_set);
    return both;
}

/* The first round stays by itself: it is of another kind. */
static void
make_room(DrvRounds *rounds)
{
    if (rounds->n_history < DRV_ROUNDS_HISTORY)
        return;
    guint to = 1, from = 1;
    for (; from + 1 < rounds->n_history; from += 2)
        rounds->history[to++] = put_together(&rounds->history[from], &rounds->history[from + 1]);
    for (; from < rounds->n_history; from++)
        rounds->history[to++] = rounds->history[from];
    rounds->n_history = to;
}

/* What a round brought is what was written during the one before. */
static void
note_dirtied(DrvRounds *rounds, guint64 bytes)
{
    if (rounds->n_history == 0)
        return;
    DrvRound *before = &rounds->history[rounds->n_history - 1];
    before->dirtied = bytes;
    before->dirtied_known = TRUE;
    before->dirty_rate = rate_of(bytes, before->us);
    rounds->sum.dirty_rate = before->dirty_rate;
    rounds->sum.peak_rate = MAX(rounds->sum.peak_rate, before->dirty_rate);
}

/* Counts a block's regions, and finds the one of which most came. */
static void
count_regions(DrvRounds *rounds, Block *block, DrvRound *round)
{
    const DrvBitmap *bitmap = block->kept[rounds->at];
    guint64 first, count, next = 0;
    while (drv_bitmap_next_run(bitmap, next, &first, &count)) {
        /* A region at a time, and from the next one on. */
        guint64 r = first / rounds->region_pages;
        guint64 begin = r * rounds->region_pages;
        guint64 len = MIN(rounds->region_pages, block->pages - begin);
        guint64 came = drv_bitmap_count_run(bitmap, begin, len);
        Region *region = &block->regions[r];
        region->count = (guint32)MIN((guint64)region->count + came, G_MAXUINT32);
        region->rounds++;
        if (came > round->hot_pages) {
            round->hot_block = block->number;
            round->hot_first = begin;
            round->hot_pages = came;
        }
        next = begin + len;
    }
}

static void
close_block(DrvRounds *rounds, Block *block, DrvRound *round)
{
    const DrvBitmap *now = block->kept[rounds->at];
    const DrvBitmap *before = block->kept[(rounds->at + KEPT - 1) % KEPT];
    round->again += drv_bitmap_count_both(now, before);
    round->working_set += drv_bitmap_count_any((const DrvBitmap *const *)block->kept, KEPT);
    count_regions(rounds, block, round);
}

static guint64
sum_of_kept(const DrvRounds *rounds)
{
    guint64 sum = 0;
    for (guint b = 0; b < rounds->blocks->len; b++) {
        const Block *block = rounds->blocks->pdata[b];
        for (guint i = 0; block != NULL && i < KEPT; i++)
            sum += drv_bitmap_count(block->kept[i]);
    }
    return sum;
}

/* All that is known of a round but the first when it is over. */
static void
close_repeating(DrvRounds *rounds, DrvRound *round)
{
    for (guint b = 0; b < rounds->blocks->len; b++)
        if (rounds->blocks->pdata[b] != NULL)
            close_block(rounds, rounds->blocks->pdata[b], round);
    rounds->sum.times =
        round->working_set > 0 ? (double)sum_of_kept(rounds) / (double)round->working_set : 0;
    round->working_set *= rounds->page_size;
    rounds->sum.working_set = round->working_set;
    rounds->sum.again_pages += round->pages;
}

/* The bitmap of the next round; the first round's own is of no use to anybody. */
static void
turn_bitmaps(DrvRounds *rounds)
{
    if (!rounds->bulk)
        rounds->at = (rounds->at + 1) % KEPT;
    for (guint b = 0; b < rounds->blocks->len; b++) {
        Block *block = rounds->blocks->pdata[b];
        if (block != NULL)
            drv_bitmap_clear(block->kept[rounds->at]);
    }
}

static void
close_round(DrvRounds *rounds, gint64 now_us)
{
    DrvRound round = {
        .pass = rounds->pass,
        .last_pass = rounds->pass,
        .begin_us = rounds->began_us - rounds->born_us,
        .us = MAX(now_us - rounds->began_us, 0),
        .pages = rounds->sum.pages,
        .repeated = rounds->marked - rounds->sum.pages,
        .bytes = rounds->sum.pages * rounds->page_size,
    };
    if (!rounds->bulk) {
        note_dirtied(rounds, round.bytes);
        close_repeating(rounds, &round);
    }
    make_room(rounds);
    rounds->history[rounds->n_history++] = round;
    turn_bitmaps(rounds);
    rounds->bulk = FALSE;
    rounds->sum.rounds++;
    rounds->sum.total_pages += round.pages;
    rounds->sum.pages = rounds->marked = 0;
}

void
drv_rounds_next(DrvRounds *rounds, guint pass, gint64 now_us)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    if (pass <= rounds->pass || rounds->over)
        return;
    /* Before QEMU has named a round, what came by belongs to the first. */
    if (rounds->pass > 0)
        close_round(rounds, now_us);
    rounds->pass = rounds->sum.pass = pass;
    rounds->began_us = now_us;
}

void
drv_rounds_finish(DrvRounds *rounds, gint64 now_us)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    if (rounds->pass > 0 && !rounds->over)
        close_round(rounds, now_us);
    rounds->over = TRUE;
}

/* --- what is known --- */

guint
drv_rounds_history(DrvRounds *rounds, DrvRound *out, guint max)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    guint n = MIN(max, rounds->n_history);
    if (n > 0)
        memcpy(out, &rounds->history[rounds->n_history - n], n * sizeof *out);
    return n;
}

/* Puts a region where it belongs among the 'found' hottest so far, of at most 'n'. */
static guint
rank(DrvHotRegion *out, guint found, guint n, const DrvHotRegion *region)
{
    guint at = found;
    while (at > 0 && out[at - 1].count < region->count)
        at--;
    if (at >= n)
        return found;
    guint last = MIN(found, n - 1);
    memmove(&out[at + 1], &out[at], (last - at) * sizeof *out);
    out[at] = *region;
    return last + 1;
}

guint
drv_rounds_hot(DrvRounds *rounds, DrvHotRegion *out, guint n)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    guint found = 0;
    for (guint b = 0; b < rounds->blocks->len; b++) {
        const Block *block = rounds->blocks->pdata[b];
        for (guint64 r = 0; block != NULL && r < block->n_regions; r++) {
            if (block->regions[r].count == 0)
                continue;
            guint64 first = r * rounds->region_pages;
            DrvHotRegion region = {block->number, first,
                                   MIN(rounds->region_pages, block->pages - first),
                                   block->regions[r].count, block->regions[r].rounds};
            found = rank(out, found, n, &region);
        }
    }
    return found;
}

static gsize
memory_of(const DrvRounds *rounds)
{
    gsize sum = sizeof *rounds + rounds->blocks->len * sizeof(gpointer);
    for (guint b = 0; b < rounds->blocks->len; b++) {
        const Block *block = rounds->blocks->pdata[b];
        if (block == NULL)
            continue;
        sum += sizeof *block + block->n_regions * sizeof(Region);
        for (guint i = 0; i < KEPT; i++)
            sum += drv_bitmap_memory(block->kept[i]);
    }
    return sum;
}

void
drv_rounds_summary(DrvRounds *rounds, DrvRoundsSummary *summary)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&rounds->lock);
    *summary = rounds->sum;
    summary->memory = memory_of(rounds);
}
