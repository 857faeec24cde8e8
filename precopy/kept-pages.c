/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Guests' batches travel in channels of their own, and nothing orders those of one guest and those
 * of another. So the source sees to it that there is nothing to be ordered:
 *
 *     a slot is referred to when the batch that brought its page was acknowledged
 *     a slot gets another page when all batches that refer to it were
 *
 * and what is referred to is there, whatever lanes break and in whatever order frames arrive. An
 * acknowledgement means that the batch was dealt with, not that it was received.
 *
 *              bring                    acknowledged
 *     FREE ─────────────▶ COMING ───────────────────────▶ THERE ──┐
 *                           │ ▲                             │     │ refer: readers + 1,
 *         the channel ends  │ └─────── bring, 0 readers ────┘ ◀───┘ acknowledged: - 1
 *                           ▼
 *                         LOST   what was sent may still be put there, or not: not used again
 *
 * A channel that ends while it refers to a page has a guest that is not going to arrive: what its
 * batches make of the slot is of no interest any more.
 *
 * Clones that set out together would come to the same page at about the same time, before any of
 * them has been acknowledged. So who comes to one that is COMING may wait for it: the first goes
 * ahead and the others follow at the distance of a round trip. Nobody has to: who has waited enough
 * (the caller knows) sends the next HURRY pages itself. Where the one that it follows is slow for
 * reasons of its own that is more than what is under way, and it goes ahead.
 *
 * Slots are given out in turn, the oldest page goes first; what is in use is passed over.
 */
#include "precopy/kept-pages-private.h"

#include "precopy/dup-index.h"

#include <string.h>
#include <sys/mman.h>

#define LOOK_FOR_ROOM 64u /* slots that are looked at, at most */
#define HURRY 512u        /* pages */
#define BROUGHT 1u        /* in a note, beside the slot */

typedef enum { FREE, COMING, THERE, LOST } SlotState;

typedef struct {
    guint64 key, check;
    DrvKeptUser *owner; /* COMING */
    guint32 readers;    /* references in batches that were not acknowledged */
    guint32 state;      /* SlotState */
} Slot;

struct _DrvKeptPages {
    gatomicrefcount refs;
    /* Fixed */
    guint8 secret[DRV_PAGE_SECRET];
    guint32 n_slots;
    guint64 *entries; /* the index's; the slots lie behind them */
    gsize bytes;

    GMutex mutex;
    /* Under the mutex */
    DrvDupIndex index;
    Slot *slots;
    guint32 hand;
    guint joined; /* jobs, ever */
    gboolean always;
    guint32 counts[LOST + 1];
    GQueue waiting; /* of DrvKeptUser */
};

/* The notes of a batch: slot * 2, and BROUGHT. */
typedef struct {
    guint64 frames;
    GArray *notes; /* of guint32 */
} Sent;

struct _DrvKeptUser {
    DrvKeptPages *kept;
    gconstpointer job;
    void (*wake)(gpointer data);
    gpointer data;

    /* Its thread */
    GArray *open;   /* notes of the batch being made */
    GQueue sent;    /* of Sent, to be acknowledged */
    guint32 wanted; /* the slot that was worth waiting for */
    guint hurry;    /* so many more are not waited for */

    /* Under the mutex */
    gboolean waits; /* for 'wanted' */
    GList link;
};

/* ---- the store ---- */

static gsize
index_bytes(guint32 slots)
{
    /* Two entries a slot: buckets seldom overflow. */
    gsize buckets = ((gsize)slots * 2 + DRV_DUP_BUCKET - 1) / DRV_DUP_BUCKET;
    return MAX(buckets, 1) * DRV_DUP_BUCKET_BYTES;
}

DrvKeptPages *
drv_kept_pages_new(guint32 slots, const guint8 secret[DRV_PAGE_SECRET])
{
    g_return_val_if_fail(slots > 0 && slots <= DRV_KEPT_MAX, NULL);
    gsize bytes = index_bytes(slots) + slots * sizeof(Slot);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    DrvKeptPages *kept = g_new0(DrvKeptPages, 1);
    g_atomic_ref_count_init(&kept->refs);
    memcpy(kept->secret, secret, sizeof kept->secret);
    kept->n_slots = kept->counts[FREE] = slots;
    kept->bytes = bytes;
    kept->entries = memory;
    kept->slots = (Slot *)((guint8 *)memory + index_bytes(slots));
    drv_dup_index_init(&kept->index, kept->entries, index_bytes(slots));
    g_mutex_init(&kept->mutex);
    g_queue_init(&kept->waiting);
    return kept;
}

