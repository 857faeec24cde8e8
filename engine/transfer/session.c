/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/session.h"

#include "common/error.h"
#include "engine/transfer/channel-private.h"
#include "engine/transfer/session-internal.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

/* Channels that are done and whose last ack may have been lost: so many are remembered. */
#define DONE_MAX 1024

DrvSession *
session_new(DrvTransfer *transfer, gboolean connects)
{
    DrvSession *session = g_new0(DrvSession, 1);
    g_atomic_ref_count_init(&session->refs);
    session->transfer = transfer;
    session->connects = connects;
    g_mutex_init(&session->lock);
    session->channels = g_hash_table_new(NULL, NULL);
    drv_scheduler_init(&session->scheduler, drv_transfer_shaper(transfer));
    g_queue_init(&session->acks);
    g_queue_init(&session->done);
    drv_codec_choice_init(&session->choice);
    /* Odd ids are the connecting side's. */
    session->next_channel = connects ? 1 : 2;
    return session;
}

DrvSession *
drv_session_ref(DrvSession *session)
{
    g_atomic_ref_count_inc(&session->refs);
    return session;
}

void
drv_session_unref(DrvSession *session)
{
    if (session == NULL || !g_atomic_ref_count_dec(&session->refs))
        return;
    g_assert(g_hash_table_size(session->channels) == 0 && session->acks.length == 0);
    g_assert(session->messages.bytes == 0);
    g_hash_table_unref(session->channels);
    g_queue_clear_full(&session->done, g_free);
    g_clear_object(&session->resolving);
    g_resolver_free_addresses(session->addresses);
    g_clear_error(&session->dead);
    g_free(session->target.host);
    g_free(session->target.label);
    g_free(session->peer_name);
    OPENSSL_cleanse(session->secret, sizeof session->secret);
    g_mutex_clear(&session->lock);
    g_free(session);
}

typedef struct {
    DrvSession *session;
    DrvMailFunc func;
    gpointer target;
    gpointer data;
} ControlMail;

static void
run_control_mail(gpointer target, gpointer data)
{
    g_autofree ControlMail *mail = target;
    mail->func(mail->target, mail->data);
    drv_session_unref(mail->session);
}

void
drv_session_post_control(DrvSession *session, DrvMailFunc func, gpointer target, gpointer data)
{
    ControlMail *mail = g_new(ControlMail, 1);
    *mail = (ControlMail){drv_session_ref(session), func, target, data};
    drv_transfer_post(session->transfer, run_control_mail, mail, NULL);
}

DrvWorker *
drv_session_home(DrvSession *session, guint32 channel_id)
{
    return drv_transfer_worker(session->transfer, channel_id / 2);
}

/* --- who it is --- */

/* Its certificate's name, or one of the certificate that no certificate's can be: with blanks.
 * Never what the peer calls itself: jobs belong to names, and names are allowed things. */
static char *
name_of(const guint8 fingerprint[32], const char *peer_name)
{
    if (peer_name != NULL)
        return g_strdup(peer_name);
    GString *name = g_string_new("a host without a name, certificate ");
    for (guint i = 0; i < 32; i++)
        g_string_append_printf(name, "%02x", fingerprint[i]);
    return g_string_free(name, FALSE);
}

DrvSession *
drv_session_new_accepted(DrvTransfer *transfer, const guint8 fingerprint[32], const char *peer_name,
                         char **full)
{
    g_autofree char *name = name_of(fingerprint, peer_name);
    *full = drv_transfer_admit(transfer, name);
    if (*full != NULL)
        return NULL;
    DrvSession *session = session_new(transfer, FALSE);
    if (RAND_bytes(session->id, sizeof session->id) != 1 ||
        RAND_bytes(session->secret, sizeof session->secret) != 1)
        g_error("no random bytes are to be had");
    memcpy(session->fingerprint, fingerprint, sizeof session->fingerprint);
    session->established = TRUE;
    session->peer_name = g_steal_pointer(&name);
    session->share = drv_transfer_share(transfer, session->peer_name);
    session->messages.above = &session->share->messages;
    session->control = session_open_control(session);
    drv_transfer_announce(transfer, session->id, session);
    return session;
}

