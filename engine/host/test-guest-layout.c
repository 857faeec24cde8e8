/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/host/guest-layout.h"
#include "engine/host/test-guest-samples.h"

#include <string.h>

static GArray *
parse(const char *text, gboolean *tells)
{
    g_autoptr(GError) error = NULL;
    GArray *listed = drv_guest_parse_ramblock(text, tells, &error);
    g_assert_no_error(error);
    return listed;
}

static const DrvGuestListed *
at(const GArray *listed, guint i)
{
    g_assert_cmpuint(i, <, listed->len);
    return &g_array_index(listed, DrvGuestListed, i);
}

static void
test_ramblock_old(void)
{
    gboolean tells = TRUE;
    g_autoptr(GArray) listed = parse(ramblock_72, &tells);
    g_assert_false(tells);
    g_assert_cmpuint(listed->len, ==, 8);
    g_assert_cmpstr(at(listed, 0)->id, ==, "pc.ram");
    g_assert_cmphex(at(listed, 0)->size, ==, 0x140000000);
    g_assert_cmphex(at(listed, 0)->used, ==, 0x140000000);
    g_assert_cmphex(at(listed, 0)->hva, ==, 0);
    g_assert_cmpstr(at(listed, 1)->id, ==, "0000:00:01.0/vga.vram");
    g_assert_cmphex(at(listed, 2)->used, ==, 0x20000);
    g_assert_cmphex(at(listed, 2)->size, ==, 0x200000);
    g_assert_cmpstr(at(listed, 7)->id, ==, "/rom@etc/acpi/rsdp");

    static const char *const problems[] = {
        [2] = "its size may change", [6] = "its size may change", [7] = NULL};
    for (guint i = 0; i < 8; i++)
        g_assert_cmpstr(drv_guest_listed_problem(listed, i, FALSE), ==, problems[i]);
}

static void
test_ramblock_new(void)
{
    gboolean tells = FALSE;
    g_autoptr(GArray) listed = parse(ramblock_100, &tells);
    g_assert_true(tells);
    g_assert_cmpuint(listed->len, ==, 8);
    g_assert_cmphex(at(listed, 0)->hva, ==, 0x7fe83be00000);
    g_assert_false(at(listed, 0)->read_only);
    g_assert_cmphex(at(listed, 1)->hva, ==, 0x7fe83ac00000);
    g_assert_cmphex(at(listed, 1)->size, ==, 0x1000000);
    for (guint i = 0; i < 8; i++)
        g_assert_cmpstr(drv_guest_listed_problem(listed, i, TRUE), ==,
                        i < 2 ? NULL : "it is read-only for the guest");
}

#define HEAD "Block Name    PSize  Offset  Used  Total"

/* Columns to come, names with blanks and a size of other pages are no hindrance. */
static void
test_ramblock_other(void)
{
    gboolean tells;
    g_autoptr(GArray) listed = parse("  " HEAD "  HVA  New  RO\n"
                                     " my ram  2 MiB  0x0 0x200000 0x200000  0x7f00 what rw\n"
                                     "b  64 KiB  0x0 0x1 0x2  0x0 what ro",
                                     &tells);
    g_assert_true(tells);
    g_assert_cmpuint(listed->len, ==, 2);
    g_assert_cmpstr(at(listed, 0)->id, ==, "my ram");
    g_assert_cmphex(at(listed, 0)->hva, ==, 0x7f00);
    g_assert_true(at(listed, 1)->read_only);
}

