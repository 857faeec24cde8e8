/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/stream.h"

#include "precopy/test-sample.h"

#include <string.h>

#define FIRST_NORMAL 50u
#define ALL_NORMAL (FIRST_NORMAL + 2 * SAMPLE_PART_NORMAL)

typedef struct {
    GByteArray *out; /* all events' bytes */
    guint kinds[DRV_STREAM_VMDESC + 1];
    guint64 pages[DRV_PAGES_COMPRESSED + 1];
    guint64 opaque;
    guint64 carried;
    GString *names; /* of sections' beginnings */
    gboolean exact, ended;
    guint page_errors; /* pages whose content is not what their place says */
} Seen;

static void
seen_clear(Seen *seen)
{
    g_byte_array_unref(seen->out);
    g_string_free(seen->names, TRUE);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Seen, seen_clear)

static void
see_pages(Seen *seen, const DrvStreamEvent *event)
{
    seen->pages[event->pages.kind] += event->pages.count;
    for (guint32 i = 0; i < event->pages.count; i++) {
        guint8 number = (guint8)(event->pages.offset / SAMPLE_PAGE + i);
        const guint8 *payload = drv_stream_payload(event, i);
        if (event->pages.kind == DRV_PAGES_NORMAL)
            seen->page_errors +=
                payload[0] != (number | 0x80) || payload[SAMPLE_PAGE - 1] != (number | 0x80);
        if (event->pages.kind == DRV_PAGES_ZERO)
            seen->page_errors += payload[0] != 0;
    }
}

static void
see(Seen *seen, const DrvStreamEvent *event)
{
    g_byte_array_append(seen->out, event->piece.bytes, (guint)event->piece.len);
    seen->kinds[event->kind]++;
    seen->carried += event->piece.carried ? event->piece.len : 0;
    if (event->kind == DRV_STREAM_OPAQUE)
        seen->opaque += event->piece.len;
    if (event->kind == DRV_STREAM_RAM_PAGES)
        see_pages(seen, event);
    if (event->kind == DRV_STREAM_SECTION)
        g_string_append_printf(seen->names, "%d:%.*s ", event->section.type, (int)event->name_len,
                               event->name != NULL ? event->name : "?");
}

/* Feeds pieces of 'piece' bytes, 0: of random length; flushes after every 'flush_every'. */
static Seen
parse(const GByteArray *in, guint piece, guint flush_every)
{
    g_autoptr(DrvStream) stream = drv_stream_new();
    Seen seen = {.out = g_byte_array_new(), .names = g_string_new(NULL)};
    DrvStreamEvent event;
    guint pieces = 0;
    for (guint at = 0, n; at < in->len; at += n) {
        n = piece != 0 ? piece : (guint)g_test_rand_int_range(1, 2 << g_test_rand_int_range(0, 15));
        n = MIN(n, in->len - at);
        g_autofree guint8 *copy = g_memdup2(in->data + at, n);
        drv_stream_push(stream, copy, n);
        while (drv_stream_next(stream, &event))
            see(&seen, &event);
        gboolean flush = at + n == in->len || (flush_every > 0 && ++pieces % flush_every == 0);
        if (flush && drv_stream_flush(stream, &event))
            see(&seen, &event);
    }
    seen.exact = drv_stream_exact(stream);
    seen.ended = drv_stream_ram_ended(stream);
    return seen;
}

static void
assert_same(const Seen *seen, const GByteArray *in)
{
    g_assert_cmpmem(seen->out->data, seen->out->len, in->data, in->len);
}

/* What must be seen in a sample, however it was cut. */
static void
assert_sample_seen(const Seen *seen, const GByteArray *in)
{
    assert_same(seen, in);
    g_assert_cmpuint(seen->pages[DRV_PAGES_NORMAL], ==, ALL_NORMAL);
    g_assert_cmpuint(seen->pages[DRV_PAGES_ZERO], ==, SAMPLE_ZERO);
    g_assert_cmpuint(seen->page_errors, ==, 0);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_RAM_BLOCK], ==, 2);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_RAM_EOS], ==, 4);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_RAM_FLUSH], ==, 2);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_CONFIG], ==, 1);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_CONFIG_SUB], ==, 1);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_COMMAND], ==, 1);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_EOF], ==, 1);
    g_assert_cmpuint(seen->kinds[DRV_STREAM_VMDESC], ==, 1);
    g_assert_true(seen->ended);
}