DrvKeptPages *
drv_kept_pages_ref(DrvKeptPages *kept)
{
    g_atomic_ref_count_inc(&kept->refs);
    return kept;
}

void
drv_kept_pages_unref(DrvKeptPages *kept)
{
    if (kept == NULL || !g_atomic_ref_count_dec(&kept->refs))
        return;
    g_assert(kept->waiting.length == 0);
    munmap(kept->entries, kept->bytes);
    g_mutex_clear(&kept->mutex);
    g_free(kept);
}

gboolean
drv_kept_pages_is_used(DrvKeptPages *kept)
{
    return !g_atomic_ref_count_compare(&kept->refs, 1);
}

const guint8 *
drv_kept_pages_secret(const DrvKeptPages *kept)
{
    return kept->secret;
}

void
drv_kept_pages_join(DrvKeptPages *kept, gboolean always)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&kept->mutex);
    kept->joined++;
    kept->always = kept->always || always;
}

void
drv_kept_pages_get_stats(DrvKeptPages *kept, DrvKeptStats *stats)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&kept->mutex);
    guint64 used = kept->n_slots - kept->counts[FREE];
    *stats = (DrvKeptStats){
        .there = kept->counts[THERE],
        .coming = kept->counts[COMING],
        .lost = kept->counts[LOST],
        .memory = used * (sizeof(Slot) + 2 * sizeof(guint64)),
    };
}

static void
set_state(DrvKeptPages *kept, Slot *slot, SlotState state)
{
    kept->counts[slot->state]--;
    kept->counts[state]++;
    slot->state = state;
    if (state != COMING)
        slot->owner = NULL;
}

/* Those that wait for a slot which is not under way any more, and those of a job (or NULL). */
static void
wake_waiting(DrvKeptPages *kept, gconstpointer job)
{
    for (GList *l = kept->waiting.head, *next; l != NULL; l = next) {
        DrvKeptUser *user = l->data;
        next = l->next;
        if (kept->slots[user->wanted].state == COMING && user->job != job)
            continue;
        g_queue_unlink(&kept->waiting, l);
        user->waits = FALSE;
        user->wake(user->data);
    }
}

void
drv_kept_pages_wake(DrvKeptPages *kept, gconstpointer job)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&kept->mutex);
    wake_waiting(kept, job);
}

/* ---- its users ---- */

DrvKeptUser *
drv_kept_user_new(DrvKeptPages *kept, gconstpointer job, void (*wake)(gpointer data), gpointer data)
{
    DrvKeptUser *user = g_new0(DrvKeptUser, 1);
    user->kept = drv_kept_pages_ref(kept);
    user->job = job;
    user->wake = wake;
    user->data = data;
    user->open = g_array_new(FALSE, FALSE, sizeof(guint32));
    g_queue_init(&user->sent);
    user->link.data = user;
    return user;
}

/* Takes the notes. */
static void
settle_notes(DrvKeptPages *kept, GArray *notes, SlotState become)
{
    for (guint i = 0; i < notes->len; i++) {
        guint32 note = g_array_index(notes, guint32, i);
        Slot *slot = &kept->slots[note / 2];
        if (note & BROUGHT)
            set_state(kept, slot, become);
        else
            slot->readers--;
    }
    g_array_unref(notes);
}

static gboolean
stop_waiting(DrvKeptUser *user)
{
    gboolean did = user->waits;
    if (did)
        g_queue_unlink(&user->kept->waiting, &user->link);
    user->waits = FALSE;
    return did;
}

gboolean
drv_kept_user_free(DrvKeptUser *user)
{
    if (user == NULL)
        return FALSE;
    DrvKeptPages *kept = user->kept;
    Sent *sent;
    g_mutex_lock(&kept->mutex);
    gboolean waited = stop_waiting(user);
    settle_notes(kept, user->open, LOST);
    while ((sent = g_queue_pop_head(&user->sent)) != NULL) {
        settle_notes(kept, sent->notes, LOST);
        g_free(sent);
    }
    wake_waiting(kept, NULL);
    g_mutex_unlock(&kept->mutex);
    drv_kept_pages_unref(kept);
    g_free(user);
    return waited;
}

void
drv_kept_user_sent(DrvKeptUser *user, guint64 frames)
{
    if (user->open->len == 0)
        return;
    Sent *sent = g_new(Sent, 1);
    *sent = (Sent){.frames = frames, .notes = user->open};
    g_queue_push_tail(&user->sent, sent);
    user->open = g_array_new(FALSE, FALSE, sizeof(guint32));
}

