/* SPDX-License-Identifier: Apache-2.0 */

/*
 * For each page of a placeable block, 72 bytes in two arrays:
 *
 *     row    8 hashes of its 512-byte pieces, as they were sent last
 *     stamp  the number of the last batch that wrote the page, and of the last that read it as a
 *            duplicate's source; and whether it was sent as zero, and has no row then
 *
 * A batch has to wait for the last that wrote what it reads or writes, and for the last that read
 * what it writes. Batches without such a page in common may be placed in any order. That holds
 * between a batch and lower numbers only, but batches of several channels are filled at the same
 * time: when a page turns out to have to do with a higher number, the batch is finished, and the
 * page goes into the next one.
 *
 * Numbers are kept in 31 bits. Beyond that (266 TB in full batches) stamps are no longer told apart
 * and each batch waits for all before it: slower, never wrong.
 *
 * What is hashed is not compared. A collision is found by the batch's digest, which is over the
 * whole content, with another secret, of what really is in the receiver's page.
 *
 * The arrays are address space until a page is sent; zero pages have no row. A row is only compared
 * when the stamp says that there is one.
 */
#include "precopy/page-table-private.h"

#include "common/error.h"
#include "precopy/dup-index.h"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#define MAX_DELTA_PIECES 4 /* more changed ones: the page is sent */
#define MAX_PAGES ((guint64)1 << 32)
#define ZERO_BIT 0x80000000u
#define LAST_STAMP 0x7fffffffu
#define MINCORE_PAGES 65536u

G_STATIC_ASSERT(DRV_PAGE_SECRET >= XXH3_SECRET_SIZE_MIN);

typedef struct {
    guint32 written; /* 0: never; with ZERO_BIT */
    guint32 read;
} Stamp;

typedef struct {
    guint64 pieces[DRV_PAGE_PIECES];
} Row;

struct _DrvTableBlock {
    /* Fixed */
    char *id;
    guint number;
    guint64 pages;
    gboolean placeable;
    Row *rows;     /* only of placeable ones, and of as many pages */
    Stamp *stamps; /* likewise */
    /* Under the table's lock */
    guint64 listed; /* the batch with its BLOCK record; 0: none yet */
};

struct _DrvPageTable {
    /* Fixed */
    guint8 pieces_secret[DRV_PAGE_SECRET];
    guint8 digest_secret[DRV_PAGE_SECRET];
    guint64 zero_piece; /* hash of a piece that is zero */
    gsize dedup_memory;
    DrvKeptPages *kept; /* referenced; may be NULL */

    /* Grow only: an element is written before the number that lets it be seen */
    DrvTableBlock *blocks[DRV_STREAM_MAX_BLOCKS];
    gint n_blocks;
    gint has_placeable;
    gint index_ready;

    GMutex mutex;
    /* Under the mutex */
    guint64 number; /* of the newest batch */
    guint64 lost_at;
    const char *why_lost;
    gint lost; /* read without as well */
    guint32 last_stamp;
    guint64 placeable_pages;
    DrvDupIndex index;
    gsize index_bytes;
    DrvPageCounts counts;
};

/* ---- memory that is taken when it is touched ---- */

