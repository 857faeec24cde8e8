/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/host/guest-numa.h"
#include "qmp/qmp.h"
#include "qmp/test-fake.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* QEMU is this process: what it says of its memory and threads is true of ours. */
#define SIZE ((gsize)4 << 20)
#define PAGES (SIZE / 4096)

static guint8 *
new_memory(void)
{
    void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    madvise(p, SIZE, MADV_NOHUGEPAGE);
    return p;
}

static void
say_blocks(Fake *fake, const guint8 *ram)
{
    g_autofree char *line = fake_hear(fake);
    g_autofree char *text =
        g_strdup_printf("Block Name    PSize   Offset   Used   Total   HVA  RO\r\n"
                        "ram    4 KiB  0x0000000000000000 0x%016zx 0x%016zx 0x%016zx  rw\r\n"
                        "rom    4 KiB  0x0000000040000000 0x0000000000010000 0x0000000000010000 "
                        "0x00007fe9c9200000  ro\r\n",
                        SIZE, SIZE, (gsize)ram);
    g_autoptr(JsonNode) node = json_from_string(line, NULL);
    g_autoptr(JsonNode) string = json_node_init_string(json_node_alloc(), text);
    g_autofree char *value = json_to_string(string, FALSE);
    JsonObject *object = qmp_node_object(node);
    g_assert_cmpstr(qmp_get_string(object, "execute"), ==, "human-monitor-command");
    fake_return(fake, qmp_get_string(object, "id"), value);
}

static void
say_cpus(Fake *fake, const char *cpus)
{
    g_autofree char *id = fake_hear_command(fake, "query-cpus-fast");
    fake_return(fake, id, cpus);
}

static DrvGuestNuma *
end(GAsyncResult **result, GError **error)
{
    fake_wait(*result != NULL);
    DrvGuestNuma *numa = drv_guest_numa_find_finish(*result, error);
    g_clear_object(result);
    return numa;
}

static void
test_found(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvTopology) host = drv_topology_read(NULL);
    GAsyncResult *result = NULL;
    guint8 *ram = new_memory();
    g_autofree char *cpus = g_strdup_printf("[{\"cpu-index\":0,\"thread-id\":%d},{\"cpu-index\":1},"
                                            "{\"cpu-index\":-1,\"thread-id\":1},7]",
                                            (int)gettid());
    memset(ram, 1, SIZE / 2);
    drv_guest_numa_find_async(fake->client, PAGES, 10000, NULL, fake_store, &result);
    say_blocks(fake, ram);
    say_cpus(fake, cpus);
    g_autoptr(DrvGuestNuma) numa = end(&result, &error);
    g_assert_no_error(error);
    g_assert_cmpint(numa->pid, ==, getpid());
    g_assert_cmpuint(numa->n, ==, 2);
    g_assert_cmpstr(numa->blocks[0].block.id, ==, "ram");
    g_assert_cmpuint(numa->cpus->len, ==, 1); /* the others make no sense */
    DrvCpus mine, seen = drv_guest_numa_cpus(numa);
    g_assert_true(drv_thread_cpus(0, &mine));
    g_assert_true(drv_cpus_within(&mine, &seen) && drv_cpus_within(&seen, &mine));
    g_assert_cmphex(numa->mems & drv_topology_memory_nodes(host), !=, 0);
    if (numa->why == NULL) {
        g_assert_cmpuint(numa->blocks[0].sample.present, ==, PAGES / 2);
        g_assert_cmpuint(numa->blocks[0].sample.absent, ==, PAGES / 2);
        g_assert_cmpuint(numa->blocks[1].sample.present, ==, 0);
        g_assert_cmpint(numa->blocks[0].map.policy.mode, ==, DRV_POLICY_DEFAULT);
        g_assert_cmpint(drv_guest_numa_node(numa), ==, drv_residency_main(&numa->blocks[0].sample));
    }
    g_autoptr(JsonObject) json = drv_guest_numa_to_json(numa);
    JsonArray *blocks = json_object_get_array_member(json, "blocks");
    g_assert_cmpuint(json_array_get_length(blocks), ==, 1); /* no firmware */
    JsonObject *block = json_array_get_object_element(blocks, 0);
    g_assert_cmpint(json_object_get_int_member(block, "size"), ==, SIZE);
    g_assert_cmpstr(json_object_get_string_member(block, "policy"), ==, "default");
    munmap(ram, SIZE);
}

