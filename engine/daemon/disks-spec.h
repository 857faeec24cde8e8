/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/* What a user asks of 'drover disks', checked: the body of POST /v1/disks. */
typedef struct {
    char *qmp;           /* "qmp": absolute path of the QEMU's socket; required */
    char *to;            /* "to": ADDR:PORT of the destination's daemon; NULL: only look here */
    char *host;          /* ... of which this is the one part */
    guint16 port;        /* and this the other */
    gboolean create;     /* "create": make what is absent; needs "to" */
    gboolean keep_chain; /* "chain": "flatten" (default) or "keep" */
    char *dest_dir;      /* "dest_dir": absolute; NULL: the folders that they have here */
    char *dest_format;   /* "dest_format"; NULL: those that they have here */
    GHashTable *dest;    /* "dest": a disk's name → its absolute path there */
} DrvDisksSpec;

/* DRV_ERROR_USAGE. */
DrvDisksSpec *drv_disks_spec_from_json(JsonObject *object, GError **error);
void drv_disks_spec_free(DrvDisksSpec *spec);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvDisksSpec, drv_disks_spec_free)