gboolean
drv_session_may_join(DrvSession *session, const DrvHello *hello, const guint8 fingerprint[32])
{
    g_mutex_lock(&session->lock);
    gboolean may = !session->connects &&
                   CRYPTO_memcmp(session->secret, hello->secret, sizeof session->secret) == 0 &&
                   memcmp(session->fingerprint, fingerprint, sizeof session->fingerprint) == 0;
    g_mutex_unlock(&session->lock);
    return may;
}

/* What channels have come to is read here from what their acks last said: older than the truth at
 * most. */
DrvHello *
drv_session_hello(DrvSession *session, guint16 lane)
{
    DrvHello *hello = drv_hello_new();
    GHashTableIter iter;
    gpointer value;
    hello->lane = lane;
    g_mutex_lock(&session->lock);
    memcpy(hello->session, session->id, sizeof hello->session);
    memcpy(hello->secret, session->secret, sizeof hello->secret);
    g_hash_table_iter_init(&iter, session->channels);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        g_array_append_val(hello->progress, ((DrvChannel *)value)->ack);
    for (GList *l = session->done.head; l != NULL && hello->progress->len < DRV_HELLO_CHANNELS;
         l = l->next)
        g_array_append_vals(hello->progress, l->data, 1);
    g_mutex_unlock(&session->lock);
    return hello;
}

gboolean
drv_session_welcomed(DrvSession *session, const DrvHello *welcome, const guint8 fingerprint[32],
                     const char *peer_name)
{
    g_mutex_lock(&session->lock);
    gboolean good = TRUE;
    if (!session->established) {
        memcpy(session->id, welcome->session, sizeof session->id);
        memcpy(session->secret, welcome->secret, sizeof session->secret);
        memcpy(session->fingerprint, fingerprint, sizeof session->fingerprint);
        session->peer_name = name_of(fingerprint, peer_name);
        session->share = drv_transfer_share(session->transfer, session->peer_name);
        session->established = TRUE;
    } else {
        good = memcmp(session->id, welcome->session, sizeof session->id) == 0 &&
               memcmp(session->fingerprint, fingerprint, sizeof session->fingerprint) == 0;
    }
    g_mutex_unlock(&session->lock);
    return good;
}

const char *
drv_session_peer_name(DrvSession *session)
{
    g_mutex_lock(&session->lock);
    const char *name = session->peer_name; /* set once: may be used without the lock */
    g_mutex_unlock(&session->lock);
    return name != NULL ? name : "";
}

DrvShare *
drv_session_share(DrvSession *session)
{
    g_mutex_lock(&session->lock);
    DrvShare *share = session->share;
    g_mutex_unlock(&session->lock);
    return share;
}

DrvAccount *
drv_session_account(DrvSession *session)
{
    return &session->messages;
}

GError *
drv_session_overdrawn(DrvSession *session)
{
    if (!drv_share_is_overdrawn(&session->messages))
        return NULL;
    return g_error_new(DRV_ERROR, DRV_ERROR_LIMIT,
                       "the sessions of %s hold more than %u MiB of messages together, as much as "
                       "one host may",
                       drv_session_peer_name(session), DRV_SHARE_MESSAGES >> 20);
}

/* --- lanes --- */

/* Under the lock: one more, or one less, of those that stand. */
static void
count_lane(DrvSession *session, gint change)
{
    session->lanes_up += (guint)change;
    session->alone_since = session->lanes_up == 0 ? g_get_monotonic_time() : 0;
    if (!session->connects)
        g_atomic_int_add(&session->share->lanes, change);
}

/* Under the lock. Wakes one lane that has nothing to do, if there is one. */
static void
wake_one(DrvSession *session)
{
    for (guint i = 0; i < DRV_MAX_LANES; i++) {
        if (session->idle & 1u << i) {
            session->idle &= ~(1u << i);
            drv_lane_wake(session->lanes[i]);
            return;
        }
    }
}

