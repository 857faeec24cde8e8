/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/transfer.h"

#include "common/error.h"
#include "common/mailbox.h"
#include "engine/transfer/lane.h"
#include "engine/transfer/session-private.h"
#include "numa/nic.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <malloc.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_MEMORY ((gsize)60 * 1024 * 1024)
#define MAX_THREADS 16
/* Connections that have not greeted: a few dozen lanes may come at once, more is a flood. */
#define MAX_STRANGERS 128
/* Sessions that peers may have open: each is a daemon with jobs, or one that lost its memory. */
#define MAX_SESSIONS 256
/* Of one host, if nobody says. A daemon opens one for all its jobs; those that it lost by being
 * killed wait here for an hour. */
#define PEER_SESSIONS 16
/* Without file descriptors no connection can be accepted; some may be free again after so long. */
#define ACCEPT_PAUSE_US (100 * 1000)
#define BIND_PAUSE_US (20 * 1000)
#define BIND_TRIES 100
/* Sessions that are closed with the daemon have so long for the last messages. */
#define LAST_WORDS_US G_USEC_PER_SEC
/* AES-GCM keys are good for some 2^24.5 records (RFC 8446, 5.5); a new one well before. */
#define REKEY_BYTES (G_GUINT64_CONSTANT(64) << 30)

typedef struct {
    guint8 id[16];
    DrvSession *session;
} ById;

struct _DrvTransfer {
    char *name; /* fixed */
    DrvTls *tls;
    DrvPool *pool;
    DrvShaper *shaper;
    DrvShares *shares;
    guint peer_sessions;
    DrvWorker **workers;
    guint n_workers;
    const DrvTopology *topology;
    guint64 rekey_bytes;
    gboolean (*ktls_send)(int fd, const DrvKtlsKey *key);
    gint ktls; /* atomic: it is wanted */
    void (*incoming)(DrvSession *session, gpointer data);
    gpointer data;
    DrvMailbox *control;
    GSource *control_source;

    GMutex lock;   /* guards the next three */
    GArray *by_id; /* of ById: sessions that peers opened; referenced */
    guint strangers;
    GPtrArray *lanes; /* of DrvLane, borrowed */

    GPtrArray *sessions; /* control thread only: all that live; referenced */
    GSource *trimming;

    GSocket *listener; /* control thread; its accepting runs on worker 0 */
    DrvOp accept_op;
    DrvTimer accept_pause; /* this and the rest: worker 0 only */
    gboolean out_of_fds;
    gboolean deaf; /* no more accepting */
    guint next_worker;

    GMutex place_lock; /* guards the next one */
    DrvThreadPlace places[MAX_THREADS];
};

static guint
default_threads(void)
{
    /* Half the CPUs at most, as QEMU and its guests need theirs. */
    return CLAMP(g_get_num_processors() / 2, 1, 8);
}

/* Buffers are to be no more than a small part of what a node has left. */
#define SHARE_OF_NODE 8

static void
configure_pool(DrvTransfer *transfer, const DrvTransferConfig *config)
{
    gsize limits[DRV_NODES_MAX] = {0};
    const DrvTopology *t = config->topology;
    for (guint i = 0; t != NULL && i < t->n; i++)
        limits[t->nodes[i].id] = MAX(t->nodes[i].available / SHARE_OF_NODE, 1);
    drv_pool_configure(transfer->pool, config->huge_pages, limits);
}

static gboolean
start_workers(DrvTransfer *transfer, guint threads, GError **error)
{
    DrvCpus none = {0};
    if (transfer->topology != NULL)
        drv_place_threads(transfer->topology, threads, -1, &none, transfer->places);
    for (guint i = 0; i < threads; i++) {
        const DrvThreadPlace *place = transfer->topology != NULL ? &transfer->places[i] : NULL;
        transfer->workers[i] = drv_worker_new(i, transfer->pool, place, error);
        if (transfer->workers[i] == NULL)
            return FALSE;
        transfer->n_workers++;
    }
    return TRUE;
}

