/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/job.h"

/*
 * What goes into the audit log (engine/host/audit.h): each job as it begins and as it ends, what
 * users ask for, what other hosts begin here or may not. Control thread only.
 */
typedef struct _DrvTrail DrvTrail;

/* DRV_ERROR_IO. */
DrvTrail *drv_trail_new(const char *state_dir, GError **error);
void drv_trail_free(DrvTrail *trail);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvTrail, drv_trail_free)

/* "begun", or "taken-up" of one that was found in the journal; and "ended", with its state. */
void drv_trail_job(DrvTrail *trail, const char *event, const DrvJob *job);

/* "asked": 'uid' is -1 where it is not known, 'job' and 'why' may be NULL. */
void drv_trail_asked(DrvTrail *trail, gint64 uid, const char *what, const char *job,
                     const GError *why);

/* "called", of what begins something here without being a job of this daemon, and "refused", where
 * 'why' is given: at most one of these a second, with a count of those in between, as a host that
 * is refused could fill the disk. */
void drv_trail_call(DrvTrail *trail, const char *peer, const char *op, JsonObject *args,
                    const GError *why);
