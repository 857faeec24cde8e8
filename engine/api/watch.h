/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <libsoup/soup.h>

#include "engine/api/backend.h"

/* Those who watch jobs: each is a response that stays open and gets one job object a line. */
typedef struct _DrvApiWatchers DrvApiWatchers;

/* More are refused. A watcher costs a connection and a few lines of memory. */
#define DRV_API_MAX_WATCHERS 32

#define DRV_API_MIN_INTERVAL_MS 50
#define DRV_API_MAX_INTERVAL_MS 10000
#define DRV_API_INTERVAL_MS 250

DrvApiWatchers *drv_api_watchers_new(const DrvApiBackend *ops, gpointer self);

/* Ends every watch where it is. */
void drv_api_watchers_free(DrvApiWatchers *watchers);

/*
 * Turns a request into a watch of the job 'id': sends the job at once, at each change, and every
 * 'interval_ms' while it is not final; ends after the final state. Fails, and leaves the message
 * alone, with DRV_ERROR_LIMIT, or where there is no such job.
 */
gboolean drv_api_watchers_add(DrvApiWatchers *watchers, SoupServerMessage *msg, const char *id,
                              guint interval_ms, GError **error);

/* Sends the job as it is now to those who watch it. */
void drv_api_watchers_changed(DrvApiWatchers *watchers, const char *id);