static const guint PIECES[] = {1, 7, 13, 4096, 4104, 65536, 1 << 20, 0};

static void
test_pieces(void)
{
    g_autoptr(GByteArray) in = sample_stream(FALSE, FIRST_NORMAL);
    for (guint i = 0; i < G_N_ELEMENTS(PIECES); i++)
        for (guint flush_every = 0; flush_every < 3; flush_every++) {
            g_auto(Seen) seen = parse(in, PIECES[i], flush_every);
            assert_sample_seen(&seen, in);
            g_assert_true(seen.exact);
            g_assert_cmpstr(seen.names->str, ==, "1:ram 2:ram 2:ram 3:ram 4:cpu 4:apic ");
        }
}

static void
test_other_iterables(void)
{
    g_autoptr(GByteArray) in = sample_stream(TRUE, FIRST_NORMAL);
    for (guint i = 0; i < G_N_ELEMENTS(PIECES); i++) {
        g_auto(Seen) seen = parse(in, PIECES[i], 1);
        assert_sample_seen(&seen, in);
        g_assert_false(seen.exact);
        g_assert_cmpstr(seen.names->str, ==,
                        "1:ram 1:dirty-bitmap 2:ram 2:dirty-bitmap 2:ram 3:ram 4:cpu 4:apic ");
    }
}

static void
test_in_place(void)
{
    g_autoptr(GByteArray) in = sample_stream(FALSE, FIRST_NORMAL);
    g_auto(Seen) whole = parse(in, in->len, 0);
    g_assert_cmpuint(whole.carried, ==, 0);
    /* A unit for each border, and what was looked at ahead of it */
    g_auto(Seen) halves = parse(in, 65536, 0);
    g_assert_cmpuint(halves.carried, <, (in->len / 65536 + 1) * 2 * 4104);
}

/* After a flush the whole unit is there when its rest comes, though only the rest is to be passed
 * on. */
static void
test_flushed_page_is_whole(void)
{
    g_autoptr(GByteArray) in = sample_stream(FALSE, FIRST_NORMAL);
    g_auto(Seen) seen = parse(in, 100, 1);
    assert_sample_seen(&seen, in);
    g_assert_cmpuint(seen.opaque, >, ALL_NORMAL * SAMPLE_PAGE / 2);
}

static void
test_nothing_held_after_flush(void)
{
    g_autoptr(GByteArray) in = sample_stream(TRUE, FIRST_NORMAL);
    for (guint cut = 0; cut < in->len; cut += cut < 1000 ? 1 : 97) {
        GByteArray part = {.data = in->data, .len = cut};
        g_auto(Seen) seen = parse(&part, in->len, 0);
        assert_same(&seen, &part);
    }
}

static void
test_flipped_bits(void)
{
    g_autoptr(GByteArray) in = sample_stream(TRUE, FIRST_NORMAL);
    for (guint round = 0; round < 400; round++) {
        g_autoptr(GByteArray) bad = g_byte_array_new();
        g_byte_array_append(bad, in->data, in->len);
        for (guint i = 0; i <= round % 4; i++) {
            guint at = (guint)g_test_rand_int_range(0, (gint)(round % 2 ? 400 : in->len));
            bad->data[at] ^= (guint8)(1u << g_test_rand_int_range(0, 8));
        }
        g_auto(Seen) seen = parse(bad, 0, round % 3);
        assert_same(&seen, bad);
    }
}

static void
test_foreign(void)
{
    g_autoptr(GByteArray) in = sample_stream(FALSE, FIRST_NORMAL);
    in->data[0] = 'X'; /* TLS, say */
    g_auto(Seen) seen = parse(in, 4096, 0);
    assert_same(&seen, in);
    g_assert_cmpuint(seen.opaque, ==, in->len);
    g_assert_false(seen.exact);
}

