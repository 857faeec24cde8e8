/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/transfer/transfer.h"

#include <json-glib/json-glib.h>

/*
 * What a link carries, found out by carrying: a channel of a session with random bytes at one end
 * and nothing at the other. It has the lowest class, so that migrations on the same link are not
 * slowed down. Control thread only.
 *
 * The call between the daemons is "probe.open" (docs/peer-protocol.md), made by the opening end's
 * owner as for other channels.
 */
typedef struct _DrvProbe DrvProbe;

/* It has ended: look at drv_probe_error(). May free the probe. */
typedef void (*DrvProbeChanged)(DrvProbe *probe, gpointer data);

/* The opening end, for at most 'bytes'. Fills 'args' for the call; nothing is sent before
 * drv_probe_accepted(). DRV_ERROR_LIMIT when there are no buffers left. */
DrvProbe *drv_probe_offer(DrvTransfer *transfer, DrvSession *session, guint64 bytes,
                          DrvProbeChanged changed, gpointer data, JsonObject *args, GError **error);
/* The peer has answered with 'ok'. */
gboolean drv_probe_accepted(DrvProbe *probe, JsonObject *ok, GError **error);
/* No more than what is under way. It has ended when that has arrived. */
void drv_probe_end(DrvProbe *probe);

/* The other end, which ends when the opening one does, or after DRV_PROBE_MAX_S. Makes the answer,
 * owned by the caller. */
#define DRV_PROBE_MAX_S 30
DrvProbe *drv_probe_accept(DrvTransfer *transfer, DrvSession *session, JsonObject *args,
                           DrvProbeChanged changed, gpointer data, JsonObject **ok, GError **error);

void drv_probe_free(DrvProbe *probe);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvProbe, drv_probe_free)

/* Bytes that have arrived at the other end. */
guint64 drv_probe_delivered(DrvProbe *probe);
/* What ended it before its time, or NULL. Borrowed. */
const GError *drv_probe_error(DrvProbe *probe);
