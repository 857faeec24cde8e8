/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/* What a user asks of a copy, checked. It is what POST /v1/copies takes, what the journal keeps,
 * and what the job is run from after a restart. */
typedef struct {
    char *image;       /* "image": absolute path; or */
    char *qmp;         /* "qmp": of a running guest's QEMU, absolute path, whose ... */
    char *disk;        /* "disk": ... is copied as it is at one moment */
    char *bitmap;      /* "bitmap": to begin in that disk's image then; or NULL */
    char *scratch;     /* "scratch": folder for what the guest overwrites; NULL: droverd's own */
    char *to;          /* "to": ADDR:PORT of the destination daemon; required */
    char *dest;        /* "dest": absolute path over there; required */
    char *format;      /* "format": the image's; NULL: as QEMU sees it */
    char *dest_format; /* "dest_format"; NULL: the same */
    char *options;     /* "options": of the format, as qemu-img create -o takes them; or NULL */
    gboolean compress; /* "compress": qcow2 */
    gboolean whole;    /* "delta": "off", an older version there is not made use of; or "auto" */
    char *since;       /* "since": a bitmap in the image, begun when 'base' was copied; or NULL */
    char *base;        /* "base": the digest of that copy; given with "since" only */
    char *group;       /* "group": whose images get their names together; NULL: none */
    gint64 of;         /* "of": how many of them there are, 2 to 64 */
    gint64 lanes;      /* "lanes": 1 to 16; 0: drover chooses */
    gint64 bandwidth;  /* "bandwidth": bytes a second on the wire, from 64 KiB; 0: unlimited */
    gint64 drop_timeout_s; /* "drop_timeout_s": how long a lost link, or the other daemon, is waited
                              for, 1 to 86400 */
    char *host;            /* of 'to' */
    guint16 port;
} DrvCopySpec;

/* DRV_ERROR_USAGE names the member, its value and what is allowed. */
DrvCopySpec *drv_copy_spec_from_json(JsonObject *object, GError **error);
DrvCopySpec *drv_copy_spec_parse(const char *text, GError **error);
void drv_copy_spec_free(DrvCopySpec *spec);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvCopySpec, drv_copy_spec_free)

/* Which guest's QMP socket a journal's record says that it holds; owned by the caller. NULL: none,
 * or it is no copy's. */
char *drv_copy_spec_qmp(const char *text);
/* Which group a journal's record belongs to, likewise. */
char *drv_copy_spec_group(const char *text);
/* Whether a journal's record is that of a copy, by its spec. */
gboolean drv_copy_spec_is(const char *text);
/* Marks a spec so. */
void drv_copy_spec_mark(JsonObject *object);
