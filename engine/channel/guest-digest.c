/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/guest-digest.h"

#include "common/error.h"
#include "engine/channel/guest-ram-private.h"

#include <string.h>
#include <xxhash.h>

/*
 * A tree of two levels, so that threads may share the work and the digest does not depend on how:
 * XXH3-128 of each MiB, and XXH3-128 over a block's size and these. Threads take the next MiB that
 * nobody has taken yet.
 *
 * A MiB is copied here in parts that stay in the CPU's cache until they have been hashed. Pages
 * that have no memory are zeros that need not be fetched, and a MiB of nothing else has a digest
 * known beforehand: a big guest that is mostly untouched costs next to nothing.
 */

#define PIECE ((gsize)1 << 20)
#define PART ((gsize)128 << 10)
#define PIECE_PAGES ((guint)(PIECE / DRV_GUEST_PAGE))
#define MAX_THREADS 8u

G_STATIC_ASSERT(PIECE_PAGES <= DRV_GUEST_WINDOW);

typedef struct {
    guint block;
    guint64 first, n; /* of the pieces of all blocks, those of this one */
} Range;

typedef struct {
    /* fixed */
    DrvGuestRam *ram;
    const DrvGuestDigestOptions *options;
    Range *ranges;
    guint64 n_pieces;
    XXH128_canonical_t empty; /* of a piece of zeros */
    /* each element for the thread that took the piece */
    XXH128_canonical_t *pieces;
    /* atomic */
    guint64 next;
    gint stop;
    /* under the lock */
    GMutex lock;
    GError *error; /* the first */
} Digest;

/* What a thread has for itself. */
typedef struct {
    XXH3_state_t *state;
    guint8 *part;
} Hasher;

static void
hasher_init(Hasher *hasher)
{
    hasher->state = XXH3_createState();
    g_assert(hasher->state != NULL);
    hasher->part = g_malloc(PART);
}

static void
hasher_finish(Hasher *hasher)
{
    XXH3_freeState(hasher->state);
    g_free(hasher->part);
}

static void
hasher_reset(const Digest *self, Hasher *hasher)
{
    XXH3_128bits_reset_withSeed(hasher->state, self->options->seed);
}

static void
hasher_get(const Hasher *hasher, XXH128_canonical_t *digest)
{
    XXH128_canonicalFromHash(digest, XXH3_128bits_digest(hasher->state));
}

