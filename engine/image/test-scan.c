/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/scan.h"

#include <string.h>

/* A disk with data and holes that begin and end anywhere, in pieces. */

#define BLOCK DRV_IMAGE_BLOCK_MIN
#define SIZE (40 * BLOCK + 512)

typedef struct {
    guint64 start;
    gboolean data;
} Change;

/* As a store tells them: zeros may follow zeros. */
static const Change changes[] = {
    {0, FALSE},
    {BLOCK / 2, FALSE},
    {BLOCK + 100, TRUE},       /* begins in a hole, and ends in the next block but one */
    {3 * BLOCK + 1, FALSE},    /* the rest of that block, and more */
    {5 * BLOCK + 10, FALSE},   /* in whose course another hole begins */
    {5 * BLOCK + 512, TRUE},   /* something small */
    {5 * BLOCK + 1024, FALSE}, /* and again in the same block */
    {5 * BLOCK + 2048, TRUE},
    {6 * BLOCK, FALSE},
    {8 * BLOCK, TRUE}, /* more than a piece */
    {30 * BLOCK, FALSE},
    {40 * BLOCK + 100, TRUE}, /* up to the end */
};

/* What there is to be read, in blocks. */
static const struct {
    guint64 first, blocks;
} read_pieces[] = {{1, 3}, {5, 1}, {8, 16}, {24, 6}, {40, 1}};

typedef struct {
    DrvStore base;
    GMutex lock;
    guint8 seen[41]; /* how often each block was visited */
    guint8 read[41]; /* in which piece it was, or 0 */
} Fake;

static guint
change_at(guint64 offset)
{
    guint i = 0;
    while (i + 1 < G_N_ELEMENTS(changes) && changes[i + 1].start <= offset)
        i++;
    return i;
}

static gboolean
fake_extent(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *zero,
            GError **error)
{
    guint i = change_at(offset);
    *zero = !changes[i].data;
    *len = (i + 1 < G_N_ELEMENTS(changes) ? changes[i + 1].start : store->size) - offset;
    return TRUE;
}

static guint8
byte_at(guint64 offset)
{
    return changes[change_at(offset)].data ? (guint8)(1 + offset % 251) : 0;
}

static gboolean
fake_read(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len, GError **error)
{
    for (gsize i = 0; i < len; i++)
        bytes[i] = byte_at(offset + i);
    return TRUE;
}

static gboolean
visit(guint user, const DrvPiece *piece, gpointer data, GError **error)
{
    Fake *fake = data;
    g_mutex_lock(&fake->lock);
    for (guint64 i = piece->first; i < piece->first + piece->blocks; i++) {
        g_assert_cmpuint(i, <, G_N_ELEMENTS(fake->seen));
        fake->seen[i]++;
        fake->read[i] = piece->bytes != NULL ? (guint8)(1 + piece->number) : 0;
    }
    g_mutex_unlock(&fake->lock);
    for (guint64 at = 0; at < piece->len; at++)
        g_assert_cmpuint(piece->bytes != NULL ? piece->bytes[at] : 0, ==,
                         byte_at(piece->first * BLOCK + at));
    return TRUE;
}

static void
test_pieces(void)
{
    static const DrvStoreOps ops = {.read = fake_read, .extent = fake_extent};
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvImageDigest) layout = drv_image_digest_new(SIZE, &error);
    Fake fake = {.base = {&ops, SIZE, 4, FALSE, NULL}};
    DrvCopyCount count = {.total = SIZE};
    g_assert_cmpuint(layout->block, ==, BLOCK);
    g_mutex_init(&fake.lock);
    g_assert_true(drv_scan(&fake.base, layout, FALSE, 3, &count, visit, NULL, &fake, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(count.done, ==, SIZE);
    for (guint i = 0; i < G_N_ELEMENTS(fake.seen); i++)
        g_assert_cmpuint(fake.seen[i], ==, 1);

    guint at = 0;
    for (guint i = 0; i < G_N_ELEMENTS(read_pieces); i++) {
        for (; at < read_pieces[i].first; at++)
            g_assert_cmpuint(fake.read[at], ==, 0);
        guint8 piece = fake.read[at];
        g_assert_cmpuint(piece, >, 0);
        g_assert_true(at == 0 || fake.read[at - 1] != piece);
        for (; at < read_pieces[i].first + read_pieces[i].blocks; at++)
            g_assert_cmpuint(fake.read[at], ==, piece);
    }
    g_assert_cmpuint(at, ==, G_N_ELEMENTS(fake.seen));
    g_mutex_clear(&fake.lock);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/image/scan/pieces", test_pieces);
    return g_test_run();
}