static void *
reserve(gsize bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void
release(void *p, gsize bytes)
{
    if (p != NULL)
        munmap(p, bytes);
}

static guint64
resident(void *p, gsize bytes)
{
    gsize page = (gsize)sysconf(_SC_PAGESIZE);
    g_autofree guint8 *present = g_malloc(MINCORE_PAGES);
    guint64 n = 0;
    for (gsize at = 0; at < bytes; at += MINCORE_PAGES * page) {
        gsize len = MIN(bytes - at, MINCORE_PAGES * page);
        if (mincore((guint8 *)p + at, len, present) != 0)
            return bytes;
        for (gsize i = 0; i < (len + page - 1) / page; i++)
            n += present[i] & 1;
    }
    return n * page;
}

/* ---- the table and its blocks ---- */

static void
set_pieces_secret(DrvPageTable *table, const guint8 pieces[DRV_PAGE_SECRET])
{
    static const guint8 zero[DRV_PIECE_LEN];
    memcpy(table->pieces_secret, pieces, DRV_PAGE_SECRET);
    table->zero_piece = XXH3_64bits_withSecret(zero, sizeof zero, pieces, DRV_PAGE_SECRET);
}

DrvPageTable *
drv_page_table_new(const guint8 pieces[DRV_PAGE_SECRET], const guint8 digest[DRV_PAGE_SECRET],
                   gsize dedup_memory)
{
    DrvPageTable *table = g_new0(DrvPageTable, 1);
    set_pieces_secret(table, pieces);
    memcpy(table->digest_secret, digest, DRV_PAGE_SECRET);
    table->dedup_memory = dedup_memory;
    table->last_stamp = LAST_STAMP;
    g_mutex_init(&table->mutex);
    return table;
}

/* Contents of several guests are compared by their hashes, so these have to be of the same secret.
 */
void
drv_page_table_use_kept(DrvPageTable *table, DrvKeptPages *kept)
{
    g_return_if_fail(table->n_blocks == 0 && table->kept == NULL);
    set_pieces_secret(table, drv_kept_pages_secret(kept));
    table->kept = drv_kept_pages_ref(kept);
}

static void
block_free(DrvTableBlock *block)
{
    release(block->rows, block->pages * sizeof(Row));
    release(block->stamps, block->pages * sizeof(Stamp));
    g_free(block->id);
    g_free(block);
}

void
drv_page_table_free(DrvPageTable *table)
{
    if (table == NULL)
        return;
    for (gint i = 0; i < table->n_blocks; i++)
        block_free(table->blocks[i]);
    release(table->index.entries, table->index_bytes);
    drv_kept_pages_unref(table->kept);
    g_mutex_clear(&table->mutex);
    g_free(table);
}

static gboolean
block_reserve(DrvTableBlock *block)
{
    if (!block->placeable || block->pages == 0)
        return TRUE;
    if (block->pages > MAX_PAGES)
        return FALSE;
    block->rows = reserve(block->pages * sizeof(Row));
    block->stamps = reserve(block->pages * sizeof(Stamp));
    return block->rows != NULL && block->stamps != NULL;
}

gboolean
drv_page_table_add_block(DrvPageTable *table, guint number, const char *id, guint64 size,
                         gboolean placeable, GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&table->mutex);
    if (number != (guint)table->n_blocks || number >= DRV_STREAM_MAX_BLOCKS) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "RAM block '%s' has number %u where %d was expected", id, number,
                    table->n_blocks);
        return FALSE;
    }
    DrvTableBlock *block = g_new0(DrvTableBlock, 1);
    block->id = g_strdup(id);
    block->number = number;
    block->pages = size / DRV_PAGE_LEN;
    block->placeable = placeable;
    if (!block_reserve(block)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                    "there is no room to remember the pages of RAM block '%s' of %" G_GUINT64_FORMAT
                    " bytes: use relay mode",
                    id, size);
        block_free(block);
        return FALSE;
    }
    table->blocks[number] = block;
    table->placeable_pages += placeable ? block->pages : 0;
    g_atomic_int_inc(&table->n_blocks);
    if (placeable)
        g_atomic_int_set(&table->has_placeable, TRUE);
    return TRUE;
}

gint
drv_page_table_find_block(DrvPageTable *table, const char *id)
{
    gint n = g_atomic_int_get(&table->n_blocks);
    for (gint i = 0; i < n; i++)
        if (strcmp(table->blocks[i]->id, id) == 0)
            return i;
    return -1;
}

guint64
drv_page_table_memory(DrvPageTable *table)
{
    gint n = g_atomic_int_get(&table->n_blocks);
    guint64 bytes = sizeof *table;
    for (gint i = 0; i < n; i++) {
        const DrvTableBlock *block = table->blocks[i];
        bytes += sizeof *block;
        if (block->rows != NULL)
            bytes += resident(block->rows, block->pages * sizeof(Row)) +
                     resident(block->stamps, block->pages * sizeof(Stamp));
    }
    if (g_atomic_int_get(&table->index_ready))
        bytes += resident(table->index.entries, table->index_bytes);
    return bytes;
}

DrvTableBlock *
drv_page_table_block(DrvPageTable *table, guint number)
{
    return number < (guint)g_atomic_int_get(&table->n_blocks) ? table->blocks[number] : NULL;
}

gboolean
drv_table_block_placeable(const DrvTableBlock *block)
{
    return block != NULL && block->placeable;
}

guint64
drv_table_block_pages(const DrvTableBlock *block)
{
    return block->pages;
}

gboolean
drv_page_table_has_placeable(DrvPageTable *table)
{
    return g_atomic_int_get(&table->has_placeable);
}

const guint8 *
drv_page_table_digest_secret(const DrvPageTable *table)
{
    return table->digest_secret;
}

