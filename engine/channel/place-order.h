/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The order in which batches of pages may be placed (docs/pages.md): a batch may go when all up to
 * its 'after' are done; nothing else holds it back, so that several threads have something to do.
 * Numbers come from several channels and so in any order. No I/O, not thread-safe.
 */
typedef struct {
    guint64 done_up_to; /* this one and all before it are done */
    guint32 *bits;      /* ring: of those after it, which came and which are done */
    GQueue waiting;     /* of DrvPlaceTurn */
} DrvPlaceOrder;

/* Something that waits for its turn: embedded in its owner. */
typedef struct {
    guint64 after;
    gpointer owner;
    GList link;
} DrvPlaceTurn;

/* Batches that may have come out of order; more is a peer's fault. */
#define DRV_PLACE_AHEAD ((guint64)1 << 18)

void drv_place_order_init(DrvPlaceOrder *order);
/* Whoever still waits is forgotten. */
void drv_place_order_clear(DrvPlaceOrder *order);

/* A batch has come. FALSE with DRV_ERROR_PROTOCOL when it cannot be: its number came before, is far
 * ahead of all others, or is not after 'after'. */
gboolean drv_place_order_add(DrvPlaceOrder *order, guint64 number, guint64 after, GError **error);

/* Whether all up to 'after' are done. If not, 'turn' waits for it. */
gboolean drv_place_order_wait(DrvPlaceOrder *order, DrvPlaceTurn *turn, guint64 after,
                              gpointer owner);
void drv_place_order_forget(DrvPlaceOrder *order, DrvPlaceTurn *turn);

/* A batch that was added is done; call drv_place_order_next() until it gives NULL. */
void drv_place_order_done(DrvPlaceOrder *order, guint64 number);
/* The owner of a turn that waited and has come. */
gpointer drv_place_order_next(DrvPlaceOrder *order);
