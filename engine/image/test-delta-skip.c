/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"
#include "engine/image/delta-skip.h"

#include <string.h>

#define BLOCK 4096u
#define BLOCKS 64u
#define SIZE (BLOCKS * BLOCK)
#define FUA 1

enum { READ = 0, WRITE = 1, FLUSH = 3, TRIM = 4, CACHE = 5, ZEROES = 6 };

/* What a client says to a disk, and what a server hears of it. */
typedef struct {
    guint8 disk[SIZE];   /* as the client's requests make it */
    guint8 served[SIZE]; /* ... and those that are heard */
    DrvDeltaSkip *skip;
    gsize piece; /* in which it is fed */
    GByteArray *heard;
    guint64 cookie, answered;
    gsize written; /* bytes */
} World;

static void
begin(World *world, gsize piece)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    *world = (World){.skip = drv_delta_skip_new(), .piece = piece, .heard = g_byte_array_new()};
    for (guint i = 0; i < SIZE; i++)
        world->disk[i] = world->served[i] = (guint8)g_rand_int(rand);
}

/* One request that the server hears; returns its length. */
static gsize
carry_out(World *world, const guint8 *said, gsize len)
{
    DrvCursor c = drv_cursor_reader(said, len);
    guint32 magic = drv_cursor_get_u32(&c);
    g_assert_true(magic == 0x25609513 || magic == 0x21e41c71);
    guint16 flags = drv_cursor_get_u16(&c), type = drv_cursor_get_u16(&c);
    g_assert_cmpuint(drv_cursor_get_u64(&c), ==, world->answered++);
    guint64 offset = drv_cursor_get_u64(&c);
    guint64 length = magic == 0x21e41c71 ? drv_cursor_get_u64(&c) : drv_cursor_get_u32(&c);
    g_assert_true(drv_cursor_ok(&c));
    g_assert_true(offset <= SIZE && length <= SIZE - offset);
    if (type == CACHE)
        g_assert_cmpuint(flags, ==, 0);
    if (type == TRIM || type == ZEROES)
        memset(world->served + offset, 0, length);
    if (type != WRITE)
        return c.pos;
    world->written += length;
    memcpy(world->served + offset, drv_cursor_take(&c, length), length);
    g_assert_true(drv_cursor_ok(&c));
    return c.pos;
}

static void
end(World *world)
{
    for (gsize pos = 0; pos < world->heard->len;)
        pos += carry_out(world, world->heard->data + pos, world->heard->len - pos);
    g_assert_cmpuint(world->answered, ==, world->cookie);
    g_assert_cmpmem(world->served, SIZE, world->disk, SIZE);
    drv_delta_skip_free(world->skip);
    g_byte_array_unref(world->heard);
}

static void
feed(World *world, const guint8 *bytes, gsize len, guint64 at)
{
    for (gsize done = 0, n; done < len; done += n) {
        n = MIN(world->piece, len - done);
        guint64 there = at == DRV_DELTA_NOWHERE ? at : at + done;
        g_autofree guint8 *copy = g_memdup2(bytes + done, n);
        drv_delta_skip_feed(world->skip, copy, n, there, world->heard);
    }
}

static void
say(World *world, gboolean extended, guint16 flags, guint16 type, guint64 offset, guint64 length)
{
    guint8 head[32];
    DrvCursor c = drv_cursor_writer(head, sizeof head);
    drv_cursor_put_u32(&c, extended ? 0x21e41c71 : 0x25609513);
    drv_cursor_put_u16(&c, flags);
    drv_cursor_put_u16(&c, type);
    drv_cursor_put_u64(&c, world->cookie++);
    drv_cursor_put_u64(&c, offset);
    if (extended)
        drv_cursor_put_u64(&c, length);
    else
        drv_cursor_put_u32(&c, (guint32)length);
    feed(world, head, c.pos, DRV_DELTA_NOWHERE);
    if (type == TRIM || type == ZEROES)
        memset(world->disk + offset, 0, length);
}

static void
same(World *world, guint64 block, guint64 blocks)
{
    feed(world, world->disk + block * BLOCK, blocks * BLOCK, block * BLOCK);
}

static void
other(World *world, guint64 block, guint64 blocks)
{
    memset(world->disk + block * BLOCK, (int)world->cookie, blocks * BLOCK);
    feed(world, world->disk + block * BLOCK, blocks * BLOCK, DRV_DELTA_NOWHERE);
}

