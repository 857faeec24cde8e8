/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "tests/guests/flat/pool.h"

/*
 * The first IDE disk, written sector after sector and round again, a burst at a time; what is
 * written where is in layout.h. By programmed I/O and without interrupts: the bytes go through
 * QEMU's device, whose state is sent along when the guest is moved in the middle of a sector.
 */
typedef struct {
    const Pool *pool;
    uint32_t lull;       /* ticks between two bursts */
    uint32_t until;      /* ticks until the next */
    uint32_t until_word; /* bursts until something is said */
} Disk;

/* Stops the machine with a word on the console when there is no such disk. */
void disk_prepare(Disk *disk, const Pool *pool, const Params *params);

/* To be called once a tick: takes notice of what is done, and begins the next burst when it is due
 * and the disk is free. Never waits for the disk: the guest's memory goes on changing while a write
 * hangs. */
void disk_tick(Disk *disk);