/* Under the lock. */
static void
tell_channels_of_loss(DrvSession *session, guint64 serial)
{
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, session->channels);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        drv_channel_lane_lost(value, serial);
}

/* Under the lock: the slot's lane is out of use. The reference passes to the caller. */
static DrvLane *
take_out(DrvSession *session, guint slot)
{
    DrvLane *lane = g_steal_pointer(&session->lanes[slot]);
    if (lane != NULL) {
        session->idle &= ~(1u << slot);
        count_lane(session, -1);
        tell_channels_of_loss(session, drv_lane_serial(lane));
    }
    return lane;
}

GPtrArray *
session_take_lanes(DrvSession *session)
{
    GPtrArray *lanes = g_ptr_array_new();
    g_mutex_lock(&session->lock);
    for (guint i = 0; i < DRV_MAX_LANES; i++) {
        if (session->lanes[i] != NULL) {
            g_ptr_array_add(lanes, g_steal_pointer(&session->lanes[i]));
            count_lane(session, -1);
        }
    }
    session->idle = 0;
    g_mutex_unlock(&session->lock);
    return lanes;
}

gboolean
drv_session_has_room(DrvSession *session, guint slot)
{
    g_mutex_lock(&session->lock);
    gboolean room =
        session->lanes[slot] != NULL || g_atomic_int_get(&session->share->lanes) < DRV_SHARE_LANES;
    g_mutex_unlock(&session->lock);
    return room;
}

gint64
drv_session_alone_since(DrvSession *session)
{
    g_mutex_lock(&session->lock);
    gint64 since = session->dead == NULL ? session->alone_since : 0;
    g_mutex_unlock(&session->lock);
    return since;
}

gboolean
drv_session_lane_up(DrvSession *session, DrvLane *lane)
{
    guint slot = drv_lane_slot(lane);
    g_mutex_lock(&session->lock);
    gboolean alive = session->dead == NULL;
    DrvLane *old = NULL;
    if (alive) {
        old = take_out(session, slot); /* half-dead: the peer has given it up before we noticed */
        session->lanes[slot] = drv_lane_ref(lane);
        count_lane(session, 1);
        drv_lane_set_serial(lane, ++session->serial);
    }
    g_mutex_unlock(&session->lock);
    if (old != NULL) {
        drv_lane_close(old, FALSE);
        drv_lane_unref(old);
    }
    if (alive)
        drv_session_post_control(session, session_control_up, session, GUINT_TO_POINTER(slot));
    return alive;
}

void
drv_session_lane_down(DrvSession *session, DrvLane *lane, const GError *error, DrvLaneEnd how)
{
    guint slot = drv_lane_slot(lane);
    g_mutex_lock(&session->lock);
    gboolean mine = session->lanes[slot] == lane;
    gboolean was_up = drv_lane_serial(lane) != 0;
    if (mine)
        take_out(session, slot);
    g_mutex_unlock(&session->lock);
    SessionDown *down = g_new0(SessionDown, 1);
    down->slot = slot;
    down->error = error != NULL ? g_error_copy(error)
                                : g_error_new_literal(DRV_ERROR, DRV_ERROR_UNREACHABLE,
                                                      "the connection was closed");
    down->how = how;
    down->was_up = was_up;
    drv_session_post_control(session, session_control_down, session, down);
    if (mine)
        drv_lane_unref(lane);
}

void
drv_session_lane_stalled(DrvSession *session, DrvLane *lane)
{
    drv_session_post_control(session, session_control_stalled, session,
                             GUINT_TO_POINTER(drv_lane_slot(lane)));
}

void
drv_session_fail(DrvSession *session, const GError *error)
{
    g_mutex_lock(&session->lock);
    gboolean first = session->dead == NULL;
    if (first)
        session->dead = g_error_copy(error);
    g_mutex_unlock(&session->lock);
    if (first)
        drv_session_post_control(session, session_control_dead, session, NULL);
}

