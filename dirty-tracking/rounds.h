/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The rounds of a migration, put together from the pages that come by: how fast the guest writes,
 * how much memory it writes to again and again, and where.
 *
 * Any thread may call: a channel's thread marks, the control thread ends rounds and reads. Times
 * are monotonic microseconds of the caller's clock.
 */
typedef struct _DrvRounds DrvRounds;

/* More is not tracked page by page: 4096 blocks, 16 TiB in pages of 4 KiB. */
#define DRV_ROUNDS_MAX_BLOCKS 4096
#define DRV_ROUNDS_MAX_PAGES (G_GUINT64_CONSTANT(1) << 32)
/* Rounds of a history. */
#define DRV_ROUNDS_HISTORY 64

DrvRounds *drv_rounds_new(guint page_size, gint64 now_us);
void drv_rounds_free(DrvRounds *rounds);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvRounds, drv_rounds_free)

/* A RAM block of so many pages, by the number that its pages will come with; 'id' is QEMU's name
 * for it. FALSE when it is not tracked, because it would be too much or the number is taken by one
 * of another size: its pages then only count. */
gboolean drv_rounds_add_block(DrvRounds *rounds, guint number, const char *id, guint64 pages);
/* Its name, as long as the rounds live; NULL for a number that is not tracked. */
const char *drv_rounds_block_id(DrvRounds *rounds, guint number);

/* A run of pages came by. What lies outside the blocks only counts. */
void drv_rounds_mark(DrvRounds *rounds, guint block, guint64 first, guint64 count);

/* QEMU says (MIGRATION_PASS, or a dirty-sync-count that has grown) that round 'pass' begins, 1
 * being the one that brings everything. A number that is not above the last is ignored. The event
 * overtakes the stream, so a few pages of the round before may count to the next. */
void drv_rounds_next(DrvRounds *rounds, guint pass, gint64 now_us);
/* Ends the last round: nothing more comes. */
void drv_rounds_finish(DrvRounds *rounds, gint64 now_us);

/* One round that is over, or in a long history several in a row. Pages are distinct pages. */
typedef struct {
    guint pass;      /* of the first, and */
    guint last_pass; /* of the last of them */
    gint64 begin_us; /* when it began and how long it took; from drv_rounds_new() on */
    gint64 us;
    guint64 pages;    /* that came by in this round */
    guint64 repeated; /* that came by more than once within it, counted each time */
    guint64 again;    /* of 'pages': that had come by in the round before, too */
    guint64 bytes;    /* of 'pages' */
    guint64 dirtied;  /* bytes that the guest wrote to meanwhile: what the next round brought */
    gboolean dirtied_known;
    double dirty_rate;   /* the same, bytes a second; 0 if not known */
    guint64 working_set; /* bytes in any of the last rounds up to this; 0 before the second */
    guint hot_block;     /* the region of which most pages came, in the last of them */
    guint64 hot_first;
    guint64 hot_pages; /* 0: none */
} DrvRound;

/* The rounds that are over, oldest first; at most DRV_ROUNDS_HISTORY, for which neighbours are put
 * together. Returns how many were written to 'out', at most 'max', the latest ones. */
guint drv_rounds_history(DrvRounds *rounds, DrvRound *out, guint max);

/* 2 MiB of a block that the guest writes to again and again. */
typedef struct {
    guint block;
    guint64 first; /* page */
    guint64 pages; /* the last of a block may be shorter */
    guint64 count; /* pages of it that came by, in all rounds but the first */
    guint rounds;  /* in which any did */
} DrvHotRegion;

/* The 'n' hottest, hottest first; returns how many there are. */
guint drv_rounds_hot(DrvRounds *rounds, DrvHotRegion *out, guint n);

typedef struct {
    guint pass;          /* the round under way; 0: none yet */
    guint64 pages;       /* distinct, in the round under way, so far */
    guint rounds;        /* over */
    guint64 total_pages; /* in all rounds */
    guint64 again_pages; /* of these: in all rounds but the first */
    guint64 untracked;   /* of these: in no block that is known */
    double dirty_rate;   /* bytes a second, in the latest round for which it is known; 0: none */
    double peak_rate;    /* the highest so far */
    guint64 working_set; /* bytes, over the last rounds */
    double times;        /* how often a page of it came by in these rounds; 0: not known */
    gsize memory;        /* bytes that all this takes */
} DrvRoundsSummary;

void drv_rounds_summary(DrvRounds *rounds, DrvRoundsSummary *summary);

/* Whether a page came by in one of the last rounds but the first: it is of the working set. */
gboolean drv_rounds_is_hot(DrvRounds *rounds, guint block, guint64 page);