/* Fetches pages of a block, up to PART bytes of them, into the hasher's part. */
static gboolean
fetch(Digest *self, Hasher *hasher, guint block, guint64 page, guint n, const gboolean *known,
      GError **error)
{
    for (guint i = 0, run; i < n; i += run) {
        for (run = 1; i + run < n && known[i + run] == known[i];)
            run++;
        guint8 *to = hasher->part + (gsize)i * DRV_GUEST_PAGE;
        gsize len = (gsize)run * DRV_GUEST_PAGE;
        if (known[i])
            memset(to, 0, len);
        else if (!drv_guest_ram_read(self->ram, block, (page + i) * DRV_GUEST_PAGE, to, len, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
all_known(const gboolean *known, guint n)
{
    guint i = 0;
    while (i < n && known[i])
        i++;
    return i == n;
}

/* What is compared page by page is left out here. */
static void
leave_out(const DrvGuestPages *apart, guint64 first, guint n, gboolean *known)
{
    guint64 from = MAX(apart->first, first), to = MIN(apart->first + apart->n, first + n);
    for (guint64 page = from; page < to; page++)
        known[page - first] = TRUE;
}

static gboolean
hash_piece(Digest *self, Hasher *hasher, const Range *range, guint64 piece, GError **error)
{
    gboolean known[PIECE_PAGES];
    const DrvGuestPart *part = &self->ram->parts[range->block];
    guint64 first = (piece - range->first) * PIECE_PAGES;
    guint n = (guint)MIN(part->info.size / DRV_GUEST_PAGE - first, PIECE_PAGES);
    drv_guest_known_zero(self->ram, part, first, n, known);
    if (range->block == self->options->apart.block)
        leave_out(&self->options->apart, first, n, known);
    if (n == PIECE_PAGES && all_known(known, n)) {
        self->pieces[piece] = self->empty;
    } else {
        hasher_reset(self, hasher);
        for (guint i = 0, pages; i < n; i += pages) {
            pages = MIN(n - i, (guint)(PART / DRV_GUEST_PAGE));
            if (!fetch(self, hasher, range->block, first + i, pages, known + i, error))
                return FALSE;
            XXH3_128bits_update(hasher->state, hasher->part, (gsize)pages * DRV_GUEST_PAGE);
        }
        hasher_get(hasher, &self->pieces[piece]);
    }
    if (self->options->done != NULL)
        __atomic_add_fetch(self->options->done, (guint64)n * DRV_GUEST_PAGE, __ATOMIC_RELAXED);
    return TRUE;
}

/* --- threads --- */

static void
give_up(Digest *self, GError *error)
{
    g_mutex_lock(&self->lock);
    if (self->error == NULL)
        self->error = error;
    else
        g_error_free(error);
    g_mutex_unlock(&self->lock);
    g_atomic_int_set(&self->stop, TRUE);
}

static gpointer
hash_pieces(gpointer data)
{
    Digest *self = data;
    Hasher hasher;
    GError *error = NULL;
    guint range = 0;
    hasher_init(&hasher);
    while (error == NULL && !g_atomic_int_get(&self->stop)) {
        guint64 piece = __atomic_fetch_add(&self->next, 1, __ATOMIC_RELAXED);
        if (piece >= self->n_pieces)
            break;
        while (piece - self->ranges[range].first >= self->ranges[range].n)
            range++;
        if (!g_cancellable_set_error_if_cancelled(self->options->cancellable, &error))
            hash_piece(self, &hasher, &self->ranges[range], piece, &error);
    }
    if (error != NULL)
        give_up(self, error);
    hasher_finish(&hasher);
    return NULL;
}

/* This thread is one of them; without the others it takes longer, and that is all. */
static void
run_threads(Digest *self)
{
    GThread *threads[MAX_THREADS];
    guint wanted = self->options->threads > 0 ? self->options->threads : g_get_num_processors();
    guint n = 0;
    wanted = (guint)MIN(MIN(wanted, MAX_THREADS), MAX(self->n_pieces, 1));
    while (n + 1 < wanted) {
        threads[n] = g_thread_try_new("drv-digest", hash_pieces, self, NULL);
        if (threads[n] == NULL)
            break;
        n++;
    }
    hash_pieces(self);
    while (n > 0)
        g_thread_join(threads[--n]);
}

/* --- all of it --- */

static gboolean
check_block(const DrvGuestRam *ram, guint block, GError **error)
{
    if (block < ram->n && ram->parts[block].why == NULL)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "there is no RAM block %u that can be reached from outside", block);
    return FALSE;
}

static gboolean
set_ranges(Digest *self, const guint *blocks, guint n, GError **error)
{
    for (guint i = 0; i < n; i++) {
        if (!check_block(self->ram, blocks[i], error))
            return FALSE;
        guint64 size = self->ram->parts[blocks[i]].info.size;
        self->ranges[i] = (Range){blocks[i], self->n_pieces, (size + PIECE - 1) / PIECE};
        self->n_pieces += self->ranges[i].n;
    }
    return TRUE;
}

static void
set_empty(Digest *self, Hasher *hasher)
{
    memset(hasher->part, 0, PART);
    hasher_reset(self, hasher);
    for (gsize at = 0; at < PIECE; at += PART)
        XXH3_128bits_update(hasher->state, hasher->part, PART);
    hasher_get(hasher, &self->empty);
}

static void
finish_block(Digest *self, Hasher *hasher, const Range *range, guint8 *digest)
{
    XXH128_canonical_t canonical;
    guint64 size = GUINT64_TO_BE(self->ram->parts[range->block].info.size);
    hasher_reset(self, hasher);
    XXH3_128bits_update(hasher->state, &size, sizeof size);
    XXH3_128bits_update(hasher->state, self->pieces + range->first,
                        range->n * sizeof *self->pieces);
    hasher_get(hasher, &canonical);
    memcpy(digest, canonical.digest, DRV_GUEST_DIGEST_LEN);
}

gboolean
drv_guest_digest(DrvGuestRam *ram, const guint *blocks, guint n,
                 const DrvGuestDigestOptions *options, guint8 *digests, GError **error)
{
    G_STATIC_ASSERT(sizeof(XXH128_canonical_t) == DRV_GUEST_DIGEST_LEN);
    g_autofree Range *ranges = g_new(Range, n);
    Digest self = {.ram = ram, .options = options, .ranges = ranges};
    Hasher hasher;
    if (options->done != NULL)
        __atomic_store_n(options->done, 0, __ATOMIC_RELAXED);
    if (!set_ranges(&self, blocks, n, error))
        return FALSE;
    self.pieces = g_new(XXH128_canonical_t, self.n_pieces);
    g_mutex_init(&self.lock);
    hasher_init(&hasher);
    set_empty(&self, &hasher);
    run_threads(&self);
    if (self.error == NULL)
        drv_guest_ram_recheck(ram, &self.error);
    if (self.error == NULL)
        for (guint i = 0; i < n; i++)
            finish_block(&self, &hasher, &ranges[i], digests + (gsize)i * DRV_GUEST_DIGEST_LEN);
    hasher_finish(&hasher);
    g_mutex_clear(&self.lock);
    g_free(self.pieces);
    if (self.error == NULL)
        return TRUE;
    g_propagate_error(error, self.error);
    return FALSE;
}

gboolean
drv_guest_digest_pages(DrvGuestRam *ram, const DrvGuestPages *pages, guint64 seed, guint8 *digests,
                       GError **error)
{
    gboolean known[DRV_GUEST_APART];
    guint8 page[DRV_GUEST_PAGE];
    G_STATIC_ASSERT(DRV_GUEST_APART <= DRV_GUEST_WINDOW);
    if (!check_block(ram, pages->block, error))
        return FALSE;
    const DrvGuestPart *part = &ram->parts[pages->block];
    guint64 all = part->info.size / DRV_GUEST_PAGE;
    if (pages->n > DRV_GUEST_APART || pages->first > all || pages->n > all - pages->first) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "%u pages from page %" G_GUINT64_FORMAT " on are not in RAM block '%s', or too "
                    "many",
                    pages->n, pages->first, part->info.id);
        return FALSE;
    }
    drv_guest_known_zero(ram, part, pages->first, pages->n, known);
    for (guint i = 0; i < pages->n; i++) {
        XXH128_canonical_t canonical;
        memset(page, 0, sizeof page);
        if (!known[i] && !drv_guest_ram_read(ram, pages->block, (pages->first + i) * DRV_GUEST_PAGE,
                                             page, sizeof page, error))
            return FALSE;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(page, sizeof page, seed));
        memcpy(digests + (gsize)i * DRV_GUEST_DIGEST_LEN, canonical.digest, DRV_GUEST_DIGEST_LEN);
    }
    return drv_guest_ram_recheck(ram, error);
}

guint64
drv_guest_digest_done(const guint64 *done)
{
    return __atomic_load_n(done, __ATOMIC_RELAXED);
}
