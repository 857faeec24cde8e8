/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * What one host, by the name in its certificate, holds here of what there is for all of them: it
 * may take no more than its share, so that whatever it does, others find what their jobs need. How
 * much that is stands with those who count: the pool (pool.h), the list of sessions (transfer.c),
 * messages and lanes here.
 */

/* Bytes that something holds, and that count for another as well. Atomic. */
typedef struct _DrvAccount DrvAccount;
struct _DrvAccount {
    gint bytes;
    DrvAccount *above; /* NULL: none */
};

void drv_account_add(DrvAccount *account, gsize bytes);
void drv_account_take(DrvAccount *account, gsize bytes);

typedef struct {
    char *name;          /* fixed */
    guint chunks;        /* of buffers promised; under the pool's lock */
    gint lanes;          /* atomic: connections that stand */
    DrvAccount messages; /* of all its sessions: what waits to be sent, to be acknowledged, or to be
                            taken */
} DrvShare;

/* Connections of one host, over all its sessions: a session has at most 16. */
#define DRV_SHARE_LANES 48
#define DRV_SHARE_LANES_FULL                                                                       \
    "your host has " G_STRINGIFY(DRV_SHARE_LANES) " connections here, as many as one host may: "   \
                                                  "use fewer lanes"
/* Bytes of messages of one host; a session may hold the little that calls and answers take whatever
 * the others hold. */
#define DRV_SHARE_MESSAGES (16 << 20)
#define DRV_SHARE_MESSAGES_LEAST (256 << 10)

/* Whether a session with this account, which counts for a share, has taken too much. */
gboolean drv_share_is_overdrawn(const DrvAccount *session);

/* All shares of a daemon. Thread-safe. */
typedef struct _DrvShares DrvShares;

DrvShares *drv_shares_new(void);
void drv_shares_free(DrvShares *shares);
/* The share of the host of this name. It lives as long as the table: an authority issues few names,
 * and no host can make its own. */
DrvShare *drv_shares_of(DrvShares *shares, const char *name);