DrvTransfer *
drv_transfer_new(const DrvTransferConfig *config, GError **error)
{
    g_autoptr(DrvTransfer) transfer = g_new0(DrvTransfer, 1);
    transfer->name = g_strdup(config->name);
    transfer->incoming = config->incoming;
    transfer->data = config->data;
    g_mutex_init(&transfer->lock);
    transfer->by_id = g_array_new(FALSE, FALSE, sizeof(ById));
    transfer->lanes = g_ptr_array_new();
    transfer->sessions = g_ptr_array_new();
    transfer->control = drv_mailbox_new();
    transfer->control_source =
        drv_mailbox_attach(transfer->control, g_main_context_get_thread_default());
    transfer->pool = drv_pool_new(config->memory > 0 ? config->memory : DEFAULT_MEMORY);
    transfer->topology = config->topology;
    g_mutex_init(&transfer->place_lock);
    configure_pool(transfer, config);
    transfer->shares = drv_shares_new();
    transfer->peer_sessions = config->peer_sessions > 0 ? config->peer_sessions : PEER_SESSIONS;
    transfer->shaper = drv_shaper_new(config->bandwidth, g_get_monotonic_time());
    guint threads = config->threads > 0 ? MIN(config->threads, MAX_THREADS) : default_threads();
    transfer->workers = g_new0(DrvWorker *, threads);
    transfer->tls = drv_tls_new(config->pki_dir, error);
    if (transfer->tls == NULL)
        return NULL;
    transfer->rekey_bytes = config->rekey_bytes > 0 ? config->rekey_bytes : REKEY_BYTES;
    transfer->ktls_send = config->ktls_send != NULL ? config->ktls_send : drv_ktls_send;
    transfer->ktls = config->kernel_tls;
    if (config->kernel_tls)
        drv_tls_reveal(transfer->tls);
    return start_workers(transfer, threads, error) ? g_steal_pointer(&transfer) : NULL;
}

static void
stop_accepting(gpointer target, gpointer data)
{
    DrvTransfer *transfer = target;
    transfer->deaf = TRUE;
    drv_worker_timer_stop(transfer->workers[0], &transfer->accept_pause);
    drv_worker_cancel(transfer->workers[0], &transfer->accept_op);
}

static void
close_all(DrvTransfer *transfer)
{
    while (transfer->sessions->len > 0)
        drv_session_drop(transfer->sessions->pdata[0]);
    /* Strangers have no session, and lanes that are being connected are in none. */
    g_mutex_lock(&transfer->lock);
    for (guint i = 0; i < transfer->lanes->len; i++)
        drv_lane_close(transfer->lanes->pdata[i], TRUE);
    g_mutex_unlock(&transfer->lock);
}

/* What the jobs have said last goes first. Nobody runs the main loop any more: its mail is
 * dispatched here. */
static void
say_last_words(DrvTransfer *transfer)
{
    gint64 until = g_get_monotonic_time() + LAST_WORDS_US;
    for (guint i = transfer->sessions->len; i > 0; i--)
        drv_session_close(transfer->sessions->pdata[i - 1]);
    while (transfer->sessions->len > 0 && g_get_monotonic_time() < until)
        if (drv_mailbox_dispatch(transfer->control) == 0)
            g_usleep(500);
}

static void
count_ops(gpointer target, gpointer data)
{
    guint *ops = data;
    *ops += drv_worker_ops(target);
}

/* Lets everything that workers and the control thread still have to say to each other be said, and
 * every operation end: memory that the kernel writes to must not go before. */
static void
settle(DrvTransfer *transfer)
{
    guint quiet = 0;
    while (quiet < 3) {
        guint busy = 0;
        close_all(transfer);
        for (guint i = 0; i < transfer->n_workers; i++)
            drv_worker_call(transfer->workers[i], count_ops, transfer->workers[i], &busy);
        busy += drv_mailbox_dispatch(transfer->control);
        quiet = busy > 0 ? 0 : quiet + 1;
        if (busy > 0)
            g_usleep(500);
    }
}

