/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/peer.h"
#include "engine/host/config.h"

/*
 * Which hosts may do something here, and which may be sent something, by the names in their
 * certificates and the configuration's two lists. Both fail with DRV_ERROR_TLS: the certificate is
 * good, and not good enough.
 */

/* Whether the peer may make that call. Only what begins something is held against the list: what
 * belongs to a job that was let in goes on, whatever a new configuration says, as otherwise its
 * guest would run nowhere. */
gboolean drv_allow_call(const DrvConfig *config, const char *peer, const char *op, GError **error);

/* Whether something may be sent to the peer, which is connected. */
gboolean drv_allow_to(const DrvConfig *config, const char *peer, GError **error);
