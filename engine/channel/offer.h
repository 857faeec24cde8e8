/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

#include "engine/transfer/session.h"

/* What two daemons tell each other of a channel that is being opened (docs/peer-protocol.md). */

/* The frames that the peer will take before it acknowledges any. FALSE and DRV_ERROR_PROTOCOL
 * unless it is 1 to DRV_CREDIT_MAX. */
gboolean drv_offer_credit(JsonObject *object, guint *credit, GError **error);
/* The number of the channel that the peer wants to open, and its credit. FALSE and
 * DRV_ERROR_PROTOCOL when it may not open that one. */
gboolean drv_offer_parse(JsonObject *args, DrvSession *session, guint32 *id, guint *credit,
                         GError **error);
