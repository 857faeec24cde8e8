/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/ram-place.h"
#include "engine/channel/ram-send.h"
#include "engine/channel/test-relay.h"
#include "engine/channel/test-rig.h"
#include "engine/channel/test-source.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Guests that have most of their memory in common travel over one session. All of them arrive as
 * they are, or what happens to one is its own affair.
 */
#define PAGE ((gsize)DRV_PAGE_LEN)
#ifdef __SANITIZE_THREAD__
#define PAGES 1000u /* takes ten times as long there */
#else
#define PAGES 3000u
#endif
#define OWN 10 /* one page in so many is like no other guest's */
#define CLONES 4u
#define ROUNDS 3u
#define SLOTS 8192u
#define ROM_PAGES 60u /* of one whose QEMU has something to read */

typedef struct _Family Family;

typedef struct {
    Family *family;
    guint number;
    GRand *rand;
    Pipe *pipe;
    DrvRamSender *sender;
    DrvRamPlacer *placer;
    GError *failed;
    guint8 *source, *dest;
    gboolean has_rom;
    gint put; /* atomic: rounds that are in the socket */
} Clone;

struct _Family {
    Rig rig;
    TestRelay *relay;
    DrvKeptPages *kept;
    DrvPageStore *store;
    Clone clones[CLONES];
};

/* --- guests --- */

static void
fill_page(guint8 *page, guint32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    for (gsize i = 0; i < PAGE; i += 4) {
        guint32 x = g_rand_int(rand);
        memcpy(page + i, &x, 4);
    }
}

static guint8 *
new_memory(void)
{
    guint8 *p =
        mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    return p;
}

/* The same contents, at other places: runs of 16 pages, in an order of its own. */
static void
fill_memory(Clone *c)
{
    for (guint i = 0; i < PAGES; i++) {
        guint place = (i / 16 + c->number * 7) % (PAGES / 16) * 16 + i % 16;
        gboolean own = g_rand_int_range(c->rand, 0, OWN) == 0;
        if (place < PAGES && i % 5 > 0)
            fill_page(c->source + place * PAGE, own ? 1000000 * (c->number + 1) + i : 1 + i);
    }
}

static void
put_round(Clone *c, DrvEmit *emit, DrvCursor *out, const DrvRamBlock *block, guint round)
{
    static const guint8 zeros[DRV_PAGE_LEN];
    drv_emit_section(out, round == ROUNDS - 1 ? DRV_SECTION_END : DRV_SECTION_PART, 2, NULL, 0);
    for (guint i = 0; i < PAGES; i++) {
        guint8 *page = c->source + i * PAGE;
        if (round > 0 && i % 31 != round)
            continue;
        if (round > 0)
            fill_page(page, (guint32)g_rand_int_range(c->rand, 0, 5000));
        gboolean zero = memcmp(page, zeros, PAGE) == 0;
        drv_emit_page(emit, out, block, 0, zero ? DRV_PAGES_ZERO : DRV_PAGES_NORMAL, i * PAGE, page,
                      zero ? 1 : PAGE);
        source_put(c->pipe->fd[0], out, FALSE);
    }
    drv_emit_eos(out);
    drv_emit_footer(out, 2);
}

static void
put_rom(Clone *c, DrvEmit *emit, DrvCursor *out, const DrvRamBlock *block)
{
    guint8 page[DRV_PAGE_LEN];
    drv_emit_section(out, DRV_SECTION_PART, 2, NULL, 0);
    for (guint i = 0; i < ROM_PAGES; i++) {
        fill_page(page, 3000000 + i);
        drv_emit_page(emit, out, block, 1, DRV_PAGES_NORMAL, i * PAGE, page, PAGE);
        source_put(c->pipe->fd[0], out, FALSE);
    }
    drv_emit_eos(out);
    drv_emit_footer(out, 2);
}

static gpointer
run_source(gpointer data)
{
    Clone *c = data;
    g_autofree guint8 *buffer = g_malloc(SOURCE_BUFFER);
    DrvCursor out = drv_cursor_writer(buffer, SOURCE_BUFFER);
    DrvEmit emit = DRV_EMIT_INIT;
    DrvRamBlock blocks[] = {{.id = "pc.ram", .size = PAGES * PAGE},
                            {.id = "pc.rom", .size = ROM_PAGES * PAGE}};
    source_begin(&out, blocks, c->has_rom ? 2 : 1);
    if (c->has_rom)
        put_rom(c, &emit, &out, &blocks[1]);
    for (guint round = 0; round < ROUNDS; round++) {
        put_round(c, &emit, &out, &blocks[0], round);
        source_put(c->pipe->fd[0], &out, TRUE);
        g_atomic_int_inc(&c->put);
    }
    source_end(&out, NULL, 0);
    source_put(c->pipe->fd[0], &out, TRUE);
    shutdown(c->pipe->fd[0], SHUT_WR);
    return NULL;
}

