/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"
#include "common/error.h"
#include "engine/image/delta-writer.h"

#include <string.h>

#define BLOCK 65536u
#define BLOCKS 8u
/* The last block is a short one. */
#define SIZE ((BLOCKS - 1) * BLOCK + 4096)
#define NO_HOLE 2

/* A disk at the destination, and what QEMU's NBD client says to it. */
typedef struct {
    guint8 *disk; /* as it was when it was hashed, and then as requests make it */
    DrvImageDigest *layout;
    GByteArray *said; /* but for the flag that is taken away */
    GByteArray *heard;
    GArray *ends; /* of gsize: where in 'said' a request ends ... */
    GArray *requests;
    DrvDeltaKnown *known;
    gsize named;  /* bytes */
    gsize frames; /* bytes */
    guint64 data, zero;
} World;

typedef struct {
    guint16 type;
    guint64 offset;
    guint64 length;
    gsize data; /* in 'said' */
} Request;

static void
begin(World *world)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    *world = (World){
        .disk = g_malloc(SIZE),
        .layout = drv_image_digest_new_with(SIZE, BLOCK, NULL),
        .said = g_byte_array_new(),
        .heard = g_byte_array_new(),
        .ends = g_array_new(FALSE, FALSE, sizeof(gsize)),
        .requests = g_array_new(FALSE, FALSE, sizeof(Request)),
        .known = drv_delta_known_new(SIZE, BLOCK, NULL),
    };
    for (guint i = 0; i < SIZE; i++)
        world->disk[i] = (guint8)g_rand_int(rand);
    drv_image_digest_take(world->layout, 0, world->disk, BLOCKS);
    g_assert_cmpuint(drv_delta_known_blocks(world->known), ==, BLOCKS);
    g_assert_true(drv_delta_known_take(world->known, 0, world->layout->leaves, BLOCKS, NULL));
}

static void
end(World *world)
{
    g_free(world->disk);
    drv_image_digest_free(world->layout);
    g_byte_array_unref(world->said);
    g_byte_array_unref(world->heard);
    g_array_unref(world->ends);
    g_array_unref(world->requests);
    drv_delta_known_unref(world->known);
}

static void
say(World *world, gboolean extended, guint16 flags, guint16 type, guint64 offset, guint64 length,
    const guint8 *data)
{
    guint8 head[32];
    DrvCursor c = drv_cursor_writer(head, sizeof head);
    drv_cursor_put_u32(&c, extended ? 0x21e41c71 : 0x25609513);
    drv_cursor_put_u16(&c, flags);
    drv_cursor_put_u16(&c, type);
    drv_cursor_put_u64(&c, 77);
    drv_cursor_put_u64(&c, offset);
    if (extended)
        drv_cursor_put_u64(&c, length);
    else
        drv_cursor_put_u32(&c, (guint32)length);
    g_byte_array_append(world->said, head, (guint)c.pos);
    Request request = {type, offset, length, world->said->len};
    if (data != NULL)
        g_byte_array_append(world->said, data, (guint)length);
    gsize at = world->said->len;
    g_array_append_val(world->ends, at);
    g_array_append_val(world->requests, request);
}

/* What is there already. */
static void
say_same(World *world, guint64 offset, guint64 length)
{
    say(world, FALSE, 0, 1, offset, length, world->disk + offset);
}

static void
say_other(World *world, guint64 offset, guint64 length)
{
    g_autofree guint8 *data = g_malloc(length + 1);
    memset(data, (int)world->said->len, length);
    say(world, FALSE, 0, 1, offset, length, data);
}

static void
apply(World *world, const Request *request)
{
    guint8 *at = world->disk + request->offset;
    if (request->type == 1)
        memcpy(at, world->heard->data + request->data, request->length);
    else if (request->type == 4 || request->type == 6)
        memset(at, 0, request->length);
}

/* A frame arrives at the destination. Blocks are read as the disk is then. */
static void
hear(World *world, const guint8 *frame, gsize len)
{
    gsize made, before = world->heard->len;
    GError *error = NULL;
    DrvDeltaRecord record;
    g_assert_true(drv_delta_check(frame, len, world->layout, &made, &error));
    g_assert_no_error(error);
    for (gsize pos = 0; pos < len;) {
        g_assert_true(drv_delta_get(frame, len, &pos, world->layout, &record, NULL));
        gsize bytes = record.kind == DRV_DELTA_BYTES
                          ? record.count
                          : drv_image_blocks_len(world->layout, record.first, record.count);
        world->named += record.kind == DRV_DELTA_BLOCKS ? bytes : 0;
        g_byte_array_append(world->heard,
                            record.kind == DRV_DELTA_BYTES
                                ? record.bytes
                                : world->disk + record.first * world->layout->block,
                            (guint)bytes);
    }
    g_assert_cmpuint(world->heard->len - before, ==, made);
    world->frames += len;
}

