/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How fast the parsers are, and batches are made of what they find, beside memcpy of the same bytes
 * in the same run: that much of a core's time is spent on structure, and on what pages become. Of
 * batches the figure contains the parser's work, all hashes and the copy into the batch. Each
 * figure is the best of several rounds, which take turns, so that a busy machine hurts all alike.
 */
#include "precopy/batch-writer.h"
#include "precopy/emit.h"
#include "precopy/multifd.h"
#include "precopy/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096u
#define PAGES 16384u       /* 64 MiB, more than a cache holds */
#define PUSH (256u * 1024) /* as a relay reads */
#define ROUNDS 7
#define PACKET_PAGES 128u
#define HEAD (320 + 8 * PACKET_PAGES)

typedef struct {
    guint8 *data;
    gsize len;
} Bytes;

typedef guint64 (*Measured)(const Bytes *in, guint8 *copy);

static void
fill_random(guint8 *p, gsize len)
{
    guint64 x = 88172645463325252u;
    for (gsize i = 0; i + 8 <= len; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(p + i, &x, 8);
    }
}

/* Pages in runs of 'run', then one left out; a run of 1 is the worst case. Opaque when 'run' is 0:
 * random bytes of a device. */
static Bytes
make_stream(DrvPagesKind kind, guint run)
{
    const DrvRamBlock block = {.id = "pc.ram", .size = 4ull * PAGES * PAGE};
    Bytes in = {.len = (gsize)PAGES * (PAGE + 16) + 4096};
    in.data = g_malloc(in.len);
    DrvCursor out = drv_cursor_writer(in.data, in.len);
    DrvEmit emit = DRV_EMIT_INIT;
    g_autofree guint8 *page = g_malloc0(PAGE);
    guint64 offset = 0;

    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, 1, run > 0 ? "ram" : "device", 4);
    if (run == 0) {
        fill_random(in.data + out.pos, in.len - out.pos);
        return in;
    }
    fill_random(page, kind == DRV_PAGES_NORMAL ? PAGE : 0);
    drv_emit_blocks(&out, &block, 1);
    for (guint i = 0; i < PAGES; i++, offset += i % run == 0 ? 2 * PAGE : PAGE)
        drv_emit_page(&emit, &out, &block, 0, kind, offset, page,
                      kind == DRV_PAGES_NORMAL ? PAGE : 1);
    in.len = out.pos;
    return in;
}

static Bytes
make_multifd(void)
{
    Bytes in = {.len = 64 + (gsize)PAGES / PACKET_PAGES * (HEAD + PACKET_PAGES * PAGE)};
    in.data = g_malloc0(in.len);
    DrvCursor out = drv_cursor_writer(in.data, in.len);
    drv_cursor_put_u32(&out, 0x11223344);
    drv_cursor_put_u32(&out, 1);
    drv_cursor_take(&out, 56);
    while (drv_cursor_left(&out) > 0) {
        const guint32 fields[] = {0x11223344,         1, 0, PACKET_PAGES, PACKET_PAGES,
                                  PACKET_PAGES * PAGE};
        for (guint i = 0; i < G_N_ELEMENTS(fields); i++)
            drv_cursor_put_u32(&out, fields[i]);
        drv_cursor_take(&out, 8 + 4 + 28);
        memcpy(drv_cursor_take(&out, 256), "pc.ram", 7);
        for (guint i = 0; i < PACKET_PAGES; i++)
            drv_cursor_put_u64(&out, (guint64)i * PAGE);
        fill_random(drv_cursor_take(&out, PACKET_PAGES * PAGE), PACKET_PAGES * PAGE);
    }
    return in;
}

/* ---- rounds of a guest, for batches ---- */

typedef enum {
    ROUND_UNIQUE,    /* every page for the first time, none like another */
    ROUND_UNCHANGED, /* half the pages twice */
    ROUND_SPARSE,    /* the same, and a few bytes were changed in between */
    ROUND_REWRITTEN, /* the same, with other contents */
    ROUND_ALIKE,     /* one of a hundred contents each */
    ROUND_MIXED,     /* all of that, a third of the pages zero */
} Rounds;

