/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"
#include "qmp/client.h"

#include <json-glib/json-glib.h>

/*
 * The guest's memory for --verify memory: each end opens what it can read, both agree on the blocks
 * that they have in common, hash them while the guest is stopped at both, and the source compares.
 * What travels is JSON (docs/peer-protocol.md); what comes from the other end is checked here.
 * Control thread only, but for the hashing itself.
 */
typedef struct _DrvMemoryCheck DrvMemoryCheck;

/*
 * Finds and opens it. 'apart': QEMU itself changes a page of the low memory at each end (a PC under
 * KVM), which is to be compared page by page. Errors: those of libqmp,
 * drv_guest_blocks_find_async() and drv_guest_ram_open(), and DRV_ERROR_QEMU when the guest's main
 * block is not to be reached.
 */
void drv_memory_check_open_async(QmpClient *client, gboolean apart, guint timeout_ms,
                                 GCancellable *cancellable, GAsyncReadyCallback callback,
                                 gpointer user_data);
DrvMemoryCheck *drv_memory_check_open_finish(GAsyncResult *result, GError **error);
/* The same with memory that is open (taken). 'first': the block at the guest's address 0, if pages
 * of it are to be compared one by one; -1: none. */
DrvMemoryCheck *drv_memory_check_new(DrvGuestRam *ram, gint first);
DrvMemoryCheck *drv_memory_check_ref(DrvMemoryCheck *memory);
void drv_memory_check_unref(DrvMemoryCheck *memory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvMemoryCheck, drv_memory_check_unref)

/* What can be compared: [{"block":ID,"size":BYTES}], the biggest first, as many as fit into a
 * message. Owned by the caller. */
JsonArray *drv_memory_check_offer(const DrvMemoryCheck *memory);

/* What is to be hashed, at both ends alike. */
typedef struct _DrvMemoryPlan DrvMemoryPlan;
void drv_memory_plan_free(DrvMemoryPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvMemoryPlan, drv_memory_plan_free)

/* Source: all that is in the other end's offer, too. DRV_ERROR_MISMATCH when the main block is not
 * among it. */
DrvMemoryPlan *drv_memory_plan_new(const DrvMemoryCheck *memory, JsonArray *offer, GError **error);
/* Its bytes. */
guint64 drv_memory_plan_size(const DrvMemoryPlan *plan);
/* The ids of the blocks that are not in it. Owned by the caller. */
JsonArray *drv_memory_plan_left_out(const DrvMemoryPlan *plan);
/* The request to the other end, "seed" included, and what it makes of it (DRV_ERROR_PROTOCOL for
 * what it has not offered). Owned by the caller. */
JsonObject *drv_memory_plan_to_json(const DrvMemoryPlan *plan);
DrvMemoryPlan *drv_memory_plan_from_json(const DrvMemoryCheck *memory, JsonObject *request,
                                         GError **error);

/* Hashes, on threads of its own; what it needs is kept until they have ended, whoever gives it up
 * before. The result is the answer to the request. Errors: those of drv_guest_digest(). */
void drv_memory_plan_hash_async(const DrvMemoryPlan *plan, GCancellable *cancellable,
                                GAsyncReadyCallback callback, gpointer user_data);
JsonObject *drv_memory_plan_hash_finish(GAsyncResult *result, GError **error);

/*
 * Source: whether both answers say the same. 'changed' gets the page that only QEMU's own doing
 * makes different ("pc.ram 0xe8000"), or NULL. DRV_ERROR_MISMATCH with the first block that
 * differs, DRV_ERROR_PROTOCOL for an answer that makes no sense.
 */
gboolean drv_memory_compare(const DrvMemoryPlan *plan, JsonObject *ours, JsonObject *theirs,
                            char **changed, GError **error);
