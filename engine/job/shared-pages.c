/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Both ends must mean the same store. The source names it by an id of its own, so that two daemons
 * with one certificate do not write to each other's slots; the destination gives each store that it
 * makes an epoch, so that a source sees when it is another one, empty, under the same name: because
 * that daemon was restarted, or nobody had used it for long. Then the source begins anew, too.
 *
 *     source    "dedup":{"store":ID,"bytes":N}          in job.prepare
 *     dest      "dedup":{"epoch":EPOCH,"slots":N}       in its answer, if it keeps any
 *
 * How many there are is for the destination to say, up to what was asked for. A store is never made
 * larger: the job that comes first decides.
 */
#include "engine/job/shared-pages.h"

#include "common/json.h"

#include <openssl/rand.h>
#include <string.h>

#define ID_BYTES 16
#define ID_LEN (2 * ID_BYTES)
/* Less is not worth it, and bounds how many stores there may be. */
#define LEAST_SLOTS 256u
#define SWEEP_S 10

typedef struct {
    char *to;
    char *id;
    gint64 asked; /* the most that any job has, bytes */
    char *epoch;  /* of 'kept' */
    guint32 slots;
    DrvKeptPages *kept; /* NULL: not agreed yet */
    gint64 idle_us;     /* since when nobody uses it; 0: somebody did when it was last looked at */
} Known;

typedef struct {
    char *peer;
    char *id;
    char *epoch;
    DrvPageStore *store;
    gint64 idle_us;
} Served;

struct _DrvSharedPages {
    gint64 limit;
    GPtrArray *known;  /* of Known: towards destinations */
    GPtrArray *served; /* of Served: for sources */
    guint sweep;       /* the timer, while there is anything */
    gint64 aged_us;
};

static void
free_known(gpointer data)
{
    Known *known = data;
    g_free(known->to);
    g_free(known->id);
    g_free(known->epoch);
    drv_kept_pages_unref(known->kept);
    g_free(known);
}

static void
free_served(gpointer data)
{
    Served *served = data;
    g_free(served->peer);
    g_free(served->id);
    g_free(served->epoch);
    drv_page_store_unref(served->store);
    g_free(served);
}

DrvSharedPages *
drv_shared_pages_new(gint64 limit)
{
    DrvSharedPages *shared = g_new0(DrvSharedPages, 1);
    shared->limit = limit;
    shared->known = g_ptr_array_new_with_free_func(free_known);
    shared->served = g_ptr_array_new_with_free_func(free_served);
    return shared;
}

void
drv_shared_pages_free(DrvSharedPages *shared)
{
    if (shared == NULL)
        return;
    if (shared->sweep != 0)
        g_source_remove(shared->sweep);
    g_ptr_array_unref(shared->known);
    g_ptr_array_unref(shared->served);
    g_free(shared);
}

/* NULL: there are no random numbers. */
static char *
random_id(void)
{
    guint8 bytes[ID_BYTES];
    GString *hex = g_string_new(NULL);
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return g_string_free(hex, TRUE);
    for (guint i = 0; i < sizeof bytes; i++)
        g_string_append_printf(hex, "%02x", bytes[i]);
    return g_string_free(hex, FALSE);
}

static gboolean
is_id(const char *text)
{
    return strlen(text) == ID_LEN && strspn(text, "0123456789abcdef") == ID_LEN;
}

/* ---- what nobody uses any more ---- */

static gint64
now_us(const DrvSharedPages *shared)
{
    return g_get_monotonic_time() + shared->aged_us;
}

/* Whether it has not been used for as long as it is kept. */
static gboolean
is_over(const DrvSharedPages *shared, gboolean used, gint64 *idle_us)
{
    if (used)
        *idle_us = 0;
    else if (*idle_us == 0)
        *idle_us = now_us(shared);
    return !used && now_us(shared) - *idle_us >= DRV_SHARED_LINGER_S * G_USEC_PER_SEC;
}

static void
drop_old(DrvSharedPages *shared)
{
    for (guint i = shared->known->len; i > 0; i--) {
        Known *known = shared->known->pdata[i - 1];
        gboolean used = known->kept != NULL && drv_kept_pages_is_used(known->kept);
        if (is_over(shared, used, &known->idle_us))
            g_ptr_array_remove_index_fast(shared->known, i - 1);
    }
    for (guint i = shared->served->len; i > 0; i--) {
        Served *served = shared->served->pdata[i - 1];
        if (is_over(shared, drv_page_store_is_used(served->store), &served->idle_us))
            g_ptr_array_remove_index_fast(shared->served, i - 1);
    }
}

static gboolean
on_sweep(gpointer data)
{
    DrvSharedPages *shared = data;
    drop_old(shared);
    if (shared->known->len + shared->served->len > 0)
        return G_SOURCE_CONTINUE;
    shared->sweep = 0;
    return G_SOURCE_REMOVE;
}

static void
begin_sweeping(DrvSharedPages *shared)
{
    if (shared->sweep == 0)
        shared->sweep = g_timeout_add_seconds(SWEEP_S, on_sweep, shared);
}

void
drv_shared_pages_age(DrvSharedPages *shared, gint64 seconds)
{
    drop_old(shared); /* so that it is seen what is idle now */
    shared->aged_us += seconds * G_USEC_PER_SEC;
    drop_old(shared);
}

