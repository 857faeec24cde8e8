/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/placement.h"

#include "common/error.h"
#include "numa/test-host.h"

#include <string.h>

#define MIB ((guint64)1 << 20)

/* --- threads: hosts, wishes, and where "node:cpus" each thread is --- */

typedef struct {
    const char *name;
    TestHost host;
    guint threads;
    gint nic;
    const char *pinned;
    const char *expected;
} ThreadCase;

#define TWO                                                                                        \
    {"0-3", 8000, 8000},                                                                           \
    {                                                                                              \
        "4-7", 8000, 8000                                                                          \
    }

static const ThreadCase thread_cases[] = {
    {"one-node", {{{"0-7", 8000, 8000}}}, 2, 0, "", "any any"},
    {"one-node-guests", {{{"0-7", 8000, 8000}}}, 2, -1, "2-5", "any:0-1,6-7 any:0-1,6-7"},
    {"one-node-all-guests", {{{"0-7", 8000, 8000}}}, 1, -1, "0-7", "any"},
    {"two", {{TWO}}, 2, -1, "", "0:0-3 1:4-7"},
    {"two-card", {{TWO}}, 3, 1, "", "1:4-7 0:0-3 1:4-7"},
    {"two-one-thread", {{TWO}}, 1, 1, "", "1:4-7"},
    {"two-guests", {{TWO}}, 2, -1, "1-3,4", "0:0 1:5-7"},
    {"two-guests-on-one", {{TWO}}, 2, 0, "0-3", "1:4-7 1:4-7"},
    {"two-guests-everywhere", {{TWO}}, 2, -1, "0-7", "0:0-3 1:4-7"},
    {"isolated", {{TWO}, .isolated = "1-3,5-7"}, 2, -1, "", "0:0 1:4"},
    {"isolated-and-guests", {{TWO}, .isolated = "1-3,5-7"}, 2, -1, "4", "0:0 0:0"},
    {"cpuset", {{TWO}, .allowed = "0-1", .mems = "0"}, 2, 1, "", "0:0-1 0:0-1"},
    {"no-cpus", {{{"0-3", 8000, 8000}, {"", 8000, 8000}}}, 2, 1, "", "0:0-3 0:0-3"},
    {"no-memory", {{{"0-3", 8000, 8000}, {"4-7", 0}}}, 2, -1, "", "0:0-3 1:4-7"},
    {"four-in-a-row",
     {{{"0", 8000}, {"1", 8000}, {"2", 8000}, {"3", 8000}}},
     3,
     2,
     "",
     "2:2 1:1 3:3"},
};

static char *
describe_threads(const DrvThreadPlace *places, guint n)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < n; i++) {
        g_autofree char *cpus = drv_cpus_format(&places[i].cpus);
        g_string_append(text, i > 0 ? " " : "");
        if (places[i].node < 0)
            g_string_append(text, "any");
        else
            g_string_append_printf(text, "%d", places[i].node);
        g_string_append_printf(text, "%s%s", *cpus != '\0' ? ":" : "", cpus);
    }
    return g_string_free(text, FALSE);
}

static void
test_threads(gconstpointer data)
{
    const ThreadCase *c = data;
    g_autoptr(DrvTopology) t = test_host_topology(&c->host);
    DrvThreadPlace places[4];
    DrvCpus pinned;
    g_assert_true(drv_cpus_parse(c->pinned, &pinned));
    drv_place_threads(t, c->threads, c->nic, &pinned, places);
    g_autofree char *text = describe_threads(places, c->threads);
    g_assert_cmpstr(text, ==, c->expected);
}

/* --- what is near to a node --- */

static void
test_near(void)
{
    const TestHost host = {{{"0", 8000}, {"1", 8000}, {"2", 8000}, {"", 8000}}};
    g_autoptr(DrvTopology) t = test_host_topology(&host);
    DrvThreadPlace places[5];
    DrvCpus none = {0};
    drv_place_threads(t, 5, -1, &none, places); /* on nodes 0 1 2 0 1 */
    g_assert_cmpuint(drv_place_near(t, places, 5, 0, 0), ==, 0);
    g_assert_cmpuint(drv_place_near(t, places, 5, 0, 1), ==, 3);
    g_assert_cmpuint(drv_place_near(t, places, 5, 0, 2), ==, 0);
    g_assert_cmpuint(drv_place_near(t, places, 5, 1, 7), ==, 4);
    g_assert_cmpuint(drv_place_near(t, places, 5, 3, 0), ==, 2); /* the next to it */
    g_assert_cmpuint(drv_place_near(t, places, 5, 3, 9), ==, 2);
    for (guint k = 0; k < 10; k++)
        g_assert_cmpuint(drv_place_near(t, places, 5, -1, k), ==, k % 5);
    const TestHost one = {{{"0-7", 8000}}};
    g_autoptr(DrvTopology) single = test_host_topology(&one);
    drv_place_threads(single, 2, 0, &none, places);
    g_assert_cmpuint(drv_place_near(single, places, 2, 0, 3), ==, 1); /* by turns, as ever */
}

