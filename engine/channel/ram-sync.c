/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Why this ends. Let place k be the first at which streams wait and which another stream, B, has
 * not come to. All have passed k - 1, so B is not held here, and its socket is read. QEMU has told
 * all channels to send their SYNC k before it waits for any of them, each is sent by a thread of
 * its own, and that one can only be blocked on its own socket. So every channel gets to k. Then
 * QEMU writes the main stream's word k and flushes it; the main stream is not held before that
 * either. QEMU itself has to wait for nothing but these sockets meanwhile: what it reads, its
 * return path, is not held.
 *
 * At the destination each channel's batches up to a place are sent before the stream waits at it,
 * and so have lower numbers than all behind it: none waits for one that is held back.
 */
#include "engine/channel/ram-sync.h"

void
drv_ram_sync_init(DrvRamSync *sync, guint streams)
{
    *sync = (DrvRamSync){.streams = streams};
    g_mutex_init(&sync->lock);
    g_queue_init(&sync->waiting);
}

void
drv_ram_sync_clear(DrvRamSync *sync)
{
    g_assert(sync->waiting.length == 0);
    g_mutex_clear(&sync->lock);
}

void
drv_ram_sync_member_init(DrvRamSyncMember *member, void (*wake)(gpointer data), gpointer data)
{
    *member = (DrvRamSyncMember){.wake = wake, .data = data};
    member->link.data = member;
}

static void
wake_all(DrvRamSync *sync)
{
    GList *link;
    while ((link = g_queue_pop_head_link(&sync->waiting)) != NULL) {
        DrvRamSyncMember *member = link->data;
        member->waits = FALSE;
        member->wake(member->data);
    }
}

static void
pass(DrvRamSync *sync)
{
    if (sync->arrived < sync->streams)
        return;
    sync->passed++;
    sync->arrived = 0;
    wake_all(sync);
}

gboolean
drv_ram_sync_arrive(DrvRamSync *sync, DrvRamSyncMember *member)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);
    if (sync->off || member->left)
        return TRUE;
    g_assert(member->places == sync->passed);
    member->places++;
    sync->arrived++;
    pass(sync);
    if (member->places <= sync->passed)
        return TRUE;
    member->waits = TRUE;
    g_queue_push_tail_link(&sync->waiting, &member->link);
    return FALSE;
}

gboolean
drv_ram_sync_leave(DrvRamSync *sync, DrvRamSyncMember *member)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);
    gboolean waited = member->waits;
    if (member->left)
        return FALSE;
    member->left = TRUE;
    member->waits = FALSE;
    if (waited) {
        g_queue_unlink(&sync->waiting, &member->link);
        sync->arrived--;
    }
    sync->streams--;
    if (!sync->off && sync->streams > 0)
        pass(sync);
    return waited;
}

void
drv_ram_sync_off(DrvRamSync *sync)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);
    sync->off = TRUE;
    wake_all(sync);
}
