/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/client.h"

/*
 * What a QEMU says of the machine it runs: enough to tell before a migration that it cannot
 * succeed. QEMU itself finds most of these only when the stream has ended its own destination.
 */
typedef struct {
    char *block;  /* RAM block id, as in the migration stream */
    guint64 size; /* bytes, the most it can grow to */
} DrvVmBlock;

typedef struct {
    char *name;      /* of the guest; "" when it has none */
    char *status;    /* run state: "running", "paused", "inmigrate" ... */
    char *machine;   /* type, as "pc-i440fx-7.2" */
    char *cpu;       /* type, as "qemu64-x86_64-cpu"; "" when not known */
    char *version;   /* of QEMU */
    char *migration; /* query-migrate's status; "none" when there was no migration */
    gboolean running;
    gboolean kvm;
    guint cpus;
    guint64 memory;    /* bytes at start */
    GPtrArray *blocks; /* of DrvVmBlock */
} DrvVm;

void drv_vm_free(DrvVm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvVm, drv_vm_free)

/* Asks QEMU, all questions at once. Errors of libqmp. */
void drv_vm_describe_async(QmpClient *client, guint timeout_ms, GCancellable *cancellable,
                           GAsyncReadyCallback callback, gpointer user_data);
DrvVm *drv_vm_describe_finish(GAsyncResult *result, GError **error);

/* For the other daemon. */
JsonObject *drv_vm_to_json(const DrvVm *vm);
DrvVm *drv_vm_from_json(JsonObject *object);

/* Whether 'dest' can take what runs in 'source': machine type, CPUs and their type, memory, RAM
 * blocks. The error (DRV_ERROR_MISMATCH) names both values and how to start the destination. */
gboolean drv_vm_compatible(const DrvVm *source, const DrvVm *dest, GError **error);

/* The RAM blocks in the output of 'info ramblock'; lines that are not understood are passed over.
 */
GPtrArray *drv_vm_parse_ramblocks(const char *text);
