/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"
#include "common/error.h"
#include "engine/channel/ram-place.h"
#include "engine/channel/ram-send.h"
#include "engine/channel/test-relay.h"
#include "engine/channel/test-rig.h"
#include "engine/channel/test-source.h"

#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * What is tested: QEMU's stream goes in at one end, and at the other the pages are in the guest's
 * memory (this process's own) and the rest of the stream comes out, whatever the network does.
 */
#define PAGE ((gsize)DRV_PAGE_LEN)
#define ROUNDS 8
#define DEVICE_BYTES 5000u

enum { MAIN, EXTRA, ROM, BLOCKS };
static const struct {
    const char *id;
    guint pages;
    gboolean placeable;
} layout[BLOCKS] = {{"pc.ram", 2500, TRUE}, {"mem1", 130, TRUE}, {"pc.rom", 40, FALSE}};

typedef struct {
    Rig rig;
    TestRelay *relay;
    Pipe *pipe;
    DrvRamSender *sender;
    DrvRamPlacer *placer;
    GError *failed;
    GRand *rand;

    guint8 *source[BLOCKS]; /* the guest's memory, and what it becomes */
    guint8 *dest[BLOCKS];
    guint8 device[DEVICE_BYTES];
    guint8 device_out[DEVICE_BYTES];

    /* What the source's QEMU does: the test's own when NULL. */
    void (*between)(gpointer scene, guint round);
    gint rounds_out; /* atomic: those of which all bytes are in the socket */
} Scene;

/* --- the guest --- */

static guint8 *
new_memory(guint pages)
{
    guint8 *p =
        mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    /* A huge page would be there as a whole, and reach into the next block. */
    madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
    return p;
}

static void
fill_random(Scene *s, guint8 *p, gsize len)
{
    for (gsize i = 0; i < len; i += 4) {
        guint32 x = g_rand_int(s->rand);
        memcpy(p + i, &x, 4);
    }
}

/* Something happens to a page. */
static void
write_page(Scene *s, guint block, guint page)
{
    guint8 *p = s->source[block] + page * PAGE;
    guint8 *other =
        s->source[block] + (guint)g_rand_int_range(s->rand, 0, (gint)layout[block].pages) * PAGE;
    switch (g_rand_int_range(s->rand, 0, 5)) {
    case 0:
        memset(p, 0, PAGE);
        break;
    case 1:
        fill_random(s, p, PAGE);
        break;
    case 2: /* a few bytes */
        fill_random(s, p + (guint)g_rand_int_range(s->rand, 0, 4096 / 8) * 8, 8);
        break;
    case 3:
        memmove(p, other, PAGE);
        break;
    default: /* nothing */
        break;
    }
}

/* --- the source's QEMU --- */

static void
put_round(Scene *s, DrvEmit *emit, DrvCursor *out, const DrvRamBlock *blocks, guint round)
{
    drv_emit_section(out, round == ROUNDS - 1 ? DRV_SECTION_END : DRV_SECTION_PART, 2, NULL, 0);
    for (guint b = 0; b < BLOCKS; b++) {
        for (guint i = 0; i < layout[b].pages; i++) {
            const guint8 *page = s->source[b] + i * PAGE;
            gboolean zero = page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
            if (round > 0 && g_rand_int_range(s->rand, 0, 4) > 0)
                continue;
            if (round > 0)
                write_page(s, b, i);
            zero = page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
            drv_emit_page(emit, out, &blocks[b], b, zero ? DRV_PAGES_ZERO : DRV_PAGES_NORMAL,
                          i * PAGE, page, zero ? 1 : PAGE);
            source_put(s->pipe->fd[0], out, FALSE);
        }
    }
    drv_emit_eos(out);
    drv_emit_footer(out, 2);
}

static gpointer
run_source(gpointer data)
{
    Scene *s = data;
    g_autofree guint8 *buffer = g_malloc(SOURCE_BUFFER);
    DrvCursor out = drv_cursor_writer(buffer, SOURCE_BUFFER);
    DrvEmit emit = DRV_EMIT_INIT;
    DrvRamBlock blocks[BLOCKS] = {0};
    for (guint b = 0; b < BLOCKS; b++) {
        g_strlcpy(blocks[b].id, layout[b].id, sizeof blocks[b].id);
        blocks[b].size = layout[b].pages * PAGE;
    }
    source_begin(&out, blocks, BLOCKS);
    for (guint round = 0; round < ROUNDS; round++) {
        put_round(s, &emit, &out, blocks, round);
        source_put(s->pipe->fd[0], &out, TRUE);
        g_atomic_int_inc(&s->rounds_out);
        if (s->between != NULL)
            s->between(s, round);
    }
    source_end(&out, s->device, DEVICE_BYTES);
    source_put(s->pipe->fd[0], &out, TRUE);
    shutdown(s->pipe->fd[0], SHUT_WR);
    return NULL;
}

/* --- the destination's QEMU --- */

static void
load(Scene *s, DrvStream *stream, const DrvStreamEvent *event, GByteArray *after)
{
    if (drv_stream_ram_ended(stream) && event->kind == DRV_STREAM_OPAQUE)
        g_byte_array_append(after, event->piece.bytes, (guint)event->piece.len);
    if (event->kind != DRV_STREAM_RAM_PAGES)
        return;
    g_assert_cmpuint(event->pages.block, ==, ROM); /* all others are not its business */
    for (guint32 i = 0; i < event->pages.count; i++) {
        guint8 *page = s->dest[ROM] + event->pages.offset + i * PAGE;
        if (event->pages.kind == DRV_PAGES_ZERO)
            memset(page, event->pages.fill, PAGE);
        else
            memcpy(page, drv_stream_payload(event, i), PAGE);
    }
}

static gpointer
run_dest(gpointer data)
{
    Scene *s = data;
    g_autoptr(DrvStream) stream = drv_stream_new();
    g_autoptr(GByteArray) after = g_byte_array_new();
    guint8 buffer[32768];
    DrvStreamEvent event;
    ssize_t n;
    while ((n = recv(s->pipe->fd[1], buffer, sizeof buffer, 0)) > 0) {
        drv_stream_push(stream, buffer, (gsize)n);
        while (drv_stream_next(stream, &event))
            load(s, stream, &event, after);
    }
    if (drv_stream_flush(stream, &event))
        load(s, stream, &event, after);
    shutdown(s->pipe->fd[1], SHUT_WR);
    if (after->len >= DEVICE_BYTES)
        memcpy(s->device_out, after->data, DEVICE_BYTES);
    return NULL;
}

/* --- the scene --- */

static void
placing_failed(const GError *error, gpointer data)
{
    Scene *s = data;
    g_assert_null(s->failed);
    s->failed = g_error_copy(error);
}

static void
scene_init_on(Scene *s, guint threads, guint lanes, gboolean relay, const DrvTopology *host)
{
    DrvTransferConfig config = {.threads = threads, .topology = host};
    guint8 secret[DRV_PAGE_SECRET];
    DrvRamBlock placeable[BLOCKS] = {0};
    DrvGuestBlock reach[BLOCKS] = {0};
    GError *error = NULL;
    guint n = 0;
    memset(s, 0, sizeof *s);
    s->rand = g_rand_new_with_seed((guint32)g_test_rand_int());
    rig_init_with(&s->rig, &config, &config, lanes);
    s->relay = relay ? test_relay_new(s->rig.port) : NULL;
    rig_connect(&s->rig, relay ? test_relay_port(s->relay) : 0);
    rig_wait_lanes(&s->rig, lanes);
    for (guint b = 0; b < BLOCKS; b++) {
        s->source[b] = new_memory(layout[b].pages);
        s->dest[b] = new_memory(layout[b].pages);
        for (guint i = 0; i < layout[b].pages; i++)
            for (guint k = 0; k < 2; k++)
                write_page(s, b, i);
        if (!layout[b].placeable)
            continue;
        g_strlcpy(placeable[n].id, layout[b].id, sizeof placeable[n].id);
        g_strlcpy(reach[n].id, layout[b].id, sizeof reach[n].id);
        placeable[n].size = reach[n].size = layout[b].pages * PAGE;
        reach[n++].hva = (guint64)(gsize)s->dest[b];
    }
    fill_random(s, s->device, DEVICE_BYTES - DEVICE_BYTES % 4);
    fill_random(s, s->dest[MAIN] + 100 * PAGE, 500 * PAGE); /* its firmware was there before */
    fill_random(s, secret, sizeof secret);
    s->sender = drv_ram_sender_new(placeable, n, 0, secret, DRV_DEDUP_MEMORY_DEFAULT, &error);
    g_assert_no_error(error);
    DrvGuestRam *ram = drv_guest_ram_open(getpid(), reach, n, &error);
    g_assert_no_error(error);
    s->placer = drv_ram_placer_new(s->rig.b.transfer, ram, secret, placing_failed, s);
}

static void
scene_init(Scene *s, guint threads, guint lanes, gboolean relay)
{
    scene_init_on(s, threads, lanes, relay, NULL);
}

static void
scene_clear(Scene *s)
{
    if (s->pipe != NULL)
        rig_pipe_free(s->pipe);
    drv_ram_sender_unref(s->sender);
    drv_ram_placer_drop(s->placer);
    rig_clear(&s->rig);
    g_clear_pointer(&s->relay, test_relay_free);
    g_clear_error(&s->failed);
    g_rand_free(s->rand);
    for (guint b = 0; b < BLOCKS; b++) {
        munmap(s->source[b], layout[b].pages * PAGE);
        munmap(s->dest[b], layout[b].pages * PAGE);
    }
}

static void
migrate(Scene *s, DrvCodec codec)
{
    s->pipe = rig_pipe_coded(&s->rig, codec, drv_ram_sender_codec(s->sender, 0),
                             drv_ram_placer_codec(s->placer));
    GThread *threads[] = {g_thread_new("source", run_source, s), g_thread_new("dest", run_dest, s)};
    rig_join(threads, G_N_ELEMENTS(threads));
    rig_wait(rig_pipe_finished, s->pipe);
}

static void
check_arrived(Scene *s)
{
    DrvRamSenderStats stats;
    g_assert_no_error(s->failed);
    g_assert_no_error(s->pipe->error[0]);
    g_assert_no_error(s->pipe->error[1]);
    g_assert_true(drv_ram_placer_check(s->placer, NULL));
    for (guint b = 0; b < BLOCKS; b++)
        for (guint i = 0; i < layout[b].pages; i++)
            if (memcmp(s->source[b] + i * PAGE, s->dest[b] + i * PAGE, PAGE) != 0)
                g_error("page %u of %s is wrong", i, layout[b].id);
    g_assert_cmpmem(s->device, DEVICE_BYTES, s->device_out, DEVICE_BYTES);
    drv_ram_sender_get_stats(s->sender, &stats);
    g_assert_true(stats.understood);
    g_assert_cmpuint(stats.pages.zero, >, 100);
    g_assert_cmpuint(stats.pages.dup, >, 100);
    g_assert_cmpuint(stats.pages.delta, >, 100);
    g_assert_cmpuint(stats.pages.literal, >, 100);
}

/* Every page of the stream is counted once, and belongs to a block that is known. */
static void
check_rounds(Scene *s)
{
    DrvRoundsSummary sum;
    drv_rounds_summary(drv_ram_sender_rounds(s->sender), &sum);
    g_assert_cmpuint(sum.untracked, ==, 0);
    for (guint b = 0; b < BLOCKS; b++)
        g_assert_cmpstr(drv_rounds_block_id(drv_ram_sender_rounds(s->sender), b), ==, layout[b].id);
    guint64 all = 0;
    for (guint b = 0; b < BLOCKS; b++)
        all += layout[b].pages;
    /* No round was begun: each page is in the only one, however often it came. */
    g_assert_cmpuint(sum.pages, ==, all);
}

typedef struct {
    guint threads, lanes;
    DrvCodec codec;
    guint cuts;
} How;

static void
test_arrives(gconstpointer data)
{
    const How *how = data;
    Scene s;
    scene_init(&s, how->threads, how->lanes, how->cuts > 0);
    if (how->cuts > 0) {
        test_relay_storm(s.relay, (guint32)g_test_rand_int(), how->cuts);
        test_relay_cut(s.relay);
    }
    migrate(&s, how->codec);
    check_arrived(&s);
    check_rounds(&s);
    scene_clear(&s);
}

static gboolean
is_placed(const Scene *s)
{
    for (guint b = 0; b < BLOCKS; b++)
        if (layout[b].placeable && memcmp(s->source[b], s->dest[b], layout[b].pages * PAGE) != 0)
            return FALSE;
    return TRUE;
}

static void
await_placed(gpointer data, guint round)
{
    const gint64 until = g_get_monotonic_time() + 180 * G_USEC_PER_SEC;
    while (!is_placed(data)) {
        if (g_get_monotonic_time() > until)
            g_error("some of round %u is held back", round);
        g_usleep(1000);
    }
}

/* A QEMU that says nothing more waits for what it has said to arrive: its last pages, with the
 * guest stopped. None is kept in the hope of more to send with it. */
static void
test_nothing_is_held_back(void)
{
    Scene s;
    scene_init(&s, 2, 2, FALSE);
    s.between = await_placed;
    g_assert_cmpint(drv_ram_sender_ended(s.sender), ==, 0);
    gint64 began = g_get_monotonic_time();
    migrate(&s, DRV_CODEC_LZ4);
    check_arrived(&s);
    g_assert_cmpint(drv_ram_sender_ended(s.sender), >, began);
    g_assert_cmpint(drv_ram_sender_ended(s.sender), <=, g_get_monotonic_time());
    scene_clear(&s);
}

/* --- on nodes: those of the machine at hand; tests/test_numa.py has some with several --- */

/* Of a block's pages, those that are there, and those on a node; FALSE: the kernel does not tell.
 */
static gboolean
count_on(Scene *s, guint block, guint node, guint *there, guint *on_node)
{
    DrvResidency r = {0};
    if (!drv_residency_sample(0, (guint64)(gsize)s->dest[block], layout[block].pages * PAGE,
                              layout[block].pages, &r, NULL))
        return FALSE;
    *there = (guint)r.present;
    *on_node = (guint)r.pages[node];
    return TRUE;
}

/* A guest with all of its memory on 'main', but for 'extra': every page is there, and each that
 * has a thread near by was written by that. */
static void
check_placed(const DrvTopology *host, guint main, guint extra)
{
    DrvPolicy policies[] = {{DRV_POLICY_BIND, DRV_NODE_BIT(main)},
                            {DRV_POLICY_BIND, DRV_NODE_BIT(extra)}};
    DrvCpus usable = drv_topology_usable(host);
    DrvCpus near = drv_cpus_and(&drv_topology_node(host, (gint)main)->cpus, &usable);
    DrvGuestPlaced placed;
    guint there, on_node;
    Scene s;
    scene_init_on(&s, MAX(host->n, 2), 2, FALSE, host);
    /* Firmware that is there is where this thread has put it. */
    g_assert_no_errno(madvise(s.dest[MAIN], layout[MAIN].pages * PAGE, MADV_DONTNEED));
    drv_ram_placer_place(s.placer, policies, G_N_ELEMENTS(policies));
    migrate(&s, DRV_CODEC_LZ4);
    check_arrived(&s);
    drv_ram_placer_placed(s.placer, &placed);
    g_assert_cmpuint(placed.bytes, >, 1000 * PAGE);
    if (!count_on(&s, MAIN, main, &there, &on_node)) {
        g_test_skip("this kernel does not say where memory is");
    } else {
        g_assert_cmpuint(there, >, 1000);
        g_assert_cmpuint(on_node, ==, there);
        g_assert_true(count_on(&s, EXTRA, extra, &there, &on_node));
        g_assert_cmpuint(on_node, ==, there);
        g_assert_cmpuint(placed.sampled, >, 0);
        if (main == extra && !drv_cpus_is_empty(&near))
            g_assert_cmpuint(placed.pages_local, ==, placed.sampled);
    }
    scene_clear(&s);
}

static void
test_placed(void)
{
    g_autoptr(DrvTopology) host = drv_topology_read(NULL);
    guint64 nodes = drv_topology_memory_nodes(host);
    guint last = 63 - (guint)__builtin_clzll(nodes);
    for (guint node = 0; node < DRV_NODES_MAX; node++)
        if ((nodes & DRV_NODE_BIT(node)) != 0)
            check_placed(host, node, node);
    check_placed(host, (guint)__builtin_ctzll(nodes), last);
}

/* --- what must not be --- */

static gboolean
has_failed(gpointer data)
{
    return ((Scene *)data)->failed != NULL;
}

/* Somebody else writes to the destination's memory: what later builds upon it is seen to be
 * wrong. */
static void
spoil(gpointer data, guint round)
{
    Scene *s = data;
    for (guint i = 0; round == 2 && i < layout[MAIN].pages; i += 2)
        s->dest[MAIN][i * PAGE + 77] ^= 1;
}

static void
test_spoilt(void)
{
    Scene s;
    scene_init(&s, 2, 2, FALSE);
    s.between = spoil;
    migrate(&s, DRV_CODEC_NONE);
    rig_wait(has_failed, &s);
    g_assert_error(s.failed, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_false(drv_ram_placer_check(s.placer, NULL));
    scene_clear(&s);
}

/* A peer that sends no batches, or nonsense in them. */
static void
test_hostile(void)
{
    for (guint round = 0; round < 3; round++) {
        Scene s;
        guint8 buffer[4096];
        scene_init(&s, 1, 1, FALSE);
        s.pipe = rig_pipe_coded(&s.rig, DRV_CODEC_NONE, drv_codec_opaque_new(),
                                drv_ram_placer_codec(s.placer));
        fill_random(&s, buffer, sizeof buffer);
        if (round > 0) /* with a head that could be one */
            memset(buffer, 0, 24);
        if (round > 0)
            buffer[7] = 1;
        g_assert_cmpint(send(s.pipe->fd[0], buffer, round == 2 ? 25 : sizeof buffer, 0), >, 0);
        rig_wait(has_failed, &s);
        g_assert_error(s.failed, DRV_ERROR, DRV_ERROR_PROTOCOL);
        scene_clear(&s);
    }
}

static void
put_head(DrvCursor *out, guint64 number, guint64 after, guint64 digest)
{
    drv_cursor_put_u64(out, number);
    drv_cursor_put_u64(out, after);
    drv_cursor_put_u64(out, digest);
}

static void
put_record(DrvCursor *out, DrvRecordKind kind, guint8 flags)
{
    drv_cursor_put_u8(out, (guint8)kind);
    drv_cursor_put_u8(out, flags);
    drv_cursor_put_u16(out, 0);
}

static gboolean
is_taken(gpointer data)
{
    int unread = -1;
    g_assert_no_errno(ioctl(((Scene *)data)->pipe->fd[0], SIOCOUTQ, &unread));
    return unread == 0;
}

static void
send_batch(Scene *s, const DrvCursor *batch, const guint8 *bytes)
{
    g_assert_true(drv_cursor_ok(batch));
    g_assert_cmpint(send(s->pipe->fd[0], bytes, batch->pos, 0), ==, batch->pos);
    rig_wait(is_taken, s);
}

static gboolean
is_filled(gpointer data)
{
    return ((volatile guint8 *)((Scene *)data)->dest[MAIN])[5 * PAGE] == 0xab;
}

/* What a batch has for QEMU waits for all batches before it, whatever its pages had to wait for:
 * here for one that then turns out to be wrong. */
static void
test_qemu_waits(void)
{
    Scene s;
    guint8 bytes[256];
    scene_init(&s, 1, 1, FALSE);
    s.pipe = rig_pipe_coded(&s.rig, DRV_CODEC_NONE, drv_codec_opaque_new(),
                            drv_ram_placer_codec(s.placer));
    DrvCursor out = drv_cursor_writer(bytes, sizeof bytes);
    put_head(&out, 1, 0, 0);
    put_record(&out, DRV_RECORD_BLOCK, 0x04); /* its bytes came before */
    drv_cursor_put_u64(&out, layout[MAIN].pages * PAGE);
    drv_cursor_put_u8(&out, (guint8)strlen(layout[MAIN].id));
    drv_cursor_put_bytes(&out, layout[MAIN].id, strlen(layout[MAIN].id));
    send_batch(&s, &out, bytes);

    out = drv_cursor_writer(bytes, sizeof bytes);
    put_head(&out, 3, 1, 0);
    put_record(&out, DRV_RECORD_ZERO, 0);
    drv_cursor_put_u32(&out, 5);
    drv_cursor_put_u32(&out, 1);
    drv_cursor_put_u8(&out, 0xab);
    put_record(&out, DRV_RECORD_OPAQUE, 0);
    drv_cursor_put_u32(&out, 7);
    drv_cursor_put_bytes(&out, "devices", 7);
    send_batch(&s, &out, bytes);
    rig_wait(is_filled, &s);

    out = drv_cursor_writer(bytes, sizeof bytes);
    put_head(&out, 2, 1, 1);
    put_record(&out, DRV_RECORD_DUP, 0);
    drv_cursor_put_u32(&out, 6);
    drv_cursor_put_u16(&out, 0);
    drv_cursor_put_u32(&out, 7);
    send_batch(&s, &out, bytes);
    rig_wait(has_failed, &s);
    g_assert_error(s.failed, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_cmpint(recv(s.pipe->fd[1], bytes, sizeof bytes, MSG_DONTWAIT), <=, 0);
    scene_clear(&s);
}

/* Ends in the middle, with batches on their way. */
static void
test_abandoned(void)
{
    for (guint round = 0; round < 20; round++) {
        Scene s;
        scene_init(&s, 3, 2, FALSE);
        s.pipe = rig_pipe_coded(&s.rig, DRV_CODEC_NONE, drv_ram_sender_codec(s.sender, 0),
                                drv_ram_placer_codec(s.placer));
        GThread *threads[] = {g_thread_new("source", run_source, &s),
                              g_thread_new("dest", run_dest, &s)};
        while (g_atomic_int_get(&s.rounds_out) < (gint)(round % 3))
            g_main_context_iteration(NULL, FALSE);
        drv_channel_close(s.pipe->channel[round % 2]);
        if (round % 4 < 2)
            drv_channel_close(s.pipe->channel[1 - round % 2]);
        else
            shutdown(s.pipe->fd[1 - round % 2], SHUT_RDWR);
        rig_join(threads, G_N_ELEMENTS(threads));
        g_assert_no_error(s.failed);
        scene_clear(&s);
    }
}

int
main(int argc, char **argv)
{
    static const How hows[] = {
        {1, 1, DRV_CODEC_NONE, 0}, {3, 1, DRV_CODEC_LZ4, 0},   {2, 4, DRV_CODEC_AUTO, 0},
        {4, 8, DRV_CODEC_NONE, 0}, {1, 2, DRV_CODEC_NONE, 30}, {3, 4, DRV_CODEC_LZ4, 30},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(hows); i++) {
        g_autofree char *path =
            g_strdup_printf("/ram/arrives/%u-threads-%u-lanes-%s-%u-cuts", hows[i].threads,
                            hows[i].lanes, drv_codec_name(hows[i].codec), hows[i].cuts);
        g_test_add_data_func(path, &hows[i], test_arrives);
    }
    g_test_add_func("/ram/nothing-is-held-back", test_nothing_is_held_back);

    g_test_add_func("/ram/placed", test_placed);
    g_test_add_func("/ram/spoilt", test_spoilt);
    g_test_add_func("/ram/hostile", test_hostile);
    g_test_add_func("/ram/qemu-waits", test_qemu_waits);
    g_test_add_func("/ram/abandoned", test_abandoned);
    return g_test_run();
}
