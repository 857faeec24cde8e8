/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/ktls.h"
#include "engine/transfer/lane.h"
#include "engine/transfer/session.h"
#include "engine/transfer/shaper.h"
#include "engine/transfer/tls.h"
#include "engine/transfer/worker.h"
#include "numa/placement.h"

/*
 * A daemon's transfer core: its data threads, their buffers, its identity, its listener and its
 * sessions. A process may hold several (tests hold two). Functions are for the control thread, that
 * of the GMainContext which was the default when it was made, unless said otherwise.
 */
typedef struct {
    const char *name;    /* the host's name, shown to peers */
    const char *pki_dir; /* ca.pem, cert.pem, key.pem */
    guint threads;       /* data threads; 0: as fits the CPUs */
    gsize memory;        /* limit of the buffer pool in bytes; 0: the default */
    gboolean huge_pages; /* buffers are of reserved huge pages, where there are any */
    /* The host, for data threads and buffers to be placed on its NUMA nodes; borrowed. NULL: they
     * are anywhere. */
    const DrvTopology *topology;
    guint64 bandwidth;   /* bytes a second for all jobs together; 0: no limit */
    guint peer_sessions; /* that one host may open; 0: the default */
    gboolean kernel_tls; /* lanes let the kernel seal what they send, where it can */
    guint64 rekey_bytes; /* what a lane sends with one key; 0: 64 GiB */
    /* In drv_ktls_send()'s stead, for tests; NULL: that itself. */
    gboolean (*ktls_send)(int fd, const DrvKtlsKey *key);
    /* A peer has opened a session: give it ops. Before this returns nothing of the session is told.
     */
    void (*incoming)(DrvSession *session, gpointer data);
    gpointer data;
} DrvTransferConfig;

DrvTransfer *drv_transfer_new(const DrvTransferConfig *config, GError **error);
/* Closes all sessions, telling the peers, and stops the threads. Waits for last words to go out, 2
 * s at most. */
void drv_transfer_free(DrvTransfer *transfer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvTransfer, drv_transfer_free)

/* Listens on host:port (port 0: any). Returns the port, or 0 with an error. */
guint16 drv_transfer_listen(DrvTransfer *transfer, const char *host, guint16 port, GError **error);

DrvPool *drv_transfer_pool(DrvTransfer *transfer);

/* For lanes and sessions; from any thread. */
DrvTls *drv_transfer_tls(DrvTransfer *transfer);
const char *drv_transfer_name(DrvTransfer *transfer);
DrvShaper *drv_transfer_shaper(DrvTransfer *transfer);
DrvWorker *drv_transfer_worker(DrvTransfer *transfer, guint index); /* modulo their number */
guint drv_transfer_threads(DrvTransfer *transfer);
/* The 'k'th worker for something that is near to a NUMA node; -1: near to none, and as above. */
DrvWorker *drv_transfer_worker_near(DrvTransfer *transfer, gint node, guint k);
/* NULL: nothing is placed. */
const DrvTopology *drv_transfer_topology(DrvTransfer *transfer);
/* CPUs that guests are pinned to have changed: data threads keep off them. Control thread. */
void drv_transfer_keep_off(DrvTransfer *transfer, const DrvCpus *pinned);
/* Where a data thread is. Control thread. */
const DrvThreadPlace *drv_transfer_place(DrvTransfer *transfer, guint thread);
void drv_transfer_post(DrvTransfer *transfer, DrvMailFunc func, gpointer target, gpointer data);
/* All sessions that are alive, so that they can be closed with the transfer; kept referenced.
 * Control thread. */
void drv_transfer_remember_session(DrvTransfer *transfer, DrvSession *session);
void drv_transfer_forget_session(DrvTransfer *transfer, DrvSession *session);
/* A peer has opened a session: it can be found by its id, and 'incoming' is called on the control
 * thread. */
void drv_transfer_announce(DrvTransfer *transfer, const guint8 id[16], DrvSession *session);
/* Referenced, or NULL. */
DrvSession *drv_transfer_find_session(DrvTransfer *transfer, const guint8 id[16]);
/* Lanes from their birth until nothing of theirs is under way. */
void drv_transfer_add_lane(DrvTransfer *transfer, DrvLane *lane);
void drv_transfer_remove_lane(DrvTransfer *transfer, DrvLane *lane);
/* Whether lanes should have the kernel seal; and drv_ktls_send(), which for a kernel that cannot is
 * the last time it is wanted. */
gboolean drv_transfer_ktls_wanted(DrvTransfer *transfer);
gboolean drv_transfer_ktls_send(DrvTransfer *transfer, int fd, const DrvKtlsKey *key);
/* The kernel's records, or the peer's, cannot be read: nothing is left to kernels from now on. */
void drv_transfer_ktls_distrust(DrvTransfer *transfer, const GError *why);
guint64 drv_transfer_rekey_bytes(DrvTransfer *transfer);
/* What the host of this name holds. */
DrvShare *drv_transfer_share(DrvTransfer *transfer, const char *name);
/* Whether that host may open one more session: NULL, or what to tell it (g_free it). Of its
 * sessions that have no connection, the one that has had none for the longest makes room. */
char *drv_transfer_admit(DrvTransfer *transfer, const char *name);
/* Lanes that have not said which session they belong to. FALSE when there are too many. */
gboolean drv_transfer_stranger_begin(DrvTransfer *transfer);
void drv_transfer_stranger_end(DrvTransfer *transfer);
