/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/digest.h"
#include "engine/image/store.h"

/*
 * Going through an image once, with several threads: each takes the next piece, reads it unless it
 * is known to be zeros, and hands it to a visitor. Pieces are taken in order and visited in any;
 * a visitor that needs the order waits for its turn.
 */

/* How a copy goes; shared with whoever watches. Any thread. */
typedef struct {
    gint cancelled;           /* 1: stop; atomic */
    guint64 total;            /* bytes of the image; set before the threads start */
    guint64 done;             /* bytes dealt with; atomic */
    guint64 data, zero, same; /* of these: sent or written, zeros, found there already; atomic */
    guint64 unread;           /* of 'same': known not to have changed; atomic */
} DrvCopyCount;

void drv_copy_count_add(guint64 *count, guint64 bytes);
guint64 drv_copy_count_get(const guint64 *count);
void drv_copy_cancel(DrvCopyCount *count);
gboolean drv_copy_is_cancelled(const DrvCopyCount *count);

typedef struct {
    guint64 number; /* of the piece: 0, 1, 2 ... without a gap */
    guint64 first, blocks;
    guint64 len;   /* bytes */
    guint8 *bytes; /* NULL: zeros, or unchanged. The visitor's to change while it runs */
    gboolean unchanged;
} DrvPiece;

/* FALSE stops the scan. 'user' is the thread's number. */
typedef gboolean (*DrvVisit)(guint user, const DrvPiece *piece, gpointer data, GError **error);

/* 'changed_only': what the store knows to be unchanged is not read, but visited as such.
 * The store has a user more than there are threads: the last asks for its extents. Of the threads'
 * failures the first is reported; DRV_ERROR_CANCELLED when cancelled. Blocks until all is done.
 * 'stopped' (may be NULL) is called once, when the first thread fails, to wake the others from
 * whatever they wait for in their visits. */
gboolean drv_scan(DrvStore *store, const DrvImageDigest *layout, gboolean changed_only,
                  guint threads, DrvCopyCount *count, DrvVisit visit,
                  void (*stopped)(gpointer data), gpointer data, GError **error);

/* How many threads a scan should have here. */
guint drv_scan_threads(void);