/* --- guests --- */

#define BIND(nodes_)                                                                               \
    {                                                                                              \
        DRV_POLICY_BIND, nodes_                                                                    \
    }

typedef struct {
    const char *name;
    TestHost host;
    DrvGuestMemory blocks[3];
    const char *cpus;
    guint64 mems; /* 0: all */
    gint nic;
    const char *expected; /* of each block, policy, nodes and why; or "!" and a part of the error */
    const char *advice;   /* a part of it; NULL: there is none */
} GuestCase;

static const GuestCase guest_cases[] = {
    {"one-node",
     {{{"0-7", 8000, 4000}}},
     {{"ram", 1000 * MIB}},
     "",
     0,
     -1,
     "preferred 0 room",
     NULL},
    {"biggest",
     {{{"0-3", 8000, 1000}, {"4-7", 8000, 7000}}},
     {{"ram", 900 * MIB}},
     "",
     0,
     -1,
     "preferred 1 room",
     "QEMU's memory backends 'ram' host-nodes=1,policy=bind"},
    {"card",
     {{{"0-3", 8000, 1000}, {"4-7", 8000, 7000}}},
     {{"ram", 900 * MIB}},
     "",
     0,
     0,
     "preferred 0 room",
     "'ram' host-nodes=0"},
    {"card-full",
     {{{"0-3", 8000, 800}, {"4-7", 8000, 7000}}},
     {{"ram", 900 * MIB}},
     "",
     0,
     0,
     "preferred 1 room",
     "'ram' host-nodes=1"},
    {"its-cpus", {{TWO}}, {{"ram", 900 * MIB}}, "5", 0, 0, "preferred 1 cpus", "host-nodes=1"},
    {"its-cpus-full",
     {{{"0-3", 8000, 1000}, {"4-7", 8000, 10}}},
     {{"ram", 900 * MIB}},
     "4-7",
     0,
     -1,
     "preferred 0 room",
     "host-nodes=0"},
    {"cpus-of-two", {{TWO}}, {{"ram", 900 * MIB}}, "3-4", 0, -1, "preferred 0 room", ""},
    {"cpuless-last",
     {{{"0-3", 8000, 1000}, {"", 8000, 8000}}},
     {{"ram", 900 * MIB}},
     "",
     0,
     -1,
     "preferred 0 room",
     ""},
    {"cpuless-needed",
     {{{"0-3", 8000, 100}, {"", 8000, 8000}}},
     {{"ram", 900 * MIB}},
     "",
     0,
     -1,
     "preferred 1 room",
     ""},
    {"memoryless",
     {{{"0-3", 8000, 1000}, {"4-7", 0}}},
     {{"ram", 900 * MIB}},
     "4-7",
     0,
     1,
     "preferred 0 room",
     "host-nodes=0"},
    {"cpuset", {{TWO}}, {{"ram", 900 * MIB}}, "", 2, 0, "preferred 1 room", "host-nodes=1"},
    {"virtual-nodes",
     {{{"0-3", 8000, 1000}, {"4-7", 8000, 1000}}},
     {{"m0", 600 * MIB}, {"m1", 700 * MIB}, {"vga", 16 * MIB}},
     "",
     0,
     -1,
     "preferred 1 room, preferred 0 room, preferred 0 room",
     "'m0' host-nodes=1,policy=bind, 'm1'"},
    {"too-big",
     {{{"0-3", 8000, 1000}, {"4-7", 8000, 1000}}},
     {{"ram", 1500 * MIB}},
     "",
     0,
     -1,
     "preferred 0-1 spread",
     "no NUMA node alone has room for the guest"},
    {"present-counts",
     {{{"0-3", 8000, 1000}, {"4-7", 8000, 900}}},
     {{"ram", 1500 * MIB, 600 * MIB}},
     "",
     0,
     -1,
     "preferred 0 room",
     ""},
    {"told", {{TWO}}, {{"ram", 900 * MIB, 0, BIND(2)}}, "0", 0, 0, "bind 1 policy", NULL},
    {"told-interleave",
     {{TWO}},
     {{"ram", 900 * MIB, 0, {DRV_POLICY_INTERLEAVE, 3}}},
     "",
     0,
     -1,
     "interleave 0-1 policy",
     NULL},
    {"told-full",
     {{TWO}},
     {{"ram", 9000 * MIB, 0, BIND(2)}},
     "",
     0,
     -1,
     "!RAM block 'ram' is bound to NUMA node 1, which has 8000 MiB of memory left where 9000 MiB "
     "are needed: start the destination's QEMU with other host-nodes, or make room there",
     NULL},
    {"told-together",
     {{TWO}},
     {{"m0", 5000 * MIB, 0, BIND(2)}, {"m1", 5000 * MIB, 0, BIND(2)}},
     "",
     0,
     -1,
     "!where 10000 MiB are needed",
     NULL},
    {"told-two",
     {{TWO}},
     {{"m0", 5000 * MIB, 0, BIND(1)}, {"m1", 5000 * MIB, 0, BIND(2)}},
     "",
     0,
     -1,
     "bind 0 policy, bind 1 policy",
     NULL},
    {"told-no-memory",
     {{{"0", 8000, 8000}, {"1", 0}}},
     {{"ram", MIB, 0, BIND(2)}},
     "",
     0,
     -1,
     "!NUMA node 1, which has 0 MiB of memory left",
     NULL},
    {"told-outside", {{TWO}}, {{"ram", MIB, 0, BIND(2)}}, "", 1, -1, "!NUMA node 1", NULL},
    {"huge",
     {{{"0", 8000, 8000, 0}, {"1", 8000, 10, 500}}},
     {{"ram", 900 * MIB, .huge = 2 * MIB}},
     "0",
     0,
     0,
     "preferred 1 room",
     "host-nodes=1"},
    {"huge-none",
     {{{"0", 8000, 8000, 10}, {"1", 8000, 8000, 10}}},
     {{"ram", 900 * MIB, 0, BIND(1), 2 * MIB}},
     "",
     0,
     -1,
     "!which has 20 MiB of huge pages left where 900 MiB are needed",
     NULL},
    {"huge-there",
     {{{"0", 8000, 8000, 0}}},
     {{"ram", 900 * MIB, 900 * MIB, BIND(1), 2 * MIB}},
     "",
     0,
     -1,
     "bind 0 policy",
     NULL},
};

