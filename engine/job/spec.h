/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-glib/json-glib.h>

/* A number that was not given, and is for drover to choose. */
#define DRV_SPEC_AUTO ((gint64)-1)

/*
 * What a user asks of a migration, checked. It is what POST /jobs takes, what the journal keeps,
 * and what the job is run from after a restart.
 *
 * Only what can be judged from the values alone is judged here.
 */
typedef enum {
    DRV_SPEC_CODEC_AUTO,
    DRV_SPEC_CODEC_NONE,
    DRV_SPEC_CODEC_LZ4,
    DRV_SPEC_CODEC_ZSTD
} DrvSpecCodec;

typedef enum { DRV_SPEC_MODE_AUTO, DRV_SPEC_MODE_RELAY, DRV_SPEC_MODE_DIRECT } DrvSpecMode;

typedef enum { DRV_SPEC_VERIFY_STREAM, DRV_SPEC_VERIFY_MEMORY, DRV_SPEC_VERIFY_NONE } DrvSpecVerify;

/* What is done about a guest that writes faster than it gets across: it is waited for; its CPUs are
 * slowed down, and then it is given up; it is given up. */
typedef enum {
    DRV_SPEC_CONVERGE_WAIT,
    DRV_SPEC_CONVERGE_THROTTLE,
    DRV_SPEC_CONVERGE_GIVE_UP
} DrvSpecConverge;

typedef enum { DRV_SPEC_DISKS_NONE, DRV_SPEC_DISKS_MIRROR } DrvSpecDisks;

typedef enum { DRV_SPEC_CHAIN_FLATTEN, DRV_SPEC_CHAIN_KEEP } DrvSpecChain;

typedef struct {
    char *qmp;           /* "qmp": absolute path of the source QEMU's socket; required */
    char *to;            /* "to": ADDR:PORT of the destination daemon; required */
    char *dest_qmp;      /* "dest_qmp": the waiting QEMU's socket over there; required */
    char *name;          /* "name": what the VM is called in reports; NULL: as QEMU calls it */
    gint64 lanes;        /* "lanes": connections, 1 to 16; 0: drover chooses */
    DrvSpecCodec codec;  /* "codec": auto, none, lz4, zstd */
    DrvSpecMode mode;    /* "mode": auto, relay, direct */
    gint64 dedup_memory; /* "dedup_memory": to find duplicates, to 16 GiB; 0: none; DRV_SPEC_AUTO */
    gint64 multifd;      /* "multifd": QEMU's multifd channels, 1 to 255; 0: none */
    gint64 bandwidth;    /* "bandwidth": bytes a second on the wire, from 64 KiB; 0: unlimited */
    gint64 downtime_ms;  /* "downtime_ms": 1 to 2000000 (QEMU's own limit), default 300 */
    gint64 max_downtime_ms;   /* "max_downtime_ms": not below downtime_ms; 0: that */
    DrvSpecConverge converge; /* "converge": wait (default), throttle, give-up */
    gint64 timeout_s;         /* "timeout_s": of the whole job, at most 30 days; 0: none */
    DrvSpecVerify verify;     /* "verify": stream (default), memory, none */
    DrvSpecDisks disks;       /* "disks": none, mirror */
    DrvSpecChain disks_chain; /* "disks_chain": of backing files, flatten (default) or keep */
    gboolean disks_overwrite; /* "disks_overwrite": also disks that hold data */
    gboolean disks_delta;     /* "disks_delta": they hold older versions, send what differs */
    gint64 drop_timeout_s;    /* "drop_timeout_s": how long a lost link is waited for, 1 to 86400,
                                 default 60 */
    gboolean keep_source;     /* "keep_source": leave the source's QEMU there, stopped */
} DrvJobSpec;

/* Checks and takes over a JSON object. A member that is missing has its default; one that is not
 * known, of the wrong type (null too) or out of range is refused with its name, its value and what
 * is allowed. Fails with DRV_ERROR_USAGE. */
DrvJobSpec *drv_job_spec_from_json(JsonObject *object, GError **error);

/* The same from JSON text, as the journal keeps it. */
DrvJobSpec *drv_job_spec_parse(const char *text, GError **error);

/* Every member, defaults written out; a missing name is left out, and a number that was not given
 * and has no default. Owned by the caller. */
JsonObject *drv_job_spec_to_json(const DrvJobSpec *spec);
char *drv_job_spec_to_text(const DrvJobSpec *spec);

void drv_job_spec_free(DrvJobSpec *spec);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvJobSpec, drv_job_spec_free)