void
drv_transfer_free(DrvTransfer *transfer)
{
    if (transfer == NULL)
        return;
    transfer->incoming = NULL;
    if (transfer->listener != NULL)
        drv_worker_call(transfer->workers[0], stop_accepting, transfer, NULL);
    say_last_words(transfer);
    settle(transfer);
    if (transfer->trimming != NULL) {
        g_source_destroy(transfer->trimming);
        g_source_unref(transfer->trimming);
    }
    for (guint i = 0; i < transfer->n_workers; i++)
        drv_worker_free(transfer->workers[i]);
    g_free(transfer->workers);
    g_clear_object(&transfer->listener);
    g_source_destroy(transfer->control_source);
    g_source_unref(transfer->control_source);
    drv_mailbox_free(transfer->control);
    g_ptr_array_unref(transfer->sessions);
    g_assert(transfer->lanes->len == 0);
    g_ptr_array_unref(transfer->lanes);
    g_array_unref(transfer->by_id);
    drv_tls_free(transfer->tls);
    drv_shaper_unref(transfer->shaper);
    drv_pool_free(transfer->pool);
    drv_shares_free(transfer->shares);
    g_mutex_clear(&transfer->place_lock);
    g_mutex_clear(&transfer->lock);
    g_free(transfer->name);
    g_free(transfer);
}

/* --- listening --- */

typedef struct {
    DrvTransfer *transfer;
    DrvWorker *worker;
    int fd;
} Accepted;

static void
serve(gpointer target, gpointer data)
{
    g_autofree Accepted *accepted = data;
    drv_lane_accept(accepted->transfer, accepted->worker, accepted->fd);
}

static void
accept_next(DrvTransfer *transfer)
{
    drv_worker_accept(transfer->workers[0], &transfer->accept_op,
                      g_socket_get_fd(transfer->listener));
}

static gint
nic_node(DrvTransfer *transfer, int fd)
{
    const DrvTopology *topology = transfer->topology;
    return topology != NULL && drv_place_matters(topology) ? drv_nic_node_of(topology, fd) : -1;
}

static void
accepted(DrvOp *op, gint32 result)
{
    DrvTransfer *transfer = op->owner;
    if (transfer->deaf) {
        if (result >= 0)
            close(result);
        return;
    }
    if (result >= 0) {
        transfer->out_of_fds = FALSE;
        Accepted *a = g_new0(Accepted, 1);
        a->transfer = transfer;
        a->worker =
            drv_transfer_worker_near(transfer, nic_node(transfer, result), transfer->next_worker++);
        a->fd = result;
        drv_worker_post(a->worker, serve, NULL, a);
    } else if (result == -EMFILE || result == -ENFILE || result == -ENOMEM || result == -ENOBUFS) {
        if (!transfer->out_of_fds)
            g_warning("no connection can be accepted: %s: raise the limit of open files "
                      "(LimitNOFILE)",
                      g_strerror(-result));
        transfer->out_of_fds = TRUE;
        drv_worker_timer(transfer->workers[0], &transfer->accept_pause,
                         g_get_monotonic_time() + ACCEPT_PAUSE_US);
        return;
    }
    accept_next(transfer);
}

static void
accept_again(DrvTimer *timer)
{
    accept_next(timer->owner);
}

static void
start_accepting(gpointer target, gpointer data)
{
    accept_next(target);
}

/* The port of a droverd that was killed stays taken for a moment after it is gone: the kernel
 * clears its rings away in the background, and one of them was waiting for connections. */
static gboolean
bind_patiently(GSocket *socket, GSocketAddress *where, GError **error)
{
    for (guint i = 0;; i++) {
        g_autoptr(GError) why = NULL;
        if (g_socket_bind(socket, where, TRUE, &why))
            return TRUE;
        if (!g_error_matches(why, G_IO_ERROR, G_IO_ERROR_ADDRESS_IN_USE) || i >= BIND_TRIES) {
            g_propagate_error(error, g_steal_pointer(&why));
            return FALSE;
        }
        g_usleep(BIND_PAUSE_US);
    }
}

