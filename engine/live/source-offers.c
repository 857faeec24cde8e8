/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/source-private.h"

#include <unistd.h>

/* One connection of QEMU's after the other becomes a channel: QEMU before 8.0 takes the first one
 * for the main one, and a disk's channel is known by its number. */

typedef struct {
    DrvJob *job; /* referenced */
    LiveOffers *offers;
} Offer;

static void offer_next(LiveSource *self, LiveOffers *offers);

static void
opened(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autofree Offer *offer = data;
    g_autoptr(DrvJob) job = offer->job;
    LiveSource *self = live_source(job);
    LiveOffers *offers = offer->offers;
    GError *why = NULL;
    offers->offering = FALSE;
    if (*offers->channels == NULL) /* hung up */
        return;
    if (error != NULL) {
        why = g_error_copy(error);
    } else if (drv_channel_set_accepted(*offers->channels, ok, &why)) {
        offer_next(self, offers);
        if (offers->opened != NULL)
            offers->opened(self);
        return;
    }
    g_prefix_error(&why, "the destination cannot open %s: ", offers->what);
    live_fail(self, why);
}

static void
offer_next(LiveSource *self, LiveOffers *offers)
{
    if (offers->offering || offers->waiting.length == 0)
        return;
    GError *error = NULL;
    int fd = GPOINTER_TO_INT(g_queue_pop_head(&offers->waiting));
    JsonObject *args = json_object_new();
    json_object_set_string_member(args, "job", self->base.rec->id);
    json_object_set_int_member(args, "index", drv_channel_set_count(*offers->channels));
    if (!drv_channel_set_offer(*offers->channels, self->peer, fd, args, &error)) {
        json_object_unref(args);
        live_fail(self, error);
        return;
    }
    Offer *offer = g_new(Offer, 1);
    *offer = (Offer){drv_job_ref(&self->base), offers};
    offers->offering = TRUE;
    drv_peer_call(self->peer, offers->call, args, opened, offer);
}

void
live_offer(LiveSource *self, LiveOffers *offers, int fd)
{
    g_queue_push_tail(&offers->waiting, GINT_TO_POINTER(fd));
    offer_next(self, offers);
}

void
live_offers_close(LiveOffers *offers)
{
    while (offers->waiting.length > 0)
        close(GPOINTER_TO_INT(g_queue_pop_head(&offers->waiting)));
}
