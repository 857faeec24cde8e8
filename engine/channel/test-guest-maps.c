/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/guest-maps.h"

#include <string.h>

/* As QEMU 7.2 has them: anonymous RAM, a shared memfd, one of a file, the heap. */
static const char anonymous[] = "7fe433e00000-7fe43be00000 rw-p 00000000 00:00 0 \n";
static const char memfd[] =
    "7fd4dbe00000-7fd4dfe00000 rw-s 00001000 00:01 2061                       "
    "/memfd:memory-backend-memfd (deleted)\n";

static void
test_parse(void)
{
    DrvGuestMap map;
    g_assert_true(drv_guest_map_parse(anonymous, &map));
    g_assert_cmphex(map.start, ==, 0x7fe433e00000);
    g_assert_cmphex(map.end, ==, 0x7fe43be00000);
    g_assert_true(map.readable && map.writable && !map.shared);
    g_assert_cmpuint(map.inode, ==, 0);

    g_assert_true(drv_guest_map_parse(memfd, &map));
    g_assert_true(map.readable && map.writable && map.shared);
    g_assert_cmphex(map.offset, ==, 0x1000);
    g_assert_cmpuint(map.major, ==, 0);
    g_assert_cmpuint(map.minor, ==, 1);
    g_assert_cmpuint(map.inode, ==, 2061);

    g_assert_true(drv_guest_map_parse("1000-2000 ---p 00000000 fe:10 7\n", &map));
    g_assert_false(map.readable || map.writable || map.shared);
    g_assert_cmpuint(map.major, ==, 0xfe);
    g_assert_true(drv_guest_map_parse("1000-2000 r-xp 00000000 fe:10 7", &map));
    g_assert_cmpuint(map.inode, ==, 7);
}

static void
test_garbage(void)
{
    static const char *const lines[] = {
        "",
        "\n",
        "-",
        "1000",
        "1000-",
        "1000-2000",
        "1000-2000 ",
        "1000-2000 rw",
        "1000-2000 rw-p",
        "1000-2000 rw-x 00000000 00:00 0\n",
        "2000-1000 rw-p 00000000 00:00 0\n",
        "1000-1000 rw-p 00000000 00:00 0\n",
        "x000-2000 rw-p 00000000 00:00 0\n",
        "11112222333344445-21112222333344445 rw-p 00000000 00:00 0\n",
        "1000-2000 rw-p 00000000 00:00\n",
        "1000-2000 rw-p 00000000 0000 0\n",
        "1000-2000 rw-p 00000000 00:00 a\n",
        "1000-2000 rw-p 00000000 00:00 99999999999999999999\n",
        "1000-2000 rw-p  00:00 0\n",
        "-1000-2000 rw-p 00000000 00:00 0\n",
    };
    DrvGuestMap map;
    for (guint i = 0; i < G_N_ELEMENTS(lines); i++)
        if (drv_guest_map_parse(lines[i], &map))
            g_error("'%s' was taken for a mapping", lines[i]);
}

/* Each prefix of a sound line is refused or understood, and read no further than it goes. */
static void
test_prefixes(void)
{
    for (gsize len = 0; len < strlen(memfd); len++) {
        g_autofree char *line = g_strndup(memfd, len);
        DrvGuestMap map;
        if (drv_guest_map_parse(line, &map))
            g_assert_cmpuint(len, >=, strlen("7fd4dbe00000-7fd4dfe00000 rw-s 00001000 00:01 2"));
    }
}

/* The problem of 0x10000..0x30000, given these mappings. */
static const char *
problem(const char *const *lines)
{
    DrvGuestCover cover;
    drv_guest_cover_init(&cover, 0x10000, 0x20000);
    for (; *lines != NULL; lines++) {
        DrvGuestMap map;
        g_assert_true(drv_guest_map_parse(*lines, &map));
        drv_guest_cover_add(&cover, &map);
    }
    return drv_guest_cover_problem(&cover);
}

#define PROBLEM(...) problem((const char *const[]){__VA_ARGS__, NULL})

static void
test_cover(void)
{
    g_assert_null(PROBLEM("10000-30000 rw-p 00000000 00:00 0\n"));
    g_assert_null(PROBLEM("1000-2000 r--p 00000000 00:00 0\n", "8000-50000 rw-p 00000000 00:00 0\n",
                          "60000-70000 ---p 00000000 00:00 0\n"));
    g_assert_null(
        PROBLEM("10000-18000 rw-p 00000000 00:00 0\n", "18000-30000 rw-p 00000000 00:00 0\n"));
    g_assert_null(
        PROBLEM("8000-18000 rw-s 00001000 00:01 5\n", "18000-30000 rw-s 00011000 00:01 5\n"));

    static const char unmapped[] = "it is not wholly mapped in QEMU's memory";
    static const char mixed[] = "it is made of different kinds of memory";
    static const char sealed[] = "QEMU has mapped it without the right to write";
    g_assert_cmpstr(problem((const char *const[]){NULL}), ==, unmapped);
    g_assert_cmpstr(PROBLEM("10000-2f000 rw-p 00000000 00:00 0\n"), ==, unmapped);
    g_assert_cmpstr(PROBLEM("11000-30000 rw-p 00000000 00:00 0\n"), ==, unmapped);
    g_assert_cmpstr(
        PROBLEM("10000-18000 rw-p 00000000 00:00 0\n", "19000-30000 rw-p 00000000 00:00 0\n"), ==,
        unmapped);
    g_assert_cmpstr(PROBLEM("10000-30000 r--p 00000000 00:00 0\n"), ==, sealed);
    g_assert_cmpstr(PROBLEM("10000-30000 -w-p 00000000 00:00 0\n"), ==, sealed);
    g_assert_cmpstr(
        PROBLEM("10000-18000 rw-p 00000000 00:00 0\n", "18000-30000 ---p 00000000 00:00 0\n"), ==,
        sealed);
    /* shared beside private, a gap in the file, another file */
    g_assert_cmpstr(
        PROBLEM("10000-18000 rw-p 00000000 00:00 0\n", "18000-30000 rw-s 00000000 00:00 0\n"), ==,
        mixed);
    g_assert_cmpstr(
        PROBLEM("10000-18000 rw-s 00000000 00:01 5\n", "18000-30000 rw-s 00009000 00:01 5\n"), ==,
        mixed);
    g_assert_cmpstr(
        PROBLEM("10000-18000 rw-s 00000000 00:01 5\n", "18000-30000 rw-s 00008000 00:01 6\n"), ==,
        mixed);
}

static void
test_impossible(void)
{
    DrvGuestCover cover;
    drv_guest_cover_init(&cover, G_MAXUINT64 - 0xfff, 0x2000);
    g_assert_cmpstr(drv_guest_cover_problem(&cover), ==, "its range of addresses is impossible");
    drv_guest_cover_init(&cover, 0x1000, 0);
    g_assert_cmpstr(drv_guest_cover_problem(&cover), ==, "its range of addresses is impossible");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-maps/parse", test_parse);
    g_test_add_func("/guest-maps/garbage", test_garbage);
    g_test_add_func("/guest-maps/prefixes", test_prefixes);
    g_test_add_func("/guest-maps/cover", test_cover);
    g_test_add_func("/guest-maps/impossible", test_impossible);
    return g_test_run();
}