/* ---- single things that must not be taken for what they look like ---- */

/* Up to the RAM's list of blocks: two pages of "a", then 'extras' words, then what is given. */
static GByteArray *
ram_of_two_pages(guint extras)
{
    GByteArray *in = g_byte_array_new();
    g_byte_array_append(in, (const guint8 *)"QEVM\0\0\0\3\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4", 25);
    sample_u64(in, 2 * SAMPLE_PAGE | 0x04);
    g_byte_array_append(in, (const guint8 *)"\1a", 2);
    sample_u64(in, 2 * SAMPLE_PAGE);
    for (guint i = 0; i < extras; i++)
        sample_u64(in, i * 0x200000);
    return in;
}

static void
put_zero_page(GByteArray *in, guint64 word, const char *id)
{
    sample_u64(in, word | 0x02);
    sample_u8(in, (guint8)strlen(id));
    g_byte_array_append(in, (const guint8 *)id, (guint)strlen(id));
    sample_u8(in, 0);
}

static void
test_block_extras(void)
{
    for (guint extras = 0; extras <= 3; extras++) {
        g_autoptr(GByteArray) in = ram_of_two_pages(extras);
        put_zero_page(in, SAMPLE_PAGE, "a");
        sample_u64(in, 0x10);
        g_auto(Seen) seen = parse(in, 1, 0);
        assert_same(&seen, in);
        g_assert_cmpuint(seen.exact, ==, extras <= 2);
        g_assert_cmpuint(seen.pages[DRV_PAGES_ZERO], ==, extras <= 2 ? 1 : 0);
        g_assert_cmpuint(seen.kinds[DRV_STREAM_RAM_EXTRA], ==, MIN(extras, 2));
    }
}

static void
assert_no_page(GByteArray *in)
{
    g_auto(Seen) seen = parse(in, in->len, 0);
    assert_same(&seen, in);
    g_assert_cmpuint(seen.kinds[DRV_STREAM_RAM_PAGES], ==, 0);
    g_assert_false(seen.exact);
}

static void
test_pages_that_are_none(void)
{
    static const struct {
        guint64 word;
        const char *id;
    } bad[] = {
        {2 * SAMPLE_PAGE, "a"},   /* behind the block */
        {G_MAXUINT64 << 12, "a"}, /* far behind it */
        {0, "b"},                 /* a block that is not listed */
        {0, "aa"},                /* nor this one */
        {0, ""},                  /* nor this */
        {0x20, "a"},              /* continues no block */
        {0x08, "a"},              /* two kinds at once */
        {0x80, "a"},              /* a hook */
        {0x800, "a"},             /* a flag that there is not */
    };
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) in = ram_of_two_pages(0);
        put_zero_page(in, bad[i].word, bad[i].id);
        sample_u64(in, 0x10);
        assert_no_page(in);
    }
}

/* A run ends at its block's end, and where another byte fills the page. */
static void
test_runs_end(void)
{
    g_autoptr(GByteArray) in = ram_of_two_pages(0);
    put_zero_page(in, SAMPLE_PAGE, "a");
    sample_u64(in, 2 * SAMPLE_PAGE | 0x22);
    sample_u8(in, 0);
    g_auto(Seen) outside = parse(in, in->len, 0);
    assert_same(&outside, in);
    g_assert_cmpuint(outside.pages[DRV_PAGES_ZERO], ==, 1);
    g_assert_false(outside.exact);

    g_autoptr(GByteArray) filled = ram_of_two_pages(0);
    put_zero_page(filled, 0, "a");
    sample_u64(filled, SAMPLE_PAGE | 0x22);
    sample_u8(filled, 0xff);
    g_auto(Seen) two = parse(filled, filled->len, 0);
    g_assert_cmpuint(two.kinds[DRV_STREAM_RAM_PAGES], ==, 2);
    g_assert_cmpuint(two.page_errors, ==, 1);
    g_assert_true(two.exact);
}