/* Carries all that was said, read in pieces, in frames of 'size'. QEMU carries out the requests
 * that were heard when it likes, which 'rand' decides; NULL: at once. */
static void
carry(World *world, gsize piece, gsize size, GRand *rand)
{
    g_autoptr(DrvDeltaWriter) writer = drv_delta_writer_new(world->known);
    g_autofree guint8 *frame = g_malloc(size);
    guint done = 0;
    for (gsize at = 0; at < world->said->len; at += piece) {
        drv_delta_writer_push(writer, world->said->data + at, MIN(piece, world->said->len - at));
        gboolean all;
        do {
            drv_delta_writer_begin(writer, frame, size);
            all = drv_delta_writer_run(writer);
            g_assert_cmpuint(drv_delta_writer_len(writer), <=, size);
            hear(world, frame, drv_delta_writer_len(writer));
            while (done < world->requests->len &&
                   g_array_index(world->ends, gsize, done) <= world->heard->len &&
                   (rand == NULL || g_rand_int_range(rand, 0, 3) > 0))
                apply(world, &g_array_index(world->requests, Request, done++));
        } while (!all);
    }
    while (done < world->requests->len)
        apply(world, &g_array_index(world->requests, Request, done++));
    g_assert_cmpmem(world->heard->data, world->heard->len, world->said->data, world->said->len);
    drv_delta_writer_count(writer, &world->data, &world->zero);
    g_assert_cmpuint(drv_delta_known_reused(world->known), ==, world->named);
}

static const gsize pieces[] = {1, 27, 4096, 65536 + 28, 131072};

/* Blocks that are written whole are named, however it is cut; others are not. */
static void
test_named(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(pieces); i++) {
        World world;
        begin(&world);
        say_same(&world, 0, BLOCK);
        say(&world, FALSE, 0, 0, 0, BLOCK, NULL);
        say_same(&world, 2 * BLOCK - 512, 2 * BLOCK); /* one whole, and parts of two */
        say(&world, TRUE, 0x20, 1, 4 * BLOCK, 2 * BLOCK, world.disk + 4 * BLOCK);
        say_same(&world, 7 * BLOCK, 4096); /* the last one */
        say_same(&world, 6 * BLOCK, BLOCK / 2);
        carry(&world, pieces[i], 131072, NULL);
        g_assert_cmpuint(world.named, ==, 4 * BLOCK + 4096);
        g_assert_cmpuint(world.data, ==, 5 * BLOCK + BLOCK / 2 + 4096);
        g_assert_cmpuint(world.zero, ==, 0);
        if (pieces[i] >= 4096) /* as a socket gives them */
            g_assert_cmpuint(world.frames + world.named, <, world.said->len + 8192);
        end(&world);
    }
}

/* What was written once, or zeroed, or nobody knows what became of it, is never named again. */
static void
test_struck(void)
{
    static const guint16 types[] = {1, 4, 6, 9};
    for (guint i = 0; i < G_N_ELEMENTS(types); i++) {
        World world;
        begin(&world);
        g_autofree guint8 *before = g_memdup2(world.disk, SIZE);
        if (types[i] == 1)
            say_other(&world, BLOCK + 512, 512);
        else if (types[i] == 9)
            say(&world, FALSE, 0, 9, 0, 0, NULL);
        else
            say(&world, FALSE, 0, types[i], BLOCK + 512, 2 * BLOCK, NULL);
        say(&world, FALSE, 0, 1, 0, 5 * BLOCK, before);
        say(&world, FALSE, 0, 1, 0, 5 * BLOCK,
            before); /* nor is it now that it is the same again */
        carry(&world, 4096, 131072, NULL);
        guint same = types[i] == 1 ? 4 : types[i] == 9 ? 0 : 2;
        g_assert_cmpuint(world.named, ==, 2 * same * BLOCK);
        end(&world);
    }
}

/* A block of which no leaf was told is not. */
static void
test_untold(void)
{
    World world;
    begin(&world);
    drv_delta_known_unref(world.known);
    world.known = drv_delta_known_new(SIZE, BLOCK, NULL);
    g_assert_true(
        drv_delta_known_take(world.known, 3, drv_image_digest_leaf(world.layout, 3), 1, NULL));
    say_same(&world, 0, SIZE);
    carry(&world, 131072, 131072, NULL);
    g_assert_cmpuint(world.named, ==, BLOCK);
    end(&world);
}

