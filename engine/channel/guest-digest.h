/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"

/*
 * The digest of what a guest's RAM holds. The same content of blocks of the same id and size gives
 * the same digest on any host, however many threads compute it and whatever memory QEMU has given
 * to it: pages that were never touched count as zero, and are not touched.
 */
#define DRV_GUEST_DIGEST_LEN 16

/* Pages of a block, from 'first' on. */
typedef struct {
    guint block;
    guint64 first;
    guint n;
} DrvGuestPages;

typedef struct {
    guint threads; /* 0: one a CPU, at most 8 */
    guint64 seed;  /* the same at both ends; a new random one each time, lest a guest could know
                    * which contents are taken for the same */
    DrvGuestPages apart;       /* count as zeros: they are compared one by one. n is 0: none */
    GCancellable *cancellable; /* or NULL */
    guint64 *done; /* bytes so far, of all blocks, or NULL. Set while it goes on: read it with
                    * drv_guest_digest_done() */
} DrvGuestDigestOptions;

/*
 * Digests of the blocks with these indexes: 'digests' has DRV_GUEST_DIGEST_LEN bytes for each, in
 * the same order. It is their content that goes in, and their sizes; compare them by id, so that a
 * difference can be told by name. Blocks that are not reachable are refused (DRV_ERROR_PROTOCOL).
 *
 * Blocks for as long as it takes (some seconds for a big guest): call it on a thread of its own.
 * Means something only while the guest is stopped. Errors: those of drv_guest_ram_read(), and
 * G_IO_ERROR_CANCELLED.
 */
gboolean drv_guest_digest(DrvGuestRam *ram, const guint *blocks, guint n,
                          const DrvGuestDigestOptions *options, guint8 *digests, GError **error);

/*
 * A digest of each of these pages (at most DRV_GUEST_APART of them), of DRV_GUEST_DIGEST_LEN bytes.
 * Errors as above.
 */
#define DRV_GUEST_APART 256u
gboolean drv_guest_digest_pages(DrvGuestRam *ram, const DrvGuestPages *pages, guint64 seed,
                                guint8 *digests, GError **error);

/* From any thread while drv_guest_digest() runs elsewhere. */
guint64 drv_guest_digest_done(const guint64 *done);
