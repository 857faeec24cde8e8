/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/host/guest-blocks.h"
#include "engine/host/test-guest-samples.h"
#include "qmp/test-fake.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Hears the next line for the monitor, g_free() it, and says 'text' to it. */
static char *
answer(Fake *fake, const char *text)
{
    g_autofree char *line = fake_hear(fake);
    g_autoptr(JsonNode) node = json_from_string(line, NULL);
    g_autoptr(JsonNode) string = json_node_init_string(json_node_alloc(), text);
    g_autofree char *value = json_to_string(string, FALSE);
    JsonObject *object = qmp_node_object(node);
    g_assert_cmpstr(qmp_get_string(object, "execute"), ==, "human-monitor-command");
    fake_return(fake, qmp_get_string(object, "id"), value);
    return g_strdup(qmp_get_string(qmp_get_object(object, "arguments"), "command-line"));
}

static void
expect(Fake *fake, const char *line, const char *text)
{
    g_autofree char *heard = answer(fake, text);
    g_assert_cmpstr(heard, ==, line);
}

/* The next question, which must be where this byte is: at 'hva', as QEMU 7.2 says it. */
static void
locate(Fake *fake, guint64 address, const char *region, guint64 hva)
{
    g_autofree char *line = g_strdup_printf("gpa2hva 0x%" G_GINT64_MODIFIER "x", address);
    g_autofree char *text = g_strdup_printf("Host virtual address for 0x%" G_GINT64_MODIFIER
                                            "x (%s) is 0x%" G_GINT64_MODIFIER "x\r\n",
                                            address, region, hva);
    expect(fake, line, text);
}

static GAsyncResult **
begin(Fake *fake, GAsyncResult **result)
{
    *result = NULL;
    drv_guest_blocks_find_async(fake->client, 10000, NULL, fake_store, result);
    return result;
}

static DrvGuestBlocks *
end(GAsyncResult **result, GError **error)
{
    fake_wait(*result != NULL);
    DrvGuestBlocks *blocks = drv_guest_blocks_find_finish(*result, error);
    g_clear_object(result);
    return blocks;
}

static DrvGuestBlocks *
end_well(GAsyncResult **result)
{
    g_autoptr(GError) error = NULL;
    DrvGuestBlocks *blocks = end(result, &error);
    g_assert_no_error(error);
    return blocks;
}

static void
assert_block(const DrvGuestBlocks *blocks, guint i, const char *id, guint64 size, guint64 hva,
             const char *why)
{
    g_assert_cmpuint(i, <, blocks->n);
    g_assert_cmpstr(blocks->blocks[i].id, ==, id);
    g_assert_cmphex(blocks->blocks[i].size, ==, size);
    g_assert_cmphex(blocks->blocks[i].hva, ==, hva);
    g_assert_cmpstr(blocks->blocks[i].why, ==, why);
}

static const char unmapped[] =
    "it is not in the guest's memory map, and this QEMU tells no address";

static void
test_told(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    begin(fake, &result);
    expect(fake, "info ramblock", ramblock_100);
    g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
    g_assert_cmpuint(blocks->n, ==, 8);
    g_assert_cmpint(blocks->pid, ==, qmp_client_get_peer_pid(fake->client));
    assert_block(blocks, 0, "pc.ram", 0x140000000, 0x7fe83be00000, NULL);
    assert_block(blocks, 1, "0000:00:01.0/vga.vram", 0x1000000, 0x7fe83ac00000, NULL);
    assert_block(blocks, 3, "pc.bios", 0x40000, 0, "it is read-only for the guest");
}

/* The first byte of RAM is at 'base'; each question is answered accordingly. */
#define PC_BASE G_GUINT64_CONSTANT(0x7fef13e00000)

static void
locate_pc(Fake *fake, guint64 high)
{
    locate(fake, 0, "pc.ram", PC_BASE);
    locate(fake, 0xbffff, "pc.ram", PC_BASE + 0xbffff);
    locate(fake, 0x100000, "pc.ram", PC_BASE + 0x100000);
    locate(fake, 0xbfffffff, "pc.ram", PC_BASE + 0xbfffffff);
    locate(fake, 0x100000000, "pc.ram", high);
    locate(fake, 0x17fffffff, "pc.ram", high + 0x7fffffff);
}

