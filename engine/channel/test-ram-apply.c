/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/ram-apply.h"
#include "engine/channel/test-guest-fake.h"

#include <string.h>

/*
 * Batches of any records in any order, those that no writer makes as well: what they leave in the
 * memory of another process is what one record after the other makes of a copy here.
 */
#define PAGES 24u /* few, so that records meet */
#define BLOCKS 2u
#define SLOTS 4u

typedef struct {
    Fake fake;
    DrvGuestRam *ram;
    DrvRamBlocks blocks;
    DrvPageStore *store;
    guint8 secret[DRV_PAGE_SECRET];
    guint8 shadow[BLOCKS][PAGES][DRV_PAGE_LEN];
    guint8 kept[SLOTS][DRV_PAGE_LEN];
    guint64 digest; /* of the batch so far */
    GByteArray *batch;
} Rig;

static const guint reach[BLOCKS] = {FAKE_ANON, FAKE_MEMFD}; /* read in two ways */

static void
put(Rig *rig, guint64 value, guint bytes)
{
    for (guint i = bytes; i-- > 0;) {
        guint8 byte = (guint8)(value >> (8 * i));
        g_byte_array_append(rig->batch, &byte, 1);
    }
}

static void
put_head(Rig *rig, DrvRecordKind kind, guint block)
{
    put(rig, kind, 1);
    put(rig, 0, 1);
    put(rig, block, 2);
}

static void
fill_random(GRand *rand, guint8 *bytes, gsize len)
{
    for (gsize i = 0; i < len; i += 4) {
        guint32 word = g_rand_int(rand);
        memcpy(bytes + i, &word, 4);
    }
}

static void
add_digest(Rig *rig, guint block, guint page)
{
    rig->digest += drv_batch_digest(rig->secret, block, page, rig->shadow[block][page]);
}

/* --- records: into the batch, and done to the copy --- */

static void
add_zero(Rig *rig, GRand *rand, guint block, guint page)
{
    guint count = (guint)g_rand_int_range(rand, 1, (gint)MIN(4, PAGES - page) + 1);
    guint8 byte = g_rand_boolean(rand) ? 0 : 0x5a;
    put_head(rig, DRV_RECORD_ZERO, block);
    put(rig, page, 4);
    put(rig, count, 4);
    put(rig, byte, 1);
    memset(rig->shadow[block][page], byte, (gsize)count * DRV_PAGE_LEN);
}

static void
add_literal(Rig *rig, GRand *rand, guint block, guint page)
{
    guint8 *to = rig->shadow[block][page];
    fill_random(rand, to, DRV_PAGE_LEN);
    put_head(rig, DRV_RECORD_LITERAL, block);
    put(rig, page, 4);
    put(rig, 1, 4);
    g_byte_array_append(rig->batch, to, DRV_PAGE_LEN);
}

static void
add_delta(Rig *rig, GRand *rand, guint block, guint page)
{
    guint8 mask = (guint8)g_rand_int_range(rand, 0, 256);
    put_head(rig, DRV_RECORD_DELTA, block);
    put(rig, page, 4);
    put(rig, mask, 1);
    for (guint i = 0; i < DRV_PAGE_PIECES; i++) {
        guint8 *piece = rig->shadow[block][page] + i * DRV_PIECE_LEN;
        if ((mask & 1u << i) == 0)
            continue;
        fill_random(rand, piece, DRV_PIECE_LEN);
        g_byte_array_append(rig->batch, piece, DRV_PIECE_LEN);
    }
    add_digest(rig, block, page);
}

static void
add_dup(Rig *rig, GRand *rand, guint block, guint page)
{
    guint from_block = (guint)g_rand_int_range(rand, 0, BLOCKS);
    guint from = (guint)g_rand_int_range(rand, 0, PAGES);
    put_head(rig, DRV_RECORD_DUP, block);
    put(rig, page, 4);
    put(rig, from_block, 2);
    put(rig, from, 4);
    memmove(rig->shadow[block][page], rig->shadow[from_block][from], DRV_PAGE_LEN);
    add_digest(rig, block, page);
}

static void
add_kept(Rig *rig, GRand *rand, guint block, guint page)
{
    guint slot = (guint)g_rand_int_range(rand, 0, SLOTS);
    put_head(rig, DRV_RECORD_KEPT, block);
    put(rig, page, 4);
    put(rig, slot, 4);
    memcpy(rig->shadow[block][page], rig->kept[slot], DRV_PAGE_LEN);
    add_digest(rig, block, page);
}

static void
add_any(Rig *rig, GRand *rand, guint block, guint page)
{
    static void (*const adders[])(Rig *, GRand *, guint, guint) = {add_zero, add_literal, add_delta,
                                                                   add_dup, add_kept};
    adders[g_rand_int_range(rand, 0, G_N_ELEMENTS(adders))](rig, rand, block, page);
}

/* --- batches --- */

static void
begin(Rig *rig)
{
    rig->digest = 0;
    g_byte_array_set_size(rig->batch, 0);
    put(rig, 1, 8);
    put(rig, 0, 8);
    put(rig, 0, 8);
}

