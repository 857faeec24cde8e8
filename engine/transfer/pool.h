/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/share.h"
#include "numa/cpus.h"

#include <glib.h>

/*
 * The bounded pool that every buffer a peer can fill comes from.
 *
 * Memory is taken in slabs, each cut into chunks of DRV_CHUNK_SIZE. A data thread registers a slab
 * with its ring the first time it uses one of its chunks (worker.h), so the kernel pins it once and
 * not for every transfer.
 *
 * Two budgets keep the halves of a daemon from starving each other: what is read from local
 * endpoints (TX, held until the peer acknowledges) and what peers were promised room for (RX,
 * reserved when a channel opens, so that a frame within its credit always finds a chunk and a lane
 * never has to stop reading).
 *
 * No host takes what another's first job needs: some RX chunks, beyond the pool's limit, are
 * promised only to hosts that hold few.
 *
 * On a host with several NUMA nodes a thread takes chunks of its own node, whose slabs are there
 * before they are needed and locked (numa/buffer.h). The budgets are one for all nodes: a thread
 * that finds none of its node takes one of another.
 */

#define DRV_CHUNK_SIZE ((gsize)128 * 1024)
#define DRV_SLAB_CHUNKS 16
#define DRV_POOL_MAX_SLABS 64
/* RX chunks that a host's first job finds: a main stream and four more channels, with the least
 * that they can do with. So many hosts' are kept. */
#define DRV_POOL_FIRST_JOB 40
#define DRV_POOL_FIRST_JOBS 2
#define DRV_SLAB_NONE G_MAXUINT

typedef struct _DrvPool DrvPool;

typedef enum {
    DRV_POOL_TX, /* bytes from a local endpoint on their way out */
    DRV_POOL_RX, /* decoded bytes on their way to a local endpoint: backed by a reservation */
    DRV_POOL_IO, /* the lanes' own socket buffers */
    DRV_POOL_USES
} DrvPoolUse;

/* A buffer and who pays for it. Fields are fixed while it is held. */
typedef struct {
    guint8 *data;
    gsize size;
    guint slab; /* index for registered-buffer operations, DRV_SLAB_NONE for heap chunks */
    DrvPoolUse use;
    gint node;           /* where it is; -1: not known */
    DrvPool *pool;       /* NULL for heap chunks */
    DrvAccount *account; /* that a heap chunk's bytes are held against; NULL: none */
} DrvChunk;

/* What there is of a pool. */
typedef struct {
    gsize bytes[DRV_NODES_MAX]; /* by node */
    gsize anywhere;             /* that are of no certain node */
} DrvPoolStats;

/* A pool of at most 'limit' bytes (rounded to slabs): half of it for RX, a quarter each for TX and
 * the lanes; and the chunks of first jobs besides. No memory is taken before it is needed.
 * Thread-safe. */
DrvPool *drv_pool_new(gsize limit);
/* Before anything is taken: whether slabs are to be of reserved huge pages, where there are any,
 * and how many bytes of a node at most, if others have any ('limits', by node; 0: no limit). */
void drv_pool_configure(DrvPool *pool, gboolean huge_pages, const gsize limits[DRV_NODES_MAX]);
/* All chunks must have been put back. */
void drv_pool_free(DrvPool *pool);

/* A chunk, or NULL when the budget of 'use' is spent. Its content is undefined. */
DrvChunk *drv_pool_take(DrvPool *pool, DrvPoolUse use);
/* The same, on that node if it can be; -1: on any. */
DrvChunk *drv_pool_take_on(DrvPool *pool, DrvPoolUse use, gint node);

/* A chunk of 'size' bytes outside the pool, for messages and frames too small to deserve one of 128
 * KiB. The caller bounds how many there are. */
DrvChunk *drv_chunk_new_heap(gsize size);
/* The same, held against an account, which must outlive it. */
DrvChunk *drv_chunk_new_charged(gsize size, DrvAccount *account);

/* Gives a chunk back to wherever it came from. NULL is allowed. */
void drv_chunk_free(DrvChunk *chunk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvChunk, drv_chunk_free)

/* Promises room for up to 'want' RX chunks to a host; returns how many were granted: never more
 * than half of what is left beyond a part that is kept so that many later channels find 'least',
 * and 0 when fewer than that could be. 'share': the host's, which says what it holds already; NULL:
 * it has no claim to a first job's. Undo with drv_pool_unreserve(). */
guint drv_pool_reserve(DrvPool *pool, DrvShare *share, guint want, guint least);
void drv_pool_unreserve(DrvPool *pool, DrvShare *share, guint chunks);

/* Has 'wake(data)' called once, from whichever thread puts a TX chunk back, when drv_pool_take(TX)
 * gave NULL. The callback may only post mail. */
void drv_pool_wait(DrvPool *pool, void (*wake)(gpointer data), gpointer data);

/* The address and length of a slab, for registration with a ring. */
void drv_pool_slab(DrvPool *pool, guint slab, void **address, gsize *len);

/* A number that changes whenever slabs were given back to the system: registrations made before are
 * void. */
guint drv_pool_generation(DrvPool *pool);

/* Gives all memory back to the system if no chunk is held. Returns whether it did. */
gboolean drv_pool_trim(DrvPool *pool);

/* Bytes of memory taken from the system now. */
gsize drv_pool_bytes(DrvPool *pool);
void drv_pool_get_stats(DrvPool *pool, DrvPoolStats *stats);
