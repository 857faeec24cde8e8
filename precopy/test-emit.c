/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/emit.h"

#include "precopy/test-sample.h"

#include <string.h>

/* Parses 'in' and writes it anew, page by page; without the pages of which 'keep' is FALSE. */
static GByteArray *
rewrite(const GByteArray *in, gboolean (*keep)(guint block, guint64 page))
{
    g_autoptr(DrvStream) stream = drv_stream_new();
    GByteArray *bytes = g_byte_array_new();
    g_byte_array_set_size(bytes, in->len + 4096);
    DrvCursor out = drv_cursor_writer(bytes->data, bytes->len);
    DrvEmit emit = DRV_EMIT_INIT;
    DrvStreamEvent event;

    drv_stream_push(stream, in->data, in->len);
    while (drv_stream_next(stream, &event)) {
        if (event.kind != DRV_STREAM_RAM_PAGES) {
            drv_emit_event(&emit, &out, &event);
            continue;
        }
        for (guint32 i = 0; i < event.pages.count; i++)
            if (keep(event.pages.block, event.pages.offset / SAMPLE_PAGE + i))
                drv_emit_pages(&emit, &out, stream, &event, i, 1);
    }
    g_assert_true(drv_cursor_ok(&out));
    g_byte_array_set_size(bytes, (guint)out.pos);
    return bytes;
}

static guint64
count_pages(const GByteArray *in, gboolean *exact)
{
    g_autoptr(DrvStream) stream = drv_stream_new();
    DrvStreamEvent event;
    guint64 n = 0;
    drv_stream_push(stream, in->data, in->len);
    while (drv_stream_next(stream, &event))
        n += event.kind == DRV_STREAM_RAM_PAGES ? event.pages.count : 0;
    *exact = drv_stream_exact(stream);
    return n;
}

static gboolean
keep_all(guint block, guint64 page)
{
    return TRUE;
}

static gboolean
keep_none(guint block, guint64 page)
{
    return FALSE;
}

static gboolean
keep_some(guint block, guint64 page)
{
    return block == 1 || page % 5 == 4;
}

/* QEMU's own writer and this one agree in when a page names its block. */
static void
test_identity(void)
{
    g_autoptr(GByteArray) in = sample_stream(TRUE, 50);
    g_autoptr(GByteArray) out = rewrite(in, keep_all);
    g_assert_cmpmem(out->data, out->len, in->data, in->len);
}

static void
test_leaving_pages_out(void)
{
    g_autoptr(GByteArray) in = sample_stream(FALSE, 50);
    gboolean exact;

    g_autoptr(GByteArray) none = rewrite(in, keep_none);
    g_assert_cmpuint(count_pages(none, &exact), ==, 0);
    g_assert_true(exact);
    g_assert_cmpuint(none->len, <, 2 * SAMPLE_DEVICE_BYTES + 1000);

    /* The first page kept is one that continued a block: now it names it. */
    g_autoptr(GByteArray) some = rewrite(in, keep_some);
    g_assert_cmpuint(count_pages(some, &exact), ==, 90 / 5 + 1 + 2 * 1);
    g_assert_true(exact);
}

/* As QEMU writes it, byte for byte: the first page of a block names it, the others continue it. */
static void
test_ram_section(void)
{
    static const char expected[] = "QEVM\0\0\0\3"
                                   "\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4"
                                   "\0\0\0\0\0\0\x30\4\1a\0\0\0\0\0\0\x20\0\1b\0\0\0\0\0\0\x10\0"
                                   "\0\0\0\0\0\0\0\2\1a\0"
                                   "\0\0\0\0\0\0\x10\x22\0"
                                   "\0\0\0\0\0\0\0\2\1b\0"
                                   "\0\0\0\0\0\0\2\0"
                                   "\0\0\0\0\0\0\0\x10"
                                   "\x7e\0\0\0\2";
    const DrvRamBlock blocks[] = {{.id = "a", .size = 2 * SAMPLE_PAGE},
                                  {.id = "b", .size = SAMPLE_PAGE}};
    guint8 room[200];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    DrvEmit emit = DRV_EMIT_INIT;
    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, 2, "ram", 4);
    drv_emit_blocks(&out, blocks, G_N_ELEMENTS(blocks));
    drv_emit_page(&emit, &out, &blocks[0], 0, DRV_PAGES_ZERO, 0, "", 1);
    drv_emit_page(&emit, &out, &blocks[0], 0, DRV_PAGES_ZERO, SAMPLE_PAGE, "", 1);
    drv_emit_page(&emit, &out, &blocks[1], 1, DRV_PAGES_ZERO, 0, "", 1);
    drv_emit_flush_word(&out);
    drv_emit_eos(&out);
    drv_emit_footer(&out, 2);
    g_assert_cmpmem(room, out.pos, expected, sizeof expected - 1);
}

static void
test_too_short(void)
{
    guint8 room[20];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    DrvEmit emit = DRV_EMIT_INIT;
    const DrvRamBlock block = {.id = "pc.ram", .size = SAMPLE_PAGE};
    guint8 page[SAMPLE_PAGE] = {0};
    drv_emit_page(&emit, &out, &block, 0, DRV_PAGES_NORMAL, 0, page, sizeof page);
    g_assert_false(drv_cursor_ok(&out));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/emit/identity", test_identity);
    g_test_add_func("/emit/leaving-pages-out", test_leaving_pages_out);
    g_test_add_func("/emit/ram-section", test_ram_section);
    g_test_add_func("/emit/too-short", test_too_short);
    return g_test_run();
}