/* ---- numbers ---- */

void
drv_page_table_lock(DrvPageTable *table)
{
    g_mutex_lock(&table->mutex);
}

void
drv_page_table_unlock(DrvPageTable *table)
{
    g_mutex_unlock(&table->mutex);
}

guint64
drv_page_table_next(const DrvPageTable *table)
{
    return table->number + 1;
}

guint64
drv_page_table_number(DrvPageTable *table)
{
    return ++table->number;
}

gboolean
drv_page_table_is_newest(const DrvPageTable *table, guint64 number)
{
    return number >= table->number;
}

void
drv_page_table_lose(DrvPageTable *table, const char *why)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&table->mutex);
    if (table->lost)
        return;
    table->lost_at = table->number;
    table->why_lost = why;
    g_atomic_int_set(&table->lost, TRUE);
}

gboolean
drv_page_table_lost(DrvPageTable *table)
{
    return g_atomic_int_get(&table->lost);
}

const char *
drv_page_table_why_lost(DrvPageTable *table)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&table->mutex);
    return table->why_lost;
}

gboolean
drv_page_table_is_lost(const DrvPageTable *table)
{
    return table->lost;
}

guint64
drv_page_table_lost_at(const DrvPageTable *table)
{
    return table->lost_at;
}

void
drv_page_table_list(DrvTableBlock *block, guint64 number)
{
    if (block->listed == 0) /* another channel may list it again */
        block->listed = number;
}

gboolean
drv_page_table_enter(const DrvTableBlock *block, guint64 number, guint64 *after)
{
    if (block->listed > number)
        return FALSE;
    if (block->listed < number)
        *after = MAX(*after, block->listed);
    return TRUE;
}

void
drv_page_table_set_last_stamp(DrvPageTable *table, guint32 last)
{
    table->last_stamp = last;
}

static guint32
stamp_of(const DrvPageTable *table, guint64 number)
{
    return (guint32)MIN(number, table->last_stamp);
}

/* Whether batch 'number' may come after all that have the stamp. */
static gboolean
may_follow(const DrvPageTable *table, guint64 number, guint32 stamp)
{
    if (stamp == table->last_stamp)
        return drv_page_table_is_newest(table, number);
    return stamp <= number;
}

/* Of a page that this batch has read, it is not known any more who read it before. */
static gboolean
read_by_itself(const DrvPageTable *table, guint64 number, guint32 stamp)
{
    return stamp == number && stamp != table->last_stamp;
}

static void
wait_for(const DrvPageTable *table, guint64 number, guint32 stamp, guint64 *after)
{
    guint64 before = stamp == table->last_stamp ? number - 1 : stamp;
    if (before < number)
        *after = MAX(*after, before);
}

/* ---- pages ---- */

void
drv_page_table_hash(const DrvPageTable *table, const guint8 *content, DrvPageHash *hash)
{
    for (guint i = 0; i < DRV_PAGE_PIECES; i++)
        hash->pieces[i] = XXH3_64bits_withSecret(content + i * DRV_PIECE_LEN, DRV_PIECE_LEN,
                                                 table->pieces_secret, DRV_PAGE_SECRET);
    hash->key = XXH3_64bits_withSecret(hash->pieces, sizeof hash->pieces, table->pieces_secret,
                                       DRV_PAGE_SECRET);
}

void
drv_page_table_prefetch(DrvPageTable *table, const DrvTableBlock *block, guint64 page, guint64 key)
{
    __builtin_prefetch(&block->rows[page], 1);
    __builtin_prefetch(&block->stamps[page], 1);
    if (g_atomic_int_get(&table->index_ready))
        drv_dup_index_prefetch(&table->index, key);
}

/* When the first page is put in all blocks are known, so its size is that of the guest. */
static gboolean
index_ready(DrvPageTable *table)
{
    if (table->index_ready || table->dedup_memory < DRV_DUP_BUCKET_BYTES)
        return table->index_ready;
    gsize whole = MAX(table->placeable_pages * sizeof(guint64), DRV_DUP_BUCKET_BYTES);
    gsize bytes = MIN(whole, table->dedup_memory);
    void *entries = reserve(bytes);
    if (entries == NULL) {
        table->dedup_memory = 0;
        return FALSE;
    }
    table->index_bytes = bytes;
    drv_dup_index_init(&table->index, entries, bytes);
    g_atomic_int_set(&table->index_ready, TRUE);
    return TRUE;
}

