/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/channel/ram-place.h"
#include "engine/channel/ram-send.h"
#include "engine/channel/test-relay.h"
#include "engine/channel/test-rig.h"
#include "engine/channel/test-source.h"
#include "precopy/multifd.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * What is tested: a main stream and multifd channels, each written as fast as its socket takes it.
 * Nothing but the SYNC packets says what is before what, so any round may overtake any other where
 * these are not kept. At the destination the streams wait for each other as QEMU's threads do.
 */
#define PAGE ((gsize)DRV_PAGE_LEN)
#define ROUNDS 12
#define MAX_CHANNELS 8
#define PER_PACKET 32u
#define DEVICE_BYTES 5000u

enum { MAIN, ROM, BLOCKS };
static const struct {
    const char *id;
    guint pages;
} layout[BLOCKS] = {{"pc.ram", 800}, {"pc.rom", 40}};

typedef enum {
    AT_FLUSH, /* the main stream says FLUSH; zero pages are in the channels */
    AT_EOS,   /* every EOS counts; zero pages are in the main stream, SYNC packets have pages */
} Manner;

typedef struct {
    guint channels, threads, lanes;
    Manner manner;
    guint cuts;
    guint lost_in; /* round in which the main stream has a page that is not understood; 0: none */
} How;

typedef struct Scene Scene;

typedef struct {
    Scene *scene;
    guint index; /* 0: the main stream */
    Pipe *pipe;
    GByteArray *out; /* all that the source's QEMU sends */
    guint syncs;     /* that came out */
} Stream;

struct Scene {
    const How *how;
    Rig rig;
    TestRelay *relay;
    DrvRamSender *sender;
    DrvRamPlacer *placer;
    GError *failed;
    GRand *rand;
    Stream streams[1 + MAX_CHANNELS];
    guint8 *source[BLOCKS];
    guint8 *dest[BLOCKS];
    guint8 device[DEVICE_BYTES];
    guint8 device_out[DEVICE_BYTES];

    GMutex lock;
    GCond passed_on;
    guint arrived, passed;
};

static guint8 *
new_memory(guint pages)
{
    guint8 *p =
        mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    return p;
}

static void
fill_random(Scene *s, guint8 *p, gsize len)
{
    for (gsize i = 0; i < len; i++)
        p[i] = (guint8)g_rand_int(s->rand);
}

