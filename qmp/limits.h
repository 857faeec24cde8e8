/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * What one connection may cost this process, whatever QEMU's side does. The defaults have room for
 * the largest reply there is (query-qmp-schema: 0.2 MiB, 20,000 values) and for hundreds of disks.
 */
typedef struct {
    gsize max_message;  /* bytes of one message from QEMU */
    guint max_depth;    /* objects and arrays in each other: json-glib's parser is recursive */
    guint max_values;   /* values in one message: each costs some 100 bytes once parsed */
    guint max_inflight; /* commands sent or queued and not answered */
    gsize max_unsent;   /* bytes queued for a QEMU that does not read */
} QmpLimits;

#define QMP_LIMITS_DEFAULT                                                                         \
    ((QmpLimits){.max_message = 16 << 20,                                                          \
                 .max_depth = 256,                                                                 \
                 .max_values = 1 << 18,                                                            \
                 .max_inflight = 256,                                                              \
                 .max_unsent = 4 << 20})