void
drv_kept_user_acknowledged(DrvKeptUser *user, guint64 frames)
{
    DrvKeptPages *kept = user->kept;
    Sent *sent = g_queue_peek_head(&user->sent);
    if (sent == NULL || sent->frames > frames)
        return;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&kept->mutex);
    for (; sent != NULL && sent->frames <= frames; sent = g_queue_peek_head(&user->sent)) {
        g_queue_pop_head(&user->sent);
        settle_notes(kept, sent->notes, THERE);
        g_free(sent);
    }
    wake_waiting(kept, NULL);
}

gboolean
drv_kept_user_wait(DrvKeptUser *user)
{
    DrvKeptPages *kept = user->kept;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&kept->mutex);
    if (kept->slots[user->wanted].state != COMING)
        return FALSE;
    user->waits = TRUE;
    g_queue_push_tail_link(&kept->waiting, &user->link);
    return TRUE;
}

gboolean
drv_kept_user_give_up(DrvKeptUser *user)
{
    DrvKeptPages *kept = user->kept;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&kept->mutex);
    gboolean did = stop_waiting(user);
    if (did)
        user->hurry = HURRY;
    return did;
}

/* ---- for the batch writers ---- */

void
drv_kept_lock(DrvKeptUser *user)
{
    g_mutex_lock(&user->kept->mutex);
}

void
drv_kept_unlock(DrvKeptUser *user)
{
    g_mutex_unlock(&user->kept->mutex);
}

void
drv_kept_prefetch(const DrvKeptUser *user, const DrvPageHash *hash)
{
    drv_dup_index_prefetch(&user->kept->index, hash->key);
}

/* The pieces' hashes once more, in another way than the key has them. */
static guint64
check_of(const DrvPageHash *hash)
{
    guint64 sum = 0;
    for (guint i = 0; i < DRV_PAGE_PIECES; i++)
        sum = (sum << 9 | sum >> 55) + hash->pieces[i];
    return sum;
}

DrvKeptState
drv_kept_find(DrvKeptUser *user, const DrvPageHash *hash, guint32 *slot)
{
    DrvKeptPages *kept = user->kept;
    DrvKeptState state = DRV_KEPT_NONE;
    DrvDupPlace found[DRV_DUP_BUCKET];
    guint n = drv_dup_index_find(&kept->index, hash->key, found);
    for (guint i = 0; i < n; i++) {
        const Slot *this = &kept->slots[found[i].page];
        if (this->key != hash->key || this->check != check_of(hash))
            continue;
        *slot = found[i].page;
        if (this->state == THERE)
            return DRV_KEPT_THERE;
        if (this->state != COMING)
            continue;
        if (this->owner->job == user->job || user->hurry > 0) {
            state = MAX(state, DRV_KEPT_COMING);
            user->hurry -= user->hurry > 0 && this->owner->job != user->job;
        } else {
            state = DRV_KEPT_WAIT;
            user->wanted = found[i].page;
        }
    }
    return state;
}

gboolean
drv_kept_room(DrvKeptUser *user, guint32 *slot)
{
    DrvKeptPages *kept = user->kept;
    if (!kept->always && kept->joined < 2)
        return FALSE;
    for (guint i = 0; i < LOOK_FOR_ROOM; i++) {
        const Slot *this = &kept->slots[kept->hand];
        if (this->state == FREE || (this->state == THERE && this->readers == 0)) {
            *slot = kept->hand;
            return TRUE;
        }
        kept->hand = (kept->hand + 1) % kept->n_slots;
    }
    return FALSE;
}

void
drv_kept_bring(DrvKeptUser *user, guint32 slot, const DrvPageHash *hash)
{
    DrvKeptPages *kept = user->kept;
    Slot *this = &kept->slots[slot];
    guint32 note = slot * 2 | BROUGHT;
    this->key = hash->key;
    this->check = check_of(hash);
    set_state(kept, this, COMING);
    this->owner = user;
    kept->hand = (slot + 1) % kept->n_slots;
    drv_dup_index_put(&kept->index, hash->key, (DrvDupPlace){.page = slot});
    g_array_append_val(user->open, note);
}

void
drv_kept_refer(DrvKeptUser *user, guint32 slot)
{
    guint32 note = slot * 2;
    user->kept->slots[slot].readers++;
    g_array_append_val(user->open, note);
}