static void
test_block_lists_that_are_none(void)
{
    static const guint64 sizes[] = {SAMPLE_PAGE + 1, 4 * SAMPLE_PAGE, G_MAXUINT64 << 12};
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GByteArray) in = ram_of_two_pages(0);
        g_byte_array_set_size(in, in->len - 8);
        sample_u64(in, sizes[i]);
        put_zero_page(in, 0, "a");
        assert_no_page(in);
    }
}

static void
test_too_many_blocks(void)
{
    g_autoptr(GByteArray) in = ram_of_two_pages(0);
    g_byte_array_set_size(in, 25);
    sample_u64(in, (guint64)(1 << 20) * SAMPLE_PAGE | 0x04);
    for (guint i = 0; i < DRV_STREAM_MAX_BLOCKS + 10; i++) {
        g_byte_array_append(in, (const guint8 *)"\1a", 2);
        sample_u64(in, SAMPLE_PAGE);
    }
    g_auto(Seen) seen = parse(in, 0, 0);
    assert_same(&seen, in);
    g_assert_cmpuint(seen.kinds[DRV_STREAM_RAM_BLOCK], ==, DRV_STREAM_MAX_BLOCKS);
}

/* What was lost inside the RAM may have held pages of another block: CONTINUE counts only after a
 * page that names its block. */
static void
test_lost_block_is_not_continued(void)
{
    g_autoptr(GByteArray) in = ram_of_two_pages(0);
    put_zero_page(in, 0, "a");
    sample_u64(in, 0x80); /* not understood */
    g_byte_array_append(in, (const guint8 *)"\x7e\0\0\0\2\2\0\0\0\2", 10);
    sample_u64(in, SAMPLE_PAGE | 0x22);
    sample_u8(in, 0);
    sample_u64(in, 0x10);
    g_auto(Seen) seen = parse(in, in->len, 0);
    assert_same(&seen, in);
    g_assert_cmpuint(seen.pages[DRV_PAGES_ZERO], ==, 1);

    /* With its name it does. */
    g_byte_array_append(in, (const guint8 *)"\x7e\0\0\0\2\2\0\0\0\2", 10);
    put_zero_page(in, SAMPLE_PAGE, "a");
    g_auto(Seen) again = parse(in, in->len, 0);
    g_assert_cmpuint(again.pages[DRV_PAGES_ZERO], ==, 2);
}

/* A guest may put anything into a device's state. After the RAM's end it is not taken for pages. */
static void
test_forged_ram_in_a_device(void)
{
    g_autoptr(GByteArray) in = ram_of_two_pages(0);
    sample_u64(in, 0x10);
    g_byte_array_append(in, (const guint8 *)"\x7e\0\0\0\2\3\0\0\0\2", 10);
    sample_u64(in, 0x10);
    g_byte_array_append(in, (const guint8 *)"\x7e\0\0\0\2\4\0\0\0\5\1d\0\0\0\0\0\0\0\1", 20);
    g_byte_array_append(in, (const guint8 *)"\x7e\0\0\0\5\2\0\0\0\2", 10);
    put_zero_page(in, 0, "a");
    sample_u64(in, 0x10);
    g_auto(Seen) seen = parse(in, in->len, 0);
    assert_same(&seen, in);
    g_assert_true(seen.ended && seen.exact);
    g_assert_cmpuint(seen.kinds[DRV_STREAM_RAM_PAGES], ==, 0);
}

static void
test_other_page_kinds(void)
{
    g_autoptr(GByteArray) in = ram_of_two_pages(0);
    sample_u64(in, 0x40);
    g_byte_array_append(in, (const guint8 *)"\1a\1\0\5hello", 10);
    sample_u64(in, SAMPLE_PAGE | 0x120);
    sample_u32(in, 6);
    g_byte_array_append(in, (const guint8 *)"squash", 6);
    sample_u64(in, 0x10);
    g_auto(Seen) seen = parse(in, 1, 0);
    assert_same(&seen, in);
    g_assert_true(seen.exact);
    g_assert_cmpuint(seen.pages[DRV_PAGES_XBZRLE], ==, 1);
    g_assert_cmpuint(seen.pages[DRV_PAGES_COMPRESSED], ==, 1);
}