static void
test_cut(void)
{
    for (guint i = 0; i < 4; i++) {
        gboolean extended = i % 2 == 1;
        World world;
        begin(&world, i < 2 ? SIZE : 7);
        say(&world, extended, 0, WRITE, 0, 8 * BLOCK); /* all of it is there */
        same(&world, 0, 8);
        say(&world, extended, 0, FLUSH, 0, 0);
        say(&world, extended, 0, WRITE, 8 * BLOCK, 8 * BLOCK); /* but for two */
        same(&world, 8, 3);
        other(&world, 11, 1);
        same(&world, 12, 1);
        other(&world, 13, 1);
        same(&world, 14, 2);
        say(&world, extended, 0, WRITE, 16 * BLOCK, 2 * BLOCK); /* nothing */
        other(&world, 16, 2);
        say(&world, extended, 0, WRITE, 18 * BLOCK, 2 * BLOCK); /* the first */
        same(&world, 18, 1);
        other(&world, 19, 1);
        say(&world, extended, 0, WRITE, 20 * BLOCK, 2 * BLOCK); /* the last */
        other(&world, 20, 1);
        same(&world, 21, 1);
        say(&world, extended, 0, WRITE, 22 * BLOCK, 0);
        say(&world, extended, 0, READ, 0, BLOCK);
        say(&world, extended, 0, ZEROES, BLOCK, BLOCK);
        say(&world, extended, 0, TRIM, 2 * BLOCK, BLOCK);
        end(&world);
        g_assert_cmpuint(world.written, ==, (3 + 2 + 1 + 1) * BLOCK);
    }
}

/* What is to be on the disk when it is answered is written, whatever is there. */
static void
test_fua(void)
{
    World world;
    begin(&world, SIZE);
    say(&world, FALSE, FUA, WRITE, 0, 2 * BLOCK);
    same(&world, 0, 2);
    end(&world);
    g_assert_cmpuint(world.written, ==, 2 * BLOCK);
}

/* The disk has it, but elsewhere. */
static void
test_another_place(void)
{
    World world;
    begin(&world, SIZE);
    say(&world, FALSE, 0, WRITE, 0, BLOCK);
    feed(&world, world.disk + BLOCK, BLOCK, BLOCK);
    memcpy(world.disk, world.disk + BLOCK, BLOCK);
    end(&world);
    g_assert_cmpuint(world.written, ==, BLOCK);
}

/* Too long to be gathered, or not understood: it passes. */
static void
test_passes(void)
{
    const guint64 length = G_GUINT64_CONSTANT(3) << 20;
    g_autofree guint8 *data = g_malloc0(length);
    guint8 garbage[40];
    World world;
    begin(&world, SIZE);
    say(&world, FALSE, 0, WRITE, 0, length);
    gsize head = world.heard->len;
    drv_delta_skip_feed(world.skip, data, length, 0, world.heard);
    g_assert_cmpuint(head, ==, 28);
    g_assert_cmpuint(world.heard->len, ==, head + length);
    memset(garbage, 0xa5, sizeof garbage);
    drv_delta_skip_feed(world.skip, garbage, sizeof garbage, 0, world.heard);
    g_assert_cmpmem(world.heard->data + head + length, world.heard->len - head - length, garbage,
                    sizeof garbage);
    drv_delta_skip_free(world.skip);
    g_byte_array_unref(world.heard);
}

static void
test_any(void)
{
    for (guint run = 0; run < 200; run++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(run);
        World world;
        begin(&world, (gsize)g_rand_int_range(rand, 1, 3 * BLOCK));
        for (guint i = 0; i < 30; i++) {
            guint64 block = (guint64)g_rand_int_range(rand, 0, BLOCKS);
            guint64 n = (guint64)g_rand_int_range(rand, 0, (gint32)MIN(9, BLOCKS - block + 1));
            gboolean extended = g_rand_boolean(rand);
            if (g_rand_int_range(rand, 0, 4) == 0) {
                say(&world, extended, 0, g_rand_boolean(rand) ? ZEROES : TRIM, block * BLOCK,
                    n * BLOCK);
                continue;
            }
            say(&world, extended, (guint16)(g_rand_int_range(rand, 0, 8) == 0), WRITE,
                block * BLOCK, n * BLOCK);
            for (guint64 at = block; at < block + n; at++) {
                if (g_rand_boolean(rand))
                    same(&world, at, 1);
                else
                    other(&world, at, 1);
            }
        }
        end(&world);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/delta-skip/cut", test_cut);
    g_test_add_func("/delta-skip/fua", test_fua);
    g_test_add_func("/delta-skip/another-place", test_another_place);
    g_test_add_func("/delta-skip/passes", test_passes);
    g_test_add_func("/delta-skip/any", test_any);
    return g_test_run();
}