/* Zeroes may become holes; of no other request is the flag taken. */
static void
test_holes(void)
{
    World world;
    begin(&world);
    say(&world, FALSE, 1 | NO_HOLE, 6, 0, 512, NULL);
    say(&world, TRUE, 1 | NO_HOLE, 6, 0, 512, NULL);
    say(&world, FALSE, 1 | NO_HOLE, 3, 0, 0, NULL);
    g_autoptr(DrvDeltaWriter) writer = drv_delta_writer_new(world.known);
    guint8 frame[1024];
    drv_delta_writer_begin(writer, frame, sizeof frame);
    drv_delta_writer_push(writer, world.said->data, world.said->len);
    g_assert_true(drv_delta_writer_run(writer));
    hear(&world, frame, drv_delta_writer_len(writer));
    g_assert_cmpuint(world.heard->len, ==, world.said->len);
    g_assert_cmpuint(world.heard->data[5], ==, 1);
    g_assert_cmpuint(world.heard->data[28 + 5], ==, 1);
    g_assert_cmpuint(world.heard->data[28 + 32 + 5], ==, 1 | NO_HOLE);
    end(&world);
}

/* Any requests, in any pieces and frames, carried out whenever QEMU likes: it hears what was said.
 */
static void
test_any(void)
{
    for (guint run = 0; run < 100; run++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(run);
        World world;
        begin(&world);
        g_autofree guint8 *before = g_memdup2(world.disk, SIZE);
        for (guint i = 0; i < 30; i++) {
            gboolean whole = g_rand_boolean(rand);
            guint64 unit = whole ? BLOCK : 512;
            guint64 offset = (guint64)g_rand_int_range(rand, 0, (gint32)(SIZE / unit)) * unit;
            guint64 wish = (guint64)g_rand_int_range(rand, 0, 4) * unit;
            guint64 length = MIN(SIZE - offset, wish);
            guint16 type = (guint16)g_rand_int_range(rand, 0, 12);
            if (type < 7)
                say(&world, g_rand_boolean(rand), 0, type == 0 ? 6 : 1, offset, length,
                    type == 0 ? NULL : before + offset);
            else if (type < 9)
                say_other(&world, offset, length);
            else
                say(&world, FALSE, 0, type == 9 ? 4 : 0, offset, length, NULL);
        }
        carry(&world, (gsize)g_rand_int_range(rand, 1, 131072),
              (gsize)g_rand_int_range(rand, 4096, 131072), rand);
        end(&world);
    }
}

/* What is not understood is passed on, and nothing is named any more. */
static void
test_lost(void)
{
    World world;
    begin(&world);
    say_same(&world, 0, BLOCK);
    guint8 garbage[40];
    memset(garbage, 0xa5, sizeof garbage);
    g_byte_array_append(world.said, garbage, sizeof garbage);
    say_same(&world, BLOCK, BLOCK);
    carry(&world, 1000, 4096, NULL);
    g_assert_cmpuint(world.named, ==, BLOCK);
    end(&world);
}

/* A frame becomes 1 MiB of blocks and no more. */
static void
test_much(void)
{
    const guint64 size = G_GUINT64_CONSTANT(3) << 20;
    g_autoptr(DrvDeltaKnown) known = drv_delta_known_new(size, BLOCK, NULL);
    g_autoptr(DrvImageDigest) zeros = drv_image_digest_new_with(size, BLOCK, NULL);
    g_assert_true(drv_delta_known_take(known, 0, zeros->leaves, zeros->blocks, NULL));
    g_autoptr(DrvDeltaWriter) writer = drv_delta_writer_new(known);
    gsize len = 28 + size, made, sum = 0;
    g_autofree guint8 *said = g_malloc0(len);
    DrvCursor c = drv_cursor_writer(said, len);
    drv_cursor_put_u32(&c, 0x25609513);
    drv_cursor_put_u32(&c, 1);
    drv_cursor_put_u64(&c, 0);
    drv_cursor_put_u64(&c, 0);
    drv_cursor_put_u32(&c, (guint32)size);
    drv_delta_writer_push(writer, said, len);
    guint8 frame[1024];
    guint frames = 0;
    gboolean all;
    do {
        drv_delta_writer_begin(writer, frame, sizeof frame);
        all = drv_delta_writer_run(writer);
        g_assert_true(drv_delta_check(frame, drv_delta_writer_len(writer), zeros, &made, NULL));
        g_assert_cmpuint(made, <=, DRV_DELTA_BLOCKS_MAX + sizeof frame);
        sum += made;
        frames++;
    } while (!all);
    g_assert_cmpuint(sum, ==, len);
    g_assert_cmpuint(frames, ==, 3);
}

