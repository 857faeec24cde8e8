/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/guest-place.h"

#include "engine/channel/guest-ram-private.h"

/* Calls of which one is looked at; asking costs about as much as writing a few pages. */
#define ONE_IN 16
/* Runs of a call that are asked for. */
#define MAX_LOOKS 32u

struct _DrvGuestPlacing {
    gint calls; /* atomic */
    GMutex lock;
    DrvGuestPlaced placed;
    DrvPolicy policies[]; /* fixed */
};

void
drv_guest_ram_place(DrvGuestRam *ram, const DrvPolicy *policies)
{
    drv_guest_placing_free(ram->placing);
    ram->placing = g_malloc0(sizeof *ram->placing + ram->n * sizeof *policies);
    g_mutex_init(&ram->placing->lock);
    for (guint i = 0; i < ram->n; i++)
        ram->placing->policies[i] = policies[i];
}

void
drv_guest_placing_free(DrvGuestPlacing *placing)
{
    if (placing == NULL)
        return;
    g_mutex_clear(&placing->lock);
    g_free(placing);
}

void
drv_guest_placing_begin(const DrvGuestPlacing *placing, guint block)
{
    drv_thread_prefer(&placing->policies[block]); /* without one it is as good, if not as fast */
}

/* The bytes at 'addresses' that are on 'node'; FALSE: the kernel does not say. */
static gboolean
find_local(pid_t pid, const guint64 *addresses, const gsize *lens, guint n, gint node,
           guint64 *local)
{
    gint nodes[MAX_LOOKS];
    if (!drv_residency_nodes(pid, addresses, n, nodes, NULL))
        return FALSE;
    for (guint i = 0; i < n; i++)
        *local += nodes[i] == node ? lens[i] : 0;
    return TRUE;
}

static void
look(DrvGuestRam *ram, const DrvGuestRun *runs, guint n, DrvGuestPlaced *found)
{
    guint64 pages[MAX_LOOKS], buffers[MAX_LOOKS];
    gsize lens[MAX_LOOKS], sum = 0;
    gint node = drv_thread_node();
    n = MIN(n, MAX_LOOKS);
    for (guint i = 0; i < n; i++) {
        pages[i] = ram->parts[runs[i].block].info.hva + runs[i].offset;
        buffers[i] = (guint64)(guintptr)runs[i].data;
        sum += lens[i] = runs[i].len;
    }
    if (find_local(ram->pid, pages, lens, n, node, &found->pages_local) &&
        find_local(0, buffers, lens, n, node, &found->buffers_local))
        found->sampled = sum;
}

void
drv_guest_placing_end(DrvGuestRam *ram, const DrvGuestRun *runs, guint n)
{
    static const DrvPolicy none = {0};
    DrvGuestPlacing *placing = ram->placing;
    DrvGuestPlaced found = {0};
    drv_thread_prefer(&none);
    for (guint i = 0; i < n; i++)
        found.bytes += runs[i].len;
    if (g_atomic_int_add(&placing->calls, 1) % ONE_IN == 0)
        look(ram, runs, n, &found);
    g_mutex_lock(&placing->lock);
    placing->placed.bytes += found.bytes;
    if (found.sampled > 0) {
        placing->placed.sampled += found.sampled;
        placing->placed.pages_local += found.pages_local;
        placing->placed.buffers_local += found.buffers_local;
    }
    g_mutex_unlock(&placing->lock);
}

void
drv_guest_ram_placed(DrvGuestRam *ram, DrvGuestPlaced *placed)
{
    *placed = (DrvGuestPlaced){0};
    if (ram->placing == NULL)
        return;
    g_mutex_lock(&ram->placing->lock);
    *placed = ram->placing->placed;
    g_mutex_unlock(&ram->placing->lock);
}