static guint32
number_in(guint32 written)
{
    return written & ~ZERO_BIT;
}

static gboolean
has_row(const DrvTableBlock *block, guint64 page)
{
    guint32 written = block->stamps[page].written;
    return written != 0 && !(written & ZERO_BIT);
}

/* The pieces that differ from what was sent last, as bits; all when nothing was. */
static guint8
changed_pieces(const DrvPageTable *table, const DrvTableBlock *block, guint64 page,
               const DrvPageHash *hash)
{
    guint32 written = block->stamps[page].written;
    guint8 mask = 0;
    if (written == 0)
        return 0xff;
    for (guint i = 0; i < DRV_PAGE_PIECES; i++) {
        guint64 before = written & ZERO_BIT ? table->zero_piece : block->rows[page].pieces[i];
        mask |= (guint8)((before != hash->pieces[i]) << i);
    }
    return mask;
}

static gboolean
find_duplicate(DrvPageTable *table, guint64 number, const DrvPageHash *hash, DrvVerdict *verdict)
{
    DrvDupPlace found[DRV_DUP_BUCKET];
    if (!index_ready(table))
        return FALSE;
    guint n = drv_dup_index_find(&table->index, hash->key, found);
    for (guint i = 0; i < n; i++) {
        const DrvTableBlock *block = table->blocks[found[i].block];
        guint32 page = found[i].page;
        if (!has_row(block, page) ||
            !may_follow(table, number, number_in(block->stamps[page].written)) ||
            memcmp(&block->rows[page], hash->pieces, sizeof(Row)) != 0)
            continue;
        verdict->kind = DRV_RECORD_DUP;
        verdict->from_block = found[i].block;
        verdict->from = page;
        return TRUE;
    }
    return FALSE;
}

gboolean
drv_page_table_judge(DrvPageTable *table, guint64 number, const DrvTableBlock *block, guint64 page,
                     const DrvPageHash *hash, DrvVerdict *verdict)
{
    const Stamp *stamp = &block->stamps[page];
    *verdict = (DrvVerdict){.kind = DRV_RECORD_ZERO, .fresh = !has_row(block, page)};
    if (!may_follow(table, number, number_in(stamp->written)) ||
        !may_follow(table, number, stamp->read) || read_by_itself(table, number, stamp->read))
        return FALSE;
    if (hash == NULL)
        return TRUE;
    verdict->mask = changed_pieces(table, block, page, hash);
    if (verdict->mask == 0)
        verdict->kind = DRV_RECORD_DELTA;
    else if (find_duplicate(table, number, hash, verdict))
        verdict->kind = DRV_RECORD_DUP;
    else if (__builtin_popcount(verdict->mask) <= MAX_DELTA_PIECES)
        verdict->kind = DRV_RECORD_DELTA;
    else
        verdict->kind = DRV_RECORD_LITERAL;
    return TRUE;
}

void
drv_page_table_settle(DrvPageTable *table, guint64 number, DrvTableBlock *block, guint64 page,
                      const DrvPageHash *hash, const DrvVerdict *verdict, guint64 *after)
{
    Stamp *stamp = &block->stamps[page];
    guint32 now = stamp_of(table, number);
    wait_for(table, number, number_in(stamp->written), after);
    wait_for(table, number, stamp->read, after);
    stamp->written = hash == NULL ? now | ZERO_BIT : now;
    if (hash == NULL)
        return;
    memcpy(&block->rows[page], hash->pieces, sizeof(Row));
    if (verdict->kind == DRV_RECORD_DUP) {
        Stamp *from = &table->blocks[verdict->from_block]->stamps[verdict->from];
        wait_for(table, number, number_in(from->written), after);
        from->read = MAX(from->read, now);
    } else if (verdict->mask != 0 && index_ready(table)) {
        drv_dup_index_put(&table->index, hash->key, (DrvDupPlace){block->number, (guint32)page});
    }
}

void
drv_page_table_count(DrvPageTable *table, const DrvPageCounts *counts)
{
    table->counts.zero += counts->zero;
    table->counts.dup += counts->dup;
    table->counts.delta += counts->delta;
    table->counts.literal += counts->literal;
    table->counts.unchanged += counts->unchanged;
    table->counts.kept += counts->kept;
    table->counts.opaque_bytes += counts->opaque_bytes;
    table->counts.saved_bytes += counts->saved_bytes;
}

void
drv_page_table_counts(DrvPageTable *table, DrvPageCounts *counts)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&table->mutex);
    *counts = table->counts;
}