/* The destination's QEMU: there is nothing for it to place. */
static gpointer
run_dest(gpointer data)
{
    Clone *c = data;
    guint8 buffer[32768];
    while (recv(c->pipe->fd[1], buffer, sizeof buffer, 0) > 0)
        ;
    shutdown(c->pipe->fd[1], SHUT_WR);
    return NULL;
}

/* --- the family --- */

static void
placing_failed(const GError *error, gpointer data)
{
    Clone *c = data;
    g_assert_null(c->failed);
    c->failed = g_error_copy(error);
}

static void
clone_init(Family *f, guint number, gboolean share)
{
    Clone *c = &f->clones[number];
    guint8 secret[DRV_PAGE_SECRET];
    DrvRamBlock placeable = {.id = "pc.ram", .size = PAGES * PAGE};
    DrvGuestBlock reach = {.id = "pc.ram", .size = PAGES * PAGE};
    GError *error = NULL;
    *c = (Clone){.family = f, .number = number, .rand = g_rand_new_with_seed(77 + number)};
    c->source = new_memory();
    c->dest = new_memory();
    fill_memory(c);
    for (guint i = 0; i < sizeof secret; i++)
        secret[i] = (guint8)g_rand_int(c->rand);
    reach.hva = (guint64)(gsize)c->dest;
    c->sender = drv_ram_sender_new(&placeable, 1, 0, secret, DRV_DEDUP_MEMORY_DEFAULT, &error);
    g_assert_no_error(error);
    DrvGuestRam *ram = drv_guest_ram_open(getpid(), &reach, 1, &error);
    g_assert_no_error(error);
    c->placer = drv_ram_placer_new(f->rig.b.transfer, ram, secret, placing_failed, c);
    if (share) {
        drv_ram_sender_use_kept(c->sender, f->kept, TRUE);
        drv_ram_placer_use_store(c->placer, f->store);
    }
}

static void
family_init(Family *f, guint threads, guint lanes, gboolean relay, gboolean share)
{
    guint8 secret[DRV_PAGE_SECRET];
    memset(f, 0, sizeof *f);
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    for (guint i = 0; i < sizeof secret; i++)
        secret[i] = (guint8)g_rand_int(rand);
    rig_init(&f->rig, threads, lanes, 0);
    f->relay = relay ? test_relay_new(f->rig.port) : NULL;
    rig_connect(&f->rig, relay ? test_relay_port(f->relay) : 0);
    rig_wait_lanes(&f->rig, lanes);
    f->kept = drv_kept_pages_new(SLOTS, secret);
    f->store = drv_page_store_new(SLOTS, NULL);
    for (guint i = 0; i < CLONES; i++)
        clone_init(f, i, share);
}

static void
family_clear(Family *f)
{
    for (guint i = 0; i < CLONES; i++) {
        Clone *c = &f->clones[i];
        if (c->pipe != NULL)
            rig_pipe_free(c->pipe);
        drv_ram_sender_unref(c->sender);
        drv_ram_placer_drop(c->placer);
    }
    rig_clear(&f->rig);
    for (guint i = 0; i < CLONES; i++) {
        Clone *c = &f->clones[i];
        g_clear_error(&c->failed);
        g_rand_free(c->rand);
        munmap(c->source, PAGES * PAGE);
        munmap(c->dest, PAGES * PAGE);
    }
    g_clear_pointer(&f->relay, test_relay_free);
    drv_kept_pages_unref(f->kept);
    drv_page_store_unref(f->store);
}

static void
set_out(Family *f, guint number, DrvCodec codec, GThread *threads[2])
{
    Clone *c = &f->clones[number];
    c->pipe = rig_pipe_coded(&f->rig, codec, drv_ram_sender_codec(c->sender, 0),
                             drv_ram_placer_codec(c->placer));
    threads[0] = g_thread_new("source", run_source, c);
    threads[1] = g_thread_new("dest", run_dest, c);
}

