/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/cli/client.h"

/*
 * Following a job to its end, with its progress on stderr, through interrupts and restarts of the
 * daemon.
 *
 * The jobs are the daemon's: whatever becomes of the follower, they go on. So the first interrupt
 * (SIGINT, SIGTERM) of a command that has begun a job asks for the job to be cancelled, and waits
 * on; the second leaves. A daemon that goes away is waited for, as it may be restarting.
 */
typedef struct {
    gboolean cancels;  /* the first interrupt cancels the job; otherwise it leaves */
    gboolean quiet;    /* the job is over at once: there is no progress to be shown */
    guint reconnect_s; /* how long a daemon that went away is waited for */
} DrvFollowOptions;

#define DRV_FOLLOW_RECONNECT_S 30

typedef struct _DrvFollow DrvFollow;

/* How far a job is followed; in each case to its end, if that comes before. */
typedef enum {
    DRV_FOLLOW_TO_END,
    DRV_FOLLOW_TO_SERVE, /* past its preparation: enough for a tunnel */
    DRV_FOLLOW_TO_HELD,  /* a copy of a group has arrived, and waits for the others */
} DrvFollowTo;

/* From here on signals are handled. 'client' is borrowed. */
DrvFollow *drv_follow_new(DrvClient *client, const DrvFollowOptions *options);
void drv_follow_free(DrvFollow *follow);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvFollow, drv_follow_free)

/* Whether a job was to be cancelled by an interrupt: others that belong to it are, too. */
gboolean drv_follow_interrupted(const DrvFollow *follow);

/* Posts what begins a job, and gives the job's id, owned by the caller. Fails as drv_client_call()
 * does. */
char *drv_follow_submit(DrvFollow *follow, const char *path, JsonObject *spec, GError **error);

/*
 * Follows the job until it is final or in doubt, or has got as far as 'to' says, and gives its
 * object, owned by the caller. May be called again.
 *
 * Fails with DRV_ERROR_IN_DOUBT where the end is not known: the daemon did not come back, or an
 * interrupt ended the wait. 'last' then receives what was last known of the job, owned by the
 * caller, or NULL.
 */
JsonObject *drv_follow_run(DrvFollow *follow, const char *id, DrvFollowTo to, JsonObject **last,
                           GError **error);