static char *
describe_guest(const DrvMemoryPlace *places, guint n)
{
    static const char *const whys[] = {"policy", "cpus", "room", "spread"};
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < n; i++) {
        g_autofree char *nodes = drv_nodes_format(places[i].policy.nodes);
        g_string_append_printf(text, "%s%s %s %s", i > 0 ? ", " : "",
                               drv_policy_name(places[i].policy.mode), nodes, whys[places[i].why]);
    }
    return g_string_free(text, FALSE);
}

static void
test_guest(gconstpointer data)
{
    const GuestCase *c = data;
    g_autoptr(DrvTopology) t = test_host_topology(&c->host);
    g_autoptr(GError) error = NULL;
    DrvMemoryPlace places[3];
    DrvCpus cpus;
    guint n = 0;
    while (n < 3 && c->blocks[n].id != NULL)
        n++;
    g_assert_true(drv_cpus_parse(c->cpus, &cpus));
    gboolean good = drv_place_guest(t, c->blocks, n, &cpus, c->mems != 0 ? c->mems : G_MAXUINT64,
                                    c->nic, places, &error);
    if (c->expected[0] == '!') {
        g_assert_false(good);
        g_assert_error(error, DRV_ERROR, DRV_ERROR_LIMIT);
        g_assert_nonnull(strstr(error->message, c->expected + 1));
        return;
    }
    g_assert_no_error(error);
    g_autofree char *text = describe_guest(places, n);
    g_assert_cmpstr(text, ==, c->expected);
    g_autofree char *advice = drv_place_advice(t, c->blocks, places, n);
    g_assert_true((advice != NULL) == (c->advice != NULL));
    if (advice != NULL && strstr(advice, c->advice) == NULL)
        g_error("'%s' does not say '%s'", advice, c->advice);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(thread_cases); i++) {
        g_autofree char *path = g_strdup_printf("/placement/threads/%s", thread_cases[i].name);
        g_test_add_data_func(path, &thread_cases[i], test_threads);
    }
    g_test_add_func("/placement/near", test_near);
    for (guint i = 0; i < G_N_ELEMENTS(guest_cases); i++) {
        g_autofree char *path = g_strdup_printf("/placement/guest/%s", guest_cases[i].name);
        g_test_add_data_func(path, &guest_cases[i], test_guest);
    }
    return g_test_run();
}
