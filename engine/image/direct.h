/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Reading and writing a file past the page cache: one thread's requests that are under way, in a
 * ring of its own. Where there is no io_uring each request blocks instead.
 */

/* What offsets, lengths and addresses must be multiples of. */
#define DRV_DIRECT_ALIGN 4096u

typedef struct {
    guint64 offset;
    guint8 *bytes;
    gsize len;
    gboolean write;
    gssize result; /* how much was done of it, or the negative error number */
} DrvDirectRequest;

typedef struct _DrvDirect DrvDirect;

DrvDirect *drv_direct_new(void);
/* Nothing may be under way. NULL is allowed. */
void drv_direct_free(DrvDirect *direct);

/* The same file once more, to be used past the page cache; -1 where it cannot be. */
int drv_direct_open(int fd, gboolean writable);

/* Whether one more can begin before what is under way has been waited for. */
gboolean drv_direct_has_room(const DrvDirect *direct);
/* 'fd' and the bytes are in use until _wait(). */
void drv_direct_begin(DrvDirect *direct, int fd, const DrvDirectRequest *request);
/* Waits for all that was begun. Gives these, until the next _begin(). */
const DrvDirectRequest *drv_direct_wait(DrvDirect *direct, guint *count);