/* ---- the source ---- */

static Known *
find_known(DrvSharedPages *shared, const char *to)
{
    for (guint i = 0; i < shared->known->len; i++) {
        Known *known = shared->known->pdata[i];
        if (g_str_equal(known->to, to))
            return known;
    }
    return NULL;
}

JsonObject *
drv_shared_pages_ask(DrvSharedPages *shared, const char *to, gint64 bytes)
{
    Known *known = find_known(shared, to);
    if (bytes < LEAST_SLOTS * (gint64)DRV_PAGE_LEN)
        return NULL;
    if (known == NULL) {
        g_autofree char *id = random_id();
        if (id == NULL)
            return NULL;
        known = g_new0(Known, 1);
        known->to = g_strdup(to);
        known->id = g_steal_pointer(&id);
        g_ptr_array_add(shared->known, known);
        begin_sweeping(shared);
    }
    known->asked = MAX(known->asked, bytes);
    known->idle_us = 0;
    JsonObject *asked = json_object_new();
    json_object_set_string_member(asked, "store", known->id);
    json_object_set_int_member(asked, "bytes", bytes);
    return asked;
}

DrvKeptPages *
drv_shared_pages_agree(DrvSharedPages *shared, const char *to, JsonObject *answer)
{
    Known *known = find_known(shared, to);
    const char *epoch = drv_json_string(answer, "epoch", "");
    gint64 slots = drv_json_int(answer, "slots", 0);
    guint8 secret[DRV_PAGE_SECRET];
    /* More than was asked for would take memory here for which nobody has asked, either. */
    if (known == NULL || !is_id(epoch) || slots < 1 || slots > known->asked / DRV_PAGE_LEN ||
        slots > DRV_KEPT_MAX)
        return NULL;
    if (known->kept == NULL || !g_str_equal(known->epoch, epoch) || known->slots != slots) {
        if (RAND_bytes(secret, sizeof secret) != 1)
            return NULL;
        drv_kept_pages_unref(known->kept);
        known->kept = drv_kept_pages_new((guint32)slots, secret);
        g_free(known->epoch);
        known->epoch = g_strdup(epoch);
        known->slots = (guint32)slots;
    }
    return known->kept != NULL ? drv_kept_pages_ref(known->kept) : NULL;
}

/* ---- the destination ---- */

static Served *
find_served(DrvSharedPages *shared, const char *peer, const char *id)
{
    for (guint i = 0; i < shared->served->len; i++) {
        Served *served = shared->served->pdata[i];
        if (g_str_equal(served->peer, peer) && g_str_equal(served->id, id))
            return served;
    }
    return NULL;
}

static gint64
bytes_served(const DrvSharedPages *shared)
{
    gint64 bytes = 0;
    for (guint i = 0; i < shared->served->len; i++) {
        const Served *served = shared->served->pdata[i];
        bytes += drv_page_store_slots(served->store) * (gint64)DRV_PAGE_LEN;
    }
    return bytes;
}

/* Those that nobody uses: of that peer, which names another one now, and if there is no room
 * otherwise of all. */
static void
make_room(DrvSharedPages *shared, const char *peer, gint64 bytes)
{
    for (guint i = shared->served->len; i > 0; i--) {
        Served *served = shared->served->pdata[i - 1];
        gboolean its_own = g_str_equal(served->peer, peer);
        if (!drv_page_store_is_used(served->store) &&
            (its_own || bytes_served(shared) + bytes > shared->limit))
            g_ptr_array_remove_index_fast(shared->served, i - 1);
    }
}

static Served *
new_served(DrvSharedPages *shared, const char *peer, const char *id, gint64 bytes)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *epoch = random_id();
    make_room(shared, peer, bytes);
    guint64 slots =
        (guint64)MAX(MIN(bytes, shared->limit - bytes_served(shared)), 0) / DRV_PAGE_LEN;
    if (epoch == NULL || slots < LEAST_SLOTS)
        return NULL;
    DrvPageStore *store = drv_page_store_new((guint32)MIN(slots, DRV_KEPT_MAX), &error);
    if (store == NULL) {
        g_warning("no pages are kept for %s: %s", peer, error->message);
        return NULL;
    }
    Served *served = g_new0(Served, 1);
    served->peer = g_strdup(peer);
    served->id = g_strdup(id);
    served->epoch = g_steal_pointer(&epoch);
    served->store = store;
    g_ptr_array_add(shared->served, served);
    begin_sweeping(shared);
    return served;
}

DrvPageStore *
drv_shared_pages_serve(DrvSharedPages *shared, const char *peer, JsonObject *asked,
                       JsonObject **answer)
{
    const char *id = drv_json_string(asked, "store", "");
    gint64 bytes = drv_json_int(asked, "bytes", 0);
    if (!is_id(id) || bytes <= 0)
        return NULL;
    Served *served = find_served(shared, peer, id);
    if (served == NULL)
        served = new_served(shared, peer, id, bytes);
    if (served == NULL)
        return NULL;
    served->idle_us = 0;
    *answer = json_object_new();
    json_object_set_string_member(*answer, "epoch", served->epoch);
    json_object_set_int_member(*answer, "slots", drv_page_store_slots(served->store));
    return drv_page_store_ref(served->store);
}