void
drv_session_apply_progress(DrvSession *session, GArray *progress)
{
    for (guint i = 0; i < progress->len; i++) {
        DrvProgress *p = &g_array_index(progress, DrvProgress, i);
        g_autoptr(DrvChannel) channel = drv_session_find_channel(session, p->channel);
        if (channel != NULL)
            drv_channel_acknowledged(channel, p);
    }
}

void
drv_session_pull(DrvSession *session, DrvLane *lane, gint64 now_us, DrvPull *pull)
{
    *pull = (DrvPull){.retry_at = G_MAXINT64};
    g_mutex_lock(&session->lock);
    if (session->lanes[drv_lane_slot(lane)] != lane) {
        g_mutex_unlock(&session->lock);
        return; /* replaced: it will be told */
    }
    GList *link = g_queue_pop_head_link(&session->acks);
    if (link != NULL) {
        pull->channel = link->data; /* with the queue's reference */
        pull->channel->ack_queued = FALSE;
        pull->ack = pull->channel->ack;
    } else {
        pull->frame = drv_scheduler_next(&session->scheduler, now_us, &pull->retry_at);
        if (pull->frame != NULL) {
            pull->channel = drv_channel_ref(pull->frame->channel);
            pull->frame->lane = drv_lane_serial(lane);
        } else {
            session->idle |= 1u << drv_lane_slot(lane);
        }
    }
    g_mutex_unlock(&session->lock);
}

void
drv_session_sent(DrvSession *session, DrvChannel *channel, gsize wire_bytes, gboolean ack,
                 gint64 now_us)
{
    drv_channel_add_wire(channel, wire_bytes, 0);
    g_mutex_lock(&session->lock);
    session->wire += wire_bytes;
    if (!ack && channel->queue.class != DRV_CLASS_CONTROL)
        drv_scheduler_charge(&session->scheduler, &channel->queue, wire_bytes, now_us);
    g_mutex_unlock(&session->lock);
}

void
drv_session_received(DrvSession *session, gsize wire_bytes)
{
    g_mutex_lock(&session->lock);
    session->wire += wire_bytes;
    g_mutex_unlock(&session->lock);
}

/* --- what the link can do --- */

DrvCodec
drv_session_pick_codec(DrvSession *session, gsize raw, gint64 now_us)
{
    g_mutex_lock(&session->lock);
    DrvCodec codec = drv_codec_choice_pick(&session->choice, raw, now_us);
    g_mutex_unlock(&session->lock);
    return codec;
}

void
drv_session_rtt_sample(DrvSession *session, gint64 rtt_us)
{
    g_mutex_lock(&session->lock);
    if (rtt_us > 0 && (session->rtt_us == 0 || rtt_us < session->rtt_us))
        session->rtt_us = rtt_us;
    g_mutex_unlock(&session->lock);
}

gint64
drv_session_rtt_us(DrvSession *session)
{
    g_mutex_lock(&session->lock);
    gint64 rtt = session->rtt_us;
    g_mutex_unlock(&session->lock);
    return rtt;
}

void
drv_session_get_stats(DrvSession *session, DrvSessionStats *stats)
{
    g_mutex_lock(&session->lock);
    *stats = (DrvSessionStats){
        .lanes = session->lanes_up,
        .reconnects = session->reconnects,
        .rtt_us = session->rtt_us,
        .wire = session->wire,
    };
    g_mutex_unlock(&session->lock);
}

/* --- channels --- */

gboolean
drv_session_add_channel(DrvSession *session, DrvChannel *channel, GError **error)
{
    gpointer key = GUINT_TO_POINTER(drv_channel_id(channel));
    g_mutex_lock(&session->lock);
    gboolean good = session->dead == NULL && !session->closing &&
                    !g_hash_table_contains(session->channels, key);
    if (good)
        g_hash_table_insert(session->channels, key, drv_channel_ref(channel));
    else if (session->dead != NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE, "the session has ended: %s",
                    session->dead->message);
    else if (session->closing)
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_STATE,
                            "the session has ended: the session was closed");
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "channel %u is open already",
                    drv_channel_id(channel));
    g_mutex_unlock(&session->lock);
    return good;
}

