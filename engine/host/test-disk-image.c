/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/disk-image.h"

#include <string.h>

/* What QEMU 10.0 says, shortened: a qcow2 with all that there is over a plain one, a raw one named
 * by its options, an encrypted one, an empty drive, and nonsense. */
static const char answer[] =
    "[{\"device\":\"vda\",\"inserted\":{\"drv\":\"qcow2\",\"dirty-bitmaps\":[{},{},{}],\"image\":{"
    "  \"filename\":\"/vm/top.qcow2\",\"format\":\"qcow2\",\"actual-size\":417792,"
    "  \"virtual-size\":8388608,\"cluster-size\":131072,\"snapshots\":[{\"id\":\"1\"}],"
    "  \"format-specific\":{\"type\":\"qcow2\",\"data\":{\"compat\":\"1.1\","
    "  \"compression-type\":\"zstd\",\"lazy-refcounts\":true,\"refcount-bits\":64,"
    "  \"extended-l2\":true,\"bitmaps\":[{\"name\":\"b0\"},{\"name\":\"b1\"}]}},"
    "  \"backing-image\":{\"filename\":\"/vm/base.qcow2\",\"format\":\"qcow2\","
    "  \"actual-size\":200704}}}},"
    " {\"device\":\"\",\"inserted\":{\"drv\":\"raw\",\"image\":{\"format\":\"raw\","
    "  \"filename\":\"json:{\\\"driver\\\":\\\"raw\\\",\\\"file\\\":{\\\"driver\\\":\\\"file\\\","
    "\\\"filename\\\":\\\"/vm/b.raw\\\"}}\"}}},"
    " {\"device\":\"\",\"inserted\":{\"drv\":\"luks\",\"image\":{\"format\":\"luks\","
    "  \"filename\":\"json:broken\"}}},"
    " {\"device\":\"cd\"},"
    " 7]";

static GPtrArray *
parsed(const char *text)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    return drv_disk_images_parse(node);
}

static const DrvDiskFile *
file(const DrvDiskImage *image, guint i)
{
    g_assert_cmpuint(i, <, image->files->len);
    return image->files->pdata[i];
}

static void
test_parse(void)
{
    g_autoptr(GPtrArray) images = parsed(answer);
    g_assert_cmpuint(images->len, ==, 5);
    const DrvDiskImage *image = images->pdata[0];
    g_assert_cmpuint(image->files->len, ==, 2);
    g_assert_cmpstr(file(image, 0)->path, ==, "/vm/top.qcow2");
    g_assert_cmpstr(file(image, 1)->path, ==, "/vm/base.qcow2");
    g_assert_cmpint(file(image, 1)->allocated, ==, 200704);
    g_assert_cmpuint(drv_disk_image_allocated(image, FALSE), ==, 417792);
    g_assert_cmpuint(drv_disk_image_allocated(image, TRUE), ==, 417792 + 200704);
    g_assert_cmpstr(image->options, ==,
                    "cluster_size=131072,refcount_bits=64,extended_l2=on,lazy_refcounts=on,"
                    "compression_type=zstd");
    image = images->pdata[1];
    g_assert_cmpstr(file(image, 0)->path, ==, "/vm/b.raw");
    g_assert_cmpint(file(image, 0)->allocated, ==, -1);
    g_assert_cmpuint(drv_disk_image_allocated(image, TRUE), ==, 0);
    g_assert_null(image->options);
    image = images->pdata[2];
    g_assert_cmpstr(file(image, 0)->path, ==, "json:broken");
    for (guint i = 3; i < 5; i++)
        g_assert_cmpuint(((const DrvDiskImage *)images->pdata[i])->files->len, ==, 0);
    g_autoptr(GPtrArray) none = parsed("{}");
    g_assert_cmpuint(none->len, ==, 0);
}

static void
test_plain(void)
{
    g_autoptr(GPtrArray) images =
        parsed("[{\"inserted\":{\"image\":{\"cluster-size\":65536,\"format-specific\":{"
               "\"type\":\"qcow2\",\"data\":{\"compat\":\"1.1\",\"refcount-bits\":16}}}}},"
               " {\"inserted\":{\"image\":{\"cluster-size\":65536,\"format-specific\":{"
               "\"type\":\"qcow2\",\"data\":{\"compat\":\"0.10\",\"refcount-bits\":16}}}}}]");
    g_assert_null(((const DrvDiskImage *)images->pdata[0])->options);
    g_assert_cmpstr(((const DrvDiskImage *)images->pdata[1])->options, ==, "compat=0.10");
}

static void
test_left(void)
{
    g_autoptr(GPtrArray) images = parsed(answer);
    g_auto(GStrv) some = drv_disk_image_left(images->pdata[0], FALSE);
    g_auto(GStrv) none = drv_disk_image_left(images->pdata[1], FALSE);
    g_auto(GStrv) key = drv_disk_image_left(images->pdata[2], TRUE);
    g_autofree char *text = g_strjoinv("|", some);
    g_assert_cmpstr(text, ==, "1 snapshot inside the image|3 bitmaps of what was changed");
    g_assert_null(none[0]);
    g_assert_true(g_str_has_prefix(key[0], "the encryption"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/host/disk-image/parse", test_parse);
    g_test_add_func("/host/disk-image/plain", test_plain);
    g_test_add_func("/host/disk-image/left", test_left);
    return g_test_run();
}
