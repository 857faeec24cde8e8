/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/scan.h"

#include "common/error.h"

/* What a thread reads at once: enough for any disk, and little to lose. */
#define PIECE (1u << 20)

typedef struct {
    DrvStore *store;
    const DrvImageDigest *layout;
    DrvCopyCount *count;
    DrvVisit visit;
    void (*stopped)(gpointer data);
    gpointer data;
    guint extent_user;
    gboolean changed_only;

    GMutex lock; /* of all below */
    guint64 next, number;
    guint64 known_to; /* the extent at hand ends at this byte */
    gboolean known_zero;
    guint64 compared_to; /* the same of what was changed or not */
    gboolean known_changed;
    GError *error;
} Scan;

typedef struct {
    Scan *scan;
    guint user;
} Reader;

void
drv_copy_count_add(guint64 *count, guint64 bytes)
{
    __atomic_fetch_add(count, bytes, __ATOMIC_RELAXED);
}

guint64
drv_copy_count_get(const guint64 *count)
{
    return __atomic_load_n(count, __ATOMIC_RELAXED);
}

void
drv_copy_cancel(DrvCopyCount *count)
{
    g_atomic_int_set(&count->cancelled, 1);
}

gboolean
drv_copy_is_cancelled(const DrvCopyCount *count)
{
    return g_atomic_int_get(&count->cancelled) != 0;
}

guint
drv_scan_threads(void)
{
    return CLAMP(g_get_num_processors(), 4, 8);
}

/* How many blocks from 'next' on lie wholly in what was not changed; if none do, how many there are
 * to the end of what was. */
static gboolean
measure_unchanged(Scan *scan, guint64 *unchanged, guint64 *limit, GError **error)
{
    const DrvImageDigest *layout = scan->layout;
    guint64 at = scan->next * layout->block;
    if (at >= scan->compared_to) {
        guint64 len;
        if (!drv_store_changed(scan->store, scan->extent_user, at, &len, &scan->known_changed,
                               error))
            return FALSE;
        scan->compared_to = at + len;
    }
    guint64 whole = (scan->compared_to - at) / layout->block;
    guint64 begun = (scan->compared_to - at + layout->block - 1) / layout->block;
    if (scan->compared_to >= layout->size)
        whole = begun = layout->blocks - scan->next;
    *unchanged = scan->known_changed ? 0 : whole;
    *limit = scan->known_changed ? begun : 1;
    return TRUE;
}

/* What there is at 'at', and how far. A block that begins in a hole and does not end in it is taken
 * for data, so that it is read together with what follows. */
static gboolean
find_extent(Scan *scan, guint64 at, GError **error)
{
    guint64 end = MIN(scan->layout->size, at + scan->layout->block);
    while (at >= scan->known_to || (scan->known_zero && scan->known_to < end)) {
        guint64 from = MAX(at, scan->known_to), len;
        if (!drv_store_extent(scan->store, scan->extent_user, from, &len, &scan->known_zero, error))
            return FALSE;
        scan->known_to = from + len;
    }
    return TRUE;
}

/* The blocks from 'next' on that lie wholly in zeros, or the one piece of data that follows. */
static gboolean
measure(Scan *scan, DrvPiece *piece, gboolean *zero, GError **error)
{
    const DrvImageDigest *layout = scan->layout;
    guint64 at = scan->next * layout->block, unchanged = 0, limit = G_MAXUINT64;
    if (scan->changed_only && !measure_unchanged(scan, &unchanged, &limit, error))
        return FALSE;
    if (unchanged == 0 && !find_extent(scan, at, error))
        return FALSE;
    guint64 left = layout->blocks - scan->next;
    guint64 sure = MAX(scan->known_to, at); /* behind where the unchanged were passed over */
    guint64 whole = left, begun = left;
    if (sure < layout->size) {
        whole = (sure - at) / layout->block;
        begun = (sure - at + layout->block - 1) / layout->block;
    }
    *zero = unchanged == 0 && scan->known_zero;
    piece->unchanged = unchanged > 0;
    piece->number = scan->number++;
    piece->first = scan->next;
    if (unchanged > 0)
        piece->blocks = unchanged;
    else if (*zero)
        piece->blocks = MIN(whole, G_MAXINT32); /* as many as a record of the stream can tell */
    else
        piece->blocks = CLAMP(begun, 1, MAX(1, PIECE / layout->block));
    if (unchanged == 0)
        piece->blocks = MIN(piece->blocks, limit);
    guint64 end = MIN(layout->size, (piece->first + piece->blocks) * layout->block);
    piece->len = end - at;
    scan->next += piece->blocks;
    return TRUE;
}

