/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * The audit log: who moved what where, when and how it ended. audit.log in the state directory, one
 * JSON object a line, only ever appended to:
 *
 *   {"n":7,"at":"2026-01-31T12:00:00Z","event":"ended",...,"prev":"DIGEST","digest":"DIGEST"}
 *
 * 'digest' is the SHA-256 of the line before that member, and 'prev' the digest of the line before
 * (of the first: zeroes). So no line can be changed, taken out or put in without all that follow
 * being made anew. That the end was not cut off is told from audit.log.last, which has the number
 * and digest of the last entry, and from any digest that was noted elsewhere: the only thing that
 * helps against somebody who may write both files.
 *
 * Control thread only.
 */
typedef struct _DrvAudit DrvAudit;

/*
 * Goes on with the log in that directory, or begins one. A log that does not hold together is put
 * aside under another name, and the new one begins by saying so: a daemon that has guests to look
 * after starts all the same. DRV_ERROR_IO.
 */
DrvAudit *drv_audit_open(const char *state_dir, GError **error);
void drv_audit_close(DrvAudit *audit);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvAudit, drv_audit_close)

/* Adds an entry, and returns when the disk has it. 'what' is taken: flat, its texts are cut to 512
 * bytes. If it cannot be written there is a warning, and no more: no guest is lost for want of
 * room in a log. */
void drv_audit_add(DrvAudit *audit, const char *event, JsonObject *what);

#define DRV_AUDIT_DIGEST 64

/* Where a log ends. */
typedef struct {
    guint64 entries;
    char digest[DRV_AUDIT_DIGEST + 1];
} DrvAuditEnd;

/*
 * Whether a log holds together, and has not been cut since PATH.last was written and, unless it is
 * NULL, since 'noted' was the digest of an entry. DRV_ERROR_STATE says what is wrong, with the
 * line; DRV_ERROR_IO when it cannot be read.
 */
gboolean drv_audit_verify(const char *path, const char *noted, DrvAuditEnd *end, GError **error);