static void
begin_pc(Fake *fake, GAsyncResult **result)
{
    begin(fake, result);
    expect(fake, "info ramblock", ramblock_72_pc);
    expect(fake, "info mtree -f", mtree_72_pc);
}

static void
test_located(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    begin_pc(fake, &result);
    locate_pc(fake, PC_BASE + 0xc0000000);
    g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
    g_assert_cmpuint(blocks->n, ==, 6);
    assert_block(blocks, 0, "pc.ram", 0x140000000, PC_BASE, NULL);
    assert_block(blocks, 1, "/rom@etc/acpi/tables", 0x200000, 0, "its size may change");
    assert_block(blocks, 2, "pc.bios", 0x40000, 0, unmapped);
}

static void
test_two_nodes(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    begin(fake, &result);
    expect(fake, "info ramblock", ramblock_72_numa);
    expect(fake, "info mtree -f", mtree_72_numa);
    locate(fake, 0, "m0", 0x7f3e57e00000);
    locate(fake, 0xbffff, "m0", 0x7f3e57ebffff);
    locate(fake, 0x100000, "m0", 0x7f3e57f00000);
    locate(fake, 0xbfffffff, "m0", 0x7f3f17dfffff);
    locate(fake, 0x100000000, "m0", 0x7f3f17e00000);
    locate(fake, 0x13fffffff, "m0", 0x7f3f57dfffff);
    locate(fake, 0x140000000, "m1", 0x7f3dcbdff000);
    locate(fake, 0x17fffffff, "m1", 0x7f3e0bdfefff);
    g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
    assert_block(blocks, 0, "m0", 0x100000000, 0x7f3e57e00000, NULL);
    assert_block(blocks, 1, "m1", 0x40000000, 0x7f3dcbdff000, NULL);
}

/* The high part is elsewhere: not one block, whatever the names say. */
static void
test_split(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    begin_pc(fake, &result);
    locate_pc(fake, PC_BASE + 0xc0001000);
    g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
    assert_block(blocks, 0, "pc.ram", 0x140000000, 0, "QEMU says that it lies in several places");
}

/* The map has changed between the questions, or an offset goes below zero. */
static void
test_moved(void)
{
    static const char why[] = "QEMU does not say its address where its memory map has it";
    static const char *const last[] = {
        "No memory is mapped at address 0x17fffffff\r\n",
        "Memory at address 0x17fffffff is not RAM\r\n",
        "Host virtual address for 0x17fffffff (vga.vram) is 0x7ff053dfffff\r\n",
        "Host virtual address for 0x17fffffff (pc.ram) is 0x1000\r\n",
        "",
    };
    for (guint i = 0; i < G_N_ELEMENTS(last); i++) {
        g_autoptr(Fake) fake = fake_new_ready();
        GAsyncResult *result;
        begin_pc(fake, &result);
        locate(fake, 0, "pc.ram", PC_BASE);
        locate(fake, 0xbffff, "pc.ram", PC_BASE + 0xbffff);
        locate(fake, 0x100000, "pc.ram", PC_BASE + 0x100000);
        locate(fake, 0xbfffffff, "pc.ram", PC_BASE + 0xbfffffff);
        locate(fake, 0x100000000, "pc.ram", PC_BASE + 0xc0000000);
        expect(fake, "gpa2hva 0x17fffffff", last[i]);
        g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
        assert_block(blocks, 0, "pc.ram", 0x140000000, 0, why);
    }
}

/* Two things of one name, of which only the address tells which is which: none is believed. */
static void
test_ambiguous(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    begin(fake, &result);
    expect(fake, "info ramblock", ramblock_72_dimm);
    expect(fake, "info mtree -f", mtree_72_dimm);
    locate(fake, 0, "pc.ram", PC_BASE);
    locate(fake, 0x9ffff, "pc.ram", PC_BASE + 0x9ffff);
    locate(fake, 0x100000, "pc.ram", PC_BASE + 0x100000);
    locate(fake, 0x7ffffff, "pc.ram", PC_BASE + 0x7ffffff);
    g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
    assert_block(
        blocks, 0, "vga.vram", 0x8000000, 0,
        "a device's memory has the same name, and this QEMU tells them apart by name only");
    assert_block(blocks, 1, "pc.ram", 0x8000000, PC_BASE, NULL);
}