static void
fail(Scan *scan, GError *error)
{
    g_mutex_lock(&scan->lock);
    gboolean first = scan->error == NULL;
    if (first)
        scan->error = error;
    else
        g_error_free(error);
    g_mutex_unlock(&scan->lock);
    if (first && scan->stopped != NULL)
        scan->stopped(scan->data);
}

/* FALSE at the end of the image, or of the scan. 'bytes' are for what is to be read. */
static gboolean
take(Scan *scan, guint user, guint8 *bytes, DrvPiece *piece)
{
    GError *error = NULL;
    gboolean zero = FALSE;
    g_mutex_lock(&scan->lock);
    gboolean more = scan->error == NULL && scan->next < scan->layout->blocks;
    gboolean cancelled = more && drv_copy_is_cancelled(scan->count);
    if (cancelled)
        error = g_error_new(DRV_ERROR, DRV_ERROR_CANCELLED, "cancelled");
    gboolean good = more && !cancelled && measure(scan, piece, &zero, &error);
    g_mutex_unlock(&scan->lock);
    if (error != NULL)
        fail(scan, error);
    if (!good)
        return FALSE;
    piece->bytes = zero || piece->unchanged ? NULL : bytes;
    if (piece->bytes != NULL)
        drv_store_ahead(scan->store, user, piece->first * scan->layout->block, bytes, piece->len);
    return TRUE;
}

/* FALSE: the scan has failed. */
static gboolean
deal_with(Reader *reader, const DrvPiece *piece)
{
    Scan *scan = reader->scan;
    GError *error = NULL;
    if (scan->visit(reader->user, piece, scan->data, &error)) {
        drv_copy_count_add(&scan->count->done, piece->len);
        return TRUE;
    }
    fail(scan, error);
    return FALSE;
}

static gboolean
read_piece(Reader *reader, const DrvPiece *piece)
{
    Scan *scan = reader->scan;
    GError *error = NULL;
    if (piece->bytes == NULL ||
        drv_store_read(scan->store, reader->user, piece->first * scan->layout->block, piece->bytes,
                       piece->len, &error))
        return TRUE;
    fail(scan, error);
    return FALSE;
}

/* The next piece is being read while one is visited. Each thread visits its own in order, so
 * whichever is the first of all that are not yet visited is not kept waiting by a later one. */
static gpointer
read_pieces(gpointer data)
{
    Reader *reader = data;
    Scan *scan = reader->scan;
    gsize room = MAX(PIECE, scan->layout->block);
    guint8 *memory = drv_store_buffer(2 * room);
    guint8 *buffers[] = {memory, memory + room};
    DrvPiece pieces[2];
    guint now = 0;
    gboolean more = take(scan, reader->user, buffers[now], &pieces[now]);
    while (more && read_piece(reader, &pieces[now])) {
        more = take(scan, reader->user, buffers[!now], &pieces[!now]);
        if (!deal_with(reader, &pieces[now]))
            break;
        now = !now;
    }
    drv_store_settle(scan->store, reader->user, NULL);
    g_aligned_free(memory);
    return NULL;
}

gboolean
drv_scan(DrvStore *store, const DrvImageDigest *layout, gboolean changed_only, guint threads,
         DrvCopyCount *count, DrvVisit visit, void (*stopped)(gpointer data), gpointer data,
         GError **error)
{
    g_return_val_if_fail(store->users > threads && store->size >= layout->size, FALSE);
    Scan scan = {
        .store = store,
        .layout = layout,
        .count = count,
        .visit = visit,
        .stopped = stopped,
        .data = data,
        .extent_user = threads,
        .changed_only = changed_only,
    };
    g_mutex_init(&scan.lock);
    g_autofree Reader *readers = g_new0(Reader, threads);
    g_autofree GThread **running = g_new0(GThread *, threads);
    for (guint i = 0; i < threads; i++) {
        readers[i] = (Reader){&scan, i};
        running[i] = g_thread_new("image", read_pieces, &readers[i]);
    }
    for (guint i = 0; i < threads; i++)
        g_thread_join(running[i]);
    g_mutex_clear(&scan.lock);
    if (scan.error == NULL)
        return TRUE;
    g_propagate_error(error, scan.error);
    return FALSE;
}