static void
check_arrived(Clone *c)
{
    g_assert_no_error(c->failed);
    g_assert_no_error(c->pipe->error[0]);
    g_assert_no_error(c->pipe->error[1]);
    g_assert_true(drv_ram_placer_check(c->placer, NULL));
    for (guint i = 0; i < PAGES; i++)
        if (memcmp(c->source + i * PAGE, c->dest + i * PAGE, PAGE) != 0)
            g_error("page %u of guest %u is wrong", i, c->number);
}

static guint64
wire_of(const Clone *c)
{
    DrvChannelStats stats;
    drv_channel_get_stats(c->pipe->channel[0], &stats);
    return stats.wire_tx + stats.wire_rx;
}

typedef struct {
    guint threads, lanes;
    DrvCodec codec;
    guint cuts;
    gboolean at_once;
    gboolean share;
} How;

/* All of them, from their setting out to their arrival; returns the bytes on the wire. */
static guint64
travel(const How *how)
{
    Family f;
    GThread *threads[CLONES][2];
    guint64 wire = 0;
    DrvKeptStats stats;
    family_init(&f, how->threads, how->lanes, how->cuts > 0, how->share);
    if (how->cuts > 0) {
        test_relay_storm(f.relay, (guint32)g_test_rand_int(), how->cuts);
        test_relay_cut(f.relay);
    }
    for (guint i = 0; i < CLONES; i++) {
        set_out(&f, i, how->codec, threads[i]);
        if (how->at_once)
            continue;
        rig_join(threads[i], 2);
        rig_wait(rig_pipe_finished, f.clones[i].pipe);
    }
    for (guint i = 0; i < CLONES; i++) {
        if (how->at_once)
            rig_join(threads[i], 2);
        rig_wait(rig_pipe_finished, f.clones[i].pipe);
        check_arrived(&f.clones[i]);
        wire += wire_of(&f.clones[i]);
    }
    drv_kept_pages_get_stats(f.kept, &stats);
    g_assert_cmpuint(stats.coming + stats.lost, ==, 0);
    g_assert_true((stats.there > 0) == how->share);
    family_clear(&f);
    return wire;
}

/* Most of what they have in common goes over once. */
static void
test_together(gconstpointer data)
{
    How how = *(const How *)data;
    guint64 together = travel(&how);
    how.share = FALSE;
    how.cuts = 0;
    guint64 alone = travel(&how);
    g_test_message("%" G_GUINT64_FORMAT " bytes together, %" G_GUINT64_FORMAT " alone", together,
                   alone);
    /* What a cut repeats may be more than what is saved. */
    if (((const How *)data)->cuts == 0)
        g_assert_cmpfloat((gdouble)together, <=, 0.45 * (gdouble)alone);
}

/* --- what happens to one of them --- */

static gboolean
has_begun(gpointer data)
{
    Clone *c = data;
    DrvRamSenderStats stats;
    drv_ram_sender_get_stats(c->sender, &stats);
    return stats.pages.literal > 150;
}

static gboolean
has_failed(gpointer data)
{
    return ((Clone *)data)->failed != NULL;
}

static void
close_source(Clone *c)
{
    drv_channel_close(c->pipe->channel[0]);
}

static void
close_dest(Clone *c)
{
    drv_channel_close(c->pipe->channel[1]);
}

/* Its QEMU at the destination dies. */
static void
kill_dest(Clone *c)
{
    shutdown(c->pipe->fd[1], SHUT_RDWR);
}

/* Nothing of what it brings can be placed: its memory is not to be written to. */
static void
await_failure(Clone *c)
{
    rig_wait(has_failed, c);
}

static void
test_one_ends(gconstpointer data)
{
    void (*const end)(Clone * c) = data;
    for (guint round = 0; round < 4; round++) {
        Family f;
        GThread *threads[CLONES][2];
        family_init(&f, 1 + round, 1 + round % 2, FALSE, TRUE);
        if (end == await_failure)
            mprotect(f.clones[0].dest, PAGES * PAGE, PROT_NONE);
        set_out(&f, 0, DRV_CODEC_NONE, threads[0]);
        if (round % 2 == 0)
            rig_wait(has_begun, &f.clones[0]);
        for (guint i = 1; i < CLONES; i++)
            set_out(&f, i, DRV_CODEC_NONE, threads[i]);
        if (round % 2 == 1)
            rig_wait(has_begun, &f.clones[0]);
        end(&f.clones[0]);
        for (guint i = 1; i < CLONES; i++) {
            rig_join(threads[i], 2);
            rig_wait(rig_pipe_finished, f.clones[i].pipe);
            check_arrived(&f.clones[i]);
        }
        shutdown(f.clones[0].pipe->fd[0], SHUT_RDWR);
        shutdown(f.clones[0].pipe->fd[1], SHUT_RDWR);
        rig_join(threads[0], 2);
        family_clear(&f);
    }
}

