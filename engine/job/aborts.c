/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/aborts.h"

#include "engine/host/address.h"
#include "engine/job/spec.h"

/* Soon, and often for the first minutes: most links are back by then. A host that is down for
 * longer is looked for now and then. */
#define FIRST_S 1
#define OFTEN_S 3
#define OFTEN_TRIES 100
#define SELDOM_S 60

typedef struct {
    DrvAborts *aborts; /* NULL: they are gone */
    DrvJobRecord *rec; /* our own: what identifies the job, and when it ended */
    char *host;
    guint16 port;
    guint tries;
    DrvPeer *peer;  /* while it is being called */
    GSource *timer; /* until it is called again */
} Abort;

struct _DrvAborts {
    DrvJournal *journal;
    DrvPeers *peers;
    GPtrArray *due; /* of Abort */
};

static gboolean try(gpointer data);

static void
stop_timer(Abort *abort)
{
    if (abort->timer != NULL) {
        g_source_destroy(abort->timer);
        g_clear_pointer(&abort->timer, g_source_unref);
    }
}

static void
try_in(Abort *abort, guint seconds)
{
    abort->timer = g_timeout_source_new_seconds(seconds);
    g_source_set_callback(abort->timer, try, abort, NULL);
    g_source_attach(abort->timer, g_main_context_get_thread_default());
}

static void
free_abort(Abort *abort)
{
    stop_timer(abort);
    drv_job_record_free(abort->rec);
    g_free(abort->host);
    g_free(abort);
}

/* The journal need not name it any more. */
static void
settle(Abort *abort)
{
    DrvJournal *journal = abort->aborts->journal;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJobRecord) rec =
        drv_journal_load(journal, abort->rec->id, DRV_ROLE_SOURCE, &error);
    if (rec != NULL && rec->abort_due) {
        rec->abort_due = FALSE;
        drv_journal_save(journal, rec, &error);
    }
    if (error != NULL) /* the next daemon asks once more, and is answered from a journal */
        g_warning("job %s: that its abort is settled is not recorded: %s", abort->rec->id,
                  error->message);
    g_ptr_array_remove_fast(abort->aborts->due, abort);
    free_abort(abort);
}

/* Whether it has been tried for as long as makes sense. */
static gboolean
is_stale(const Abort *abort)
{
    gint64 age = g_get_real_time() - abort->rec->updated_us;
    return age > DRV_ABORT_DAYS * G_TIME_SPAN_DAY;
}

static void
give_up(Abort *abort)
{
    g_warning("job %s: %s was not heard of for %d days, and is not told any more that the guest "
              "stayed here: should it still wait there, 'drover resolve %s --run-on source' on "
              "that host ends it",
              abort->rec->id, abort->rec->peer, DRV_ABORT_DAYS, abort->rec->id);
    settle(abort);
}

static void
answered(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    Abort *abort = data;
    if (abort->aborts == NULL) { /* the daemon ends */
        free_abort(abort);
        return;
    }
    /* A refusal is an answer, too: then the destination knows better, or a person decides there. */
    gboolean heard = ok != NULL || !drv_peer_is_dead(peer);
    drv_peers_put(abort->aborts->peers, g_steal_pointer(&abort->peer));
    if (heard) {
        g_message("job %s: %s was told at last that the guest stays here", abort->rec->id,
                  abort->rec->peer);
        settle(abort);
    } else if (is_stale(abort)) {
        give_up(abort);
    } else {
        try_in(abort, ++abort->tries < OFTEN_TRIES ? OFTEN_S : SELDOM_S);
    }
}

static gboolean
try(gpointer data)
{
    Abort *abort = data;
    JsonObject *args = json_object_new();
    stop_timer(abort);
    json_object_set_string_member(args, "job", abort->rec->id);
    json_object_set_boolean_member(args, "cancelled", abort->rec->state == DRV_STATE_CANCELLED);
    abort->peer = drv_peers_get(abort->aborts->peers, abort->host, abort->port, 0);
    drv_peer_call(abort->peer, "job.abort", args, answered, abort);
    return G_SOURCE_REMOVE;
}

void
drv_aborts_add(DrvAborts *aborts, const DrvJobRecord *rec)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *host = NULL;
    guint16 port;
    g_autoptr(DrvJobSpec) spec = drv_job_spec_parse(rec->spec, &error);
    if (spec == NULL || !drv_address_parse(spec->to, &host, &port, &error)) {
        g_warning("job %s: who is to be told of its abort is not known: %s", rec->id,
                  error->message);
        return;
    }
    Abort *abort = g_new0(Abort, 1);
    abort->aborts = aborts;
    abort->rec = drv_job_record_new(rec->id, rec->role, "{}");
    abort->rec->state = rec->state;
    abort->rec->updated_us = rec->updated_us;
    abort->rec->peer = g_strdup(rec->peer != NULL ? rec->peer : spec->to);
    abort->host = g_steal_pointer(&host);
    abort->port = port;
    g_ptr_array_add(aborts->due, abort);
    if (is_stale(abort))
        give_up(abort);
    else
        try_in(abort, FIRST_S);
}

DrvAborts *
drv_aborts_new(DrvJournal *journal, DrvPeers *peers)
{
    DrvAborts *aborts = g_new0(DrvAborts, 1);
    aborts->journal = journal;
    aborts->peers = peers;
    aborts->due = g_ptr_array_new();
    return aborts;
}

void
drv_aborts_free(DrvAborts *aborts)
{
    if (aborts == NULL)
        return;
    while (aborts->due->len > 0) {
        Abort *abort = g_ptr_array_steal_index_fast(aborts->due, 0);
        abort->aborts = NULL;
        if (abort->peer == NULL)
            free_abort(abort); /* else the peer still owes it an answer */
        else
            drv_peers_put(aborts->peers, g_steal_pointer(&abort->peer));
    }
    g_ptr_array_unref(aborts->due);
    g_free(aborts);
}
