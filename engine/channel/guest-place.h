/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"
#include "numa/pages.h"

/*
 * On a host with several NUMA nodes: where the pages come to be that are written for a guest, and
 * what that cost. A page that QEMU has no memory for yet gets it when it is written from here, from
 * the node that the writing thread's policy says (numa/placement.h), unless its mapping has one of
 * its own.
 *
 * What is counted is how it was, not how it was meant: one call in some, the kernel is asked where
 * the pages written, the bytes they were written from and the thread itself are.
 */
typedef struct {
    guint64 bytes;         /* written into the guest */
    guint64 sampled;       /* of these, looked at */
    guint64 pages_local;   /* of them, into pages on the writing thread's node */
    guint64 buffers_local; /* of them, from memory on its node */
} DrvGuestPlaced;

/* Before anything is written: the policy for each block, by its index. */
void drv_guest_ram_place(DrvGuestRam *ram, const DrvPolicy *policies);
/* Any thread. All 0 when nothing is placed. */
void drv_guest_ram_placed(DrvGuestRam *ram, DrvGuestPlaced *placed);
