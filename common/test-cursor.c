/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"

static void
test_round_trip(void)
{
    guint8 buf[15];
    DrvCursor w = drv_cursor_writer(buf, sizeof buf);
    drv_cursor_put_u8(&w, 0x12);
    drv_cursor_put_u16(&w, 0x3456);
    drv_cursor_put_u32(&w, 0x789abcde);
    drv_cursor_put_u64(&w, G_GUINT64_CONSTANT(0x1122334455667788));
    g_assert_true(drv_cursor_ok(&w));
    g_assert_cmpuint(drv_cursor_left(&w), ==, 0);
    g_assert_cmpuint(buf[1], ==, 0x34); /* big endian */

    DrvCursor r = drv_cursor_reader(buf, sizeof buf);
    g_assert_cmpuint(drv_cursor_get_u8(&r), ==, 0x12);
    g_assert_cmpuint(drv_cursor_get_u16(&r), ==, 0x3456);
    g_assert_cmpuint(drv_cursor_get_u32(&r), ==, 0x789abcde);
    g_assert_cmpuint(drv_cursor_get_u64(&r), ==, G_GUINT64_CONSTANT(0x1122334455667788));
    g_assert_true(drv_cursor_ok(&r));
}

static void
test_overrun_sticks(void)
{
    guint8 buf[4] = {1, 2, 3, 4};
    DrvCursor r = drv_cursor_reader(buf, sizeof buf);
    drv_cursor_get_u16(&r);
    g_assert_cmpuint(drv_cursor_get_u32(&r), ==, 0);
    g_assert_false(drv_cursor_ok(&r));
    /* Two bytes would still fit, but after a failure nothing is given out. */
    g_assert_cmpuint(drv_cursor_get_u16(&r), ==, 0);
    g_assert_null(drv_cursor_take(&r, G_MAXSIZE));
    guint8 out[2] = {9, 9};
    drv_cursor_get_bytes(&r, out, sizeof out);
    g_assert_cmpuint(out[0], ==, 0);

    DrvCursor w = drv_cursor_writer(buf, 1);
    drv_cursor_put_u16(&w, 0xffff);
    g_assert_false(drv_cursor_ok(&w));
    g_assert_cmpuint(buf[0], ==, 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cursor/round-trip", test_round_trip);
    g_test_add_func("/cursor/overrun-sticks", test_overrun_sticks);
    return g_test_run();
}