/* Under the lock. The end of a channel is told by its last ack, and the channel is gone when that
 * may be lost with a lane: without this the peer would wait for it for ever. */
static void
remember_done(DrvSession *session, const DrvProgress *progress)
{
    g_queue_push_head(&session->done, g_memdup2(progress, sizeof *progress));
    if (session->done.length > DONE_MAX)
        g_free(g_queue_pop_tail(&session->done));
}

gboolean
drv_session_done_channel(DrvSession *session, guint32 id, DrvProgress *progress)
{
    gboolean found = FALSE;
    g_mutex_lock(&session->lock);
    for (GList *l = session->done.head; l != NULL && !found; l = l->next) {
        *progress = *(DrvProgress *)l->data;
        found = progress->channel == id;
    }
    g_mutex_unlock(&session->lock);
    return found;
}

void
drv_session_forget_channel(DrvSession *session, DrvChannel *channel, gboolean done)
{
    g_mutex_lock(&session->lock);
    gboolean mine =
        g_hash_table_remove(session->channels, GUINT_TO_POINTER(drv_channel_id(channel)));
    /* The last ack still goes out; it carries a reference. */
    gboolean keep = done && session->dead == NULL;
    gboolean queued = channel->ack_queued && !keep;
    if (keep)
        remember_done(session, &channel->ack);
    if (queued) {
        g_queue_unlink(&session->acks, &channel->ack_link);
        channel->ack_queued = FALSE;
    }
    drv_scheduler_remove(&session->scheduler, &channel->queue);
    g_mutex_unlock(&session->lock);
    if (queued)
        drv_channel_unref(channel);
    if (mine)
        drv_channel_unref(channel);
}

DrvChannel *
drv_session_find_channel(DrvSession *session, guint32 id)
{
    g_mutex_lock(&session->lock);
    DrvChannel *channel = g_hash_table_lookup(session->channels, GUINT_TO_POINTER(id));
    if (channel != NULL)
        drv_channel_ref(channel);
    g_mutex_unlock(&session->lock);
    return channel;
}

void
drv_session_queue_frame(DrvSession *session, DrvChannel *channel, DrvFrame *frame)
{
    g_mutex_lock(&session->lock);
    drv_scheduler_push(&session->scheduler, &channel->queue, frame);
    wake_one(session);
    g_mutex_unlock(&session->lock);
}

void
drv_session_queue_ack(DrvSession *session, DrvChannel *channel, const DrvProgress *ack)
{
    g_mutex_lock(&session->lock);
    channel->ack = *ack;
    if (!channel->ack_queued && session->dead == NULL) {
        channel->ack_queued = TRUE;
        drv_channel_ref(channel);
        g_queue_push_tail_link(&session->acks, &channel->ack_link);
        wake_one(session);
    }
    g_mutex_unlock(&session->lock);
}

void
drv_session_settle(DrvSession *session, DrvChannel *channel, guint64 received)
{
    g_mutex_lock(&session->lock);
    for (GList *l = channel->tx.frames.head; l != NULL; l = l->next) {
        DrvFrame *frame = l->data;
        if (frame->seq >= received)
            break;
        frame->settled = TRUE;
    }
    g_mutex_unlock(&session->lock);
}

void
drv_session_requeue(DrvSession *session, DrvChannel *channel, GQueue *frames, guint64 serial)
{
    g_mutex_lock(&session->lock);
    for (GList *l = frames->head; l != NULL; l = l->next) {
        DrvFrame *frame = l->data;
        if (frame->lane == serial && !frame->settled) {
            drv_scheduler_push(&session->scheduler, &channel->queue, frame);
            wake_one(session);
        }
    }
    g_mutex_unlock(&session->lock);
}

void
drv_session_set_class(DrvSession *session, DrvChannel *channel, DrvClass class)
{
    g_mutex_lock(&session->lock);
    drv_scheduler_set_class(&session->scheduler, &channel->queue, class);
    g_mutex_unlock(&session->lock);
}