/* One of them does not get on, as its QEMU does not read: the others do not wait for it for long.
 */
static void
test_one_is_stuck(void)
{
    Family f;
    DrvKeptStats stats;
    GThread *threads[CLONES][2];
    family_init(&f, 2, 1, FALSE, TRUE);
    Clone *stuck = &f.clones[0];
    f.rig.tight = TRUE;
    stuck->has_rom = TRUE;
    stuck->pipe = rig_pipe_coded(&f.rig, DRV_CODEC_NONE, drv_ram_sender_codec(stuck->sender, 0),
                                 drv_ram_placer_codec(stuck->placer));
    f.rig.tight = FALSE;
    threads[0][0] = g_thread_new("source", run_source, stuck);
    rig_wait(has_begun, stuck);
    for (guint i = 1; i < CLONES; i++)
        set_out(&f, i, DRV_CODEC_NONE, threads[i]);
    for (guint i = 1; i < CLONES; i++) {
        rig_join(threads[i], 2);
        rig_wait(rig_pipe_finished, f.clones[i].pipe);
        check_arrived(&f.clones[i]);
    }
    drv_kept_pages_get_stats(f.kept, &stats);
    g_assert_cmpuint(stats.coming, >, 50);
    shutdown(stuck->pipe->fd[0], SHUT_RDWR);
    shutdown(stuck->pipe->fd[1], SHUT_RDWR);
    rig_join(threads[0], 1);
    family_clear(&f);
}

/* --- what a peer may do --- */

/* A receiver that has agreed to nothing, or to less. */
static void
test_not_agreed(gconstpointer data)
{
    gboolean less = GPOINTER_TO_INT(data);
    Family f;
    GThread *threads[2];
    family_init(&f, 1, 1, FALSE, FALSE);
    g_autoptr(DrvPageStore) small = drv_page_store_new(10, NULL);
    drv_ram_sender_use_kept(f.clones[0].sender, f.kept, TRUE);
    if (less)
        drv_ram_placer_use_store(f.clones[0].placer, small);
    set_out(&f, 0, DRV_CODEC_NONE, threads);
    rig_wait(has_failed, &f.clones[0]);
    g_assert_error(f.clones[0].failed, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(f.clones[0].failed->message,
                            less ? "where 10 are kept" : "but none were to be kept"));
    rig_join(threads, 2);
    family_clear(&f);
}

int
main(int argc, char **argv)
{
    static const How hows[] = {
        {1, 1, DRV_CODEC_NONE, 0, TRUE, TRUE},  {3, 4, DRV_CODEC_NONE, 0, TRUE, TRUE},
        {2, 2, DRV_CODEC_LZ4, 0, FALSE, TRUE},  {1, 2, DRV_CODEC_NONE, 20, TRUE, TRUE},
        {3, 4, DRV_CODEC_NONE, 20, TRUE, TRUE},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(hows); i++) {
        g_autofree char *path = g_strdup_printf("/clones/%s/%u-threads-%u-lanes-%u-cuts",
                                                hows[i].at_once ? "together" : "in-turn",
                                                hows[i].threads, hows[i].lanes, hows[i].cuts);
        g_test_add_data_func(path, &hows[i], test_together);
    }
    g_test_add_data_func("/clones/one-ends/source", (gconstpointer)close_source, test_one_ends);
    g_test_add_data_func("/clones/one-ends/dest", (gconstpointer)close_dest, test_one_ends);
    g_test_add_data_func("/clones/one-ends/qemu", (gconstpointer)kill_dest, test_one_ends);
    g_test_add_data_func("/clones/one-ends/memory", (gconstpointer)await_failure, test_one_ends);
    g_test_add_func("/clones/one-is-stuck", test_one_is_stuck);
    g_test_add_data_func("/clones/none-agreed", GINT_TO_POINTER(FALSE), test_not_agreed);
    g_test_add_data_func("/clones/fewer-agreed", GINT_TO_POINTER(TRUE), test_not_agreed);
    return g_test_run();
}