guint16
drv_transfer_listen(DrvTransfer *transfer, const char *host, guint16 port, GError **error)
{
    g_autoptr(GInetAddress) address = g_inet_address_new_from_string(host);
    if (address == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "'%s' is not an address to listen on: give one of this host's, or 0.0.0.0",
                    host);
        return 0;
    }
    g_autoptr(GSocketAddress) where = g_inet_socket_address_new(address, port);
    g_autoptr(GSocket) socket = g_socket_new(g_inet_address_get_family(address),
                                             G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_TCP, error);
    g_autoptr(GError) why = NULL;
    if (socket == NULL)
        return 0;
    g_socket_set_listen_backlog(socket, 64);
    drv_lane_widen_window(g_socket_get_fd(socket)); /* what it accepts inherits it */
    if (!bind_patiently(socket, where, &why) || !g_socket_listen(socket, &why)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE, "cannot listen on %s port %u: %s", host,
                    port, why->message);
        return 0;
    }
    /* The ring waits for connections itself; on the non-blocking socket that GLib makes it would
     * spin on EAGAIN. */
    g_unix_set_fd_nonblocking(g_socket_get_fd(socket), FALSE, NULL);
    g_autoptr(GSocketAddress) bound = g_socket_get_local_address(socket, error);
    if (bound == NULL)
        return 0;
    transfer->listener = g_steal_pointer(&socket);
    transfer->accept_op = (DrvOp){.done = accepted, .owner = transfer};
    transfer->accept_pause = (DrvTimer){.fire = accept_again, .owner = transfer};
    drv_worker_post(transfer->workers[0], start_accepting, transfer, NULL);
    return g_inet_socket_address_get_port(G_INET_SOCKET_ADDRESS(bound));
}

/* --- what lanes and sessions need --- */

DrvPool *
drv_transfer_pool(DrvTransfer *transfer)
{
    return transfer->pool;
}

DrvTls *
drv_transfer_tls(DrvTransfer *transfer)
{
    return transfer->tls;
}

const char *
drv_transfer_name(DrvTransfer *transfer)
{
    return transfer->name;
}

DrvShaper *
drv_transfer_shaper(DrvTransfer *transfer)
{
    return transfer->shaper;
}

DrvWorker *
drv_transfer_worker(DrvTransfer *transfer, guint index)
{
    return transfer->workers[index % transfer->n_workers];
}

DrvWorker *
drv_transfer_worker_near(DrvTransfer *transfer, gint node, guint k)
{
    if (node < 0 || transfer->topology == NULL)
        return drv_transfer_worker(transfer, k);
    g_mutex_lock(&transfer->place_lock);
    k = drv_place_near(transfer->topology, transfer->places, transfer->n_workers, node, k);
    g_mutex_unlock(&transfer->place_lock);
    return transfer->workers[k];
}

const DrvTopology *
drv_transfer_topology(DrvTransfer *transfer)
{
    return transfer->topology;
}

void
drv_transfer_keep_off(DrvTransfer *transfer, const DrvCpus *pinned)
{
    if (transfer->topology == NULL)
        return;
    g_mutex_lock(&transfer->place_lock);
    drv_place_threads(transfer->topology, transfer->n_workers, -1, pinned, transfer->places);
    for (guint i = 0; i < transfer->n_workers; i++)
        drv_worker_place(transfer->workers[i], &transfer->places[i]);
    g_mutex_unlock(&transfer->place_lock);
}

const DrvThreadPlace *
drv_transfer_place(DrvTransfer *transfer, guint thread)
{
    return &transfer->places[thread % transfer->n_workers];
}

guint
drv_transfer_threads(DrvTransfer *transfer)
{
    return transfer->n_workers;
}

void
drv_transfer_post(DrvTransfer *transfer, DrvMailFunc func, gpointer target, gpointer data)
{
    drv_mailbox_post(transfer->control, func, target, data);
}

