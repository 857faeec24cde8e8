/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"
#include "qmp/client.h"

/*
 * Asks a QEMU where its guest's RAM lies in its memory, for drv_guest_ram_open(). From 8.x on QEMU
 * says so itself; before, it follows from its memory map and from where single addresses are.
 * Nothing is guessed: a block of which it is not certain has hva 0 and says why.
 */
typedef struct {
    pid_t pid; /* QEMU's; 0 when it cannot be known */
    guint n;
    DrvGuestBlock *blocks; /* in QEMU's order, those that are not reachable too */
} DrvGuestBlocks;

void drv_guest_blocks_free(DrvGuestBlocks *blocks);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvGuestBlocks, drv_guest_blocks_free)

/*
 * Takes two or three rounds of questions; the machine should not be changed meanwhile. Errors:
 * those of libqmp, and DRV_ERROR_QEMU when QEMU's answer is not understood.
 */
void drv_guest_blocks_find_async(QmpClient *client, guint timeout_ms, GCancellable *cancellable,
                                 GAsyncReadyCallback callback, gpointer user_data);
DrvGuestBlocks *drv_guest_blocks_find_finish(GAsyncResult *result, GError **error);
