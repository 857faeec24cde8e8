/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/host/disks.h"

#include <string.h>

/* What QEMU 7.2 says, shortened: a -drive, a -blockdev with and one without a device id, a
 * read-only CD, an empty drive. */
static const char answer[] =
    "[{\"device\":\"virtio0\",\"qdev\":\"/machine/peripheral-anon/device[0]/virtio-backend\","
    "  \"removable\":false,\"inserted\":{\"node-name\":\"#block117\",\"ro\":false,"
    "  \"drv\":\"qcow2\",\"image\":{\"virtual-size\":1048576}}},"
    " {\"device\":\"\",\"qdev\":\"/machine/peripheral/vda/virtio-backend\",\"removable\":false,"
    "  \"inserted\":{\"node-name\":\"n0\",\"ro\":false,\"drv\":\"raw\","
    "  \"image\":{\"virtual-size\":512}}},"
    " {\"device\":\"\",\"qdev\":\"/machine/peripheral-anon/device[1]\",\"removable\":false,"
    "  \"inserted\":{\"node-name\":\"n1\",\"ro\":false,\"drv\":\"raw\","
    "  \"image\":{\"virtual-size\":1024}}},"
    " {\"device\":\"cd\",\"qdev\":\"/machine/unattached/device[18]\",\"removable\":true,"
    "  \"inserted\":{\"node-name\":\"#block2\",\"ro\":true,\"drv\":\"raw\","
    "  \"image\":{\"virtual-size\":2048}}},"
    " {\"device\":\"floppy\",\"removable\":true}]";

static GPtrArray *
parse(const char *text, GError **error)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    return drv_disks_parse(node, error);
}

static GPtrArray *
parsed(const char *text)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *disks = parse(text, &error);
    g_assert_no_error(error);
    return disks;
}

/* The written ones, as the destination gets them. */
static GPtrArray *
sent(GPtrArray *disks)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonArray) array = drv_disks_to_json(disks);
    GPtrArray *again = drv_disks_from_json(array, &error);
    g_assert_no_error(error);
    return again;
}

static const DrvDisk *
at(GPtrArray *disks, guint i)
{
    g_assert_cmpuint(i, <, disks->len);
    return disks->pdata[i];
}

static void
test_find(void)
{
    static const struct {
        const char *id;
        int disk;
    } cases[] = {
        {"virtio0", 0},
        {"vda", 1},
        {"/machine/peripheral/vda/virtio-backend", 1},
        {"n0", 1},
        {"n1", 2},
        {"/machine/peripheral-anon/device[1]", 2},
        {"cd", 3},
        {"floppy", 4},
        {"", -1},
        {"vd", -1},
        {"virtio-backend", -1},
    };
    g_autoptr(GPtrArray) disks = parsed(answer);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        g_assert_true(drv_disks_find(disks, cases[i].id) ==
                      (cases[i].disk < 0 ? NULL : at(disks, (guint)cases[i].disk)));
    g_autofree char *list = drv_disks_list(disks);
    g_assert_cmpstr(list, ==, "virtio0, vda, n1, cd, floppy");
}

static void
test_parse(void)
{
    g_autoptr(GPtrArray) disks = parsed(answer);
    g_assert_cmpuint(disks->len, ==, 5);
    g_assert_cmpstr(at(disks, 0)->name, ==, "virtio0");
    g_assert_cmpstr(at(disks, 0)->node, ==, "#block117");
    g_assert_cmpstr(at(disks, 0)->format, ==, "qcow2");
    g_assert_cmpuint(at(disks, 0)->size, ==, 1048576);
    g_assert_cmpstr(at(disks, 1)->name, ==, "vda");
    g_assert_cmpstr(at(disks, 2)->name, ==, "n1");
    g_assert_true(drv_disk_is_written(at(disks, 2)));
    g_assert_false(drv_disk_is_written(at(disks, 3)));
    g_assert_true(at(disks, 3)->removable);
    g_assert_cmpstr(drv_disk_skipped(at(disks, 3)), ==, "read-only");
    g_assert_cmpstr(at(disks, 4)->name, ==, "floppy");
    g_assert_cmpstr(drv_disk_skipped(at(disks, 4)), ==, "no medium");
}