static void
test_problems(void)
{
    gboolean tells;
    g_autoptr(GArray) twice = parse(HEAD "\n"
                                         "a  4 KiB  0x0 0x1000 0x1000\n"
                                         "a  4 KiB  0x0 0x1000 0x1000\n",
                                    &tells);
    g_assert_cmpstr(drv_guest_listed_problem(twice, 0, tells), ==,
                    "QEMU has two blocks of this name");
    g_assert_cmpstr(drv_guest_listed_problem(twice, 1, tells), ==,
                    "QEMU has two blocks of this name");

    g_autoptr(GArray) dimm = parse(ramblock_72_dimm, &tells);
    static const char same[] =
        "a device's memory has the same name, and this QEMU tells them apart by name only";
    g_assert_cmpstr(at(dimm, 0)->id, ==, "vga.vram");
    g_assert_cmpstr(drv_guest_listed_problem(dimm, 0, FALSE), ==, same);
    g_assert_cmpstr(drv_guest_listed_problem(dimm, 1, FALSE), ==, NULL); /* pc.ram */

    g_autoptr(GArray) none = parse(HEAD " HVA RO\na  4 KiB  0x0 0x1000 0x1000 0x0 rw\n", &tells);
    g_assert_cmpstr(drv_guest_listed_problem(none, 0, tells), ==, "QEMU does not say its address");
}

