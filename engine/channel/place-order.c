/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/place-order.h"

#include "common/error.h"

/* Two bits a number. */
enum { CAME = 1, DONE = 2 };
#define PER_WORD 16

static guint
get(const DrvPlaceOrder *order, guint64 number)
{
    guint64 i = number % DRV_PLACE_AHEAD;
    return order->bits[i / PER_WORD] >> (2 * (i % PER_WORD)) & 3;
}

static void
set(DrvPlaceOrder *order, guint64 number, guint state)
{
    guint64 i = number % DRV_PLACE_AHEAD;
    guint shift = 2 * (i % PER_WORD);
    guint32 *word = &order->bits[i / PER_WORD];
    *word = (*word & ~(3u << shift)) | state << shift;
}

void
drv_place_order_init(DrvPlaceOrder *order)
{
    *order = (DrvPlaceOrder){.bits = g_new0(guint32, DRV_PLACE_AHEAD / PER_WORD)};
    g_queue_init(&order->waiting);
}

void
drv_place_order_clear(DrvPlaceOrder *order)
{
    while (g_queue_pop_head_link(&order->waiting) != NULL)
        ;
    g_clear_pointer(&order->bits, g_free);
}

gboolean
drv_place_order_add(DrvPlaceOrder *order, guint64 number, guint64 after, GError **error)
{
    const char *wrong = NULL;
    if (number <= order->done_up_to ||
        (number - order->done_up_to < DRV_PLACE_AHEAD && get(order, number) != 0))
        wrong = "came before";
    else if (number - order->done_up_to >= DRV_PLACE_AHEAD)
        wrong = "is far ahead of all others";
    else if (after >= number)
        wrong = "is to wait for itself";
    if (wrong != NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the peer sent batch %" G_GUINT64_FORMAT " of pages, which %s", number, wrong);
        return FALSE;
    }
    set(order, number, CAME);
    return TRUE;
}

gboolean
drv_place_order_wait(DrvPlaceOrder *order, DrvPlaceTurn *turn, guint64 after, gpointer owner)
{
    if (after <= order->done_up_to)
        return TRUE;
    *turn = (DrvPlaceTurn){.after = after, .owner = owner};
    turn->link.data = turn;
    g_queue_push_tail_link(&order->waiting, &turn->link);
    return FALSE;
}

void
drv_place_order_forget(DrvPlaceOrder *order, DrvPlaceTurn *turn)
{
    g_queue_unlink(&order->waiting, &turn->link);
}

void
drv_place_order_done(DrvPlaceOrder *order, guint64 number)
{
    g_assert(get(order, number) == CAME);
    set(order, number, DONE);
    while (get(order, order->done_up_to + 1) == DONE)
        set(order, ++order->done_up_to, 0);
}

gpointer
drv_place_order_next(DrvPlaceOrder *order)
{
    for (GList *l = order->waiting.head; l != NULL; l = l->next) {
        DrvPlaceTurn *turn = l->data;
        if (turn->after <= order->done_up_to) {
            g_queue_unlink(&order->waiting, l);
            return turn->owner;
        }
    }
    return NULL;
}
