/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/buffer.h"

#include "numa/pages.h"
#include "numa/topology.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEN ((gsize)4 << 20)
#define PAGES (LEN / 4096)

/* Takes 'len' bytes of them for good measure: all is ours to write. */
static void
use(DrvBuffer *buffer)
{
    g_assert_cmpuint(buffer->len, ==, LEN);
    memset(buffer->data, 0x5a, LEN);
    drv_buffer_unmap(buffer);
    drv_buffer_unmap(buffer);
}

/* Without a wish nothing is touched before it is used. */
static void
test_plain(void)
{
    DrvBufferWish wish = {.node = -1};
    DrvBuffer buffer;
    unsigned char there[PAGES];
    guint n = 0;
    g_assert_true(drv_buffer_map(LEN, &wish, &buffer));
    g_assert_cmpint(buffer.node, ==, -1);
    g_assert_cmpuint(buffer.lacks, ==, 0);
    g_assert_cmpint(mincore(buffer.data, LEN, there), ==, 0);
    for (guint i = 0; i < PAGES; i++)
        n += there[i] & 1;
    g_assert_cmpuint(n, ==, 0);
    use(&buffer);
}

/* All of it is there, on the node that was asked for, each node in turn. */
static void
test_nodes(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    guint64 nodes = drv_topology_memory_nodes(t);
    for (gint node = 0; node < (gint)DRV_NODES_MAX; node++) {
        DrvBufferWish wish = {.node = node};
        DrvResidency residency = {0};
        DrvBuffer buffer;
        if ((nodes & DRV_NODE_BIT(node)) == 0)
            continue;
        g_assert_true(drv_buffer_map(LEN, &wish, &buffer));
        if ((buffer.lacks & DRV_SHORT_POLICY) != 0) {
            g_test_skip("this kernel has no memory policies");
        } else if (drv_residency_sample(0, (guint64)(guintptr)buffer.data, LEN, PAGES, &residency,
                                        NULL)) {
            g_assert_cmpint(buffer.node, ==, node);
            g_assert_cmpuint(buffer.lacks & DRV_SHORT_NODE, ==, 0);
            g_assert_cmpuint(residency.pages[node], ==, PAGES);
        }
        use(&buffer);
    }
}

/* A node that has no memory: it comes from elsewhere, and that is said. */
static void
test_elsewhere(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    for (guint i = 0; i < t->n; i++) {
        DrvBufferWish wish = {.node = (gint)t->nodes[i].id};
        DrvBuffer buffer;
        if (t->nodes[i].memory > 0)
            continue;
        g_assert_true(drv_buffer_map(LEN, &wish, &buffer));
        g_assert_cmpuint(buffer.lacks & (DRV_SHORT_NODE | DRV_SHORT_POLICY), !=, 0);
        use(&buffer);
        return;
    }
    g_test_skip("every node has memory");
}

static void
test_huge(void)
{
    g_autoptr(DrvTopology) t = drv_topology_read(NULL);
    DrvBufferWish wish = {.node = -1, .huge_pages = TRUE};
    guint64 left = 0;
    for (guint i = 0; i < t->n; i++)
        for (guint k = 0; k < t->nodes[i].huge->len; k++) {
            const DrvHugePages *huge = &g_array_index(t->nodes[i].huge, DrvHugePages, k);
            left += huge->size == (2 << 20) ? huge->free : 0;
        }
    DrvBuffer buffer;
    g_assert_true(drv_buffer_map(LEN, &wish, &buffer));
    g_assert_cmpuint(buffer.lacks, ==, left * (2 << 20) >= LEN ? 0 : DRV_SHORT_HUGE);
    use(&buffer);
    wish.node = 0;
    g_assert_true(drv_buffer_map(LEN, &wish, &buffer));
    g_assert_cmpuint(buffer.lacks & DRV_SHORT_HUGE, ==,
                     left * (2 << 20) >= LEN ? 0 : DRV_SHORT_HUGE);
    use(&buffer);
}

/* In a process that may lock nothing: it is not locked, and that is said. */
static void
lock_nothing(void)
{
    struct rlimit none = {0, 0};
    DrvBufferWish wish = {.node = 0};
    DrvBuffer buffer;
    if (setresuid(65534, 65534, 65534) != 0 || setrlimit(RLIMIT_MEMLOCK, &none) != 0)
        _exit(2);
    gboolean good = drv_buffer_map(LEN, &wish, &buffer);
    _exit(good && (buffer.lacks & DRV_SHORT_LOCK) != 0 ? 0 : 1);
}

static void
test_lock(void)
{
    int status;
#ifdef __SANITIZE_ADDRESS__
    g_test_skip("AddressSanitizer has mlock() do nothing");
    return;
#endif
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0)
        lock_nothing();
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 2)
        g_test_skip("only root can be somebody else");
    else
        g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

/* Address space that is not to be had. */
static void
test_no_memory(void)
{
    DrvBufferWish wishes[] = {{-1, FALSE}, {0, FALSE}, {0, TRUE}};
    for (guint i = 0; i < G_N_ELEMENTS(wishes); i++) {
        DrvBuffer buffer;
        g_assert_false(drv_buffer_map((gsize)1 << 60, &wishes[i], &buffer));
        g_assert_null(buffer.data);
    }
}

static void
test_words(void)
{
    for (guint i = 0; i < DRV_SHORT_COUNT; i++)
        g_assert_cmpuint(strlen(drv_short_text((DrvShort)(1u << i))), >, 20);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/buffer/plain", test_plain);
    g_test_add_func("/buffer/nodes", test_nodes);
    g_test_add_func("/buffer/elsewhere", test_elsewhere);
    g_test_add_func("/buffer/huge", test_huge);
    g_test_add_func("/buffer/lock", test_lock);
    g_test_add_func("/buffer/no-memory", test_no_memory);
    g_test_add_func("/buffer/words", test_words);
    return g_test_run();
}