void
drv_transfer_remember_session(DrvTransfer *transfer, DrvSession *session)
{
    g_ptr_array_add(transfer->sessions, drv_session_ref(session));
}

/* With the last session goes the memory: an idle daemon holds none for transfers. Lanes and
 * channels of the session put their chunks back a little later, hence the second look. */
static gboolean
trim(gpointer data)
{
    DrvTransfer *transfer = data;
    if (transfer->sessions->len == 0 && !drv_pool_trim(transfer->pool))
        return G_SOURCE_CONTINUE;
    for (guint i = 0; i < transfer->n_workers && transfer->sessions->len == 0; i++)
        drv_worker_forget_slabs(transfer->workers[i]);
    malloc_trim(0);
    g_clear_pointer(&transfer->trimming, g_source_unref);
    return G_SOURCE_REMOVE;
}

static void
trim_soon(DrvTransfer *transfer)
{
    if (transfer->sessions->len > 0 || transfer->trimming != NULL)
        return;
    transfer->trimming = g_timeout_source_new(1000);
    g_source_set_callback(transfer->trimming, trim, transfer, NULL);
    g_source_attach(transfer->trimming, g_main_context_get_thread_default());
}

void
drv_transfer_forget_session(DrvTransfer *transfer, DrvSession *session)
{
    g_mutex_lock(&transfer->lock);
    gboolean found = FALSE;
    for (guint i = 0; i < transfer->by_id->len && !found; i++) {
        found = g_array_index(transfer->by_id, ById, i).session == session;
        if (found)
            g_array_remove_index_fast(transfer->by_id, i);
    }
    g_mutex_unlock(&transfer->lock);
    if (found)
        drv_session_unref(session);
    if (g_ptr_array_remove_fast(transfer->sessions, session))
        drv_session_unref(session);
    trim_soon(transfer);
}

static void
tell_incoming(gpointer target, gpointer data)
{
    DrvTransfer *transfer = target;
    DrvSession *session = data;
    drv_transfer_remember_session(transfer, session);
    if (transfer->incoming != NULL)
        transfer->incoming(session, transfer->data);
}

void
drv_transfer_announce(DrvTransfer *transfer, const guint8 id[16], DrvSession *session)
{
    ById entry = {.session = drv_session_ref(session)};
    memcpy(entry.id, id, sizeof entry.id);
    g_mutex_lock(&transfer->lock);
    g_array_append_val(transfer->by_id, entry);
    g_mutex_unlock(&transfer->lock);
    drv_session_post_control(session, tell_incoming, transfer, session);
}

DrvSession *
drv_transfer_find_session(DrvTransfer *transfer, const guint8 id[16])
{
    DrvSession *session = NULL;
    g_mutex_lock(&transfer->lock);
    for (guint i = 0; i < transfer->by_id->len && session == NULL; i++) {
        ById *entry = &g_array_index(transfer->by_id, ById, i);
        if (memcmp(entry->id, id, sizeof entry->id) == 0)
            session = drv_session_ref(entry->session);
    }
    g_mutex_unlock(&transfer->lock);
    return session;
}

void
drv_transfer_add_lane(DrvTransfer *transfer, DrvLane *lane)
{
    g_mutex_lock(&transfer->lock);
    g_ptr_array_add(transfer->lanes, lane);
    g_mutex_unlock(&transfer->lock);
}

void
drv_transfer_remove_lane(DrvTransfer *transfer, DrvLane *lane)
{
    g_mutex_lock(&transfer->lock);
    g_ptr_array_remove_fast(transfer->lanes, lane);
    g_mutex_unlock(&transfer->lock);
}

gboolean
drv_transfer_ktls_wanted(DrvTransfer *transfer)
{
    return g_atomic_int_get(&transfer->ktls);
}

/* TRUE for the one that does it. */
static gboolean
switch_ktls_off(DrvTransfer *transfer)
{
    return g_atomic_int_compare_and_exchange(&transfer->ktls, TRUE, FALSE);
}

