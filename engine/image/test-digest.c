/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/digest.h"

#include "common/error.h"

#include <string.h>

#define KIB G_GUINT64_CONSTANT(1024)
#define GIB (KIB * KIB * KIB)

static void
test_block_size(void)
{
    g_assert_cmpuint(drv_image_block_size(0), ==, 64 * KIB);
    g_assert_cmpuint(drv_image_block_size(16 * GIB), ==, 64 * KIB);
    g_assert_cmpuint(drv_image_block_size(16 * GIB + 512), ==, 128 * KIB);
    g_assert_cmpuint(drv_image_block_size(1024 * GIB), ==, 4096 * KIB);
    g_assert_cmpuint(drv_image_block_size(16384 * GIB), ==, 4096 * KIB);
}

static void
test_is_zero(void)
{
    guint8 bytes[300] = {0};
    for (gsize len = 0; len < sizeof bytes; len++)
        g_assert_true(drv_is_zero(bytes, len));
    for (gsize at = 0; at < sizeof bytes; at++) {
        bytes[at] = 1;
        g_assert_false(drv_is_zero(bytes, sizeof bytes));
        g_assert_true(drv_is_zero(bytes, at));
        bytes[at] = 0;
    }
}

/* By Python's hashlib, as tests/harness/images.py does it. */
static void
test_root(void)
{
    g_autoptr(DrvImageDigest) digest = drv_image_digest_new(100000, NULL);
    g_autofree guint8 *bytes = g_malloc0(65536);
    g_assert_cmpuint(digest->blocks, ==, 2);
    g_assert_cmpuint(drv_image_block_len(digest, 0), ==, 65536);
    g_assert_cmpuint(drv_image_block_len(digest, 1), ==, 100000 - 65536);
    g_autofree char *zeros = drv_image_digest_root(digest);
    g_assert_cmpstr(zeros, ==, "e92076ecf96a5066123d2e71577175cfd560178f0d864629416a9c1eb5e7f3fb");
    memset(bytes, 'x', 65536);
    drv_image_digest_hash(digest, 1, bytes, drv_image_digest_leaf(digest, 1));
    g_autofree char *root = drv_image_digest_root(digest);
    g_assert_cmpstr(root, ==, "7ae89057bc44ce4bf8b0b92654468ea07ace4585a9001e7aa37ecea2a9d5bc23");
    drv_image_digest_zero(digest, 0, 2);
    g_autofree char *again = drv_image_digest_root(digest);
    g_assert_cmpstr(again, ==, zeros);
}

static void
test_empty(void)
{
    g_autoptr(DrvImageDigest) digest = drv_image_digest_new(0, NULL);
    g_autofree char *root = drv_image_digest_root(digest);
    g_assert_cmpuint(digest->blocks, ==, 0);
    g_assert_cmpuint(strlen(root), ==, 64);
}

static void
test_too_big(void)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_image_digest_new(DRV_IMAGE_SIZE_MAX + 1, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_LIMIT);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/image/digest/block-size", test_block_size);
    g_test_add_func("/image/digest/is-zero", test_is_zero);
    g_test_add_func("/image/digest/root", test_root);
    g_test_add_func("/image/digest/empty", test_empty);
    g_test_add_func("/image/digest/too-big", test_too_big);
    return g_test_run();
}