/* --- what a peer may send --- */

static void
assert_refused(const guint8 *frame, gsize len, const char *words)
{
    g_autoptr(DrvImageDigest) layout = drv_image_digest_new_with(SIZE, BLOCK, NULL);
    g_autoptr(GError) error = NULL;
    gsize made;
    g_assert_false(drv_delta_check(frame, len, layout, &made, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    if (strstr(error->message, words) == NULL)
        g_error("'%s' is not in: %s", words, error->message);
}

static void
test_hostile(void)
{
    guint8 frame[64] = {0};
    const struct {
        DrvDeltaRecord record;
        gsize len;
        const char *words;
    } cases[] = {
        {{DRV_DELTA_BYTES, 48, 0, NULL}, 15, "makes no sense"},
        {{DRV_DELTA_BYTES, 49, 0, NULL}, 64, "longer than its frame"},
        {{DRV_DELTA_BYTES, G_MAXUINT32, 0, NULL}, 64, "longer than its frame"},
        {{DRV_DELTA_BYTES, 0, 0, NULL}, 16, "makes no sense"},
        {{3, 1, 0, NULL}, 16, "makes no sense"},
        {{DRV_DELTA_BLOCKS, 0, 0, NULL}, 16, "makes no sense"},
        {{DRV_DELTA_BLOCKS, 1, BLOCKS, NULL}, 16, "behind the disk's end"},
        {{DRV_DELTA_BLOCKS, 2, BLOCKS - 1, NULL}, 16, "behind the disk's end"},
        {{DRV_DELTA_BLOCKS, G_MAXUINT32, 1, NULL}, 16, "behind the disk's end"},
        {{DRV_DELTA_BLOCKS, 1, G_MAXUINT64, NULL}, 16, "behind the disk's end"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        drv_delta_put(&cases[i].record, frame);
        assert_refused(frame, cases[i].len, cases[i].words);
    }
    /* One after the other, they are more than a frame may become. */
    guint8 many[3 * DRV_DELTA_HEAD];
    for (guint i = 0; i < 3; i++)
        drv_delta_put(&(DrvDeltaRecord){DRV_DELTA_BLOCKS, BLOCKS, 0, NULL},
                      many + i * DRV_DELTA_HEAD);
    assert_refused(many, sizeof many, "too many blocks");
}

static void
test_too_many_leaves(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvDeltaKnown) known = drv_delta_known_new(SIZE, BLOCK, NULL);
    guint8 leaves[2 * DRV_IMAGE_LEAF] = {0};
    g_assert_true(drv_delta_known_take(known, BLOCKS - 2, leaves, 2, NULL));
    g_assert_true(drv_delta_known_take(known, BLOCKS, leaves, 0, NULL));
    g_assert_false(drv_delta_known_take(known, BLOCKS - 1, leaves, 2, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_false(drv_delta_known_take(known, G_MAXUINT64, leaves, 1, NULL));
}

static void
test_block_size(void)
{
    const guint64 gib = G_GUINT64_CONSTANT(1) << 30;
    g_assert_cmpuint(drv_delta_block_size(0, 1), ==, 65536);
    g_assert_cmpuint(drv_delta_block_size(127 * gib, 64), ==, 65536);
    g_assert_cmpuint(drv_delta_block_size(128 * gib, 1), ==, 131072);
    g_assert_cmpuint(drv_delta_block_size(2047 * gib, 64), ==, 1 << 20);
    g_assert_cmpuint(drv_delta_block_size(2048 * gib, 1), ==, 0);
    g_assert_true(drv_delta_block_is_valid(65536) && drv_delta_block_is_valid(1 << 20));
    g_assert_false(drv_delta_block_is_valid(0) || drv_delta_block_is_valid(32768) ||
                   drv_delta_block_is_valid(65537) || drv_delta_block_is_valid(1 << 21) ||
                   drv_delta_block_is_valid(-65536));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/delta/named", test_named);
    g_test_add_func("/delta/struck", test_struck);
    g_test_add_func("/delta/untold", test_untold);
    g_test_add_func("/delta/holes", test_holes);
    g_test_add_func("/delta/any", test_any);
    g_test_add_func("/delta/lost", test_lost);
    g_test_add_func("/delta/much", test_much);
    g_test_add_func("/delta/hostile", test_hostile);
    g_test_add_func("/delta/too-many-leaves", test_too_many_leaves);
    g_test_add_func("/delta/block-size", test_block_size);
    return g_test_run();
}