gboolean
drv_transfer_ktls_send(DrvTransfer *transfer, int fd, const DrvKtlsKey *key)
{
    if (!drv_transfer_ktls_wanted(transfer))
        return FALSE;
    if (transfer->ktls_send(fd, key))
        return TRUE;
    /* A peer that has hung up meanwhile says nothing about the kernel. */
    if (errno != ENOTCONN && switch_ktls_off(transfer))
        g_message("this kernel does not take over TLS (%s): OpenSSL does it", g_strerror(errno));
    return FALSE;
}

void
drv_transfer_ktls_distrust(DrvTransfer *transfer, const GError *why)
{
    if (switch_ktls_off(transfer))
        g_warning("records cannot be read (%s): kernel TLS is switched off until droverd is "
                  "restarted",
                  why->message);
}

guint64
drv_transfer_rekey_bytes(DrvTransfer *transfer)
{
    return transfer->rekey_bytes;
}

DrvShare *
drv_transfer_share(DrvTransfer *transfer, const char *name)
{
    return drv_shares_of(transfer->shares, name);
}

/* The sessions that live and that the host has opened, referenced. 'all': those of all hosts. */
static GPtrArray *
sessions_of(DrvTransfer *transfer, const char *name, guint *all)
{
    GPtrArray *sessions = g_ptr_array_new_with_free_func((GDestroyNotify)drv_session_unref);
    g_mutex_lock(&transfer->lock);
    for (guint i = 0; i < transfer->by_id->len; i++) {
        DrvSession *session = g_array_index(transfer->by_id, ById, i).session;
        if (g_str_equal(drv_session_peer_name(session), name) && !drv_session_is_dead(session))
            g_ptr_array_add(sessions, drv_session_ref(session));
    }
    *all = transfer->by_id->len;
    g_mutex_unlock(&transfer->lock);
    return sessions;
}

/* A host that was restarted, again and again, is not to be shut out by what it left behind. */
static gboolean
end_one_left_alone(GPtrArray *sessions)
{
    DrvSession *oldest = NULL;
    gint64 since = G_MAXINT64;
    for (guint i = 0; i < sessions->len; i++) {
        gint64 alone = drv_session_alone_since(sessions->pdata[i]);
        if (alone > 0 && alone < since) {
            oldest = sessions->pdata[i];
            since = alone;
        }
    }
    g_autoptr(GError) error =
        g_error_new(DRV_ERROR, DRV_ERROR_LIMIT,
                    "it has had no connection for the longest, and its host has opened one more "
                    "than the %u that it may",
                    sessions->len);
    if (oldest != NULL)
        drv_session_fail(oldest, error);
    return oldest != NULL;
}

char *
drv_transfer_admit(DrvTransfer *transfer, const char *name)
{
    guint all;
    g_autoptr(GPtrArray) sessions = sessions_of(transfer, name, &all);
    if (g_atomic_int_get(&drv_transfer_share(transfer, name)->lanes) >= DRV_SHARE_LANES)
        return g_strdup(DRV_SHARE_LANES_FULL);
    if (sessions->len >= transfer->peer_sessions && !end_one_left_alone(sessions))
        return g_strdup_printf("your host has %u sessions open here, as many as it may: end some, "
                               "or raise 'sessions=' under [incoming] in the configuration here",
                               sessions->len);
    if (all >= MAX_SESSIONS)
        return g_strdup("as many sessions are open here as can be: close some");
    return NULL;
}

gboolean
drv_transfer_stranger_begin(DrvTransfer *transfer)
{
    g_mutex_lock(&transfer->lock);
    gboolean room = transfer->strangers < MAX_STRANGERS;
    if (room)
        transfer->strangers++;
    g_mutex_unlock(&transfer->lock);
    return room;
}

void
drv_transfer_stranger_end(DrvTransfer *transfer)
{
    g_mutex_lock(&transfer->lock);
    g_assert(transfer->strangers > 0);
    transfer->strangers--;
    g_mutex_unlock(&transfer->lock);
}
