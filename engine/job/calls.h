/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/peer.h"

/*
 * Calls of a job that wait for their answer, each with the session it came over: after a crash of
 * the source two sessions may speak for one job, and what the older one still brings must not cost
 * the newer one its answer. One call of a kind is kept for a session: of a call that was repeated
 * there the last is answered.
 */
typedef struct _DrvCalls DrvCalls;

DrvCalls *drv_calls_new(void);
void drv_calls_free(DrvCalls *calls);

void drv_calls_add(DrvCalls *calls, guint kind, DrvPeer *peer, guint64 id);
/* Whether one of that kind waits. */
gboolean drv_calls_wait(const DrvCalls *calls, guint kind);
/* Answers all of that kind, if any do wait, with what 'ok' holds now. */
void drv_calls_answer(DrvCalls *calls, guint kind, JsonObject *ok);
void drv_calls_refuse(DrvCalls *calls, guint kind, const GError *error);
/* The session is over: nobody waits for its calls. */
void drv_calls_forget(DrvCalls *calls, DrvPeer *peer);