static gboolean
is_zero(const guint8 *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* --- what the source's QEMU sends --- */

static void
put_u32(GByteArray *out, guint32 value)
{
    value = GUINT32_TO_BE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

static void
put_u64(GByteArray *out, guint64 value)
{
    value = GUINT64_TO_BE(value);
    g_byte_array_append(out, (const guint8 *)&value, sizeof value);
}

static void
put_zeros(GByteArray *out, gsize n)
{
    gsize before = out->len;
    g_byte_array_set_size(out, (guint)(before + n));
    memset(out->data + before, 0, n);
}

static void
put_init(GByteArray *out, guint channel)
{
    put_u32(out, 0x11223344);
    put_u32(out, 1);
    put_zeros(out, 16);
    guint8 number = (guint8)channel;
    g_byte_array_append(out, &number, 1);
    put_zeros(out, 39);
}

static void
put_packet(Scene *s, GByteArray *out, guint32 flags, guint block, const guint *pages, guint normal,
           guint zero)
{
    gsize begin = out->len;
    put_u32(out, 0x11223344);
    put_u32(out, 1);
    put_u32(out, flags);
    put_u32(out, DRV_MULTIFD_MAX_PAGES);
    put_u32(out, normal);
    put_u32(out, normal > 0 ? normal * DRV_PAGE_LEN : 77); /* 7.2 leaves an old one */
    put_u64(out, 5);
    put_u32(out, zero);
    put_zeros(out, 28);
    char id[256] = {0};
    g_strlcpy(id, layout[block].id, sizeof id);
    g_byte_array_append(out, (guint8 *)id, sizeof id);
    for (guint i = 0; i < normal + zero; i++)
        put_u64(out, pages[i] * PAGE);
    put_zeros(out, DRV_MULTIFD_HEAD_LEN - (out->len - begin));
    for (guint i = 0; i < normal; i++)
        g_byte_array_append(out, s->source[block] + pages[i] * PAGE, PAGE);
}

/* A packet of the pages collected for it, those that are not zero first. */
static void
put_pages(Scene *s, guint channel, guint32 flags, guint block, GArray *pages)
{
    guint sorted[PER_PACKET] = {0}, n = 0;
    for (guint zero = 0, normal = 0; zero < 2; zero++) {
        for (guint i = 0; i < pages->len; i++) {
            guint page = g_array_index(pages, guint, i);
            if (is_zero(s->source[block] + page * PAGE) == (zero == 1))
                sorted[n++] = page;
        }
        if (zero == 0)
            normal = n;
        else
            put_packet(s, s->streams[channel].out, flags, block, sorted, normal, n - normal);
    }
    g_array_set_size(pages, 0);
}

static void
main_cursor(Scene *s, const guint8 *data, gsize len)
{
    g_byte_array_append(s->streams[0].out, data, (guint)len);
}

static void
write_page(Scene *s, guint8 *p, guint round)
{
    switch (g_rand_int_range(s->rand, 0, 4)) {
    case 0:
        memset(p, 0, PAGE);
        break;
    case 1:
        fill_random(s, p, PAGE);
        break;
    default:
        p[8 * (guint)g_rand_int_range(s->rand, 0, 512)] ^= (guint8)(1 + round);
        break;
    }
}

static void
put_page_in_main(Scene *s, DrvEmit *emit, guint block, guint page)
{
    guint8 buffer[PAGE + DRV_EMIT_MAX_HEAD], zero = 0;
    DrvCursor out = drv_cursor_writer(buffer, sizeof buffer);
    DrvRamBlock ram = {.size = layout[block].pages * PAGE};
    g_strlcpy(ram.id, layout[block].id, sizeof ram.id);
    drv_emit_page(emit, &out, &ram, block, DRV_PAGES_ZERO, page * PAGE, &zero, 1);
    main_cursor(s, buffer, out.pos);
}

/* The ends of a round: SYNC in all channels, and their place in the main stream. */
static void
put_syncs(Scene *s, GArray **rest)
{
    for (guint c = 1; c <= s->how->channels; c++) {
        if (rest != NULL && s->how->manner == AT_EOS && rest[c]->len > 0)
            put_pages(s, c, DRV_MULTIFD_SYNC, MAIN, rest[c]);
        else {
            if (rest != NULL && rest[c]->len > 0)
                put_pages(s, c, 0, MAIN, rest[c]);
            put_packet(s, s->streams[c].out, DRV_MULTIFD_SYNC, MAIN, NULL, 0, 0);
        }
    }
}

static void
end_section(Scene *s)
{
    guint8 buffer[64];
    DrvCursor out = drv_cursor_writer(buffer, sizeof buffer);
    if (s->how->manner == AT_FLUSH)
        drv_emit_flush_word(&out);
    drv_emit_eos(&out);
    drv_emit_footer(&out, 2);
    main_cursor(s, buffer, out.pos);
}

static void
put_round(Scene *s, DrvEmit *emit, guint round)
{
    GArray *rest[1 + MAX_CHANNELS];
    GArray *rom = g_array_new(FALSE, FALSE, sizeof(guint));
    guint8 head[16];
    DrvCursor out = drv_cursor_writer(head, sizeof head);
    drv_emit_section(&out, round == ROUNDS - 1 ? DRV_SECTION_END : DRV_SECTION_PART, 2, NULL, 0);
    main_cursor(s, head, out.pos);
    for (guint c = 0; c <= s->how->channels; c++)
        rest[c] = g_array_new(FALSE, FALSE, sizeof(guint));
    for (guint b = 0; b < BLOCKS; b++) {
        for (guint i = 0; i < layout[b].pages; i++) {
            guint8 *page = s->source[b] + i * PAGE;
            guint c = (guint)g_rand_int_range(s->rand, 1, (gint)s->how->channels + 1);
            if (round > 0 && g_rand_int_range(s->rand, 0, 3) > 0)
                continue;
            write_page(s, page, round);
            GArray *pages = b == MAIN ? rest[c] : rom;
            if (is_zero(page) && s->how->manner == AT_EOS) {
                put_page_in_main(s, emit, b, i);
                continue;
            }
            g_array_append_val(pages, i);
            if (pages->len == PER_PACKET)
                put_pages(s, c, 0, b, pages);
        }
    }
    put_pages(s, 1, 0, ROM, rom);
    if (s->how->lost_in == round && round > 0) {
        guint8 delta[512];
        DrvCursor odd = drv_cursor_writer(delta, sizeof delta);
        DrvRamBlock ram = {.size = layout[ROM].pages * PAGE};
        g_strlcpy(ram.id, layout[ROM].id, sizeof ram.id);
        emit->block = -1;
        drv_emit_page(emit, &odd, &ram, ROM, DRV_PAGES_XBZRLE, 0, "\1\0\0", 3);
        main_cursor(s, delta, odd.pos);
    }
    put_syncs(s, rest);
    end_section(s);
    for (guint c = 0; c <= s->how->channels; c++)
        g_array_unref(rest[c]);
    g_array_unref(rom);
}

static void
make_streams(Scene *s)
{
    guint8 buffer[6000];
    DrvCursor out = drv_cursor_writer(buffer, sizeof buffer);
    DrvEmit emit = DRV_EMIT_INIT;
    DrvRamBlock blocks[BLOCKS] = {0};
    for (guint b = 0; b < BLOCKS; b++) {
        g_strlcpy(blocks[b].id, layout[b].id, sizeof blocks[b].id);
        blocks[b].size = layout[b].pages * PAGE;
    }
    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, 2, "ram", 4);
    drv_emit_blocks(&out, blocks, BLOCKS);
    main_cursor(s, buffer, out.pos);
    for (guint c = 1; c <= s->how->channels; c++)
        put_init(s->streams[c].out, c);
    put_syncs(s, NULL);
    end_section(s);
    for (guint round = 0; round < ROUNDS; round++)
        put_round(s, &emit, round);
    out = drv_cursor_writer(buffer, sizeof buffer);
    source_end(&out, s->device, DEVICE_BYTES);
    main_cursor(s, buffer, out.pos);
}

static gpointer
run_source(gpointer data)
{
    Stream *stream = data;
    for (gsize done = 0; done < stream->out->len;) {
        ssize_t n = send(stream->pipe->fd[0], stream->out->data + done,
                         MIN(stream->out->len - done, 50000), MSG_NOSIGNAL);
        if (n <= 0)
            break; /* the other end has given up: seen elsewhere */
        done += (gsize)n;
    }
    shutdown(stream->pipe->fd[0], SHUT_WR);
    return NULL;
}

/* --- the destination's QEMU --- */

/* Waits until all streams have come to this place, as QEMU's do. */
static void
wait_for_all(Scene *s)
{
    g_mutex_lock(&s->lock);
    guint place = s->passed;
    if (++s->arrived == 1 + s->how->channels) {
        s->arrived = 0;
        s->passed++;
        g_cond_broadcast(&s->passed_on);
    }
    while (s->passed == place)
        g_cond_wait(&s->passed_on, &s->lock);
    g_mutex_unlock(&s->lock);
}

static void
load_page(Scene *s, guint block, guint64 offset, const guint8 *content)
{
    g_assert_cmpuint(offset + PAGE, <=, layout[block].pages * PAGE);
    if (content != NULL)
        memcpy(s->dest[block] + offset, content, PAGE);
    else
        memset(s->dest[block] + offset, 0, PAGE);
}

static guint
loaded_block(Scene *s, const char *id)
{
    guint block = strcmp(id, layout[MAIN].id) == 0 ? MAIN : ROM;
    g_assert_cmpstr(id, ==, layout[block].id);
    g_assert_true(block == ROM || s->how->lost_in > 0); /* all others are not its business */
    return block;
}

static void
load_main(Stream *stream, DrvStream *parser, const DrvStreamEvent *event, GByteArray *after)
{
    Scene *s = stream->scene;
    if (drv_stream_ram_ended(parser) && event->kind == DRV_STREAM_OPAQUE)
        g_byte_array_append(after, event->piece.bytes, (guint)event->piece.len);
    if (event->kind == (s->how->manner == AT_FLUSH ? DRV_STREAM_RAM_FLUSH : DRV_STREAM_RAM_EOS)) {
        stream->syncs++;
        wait_for_all(s);
    }
    if (event->kind != DRV_STREAM_RAM_PAGES || event->pages.kind == DRV_PAGES_XBZRLE)
        return;
    guint block = loaded_block(s, drv_stream_block(parser, event->pages.block)->id);
    for (guint32 i = 0; i < event->pages.count; i++)
        load_page(s, block, event->pages.offset + i * PAGE,
                  event->pages.kind == DRV_PAGES_ZERO ? NULL : drv_stream_payload(event, i));
}

static void
load_part(Stream *stream, DrvMultifd *parser, const DrvMultifdEvent *event)
{
    Scene *s = stream->scene;
    const DrvMultifdPacket *packet = drv_multifd_packet(parser);
    g_assert_cmpint(event->kind, !=, DRV_MULTIFD_OPAQUE);
    if (event->kind == DRV_MULTIFD_INIT)
        return;
    gboolean head = event->kind == DRV_MULTIFD_PACKET;
    if (packet->normal + packet->zero > 0) {
        guint block = loaded_block(s, packet->block);
        for (guint32 i = 0; head && i < packet->zero; i++)
            load_page(s, block, drv_multifd_offset(parser, packet->normal + i), NULL);
        for (guint32 i = 0; !head && i < event->pages.count; i++)
            load_page(s, block, drv_multifd_offset(parser, event->pages.first + i),
                      event->piece.unit + i * PAGE);
    }
    gboolean last =
        head ? packet->normal == 0 : event->pages.first + event->pages.count == packet->normal;
    if (last && packet->flags & DRV_MULTIFD_SYNC) {
        stream->syncs++;
        wait_for_all(s);
    }
}

static gpointer
run_dest(gpointer data)
{
    Stream *stream = data;
    g_autoptr(DrvStream) parser = drv_stream_new();
    g_autoptr(DrvMultifd) channel = drv_multifd_new(DRV_PAGE_LEN);
    g_autoptr(GByteArray) after = g_byte_array_new();
    guint8 buffer[32768];
    DrvStreamEvent event;
    DrvMultifdEvent part;
    ssize_t n;
    while ((n = recv(stream->pipe->fd[1], buffer, sizeof buffer, 0)) > 0) {
        if (stream->index == 0) {
            drv_stream_push(parser, buffer, (gsize)n);
            while (drv_stream_next(parser, &event))
                load_main(stream, parser, &event, after);
        } else {
            drv_multifd_push(channel, buffer, (gsize)n);
            while (drv_multifd_next(channel, &part))
                load_part(stream, channel, &part);
        }
    }
    if (stream->index == 0 && drv_stream_flush(parser, &event))
        load_main(stream, parser, &event, after);
    shutdown(stream->pipe->fd[1], SHUT_WR);
    if (after->len >= DEVICE_BYTES)
        memcpy(stream->scene->device_out, after->data, DEVICE_BYTES);
    return NULL;
}

/* --- the scene --- */

static void
placing_failed(const GError *error, gpointer data)
{
    g_error("placing failed: %s", error->message);
}

static void
scene_init(Scene *s, const How *how)
{
    guint8 secret[DRV_PAGE_SECRET];
    GError *error = NULL;
    memset(s, 0, sizeof *s);
    s->how = how;
    s->rand = g_rand_new_with_seed((guint32)g_test_rand_int());
    g_mutex_init(&s->lock);
    g_cond_init(&s->passed_on);
    rig_init(&s->rig, how->threads, how->lanes, (gsize)256 << 20);
    s->relay = how->cuts > 0 ? test_relay_new(s->rig.port) : NULL;
    rig_connect(&s->rig, s->relay != NULL ? test_relay_port(s->relay) : 0);
    rig_wait_lanes(&s->rig, how->lanes);
    for (guint b = 0; b < BLOCKS; b++) {
        s->source[b] = new_memory(layout[b].pages);
        s->dest[b] = new_memory(layout[b].pages);
    }
    fill_random(s, s->device, DEVICE_BYTES);
    fill_random(s, secret, sizeof secret);
    DrvRamBlock placeable = {.size = layout[MAIN].pages * PAGE};
    DrvGuestBlock reach = {.size = placeable.size, .hva = (guint64)(gsize)s->dest[MAIN]};
    g_strlcpy(placeable.id, layout[MAIN].id, sizeof placeable.id);
    g_strlcpy(reach.id, layout[MAIN].id, sizeof reach.id);
    s->sender =
        drv_ram_sender_new(&placeable, 1, how->channels, secret, DRV_DEDUP_MEMORY_DEFAULT, &error);
    g_assert_no_error(error);
    DrvGuestRam *ram = drv_guest_ram_open(getpid(), &reach, 1, &error);
    g_assert_no_error(error);
    s->placer = drv_ram_placer_new(s->rig.b.transfer, ram, secret, placing_failed, s);
    for (guint i = 0; i <= how->channels; i++) {
        s->streams[i] = (Stream){.scene = s, .index = i, .out = g_byte_array_new()};
        s->streams[i].pipe =
            rig_pipe_coded(&s->rig, DRV_CODEC_LZ4, drv_ram_sender_codec(s->sender, i),
                           drv_ram_placer_codec(s->placer));
    }
    make_streams(s);
}

static void
scene_clear(Scene *s)
{
    for (guint i = 0; i <= s->how->channels; i++) {
        rig_pipe_free(s->streams[i].pipe);
        g_byte_array_unref(s->streams[i].out);
    }
    drv_ram_sender_unref(s->sender);
    drv_ram_placer_drop(s->placer);
    rig_clear(&s->rig);
    g_clear_pointer(&s->relay, test_relay_free);
    g_rand_free(s->rand);
    g_mutex_clear(&s->lock);
    g_cond_clear(&s->passed_on);
    for (guint b = 0; b < BLOCKS; b++) {
        munmap(s->source[b], layout[b].pages * PAGE);
        munmap(s->dest[b], layout[b].pages * PAGE);
    }
}

static void
check_arrived(Scene *s)
{
    DrvRamSenderStats stats;
    g_assert_true(drv_ram_placer_check(s->placer, NULL));
    for (guint b = 0; b < BLOCKS; b++)
        for (guint i = 0; i < layout[b].pages; i++)
            if (memcmp(s->source[b] + i * PAGE, s->dest[b] + i * PAGE, PAGE) != 0)
                g_error("page %u of %s is wrong", i, layout[b].id);
    g_assert_cmpmem(s->device, DEVICE_BYTES, s->device_out, DEVICE_BYTES);
    for (guint i = 0; i <= s->how->channels; i++)
        g_assert_cmpuint(s->streams[i].syncs, ==, 1 + ROUNDS);
    drv_ram_sender_get_stats(s->sender, &stats);
    g_assert_cmpint(stats.understood, ==, s->how->lost_in == 0);
    g_assert_cmpuint(stats.pages.literal, >, 0);
    g_assert_cmpuint(stats.pages.zero, >, 0);
    if (s->how->lost_in == 0)
        g_assert_cmpuint(stats.pages.delta, >, 100);
}

static void
test_arrives(gconstpointer data)
{
    const How *how = data;
    GThread *threads[2 * (1 + MAX_CHANNELS)];
    Scene s;
    scene_init(&s, how);
    if (how->cuts > 0) {
        test_relay_storm(s.relay, (guint32)g_test_rand_int(), how->cuts);
        test_relay_cut(s.relay);
    }
    for (guint i = 0; i <= how->channels; i++) {
        threads[2 * i] = g_thread_new("source", run_source, &s.streams[i]);
        threads[2 * i + 1] = g_thread_new("dest", run_dest, &s.streams[i]);
    }
    rig_join(threads, 2 * (1 + how->channels));
    for (guint i = 0; i <= how->channels; i++)
        rig_wait(rig_pipe_finished, s.streams[i].pipe);
    check_arrived(&s);
    scene_clear(&s);
}

/* A stream waits for others that never come: it is let go when all is closed. */
static void
test_abandoned(void)
{
    static const How how = {2, 2, 2, AT_FLUSH, 0, 0};
    for (guint round = 0; round < 8; round++) {
        Scene s;
        scene_init(&s, &how);
        guint i = round % 3;
        GThread *threads[] = {g_thread_new("source", run_source, &s.streams[i])};
        if (round <
            4) /* its socket is full, as it waits; or it waits in the midst of being closed */
            drv_channel_close(s.streams[(i + 1) % 3].pipe->channel[0]);
        drv_channel_close(s.streams[i].pipe->channel[round % 2]);
        shutdown(s.streams[i].pipe->fd[0], SHUT_RDWR);
        rig_join(threads, 1);
        scene_clear(&s);
    }
}

int
main(int argc, char **argv)
{
    static const How hows[] = {
        {1, 1, 1, AT_FLUSH, 0, 0}, {2, 3, 2, AT_FLUSH, 0, 0},  {8, 4, 4, AT_FLUSH, 0, 0},
        {1, 2, 1, AT_EOS, 0, 0},   {2, 1, 2, AT_EOS, 0, 0},    {8, 4, 2, AT_EOS, 0, 0},
        {3, 3, 4, AT_EOS, 20, 0},  {3, 3, 4, AT_FLUSH, 20, 0}, {4, 3, 2, AT_FLUSH, 0, 5},
        {4, 3, 2, AT_EOS, 0, 5},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(hows); i++) {
        g_autofree char *path = g_strdup_printf(
            "/multifd/%u-channels-%u-threads-%u-lanes-%s-%u-cuts-lost-in-%u", hows[i].channels,
            hows[i].threads, hows[i].lanes, hows[i].manner == AT_FLUSH ? "flush" : "eos",
            hows[i].cuts, hows[i].lost_in);
        g_test_add_data_func(path, &hows[i], test_arrives);
    }
    g_test_add_func("/multifd/abandoned", test_abandoned);
    return g_test_run();
}