static void
test_page_bits(void)
{
    static const char config[] =
        "QEVM\0\0\0\3\7\0\0\0\1m\5\36configuration/target-page-bits\0\0\0\1";
    for (guint bits = 8; bits < 20; bits++) {
        g_autoptr(GByteArray) in = g_byte_array_new();
        g_byte_array_append(in, (const guint8 *)config, sizeof config - 1);
        sample_u32(in, bits);
        g_autoptr(DrvStream) stream = drv_stream_new();
        DrvStreamEvent event;
        drv_stream_push(stream, in->data, in->len);
        while (drv_stream_next(stream, &event))
            continue;
        gboolean sane = bits >= 10 && bits <= 16;
        g_assert_cmpuint(drv_stream_page_len(stream), ==, sane ? 1u << bits : SAMPLE_PAGE);
        g_assert_cmpuint(drv_stream_exact(stream), ==, sane);
    }
}

/* As machine types before 2.4 have it. */
static void
test_without_footers(void)
{
    g_autoptr(GByteArray) in = ram_of_two_pages(0);
    sample_u64(in, 0x10);
    for (guint8 type = DRV_SECTION_PART; type <= DRV_SECTION_END; type++) {
        sample_u8(in, type);
        sample_u32(in, 2);
        put_zero_page(in, 0, "a");
        sample_u64(in, 0x10);
    }
    g_auto(Seen) seen = parse(in, 1, 0);
    assert_same(&seen, in);
    g_assert_true(seen.exact && seen.ended);
    g_assert_cmpuint(seen.pages[DRV_PAGES_ZERO], ==, 2);
}

/* A package of postcopy: counted, whatever is in it. */
static void
test_packaged(void)
{
    g_autoptr(GByteArray) in = ram_of_two_pages(0);
    sample_u64(in, 0x10);
    g_byte_array_append(in, (const guint8 *)"\x7e\0\0\0\2\10\0\7\0\4\0\0\0\5\2\0\0\0\2", 19);
    g_byte_array_append(in, (const guint8 *)"\2\0\0\0\2", 5);
    put_zero_page(in, 0, "a");
    sample_u64(in, 0x10);
    g_auto(Seen) seen = parse(in, 3, 0);
    assert_same(&seen, in);
    g_assert_true(seen.exact);
    g_assert_cmpuint(seen.opaque, ==, 5);
    g_assert_cmpuint(seen.pages[DRV_PAGES_ZERO], ==, 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stream/pieces", test_pieces);
    g_test_add_func("/stream/other-iterables", test_other_iterables);
    g_test_add_func("/stream/in-place", test_in_place);
    g_test_add_func("/stream/flushed-page-is-whole", test_flushed_page_is_whole);
    g_test_add_func("/stream/nothing-held-after-flush", test_nothing_held_after_flush);
    g_test_add_func("/stream/flipped-bits", test_flipped_bits);
    g_test_add_func("/stream/foreign", test_foreign);
    g_test_add_func("/stream/block-extras", test_block_extras);
    g_test_add_func("/stream/pages-that-are-none", test_pages_that_are_none);
    g_test_add_func("/stream/runs-end", test_runs_end);
    g_test_add_func("/stream/block-lists-that-are-none", test_block_lists_that_are_none);
    g_test_add_func("/stream/too-many-blocks", test_too_many_blocks);
    g_test_add_func("/stream/lost-block-is-not-continued", test_lost_block_is_not_continued);
    g_test_add_func("/stream/forged-ram-in-a-device", test_forged_ram_in_a_device);
    g_test_add_func("/stream/other-page-kinds", test_other_page_kinds);
    g_test_add_func("/stream/page-bits", test_page_bits);
    g_test_add_func("/stream/without-footers", test_without_footers);
    g_test_add_func("/stream/packaged", test_packaged);
    return g_test_run();
}