static void
change_page(guint8 *page, Rounds what, guint i)
{
    guint64 *words = (guint64 *)page;
    if (what == ROUND_MIXED)
        what = i % 3 == 0 ? ROUND_SPARSE : i % 3 == 1 ? ROUND_REWRITTEN : ROUND_UNCHANGED;
    if (what == ROUND_SPARSE)
        words[i % 512] += 1;
    if (what == ROUND_REWRITTEN)
        for (guint j = 0; j < PAGE / 8; j++)
            words[j] = words[j] * 0x9e3779b97f4a7c15u + i;
}

static void
first_content(guint8 *page, const guint8 *random, Rounds what, guint i)
{
    /* No page is like another, and all are as random as one. */
    guint content = what == ROUND_ALIKE || (what == ROUND_MIXED && i % 10 == 0) ? i % 100 : i;
    memcpy(page, random + (content % 64) * 8, PAGE);
    memcpy(page, &content, sizeof content);
    memcpy(page + 2000, &content, sizeof content);
}

static Bytes
make_rounds(Rounds what)
{
    const DrvRamBlock block = {.id = "pc.ram", .size = (guint64)PAGES * PAGE};
    guint rounds = what == ROUND_UNIQUE || what == ROUND_ALIKE ? 1 : 2;
    Bytes in = {.len = (gsize)PAGES * (PAGE + 16) + 4096};
    in.data = g_malloc(in.len);
    DrvCursor out = drv_cursor_writer(in.data, in.len);
    DrvEmit emit = DRV_EMIT_INIT;
    g_autofree guint8 *random = g_malloc(2 * PAGE);
    guint n = PAGES / rounds;
    g_autofree guint8 *guest = g_malloc((gsize)n * PAGE);

    fill_random(random, 2 * PAGE);
    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, 1, "ram", 4);
    drv_emit_blocks(&out, &block, 1);
    for (guint round = 0; round < rounds; round++)
        for (guint i = 0; i < n; i++) {
            guint8 *page = guest + (gsize)i * PAGE;
            gboolean zero = what == ROUND_MIXED && i / 8 % 3 == 0;
            if (round == 0)
                first_content(page, random, what, i);
            else
                change_page(page, what, i);
            drv_emit_page(&emit, &out, &block, 0, zero ? DRV_PAGES_ZERO : DRV_PAGES_NORMAL,
                          (guint64)i * PAGE, zero ? (const guint8 *)"" : page, zero ? 1 : PAGE);
        }
    in.len = out.pos;
    return in;
}

static guint64
finish_batch(DrvBatchWriter *writer, guint8 *room)
{
    guint64 len = drv_batch_writer_finish(writer);
    drv_batch_writer_begin(writer, room, DRV_BATCH_MAX);
    return len;
}

static guint64
run_batches(const Bytes *in, gboolean placeable)
{
    guint8 secrets[2 * DRV_PAGE_SECRET];
    fill_random(secrets, sizeof secrets);
    g_autoptr(DrvPageTable) table =
        drv_page_table_new(secrets, secrets + DRV_PAGE_SECRET, DRV_DEDUP_MEMORY_DEFAULT);
    g_autoptr(DrvBatchWriter) writer = drv_batch_writer_new(table);
    g_autoptr(DrvStream) stream = drv_stream_new();
    g_autofree guint8 *room = g_malloc(DRV_BATCH_MAX);
    DrvPageCounts counts;
    DrvStreamEvent event;

    drv_batch_writer_begin(writer, room, DRV_BATCH_MAX);
    for (gsize at = 0; at < in->len; at += PUSH) {
        drv_stream_push(stream, in->data + at, MIN(PUSH, in->len - at));
        while (drv_stream_next(stream, &event)) {
            guint32 done = 0;
            if (event.kind == DRV_STREAM_RAM_BLOCK) {
                const DrvRamBlock *block = drv_stream_block(stream, event.block);
                drv_page_table_add_block(table, event.block, block->id, block->size, placeable,
                                         NULL);
            }
            while (!drv_batch_writer_add(writer, stream, &event, &done))
                finish_batch(writer, room);
        }
    }
    finish_batch(writer, room);
    drv_page_table_counts(table, &counts);
    return counts.zero + counts.dup + counts.delta + counts.literal;
}