/* No map: nothing is found, and nothing goes wrong. */
static void
test_no_map(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result;
    begin(fake, &result);
    expect(fake, "info ramblock", ramblock_72);
    expect(fake, "info mtree -f", "unknown command: 'info mtree'\r\n");
    g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
    assert_block(blocks, 0, "pc.ram", 0x140000000, 0, unmapped);
}

/* A map of thousands of pieces: what is asked stays within what may be under way. */
static void
test_many_ranges(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GString) blocks_text = g_string_new("Block Name    PSize  Offset  Used  Total\r\n");
    g_autoptr(GString) map = g_string_new("FlatView #0\r\n AS \"memory\", root: system\r\n");
    for (guint block = 0; block < 10; block++) {
        g_string_append_printf(blocks_text, "m%u  4 KiB  0x0 0x1000000 0x1000000\r\n", block);
        for (guint i = 0; i < 300; i++)
            g_string_append_printf(map, "  %016x-%016x (prio 0, ram): m%u @%016x\r\n",
                                   (block << 24) + (i << 13), (block << 24) + (i << 13) + 0xfff,
                                   block, i << 13);
    }
    GAsyncResult *result;
    begin(fake, &result);
    expect(fake, "info ramblock", blocks_text->str);
    expect(fake, "info mtree -f", map->str);
    for (guint i = 0; i < 200; i++) {
        guint block = i / 64, at = i % 64;
        guint64 address = (block << 24) + (at / 2 << 13) + (at % 2 != 0 ? 0xfff : 0);
        g_autofree char *name = g_strdup_printf("m%u", block);
        locate(fake, address, name, 0x7f0000000000 + address);
    }
    g_autoptr(DrvGuestBlocks) blocks = end_well(&result);
    for (guint i = 0; i < 10; i++)
        g_assert_cmphex(blocks->blocks[i].hva, ==, i < 4 ? 0x7f0000000000 + (i << 24) : 0);
}

static void
test_errors(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GError) error = NULL;
    GAsyncResult *result;
    begin(fake, &result);
    expect(fake, "info ramblock", "unknown command: 'info ramblock'\r\n");
    g_assert_null(end(&result, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_cmpstr(error->message, ==,
                    "QEMU's list of RAM blocks is not understood: it begins with 'unknown "
                    "command: 'info ramblock''");
    g_clear_error(&error);

    /* QEMU dies with many questions open. */
    begin_pc(fake, &result);
    locate(fake, 0, "pc.ram", PC_BASE);
    fake_settle();
    fake_hang_up(fake);
    g_assert_null(end(&result, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_CLOSED);
    fake_settle();
}

static void
test_cancel(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    GAsyncResult *result = NULL;
    drv_guest_blocks_find_async(fake->client, 10000, cancellable, fake_store, &result);
    expect(fake, "info ramblock", ramblock_72_pc);
    expect(fake, "info mtree -f", mtree_72_pc);
    locate(fake, 0, "pc.ram", PC_BASE);
    g_cancellable_cancel(cancellable);
    g_assert_null(end(&result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    fake_settle();
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_watchdog();
    g_test_add_func("/guest-blocks/told", test_told);
    g_test_add_func("/guest-blocks/located", test_located);
    g_test_add_func("/guest-blocks/two-nodes", test_two_nodes);
    g_test_add_func("/guest-blocks/split", test_split);
    g_test_add_func("/guest-blocks/moved", test_moved);
    g_test_add_func("/guest-blocks/ambiguous", test_ambiguous);
    g_test_add_func("/guest-blocks/no-map", test_no_map);
    g_test_add_func("/guest-blocks/many-ranges", test_many_ranges);
    g_test_add_func("/guest-blocks/errors", test_errors);
    g_test_add_func("/guest-blocks/cancel", test_cancel);
    return g_test_run();
}