static void
test_parse_refused(void)
{
    static const char *const wrong[] = {
        "[{\"device\":\"x\",\"inserted\":{\"node-name\":\"n\"}}]",
        "[{\"device\":\"x\",\"inserted\":{\"image\":{\"virtual-size\":1}}}]",
        "[{\"device\":\"x\",\"inserted\":{\"node-name\":\"n\",\"image\":{\"virtual-size\":-5}}}]",
    };
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(parse(wrong[i], &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    }
    g_autoptr(GString) many = g_string_new("[{}");
    for (guint i = 0; i < DRV_DISKS_MAX; i++)
        g_string_append(many, ",{}");
    g_string_append_c(many, ']');
    g_autoptr(GError) error = NULL;
    g_assert_null(parse(many->str, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_LIMIT);
}

static void
test_json(void)
{
    g_autoptr(GPtrArray) disks = parsed(answer);
    g_autoptr(GPtrArray) written = sent(disks);
    g_assert_cmpuint(written->len, ==, 3);
    g_assert_cmpstr(at(written, 1)->qdev, ==, at(disks, 1)->qdev);
    g_assert_cmpuint(at(written, 2)->size, ==, 1024);
    static const char *const wrong[] = {"[{}]", "[3]", "[{\"name\":\"x\",\"size\":-1}]",
                                        "[{\"name\":7,\"size\":1}]"};
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonNode) node = json_from_string(wrong[i], NULL);
        g_assert_null(drv_disks_from_json(json_node_get_array(node), &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
}

static void
test_pair(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) disks = parsed(answer);
    g_autoptr(GPtrArray) written = sent(disks);
    g_autoptr(GPtrArray) pairs = drv_disks_pair(written, disks, TRUE, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(pairs->len, ==, 3);
    for (guint i = 0; i < 3; i++)
        g_assert_true(pairs->pdata[i] == disks->pdata[i]);
}

/* A node's name pairs what other names do not, but never two with one. */
static void
test_pair_by_node(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) here =
        parsed("[{\"qdev\":\"/machine/unattached/device[3]\",\"inserted\":{\"node-name\":\"a\","
               "\"image\":{\"virtual-size\":1}}}]");
    g_autoptr(GPtrArray) there =
        parsed("[{\"qdev\":\"/machine/unattached/device[9]\",\"inserted\":{\"node-name\":\"a\","
               "\"image\":{\"virtual-size\":1}}}]");
    g_autoptr(GPtrArray) pairs = drv_disks_pair(here, there, TRUE, &error);
    g_assert_no_error(error);
    g_autoptr(GPtrArray) again = sent(here);
    g_ptr_array_add(here, g_ptr_array_steal_index(again, 0));
    g_assert_null(drv_disks_pair(here, there, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
}

static void
assert_refused(const char *there_text, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) here =
        parsed("[{\"device\":\"d\",\"inserted\":{\"node-name\":\"#block1\",\"drv\":\"raw\","
               "\"backing_file_depth\":1,"
               "\"image\":{\"virtual-size\":4096}}}]");
    g_autoptr(GPtrArray) there = parsed(there_text);
    g_assert_null(drv_disks_pair(here, there, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_nonnull(strstr(error->message, words));
    g_assert_nonnull(strstr(error->message, "'d'"));
}

static void
test_pair_refused(void)
{
    assert_refused("[]", "has no disk");
    /* QEMU's own node names mean nothing. */
    assert_refused("[{\"device\":\"e\",\"inserted\":{\"node-name\":\"#block1\","
                   "\"image\":{\"virtual-size\":4096}}}]",
                   "has no disk");
    assert_refused("[{\"device\":\"d\"}]", "no medium at the destination");
    assert_refused("[{\"device\":\"d\",\"inserted\":{\"node-name\":\"#b\",\"ro\":true,"
                   "\"image\":{\"virtual-size\":4096}}}]",
                   "read-only at the destination");
    assert_refused("[{\"device\":\"d\",\"inserted\":{\"node-name\":\"#b\",\"drv\":\"qcow2\","
                   "\"image\":{\"virtual-size\":8192}}}]",
                   "has 4096 bytes at the source and 8192 at the destination: make its image there "
                   "anew with 'qemu-img create -f qcow2 FILE 4096'");
    assert_refused("[{\"device\":\"d\",\"inserted\":{\"node-name\":\"#b\","
                   "\"backing_file_depth\":0,\"image\":{\"virtual-size\":4096}}}]",
                   "none at the destination");
}

/* What was encrypted is not laid down for all to read. */
static void
test_pair_encrypted(void)
{
    static const char plain[] = "[{\"device\":\"d\",\"inserted\":{\"node-name\":\"#b\","
                                "\"drv\":\"qcow2\",\"encrypted\":false,"
                                "\"image\":{\"virtual-size\":4096}}}]";
    static const char qcow2[] = "[{\"device\":\"d\",\"inserted\":{\"node-name\":\"#b\","
                                "\"drv\":\"qcow2\",\"encrypted\":true,"
                                "\"image\":{\"virtual-size\":4096}}}]";
    static const char luks[] = "[{\"device\":\"d\",\"inserted\":{\"node-name\":\"#b\","
                               "\"drv\":\"luks\",\"image\":{\"virtual-size\":4096}}}]";
    static const struct {
        const char *here, *there;
        gboolean good;
    } cases[] = {
        {qcow2, plain, FALSE}, {luks, plain, FALSE}, {qcow2, luks, TRUE},
        {luks, qcow2, TRUE},   {plain, qcow2, TRUE},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) here = parsed(cases[i].here);
        g_autoptr(GPtrArray) written = sent(here);
        g_autoptr(GPtrArray) there = parsed(cases[i].there);
        g_autoptr(GPtrArray) pairs = drv_disks_pair(written, there, FALSE, &error);
        g_assert_true((pairs != NULL) == cases[i].good);
        if (pairs == NULL)
            g_assert_nonnull(strstr(error->message, "disk 'd' is encrypted at the source"));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/disks/parse", test_parse);
    g_test_add_func("/disks/find", test_find);
    g_test_add_func("/disks/parse/refused", test_parse_refused);
    g_test_add_func("/disks/json", test_json);
    g_test_add_func("/disks/pair", test_pair);
    g_test_add_func("/disks/pair/by-node", test_pair_by_node);
    g_test_add_func("/disks/pair/refused", test_pair_refused);
    g_test_add_func("/disks/pair/encrypted", test_pair_encrypted);
    return g_test_run();
}
