/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The one error domain of drover's own code. Libraries below keep theirs (QMP_ERROR, G_IO_ERROR
 * ...).
 *
 * A message is one sentence without a final full stop that names what was wrong and, where the user
 * can do something, what. Callers add context on the way up with g_prefix_error(); the top logs it
 * once.
 */
#define DRV_ERROR (drv_error_quark())

typedef enum {
    DRV_ERROR_USAGE,       /* bad option, value or configuration: nothing was touched */
    DRV_ERROR_IO,          /* a file, socket or the state directory failed */
    DRV_ERROR_UNREACHABLE, /* the peer, a socket or a QEMU does not answer */
    DRV_ERROR_TLS,         /* a certificate or the TLS handshake was refused */
    DRV_ERROR_PROTOCOL,    /* the peer broke drover's protocol or speaks another version */
    DRV_ERROR_QEMU,        /* QEMU refused or failed; the message carries its own words */
    DRV_ERROR_STATE,    /* not possible in the present state (VM already migrating, illegal move) */
    DRV_ERROR_MISMATCH, /* source and destination machines differ, or a digest does */
    DRV_ERROR_TIMEOUT,  /* a deadline passed */
    DRV_ERROR_CANCELLED, /* the user asked for it */
    DRV_ERROR_NOT_FOUND, /* no such job, channel or session */
    DRV_ERROR_LIMIT,     /* a bound on memory, channels or frames was reached */
    DRV_ERROR_IN_DOUBT,  /* which side runs the guest is not known: needs 'drover resolve' */
    DRV_ERROR_LAST
} DrvErrorCode;

GQuark drv_error_quark(void);

/* The stable name of a code, for JSON ("usage", "io", "unreachable" ...). Static storage. */
const char *drv_error_code_name(DrvErrorCode code);

/* The reverse, for errors from a peer; DRV_ERROR_IO for a name that is not known. */
DrvErrorCode drv_error_code_parse(const char *name);

/* The name for any GError: DRV_ERROR codes by name, other domains as "io". Static storage. */
const char *drv_error_name(const GError *error);