static gboolean
apply(Rig *rig, GError **error)
{
    DrvBatchReader reader;
    guint64 digest = GUINT64_TO_BE(rig->digest);
    memcpy(rig->batch->data + 16, &digest, sizeof digest);
    return drv_batch_reader_init(&reader, rig->batch->data, rig->batch->len, rig->blocks.blocks,
                                 rig->blocks.n, error) &&
           drv_ram_apply(rig->ram, rig->store, &rig->blocks, &reader, rig->secret, error);
}

static void
check(const Rig *rig)
{
    g_autofree guint8 *real = g_malloc(PAGES * DRV_PAGE_LEN);
    for (guint i = 0; i < BLOCKS; i++) {
        fake_peek(&rig->fake, reach[i], 0, real, PAGES * DRV_PAGE_LEN);
        g_assert_cmpmem(real, PAGES * DRV_PAGE_LEN, rig->shadow[i], sizeof rig->shadow[i]);
    }
}

static void
setup(Rig *rig, GRand *rand)
{
    g_autoptr(GError) error = NULL;
    fake_start(&rig->fake);
    rig->ram = fake_open(&rig->fake);
    rig->batch = g_byte_array_new();
    fill_random(rand, rig->secret, sizeof rig->secret);
    for (guint i = 0; i < BLOCKS; i++) {
        const DrvGuestBlock *block = &rig->fake.blocks[reach[i]];
        DrvRecord record = {.kind = DRV_RECORD_BLOCK,
                            .block = i,
                            .id = block->id,
                            .id_len = strlen(block->id),
                            .size = block->size};
        g_assert_true(drv_ram_blocks_add(&rig->blocks, rig->ram, &record, &error));
        fill_random(rand, rig->shadow[i][0], sizeof rig->shadow[i]);
        fake_poke(&rig->fake, reach[i], 0, rig->shadow[i], sizeof rig->shadow[i]);
    }
    g_assert_no_error(error);
    rig->store = drv_page_store_new(SLOTS, &error);
    fill_random(rand, rig->kept[0], sizeof rig->kept);
    g_assert_true(drv_page_store_put(rig->store, 0, SLOTS, rig->kept[0], &error));
}

static void
teardown(Rig *rig)
{
    drv_guest_ram_free(rig->ram);
    drv_page_store_unref(rig->store);
    g_byte_array_unref(rig->batch);
    fake_stop(&rig->fake);
    g_free(rig);
}

/* Mostly ascending, as QEMU's are, so that much is put off; and back now and then. */
static void
test_any_order(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    Rig *rig = g_new0(Rig, 1);
    setup(rig, rand);
    for (guint n = 0; n < 300; n++) {
        g_autoptr(GError) error = NULL;
        guint block = 0, page = 0;
        begin(rig);
        while (rig->batch->len < DRV_BATCH_MAX / 2) {
            if (page >= PAGES || g_rand_int_range(rand, 0, 40) == 0) {
                block = (guint)g_rand_int_range(rand, 0, BLOCKS);
                page = (guint)g_rand_int_range(rand, 0, PAGES);
            }
            add_any(rig, rand, block, page);
            page += (guint)g_rand_int_range(rand, 1, 3);
        }
        gboolean good = apply(rig, &error);
        g_assert_no_error(error);
        g_assert_true(good);
        check(rig);
    }
    teardown(rig);
}

/* More at once than is ever put off: each page of a large block is one delta. */
static void
test_many(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *real = g_malloc(FAKE_SIZE);
    guint8 page[DRV_PAGE_LEN] = {0};
    Rig *rig = g_new0(Rig, 1);
    setup(rig, rand);
    g_assert_true(drv_guest_ram_zero(rig->ram, FAKE_ANON, 0, FAKE_SIZE, NULL, &error));
    begin(rig);
    memset(page, 0x77, DRV_PIECE_LEN);
    for (guint i = 0; i < 240; i++) {
        put_head(rig, DRV_RECORD_DELTA, 0);
        put(rig, i, 4);
        put(rig, 1, 1);
        g_byte_array_append(rig->batch, page, DRV_PIECE_LEN);
        rig->digest += drv_batch_digest(rig->secret, 0, i, page);
    }
    g_assert_true(apply(rig, &error));
    g_assert_no_error(error);
    fake_peek(&rig->fake, FAKE_ANON, 0, real, 240 * DRV_PAGE_LEN);
    for (guint i = 0; i < 240; i++)
        g_assert_cmpmem(real + i * DRV_PAGE_LEN, DRV_PAGE_LEN, page, sizeof page);
    teardown(rig);
}

/* A page that is not what the sender believes, whichever it is. */
static void
test_spoilt(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    Rig *rig = g_new0(Rig, 1);
    setup(rig, rand);
    for (guint page = 0; page < PAGES; page++) {
        g_autoptr(GError) error = NULL;
        guint8 wrong = (guint8)~rig->shadow[0][page][9];
        begin(rig);
        for (guint i = 0; i < PAGES; i++) {
            put_head(rig, DRV_RECORD_DELTA, 0);
            put(rig, i, 4);
            put(rig, 0, 1);
            add_digest(rig, 0, i);
        }
        fake_poke(&rig->fake, reach[0], page * DRV_PAGE_LEN + 9, &wrong, 1);
        g_assert_false(apply(rig, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
        rig->shadow[0][page][9] = wrong;
    }
    teardown(rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ram-apply/any-order", test_any_order);
    g_test_add_func("/ram-apply/many", test_many);
    g_test_add_func("/ram-apply/spoilt", test_spoilt);
    return g_test_run();
}