static guint64
run_relay(const Bytes *in, guint8 *copy)
{
    return run_batches(in, FALSE);
}

static guint64
run_direct(const Bytes *in, guint8 *copy)
{
    return run_batches(in, TRUE);
}

/* ---- measuring ---- */

static guint64
run_memcpy(const Bytes *in, guint8 *copy)
{
    for (gsize at = 0; at < in->len; at += PUSH)
        memcpy(copy + at, in->data + at, MIN(PUSH, in->len - at));
    return copy[in->len / 2];
}

static guint64
run_stream(const Bytes *in, guint8 *copy)
{
    g_autoptr(DrvStream) stream = drv_stream_new();
    DrvStreamEvent event;
    guint64 pages = 0;
    for (gsize at = 0; at < in->len; at += PUSH) {
        drv_stream_push(stream, in->data + at, MIN(PUSH, in->len - at));
        while (drv_stream_next(stream, &event))
            pages += event.kind == DRV_STREAM_RAM_PAGES ? event.pages.count : 0;
    }
    return pages;
}

static guint64
run_multifd(const Bytes *in, guint8 *copy)
{
    g_autoptr(DrvMultifd) multifd = drv_multifd_new(PAGE);
    DrvMultifdEvent event;
    guint64 pages = 0;
    for (gsize at = 0; at < in->len; at += PUSH) {
        drv_multifd_push(multifd, in->data + at, MIN(PUSH, in->len - at));
        while (drv_multifd_next(multifd, &event))
            pages += event.kind == DRV_MULTIFD_PAGES ? event.pages.count : 0;
    }
    return pages;
}

static gdouble
seconds(Measured run, const Bytes *in, guint8 *copy, guint64 *result)
{
    gint64 began = g_get_monotonic_time();
    *result = run(in, copy);
    return (gdouble)MAX(g_get_monotonic_time() - began, 1) / 1e6;
}

static void
measure(const char *name, Measured run, Bytes in, guint64 expected)
{
    g_autofree guint8 *copy = g_malloc0(in.len);
    gdouble parse = 1e9, plain = 1e9;
    guint64 result = 0, ignored;
    for (guint i = 0; i < ROUNDS; i++) {
        plain = MIN(plain, seconds(run_memcpy, &in, copy, &ignored));
        parse = MIN(parse, seconds(run, &in, copy, &result));
    }
    gdouble gb = (gdouble)in.len / 1e9;
    printf("%-32s %7.2f GB/s of stream, %8.1f of guest; memcpy %6.2f, ratio %6.2f\n", name,
           gb / parse, (gdouble)result * PAGE / 1e9 / parse, gb / plain, plain / parse);
    g_free(in.data);
    if (result != expected) {
        fprintf(stderr, "bench: %s: %" G_GUINT64_FORMAT " pages were found instead of %u\n", name,
                result, (guint)expected);
        exit(1);
    }
}

int
main(void)
{
    measure("pages in runs of 64", run_stream, make_stream(DRV_PAGES_NORMAL, 64), PAGES);
    measure("single pages", run_stream, make_stream(DRV_PAGES_NORMAL, 1), PAGES);
    measure("zero pages in runs of 64", run_stream, make_stream(DRV_PAGES_ZERO, 64), PAGES);
    measure("zero pages, single", run_stream, make_stream(DRV_PAGES_ZERO, 1), PAGES);
    measure("opaque, random", run_stream, make_stream(DRV_PAGES_NORMAL, 0), 0);
    measure("multifd", run_multifd, make_multifd(), PAGES);
    measure("batches, relay", run_relay, make_rounds(ROUND_UNIQUE), PAGES);
    measure("batches, unique pages", run_direct, make_rounds(ROUND_UNIQUE), PAGES);
    measure("batches, pages alike", run_direct, make_rounds(ROUND_ALIKE), PAGES);
    measure("batches, then unchanged", run_direct, make_rounds(ROUND_UNCHANGED), PAGES);
    measure("batches, then a few bytes", run_direct, make_rounds(ROUND_SPARSE), PAGES);
    measure("batches, then rewritten", run_direct, make_rounds(ROUND_REWRITTEN), PAGES);
    measure("batches, mixed", run_direct, make_rounds(ROUND_MIXED), PAGES);
    return 0;
}
