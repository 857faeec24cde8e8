/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* Threads that do numbered things in any order, and some part of each in theirs. */
typedef struct {
    GMutex lock;
    GCond changed;
    guint64 next;
    gboolean stopped;
} DrvTurn;

void drv_turn_init(DrvTurn *turn);
void drv_turn_clear(DrvTurn *turn);
/* Waits until all before 'number' have passed. FALSE when stopped meanwhile, without an error: who
 * stopped it has one. */
gboolean drv_turn_wait(DrvTurn *turn, guint64 number);
void drv_turn_pass(DrvTurn *turn);
void drv_turn_stop(DrvTurn *turn);
