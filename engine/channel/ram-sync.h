/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The places where QEMU orders its multifd channels and its main stream (docs/qemu-stream.md): each
 * comes once in every one of them, and nothing behind it may overtake what is before it in any. So
 * who comes to one waits until all others have.
 *
 * Any thread.
 */
typedef struct {
    GMutex lock;
    guint streams;  /* that take part */
    guint arrived;  /* of these, at the next place */
    guint64 passed; /* places */
    gboolean off;   /* nobody waits any more */
    GQueue waiting; /* of DrvRamSyncMember */
} DrvRamSync;

typedef struct {
    guint64 places; /* that it has come to */
    gboolean waits, left;
    GList link;
    void (*wake)(gpointer data); /* under the lock: only posts */
    gpointer data;
} DrvRamSyncMember;

/* 'streams': all that are to come, known or not. */
void drv_ram_sync_init(DrvRamSync *sync, guint streams);
void drv_ram_sync_clear(DrvRamSync *sync);

void drv_ram_sync_member_init(DrvRamSyncMember *member, void (*wake)(gpointer data), gpointer data);

/* The stream is at its next place. TRUE: so are all others, go on; FALSE: wake() will be called. */
gboolean drv_ram_sync_arrive(DrvRamSync *sync, DrvRamSyncMember *member);
/* The stream has ended and is not waited for. TRUE: it did wait, and wake() will not be called. A
 * second time does nothing. */
gboolean drv_ram_sync_leave(DrvRamSync *sync, DrvRamSyncMember *member);
/* There is no order to be kept any more: all go on. */
void drv_ram_sync_off(DrvRamSync *sync);
