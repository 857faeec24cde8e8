/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How fast the parsers are, beside memcpy of the same bytes in the same run: that much of a core's
 * time a relay spends on structure. Each figure is the best of several rounds, which take turns, so
 * that a busy machine hurts all alike.
 */
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
    printf("%-26s %7.2f GB/s of stream, %8.1f of guest; memcpy %6.2f, parser/memcpy %6.2f\n", name,
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
    return 0;
}
