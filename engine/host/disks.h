/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/*
 * A VM's disks as QEMU describes them (query-block), and which disk of one QEMU is which of
 * another that was started with the same options. Nothing here asks QEMU itself.
 */
typedef struct {
    char *name;         /* for people: the drive's id, the device's, or the node's name */
    char *drive;        /* -drive's id, "" for a -blockdev */
    char *qdev;         /* the device's path in QEMU; "" when none is attached */
    char *node;         /* the root node; "" without a medium */
    char *format;       /* the root node's driver: "qcow2", "raw" ...; "" without a medium */
    guint64 size;       /* bytes that the guest sees */
    gboolean medium;    /* there is one */
    gboolean read_only; /* ... which is not written to */
    gboolean removable; /* a CD drive, say */
    gboolean backing;   /* it has a backing file */
    gboolean encrypted; /* its image is; QEMU has the key */
} DrvDisk;

/* More are refused. */
#define DRV_DISKS_MAX 64

void drv_disk_free(DrvDisk *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDisk, drv_disk_free)

/* The answer to query-block as an array of DrvDisk, in QEMU's order. DRV_ERROR_LIMIT when there are
 * too many, DRV_ERROR_QEMU when one cannot be understood. */
GPtrArray *drv_disks_parse(JsonNode *answer, GError **error);

/* The one that 'id' means: a drive's id, a device's (or its path in QEMU), a node's name, looked
 * for in this order; borrowed. NULL: none. */
const DrvDisk *drv_disks_find(GPtrArray *disks, const char *id);
/* Their names, for people: "vda, vdb". */
char *drv_disks_list(GPtrArray *disks);

/* Whether it is to be moved: others hold nothing that the guest could have written. */
gboolean drv_disk_is_written(const DrvDisk *disk);
/* Why it is not moved: "no medium", "read-only". */
const char *drv_disk_skipped(const DrvDisk *disk);

/* For the other daemon: those that are written, and back. What makes no sense is refused with
 * DRV_ERROR_PROTOCOL. */
JsonArray *drv_disks_to_json(GPtrArray *disks);
GPtrArray *drv_disks_from_json(JsonArray *array, GError **error);

/* The disk of 'there' for each of 'disks', in their order (borrowed from 'there'; free the array).
 * DRV_ERROR_MISMATCH names the disk and what to do when one is missing, has no medium, is read-only
 * or of another size; or lacks the encryption or, with 'keep_chain', the backing file that it has
 * here. */
GPtrArray *drv_disks_pair(GPtrArray *disks, GPtrArray *there, gboolean keep_chain, GError **error);