static void
test_ramblock_garbage(void)
{
    static const char *const lists[] = {
        "",
        "\n",
        "unknown command: 'info ramblock'\r\n",
        "Block Name PSize Offset Used",
        "pc.ram 4 KiB 0x0 0x1000 0x1000",
        HEAD " 1 2 3 4 5 6 7 8 9",
    };
    gboolean tells;
    for (guint i = 0; i < G_N_ELEMENTS(lists); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(drv_guest_parse_ramblock(lists[i], &tells, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
        g_assert_true(g_str_has_prefix(error->message,
                                       "QEMU's list of RAM blocks is not understood: it begins "
                                       "with '"));
    }
    static const char *const lines[] = {
        "x",
        "0x1000",
        "0x1000 0x1000",
        "4 KiB 0x0 0x1000 0x1000 0x7000 rw",                /* no name */
        "   4 KiB 0x0 0x1000 0x1000 0x7000 rw",             /* nor here */
        "a 4 KiB 0x0 0x1000 0x1000 0x7000",                 /* a column is missing */
        "a 4 KiB 0x0 0x1000 0x1000 0x7000 yes",             /* none of ro, rw */
        "a 4 KiB 0x0 0x1000 0x1000 7000 rw",                /* no 0x */
        "a 4 KiB 0x0 0x1000 0x1000 0x7000000000000000f rw", /* 68 bits */
        "a 4 KiB 0x0 0x1000 0x1000 0xg rw",
        "a 4 KiB 0x0 0x1000 -1 0x7000 rw",
        "a 4 KiB 0x0 0x 0x1000 0x7000 rw",
        "a 4 K 0x0 0x1000 0x1000 0x7000 rw",
        "a KiB KiB 0x0 0x1000 0x1000 0x7000 rw",
    };
    for (guint i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autofree char *text = g_strdup_printf("%s HVA RO\n%s\n", HEAD, lines[i]);
        g_autoptr(GArray) listed = parse(text, &tells);
        if (listed->len > 0)
            g_error("'%s' was taken for a block", lines[i]);
    }
    g_autofree char *name = g_strnfill(256, 'n');
    g_autofree char *longest =
        g_strdup_printf("%s\n%s 4 KiB 0x0 0x1 0x1\n%s 4 KiB 0x0 0x1 0x1\n", HEAD, name, name + 1);
    g_autoptr(GArray) listed = parse(longest, &tells);
    g_assert_cmpuint(listed->len, ==, 1);
    g_assert_cmpstr(at(listed, 0)->id, ==, name + 1);
}

static void
test_ramblock_endless(void)
{
    g_autoptr(GString) text = g_string_new(HEAD "\n");
    g_autoptr(GError) error = NULL;
    gboolean tells;
    for (guint i = 0; i < 1025; i++)
        g_string_append_printf(text, "block%u  4 KiB  0x0 0x1000 0x1000\n", i);
    g_assert_null(drv_guest_parse_ramblock(text->str, &tells, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_cmpstr(error->message, ==, "QEMU has more than 1024 RAM blocks");
}

/* --- the map --- */

static void
assert_range(const GArray *ranges, guint i, const char *id, guint64 start, guint64 last,
             guint64 offset)
{
    guint64 found = 77;
    g_assert_cmpuint(i, <, ranges->len);
    const DrvGuestRange *range = &g_array_index(ranges, DrvGuestRange, i);
    g_assert_cmphex(range->start, ==, start);
    g_assert_cmphex(range->last, ==, last);
    g_assert_true(drv_guest_range_in(range, id, 0x140000000, &found));
    g_assert_cmphex(found, ==, offset);
}

static void
test_mtree(void)
{
    g_autoptr(GArray) pc = drv_guest_parse_mtree(mtree_72_pc);
    g_assert_cmpuint(pc->len, ==, 3);
    assert_range(pc, 0, "pc.ram", 0, 0xbffff, 0);
    assert_range(pc, 1, "pc.ram", 0x100000, 0xbfffffff, 0x100000);
    assert_range(pc, 2, "pc.ram", 0x100000000, 0x17fffffff, 0xc0000000);

    g_autoptr(GArray) q35 = drv_guest_parse_mtree(mtree_72_q35);
    g_assert_cmpuint(q35->len, ==, 3);
    assert_range(q35, 2, "pc.ram", 0x100000000, 0x1bfffffff, 0x80000000);

    g_autoptr(GArray) numa = drv_guest_parse_mtree(mtree_72_numa);
    g_assert_cmpuint(numa->len, ==, 4);
    assert_range(numa, 2, "m0", 0x100000000, 0x13fffffff, 0xc0000000);
    assert_range(numa, 3, "m1", 0x140000000, 0x17fffffff, 0);

    g_autoptr(GArray) dimm = drv_guest_parse_mtree(mtree_72_dimm);
    assert_range(dimm, 2, "vga.vram", 0x100000000, 0x107ffffff, 0);
}

static void
test_mtree_garbage(void)
{
    static const char *const lines[] = {
        "0000000000000000-00000000000bffff (prio 0, rom): pc.ram",
        "0000000000000000-00000000000bffff (prio 0, i/o): , ram): pc.ram",
        "0000000000000000-00000000000bffff (prio , i/o, ram): pc.ram",
        "00000000000bffff-0000000000000000 (prio 0, ram): pc.ram",
        "000000000000000g-00000000000bffff (prio 0, ram): pc.ram",
        "0000000000000000-00000000000bffff",
        "0000000000000000-00000000000bffff (prio",
        "0000000000000000 00000000000bffff (prio 0, ram): pc.ram",
        "00000000-000bffff (prio 0, ram): pc.ram",
        "",
        "-",
    };
    for (guint i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autofree char *text =
            g_strdup_printf("FlatView #0\n AS \"memory\", root: system\n  %s\n", lines[i]);
        g_autoptr(GArray) ranges = drv_guest_parse_mtree(text);
        if (ranges->len > 0)
            g_error("'%s' was taken for RAM", lines[i]);
    }
    /* Ranges before, after and without the view. */
#define RANGE "  0000000000000000-00000000000bffff (prio 0, ram): pc.ram\n"
    g_autoptr(GArray) ranges =
        drv_guest_parse_mtree(RANGE "\nFlatView #0\n AS \"I/O\", root: io\n" RANGE
                                    "\nFlatView #1\n AS \"memory\", root: system\n" RANGE "\n" RANGE
                                    "FlatView #2\n AS \"memory2\", root: x\n" RANGE);
    g_assert_cmpuint(ranges->len, ==, 1);
    g_autoptr(GArray) empty = drv_guest_parse_mtree("");
    g_assert_cmpuint(empty->len, ==, 0);
}

static void
test_range_in(void)
{
    static const struct {
        const char *region;
        gboolean is;
        guint64 offset;
    } cases[] = {
        {"m1", TRUE, 0},
        {"m1 KVM", TRUE, 0},
        {"m1 @0000000000001000", TRUE, 0x1000},
        {"m1 @0000000000001000 KVM", TRUE, 0x1000},
        {"m1 @0000000000fff000", TRUE, 0xfff000},
        {"m1 @0000000000fff001", FALSE, 0}, /* beyond the block's end */
        {"m1 @0000000001000000", FALSE, 0},
        {"m1 @ffffffffffffffff", FALSE, 0},
        {"m1 @00000000000000", FALSE, 0},
        {"m1 @00000000000010000", FALSE, 0},
        {"m1 @000000000000100x", FALSE, 0},
        {"m1 @", FALSE, 0},
        {"m10", FALSE, 0},
        {"m1 2", FALSE, 0},
        {"m1 a b", FALSE, 0},
        {"m1/x", FALSE, 0},
        {"m", FALSE, 0},
        {"", FALSE, 0},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        DrvGuestRange range = {.start = 0x5000, .last = 0x5fff};
        guint64 offset = 0;
        g_strlcpy(range.region, cases[i].region, sizeof range.region);
        if (drv_guest_range_in(&range, "m1", 0x1000000, &offset) != cases[i].is)
            g_error("'%s' was taken wrongly", cases[i].region);
        if (cases[i].is)
            g_assert_cmphex(offset, ==, cases[i].offset);
    }
    DrvGuestRange all = {.start = 0, .last = G_MAXUINT64, .region = "m1"};
    guint64 offset;
    g_assert_false(drv_guest_range_in(&all, "m1", 0x1000000, &offset));
}

static void
test_hva(void)
{
    static const char good[] = "Host virtual address for 0xa0000 (pc.ram) is 0x7fe433ea0000\r\n";
    guint64 hva = 0;
    g_assert_true(drv_guest_parse_hva(good, 0xa0000, "pc.ram", &hva));
    g_assert_cmphex(hva, ==, 0x7fe433ea0000);
    g_assert_false(drv_guest_parse_hva(good, 0xa0001, "pc.ram", &hva));
    g_assert_false(drv_guest_parse_hva(good, 0xa0000, "pc.rom", &hva));
    g_assert_false(drv_guest_parse_hva(good, 0xa0000, "pc", &hva));
    static const char *const bad[] = {
        "",
        "No memory is mapped at address 0xa0000\r\n",
        "Memory at address 0xa0000 is not RAM\r\n",
        "Host virtual address for 0xa0000 (pc.ram) is \r\n",
        "Host virtual address for 0xa0000 (pc.ram) is (nil)\r\n",
        "Host virtual address for 0xa0000 (pc.ram) is 0x0\r\n",
        "Host virtual address for 0xa0000 (pc.ram) is 0x7fe433ea0000 or so\r\n",
        "Host virtual address for 0xa0000 (pc.ram) is 0x77fe433ea00001111\r\n",
        "Host virtual address for 0xa0000 (pc.ram) is 0x7000\r\nand 0x8000\r\n",
    };
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        if (drv_guest_parse_hva(bad[i], 0xa0000, "pc.ram", &hva))
            g_error("'%s' was taken for an address", bad[i]);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-layout/ramblock-old", test_ramblock_old);
    g_test_add_func("/guest-layout/ramblock-new", test_ramblock_new);
    g_test_add_func("/guest-layout/ramblock-other", test_ramblock_other);
    g_test_add_func("/guest-layout/problems", test_problems);
    g_test_add_func("/guest-layout/ramblock-garbage", test_ramblock_garbage);
    g_test_add_func("/guest-layout/ramblock-endless", test_ramblock_endless);
    g_test_add_func("/guest-layout/mtree", test_mtree);
    g_test_add_func("/guest-layout/mtree-garbage", test_mtree_garbage);
    g_test_add_func("/guest-layout/range-in", test_range_in);
    g_test_add_func("/guest-layout/hva", test_hva);
    return g_test_run();
}