/* Only the CPUs are asked for. */
static void
test_cpus_only(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GError) error = NULL;
    GAsyncResult *result = NULL;
    drv_guest_numa_find_async(fake->client, 0, 10000, NULL, fake_store, &result);
    say_cpus(fake, "{}"); /* no list */
    g_autoptr(DrvGuestNuma) numa = end(&result, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(numa->n, ==, 0);
    g_assert_cmpuint(numa->cpus->len, ==, 0);
    g_assert_cmpint(drv_guest_numa_node(numa), ==, -1);
}

static void
test_closed(void)
{
    for (guint i = 0; i < 2; i++) {
        g_autoptr(Fake) fake = fake_new_ready();
        g_autoptr(GError) error = NULL;
        GAsyncResult *result = NULL;
        drv_guest_numa_find_async(fake->client, i * 10, 10000, NULL, fake_store, &result);
        g_autofree char *line = fake_hear(fake);
        fake_hang_up(fake);
        g_assert_null(end(&result, &error));
        g_assert_error(error, QMP_ERROR, QMP_ERROR_CLOSED);
    }
}

/* Whose CPUs data threads are to keep off: those that leave the scheduler less than a node. */
static void
test_pinned(void)
{
    static const struct {
        const char *cpus[3];
        const char *expected;
    } cases[] = {
        {{"0-7"}, ""},    {{"0-3"}, ""}, {{"0-4"}, ""}, {{"2"}, "2"}, {{"1", "5", "0-7"}, "1,5"},
        {{"3-4"}, "3-4"},
    };
    DrvNode nodes[2] = {{.id = 0, .memory = 1}, {.id = 1, .memory = 1}};
    DrvTopology host = {.n = 2, .nodes = nodes};
    g_assert_true(drv_cpus_parse("0-3", &nodes[0].cpus));
    g_assert_true(drv_cpus_parse("4-7", &nodes[1].cpus));
    g_assert_true(drv_cpus_parse("0-7", &host.allowed));
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        DrvGuestNuma numa = {.cpus = g_array_new(FALSE, FALSE, sizeof(DrvGuestCpu))};
        for (guint k = 0; k < 3 && cases[i].cpus[k] != NULL; k++) {
            DrvGuestCpu cpu = {.index = k};
            g_assert_true(drv_cpus_parse(cases[i].cpus[k], &cpu.cpus));
            g_array_append_val(numa.cpus, cpu);
        }
        DrvCpus pinned = drv_guest_numa_pinned(&numa, &host);
        g_autofree char *text = drv_cpus_format(&pinned);
        g_assert_cmpstr(text, ==, cases[i].expected);
        g_array_unref(numa.cpus);
    }
}

/* A process that is gone: all that is not known is said, and nothing worse happens. */
static void
test_gone(void)
{
    DrvGuestNumaBlock block = {.block = {.id = "ram", .size = SIZE, .hva = 0x1000}};
    DrvGuestNuma numa = {.pid = 0x3ffffff, .n = 1, .blocks = &block};
    DrvGuestCpu cpu = {.thread = 0x3ffffff};
    numa.cpus = g_array_new(FALSE, FALSE, sizeof(DrvGuestCpu));
    g_array_append_val(numa.cpus, cpu);
    drv_guest_numa_look(&numa, 10);
    g_assert_nonnull(numa.why);
    g_assert_cmpint(drv_guest_numa_node(&numa), ==, -1);
    numa.pid = 0;
    drv_guest_numa_look(&numa, 10);
    g_assert_cmpstr(numa.why, ==, "it cannot be known which process QEMU is");
    g_autoptr(JsonObject) json = drv_guest_numa_to_json(&numa);
    g_assert_cmpstr(json_object_get_string_member(json, "unknown"), ==, numa.why);
    g_array_unref(numa.cpus);
    g_free(numa.why);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_watchdog();
    g_test_add_func("/guest-numa/found", test_found);
    g_test_add_func("/guest-numa/cpus-only", test_cpus_only);
    g_test_add_func("/guest-numa/closed", test_closed);
    g_test_add_func("/guest-numa/pinned", test_pinned);
    g_test_add_func("/guest-numa/gone", test_gone);
    return g_test_run();
}
