/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/* A page of the guest's memory, as batches carry it (docs/pages.md). */

/* Bytes; target pages of any other size are passed on as opaque bytes. */
#define DRV_PAGE_LEN 4096u
#define DRV_PIECE_LEN 512u
#define DRV_PAGE_PIECES (DRV_PAGE_LEN / DRV_PIECE_LEN)
#define DRV_PAGE_SECRET 192u /* random bytes */

/* A page's content by its hashes. */
typedef struct {
    guint64 pieces[DRV_PAGE_PIECES];
    guint64 key; /* of them all */
} DrvPageHash;
