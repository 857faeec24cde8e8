/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/extents.h"

/*
 * An open image as a row of bytes: a raw file or device, or anything that QEMU reads and writes,
 * through qemu-nbd. Several threads use one store, each under a number of its own below what the
 * store was opened for: that is its connection. Calls block, but for _ahead() and _write().
 */
typedef struct _DrvStore DrvStore;

typedef struct {
    gboolean (*read)(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len,
                     GError **error);
    /* NULL: nothing is read ahead */
    void (*ahead)(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len);
    gboolean (*write)(DrvStore *store, guint user, guint64 offset, const guint8 *bytes, gsize len,
                      GError **error);
    /* Names the path by itself. NULL: nothing is under way when a call returns */
    gboolean (*settle)(DrvStore *store, guint user, GError **error);
    gboolean (*zero)(DrvStore *store, guint user, guint64 offset, guint64 len, GError **error);
    gboolean (*extent)(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *zero,
                       GError **error);
    /* NULL: nothing is known of changes */
    gboolean (*changed)(DrvStore *store, guint user, guint64 offset, guint64 *len,
                        gboolean *changed, GError **error);
    gboolean (*flush)(DrvStore *store, guint user, GError **error);
    gboolean (*close)(DrvStore *store, GError **error);
} DrvStoreOps;

struct _DrvStore {
    const DrvStoreOps *ops;
    guint64 size;
    guint users;
    gboolean writable;
    char *shown; /* the path in messages */
};

/* What fails names the path and, where QEMU or the system gave any, the reason. Ranges lie within
 * the size. */
gboolean drv_store_read(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len,
                        GError **error);
/* Tells what the user's next _read() will be, so that it can be under way meanwhile: 'bytes' are in
 * use until that, or _settle(). */
void drv_store_ahead(DrvStore *store, guint user, guint64 offset, guint8 *bytes, gsize len);
/* May only begin it: 'bytes' are in use, and a failure may not be known, until _settle(). */
gboolean drv_store_write(DrvStore *store, guint user, guint64 offset, const guint8 *bytes,
                         gsize len, GError **error);
/* Waits for all that the user has under way. */
gboolean drv_store_settle(DrvStore *store, guint user, GError **error);
/* Memory that any store likes to read into and write from, best in one piece of some MiB;
 * g_aligned_free() it. */
guint8 *drv_store_buffer(gsize len);
/* Makes the range read as zeros, as a hole where that is possible. */
gboolean drv_store_zero(DrvStore *store, guint user, guint64 offset, guint64 len, GError **error);
/* How far, from 'offset' on, all is data or all is known to be zeros; at least 1 byte. */
gboolean drv_store_extent(DrvStore *store, guint user, guint64 offset, guint64 *len, gboolean *zero,
                          GError **error);
/* The same for what was changed since the bitmap that the store was opened with began; where there
 * is none, all was. */
gboolean drv_store_changed(DrvStore *store, guint user, guint64 offset, guint64 *len,
                           gboolean *changed, GError **error);
/* All that was written is on the disk. */
gboolean drv_store_flush(DrvStore *store, guint user, GError **error);
/* Closes and frees it. A failure of a store that was written to means that it is not whole; for
 * those that are given up, 'error' may be NULL. */
gboolean drv_store_close(DrvStore *store, GError **error);

/* For those that make stores: 'errno' as an error, with what to do about it. FALSE. */
gboolean drv_store_errno(GError **error);

/* The raw file or device behind 'fd' (taken). What the page cache has is read from there, all else,
 * and all that is written, goes past it where the file system allows that. */
DrvStore *drv_store_raw(int fd, guint64 size, guint users, gboolean writable, const char *shown);

typedef struct {
    const char *path;   /* for qemu-nbd: below DRV_TOOL_FD_PATH where 'fd' is given */
    const char *format; /* never NULL: nothing is guessed twice */
    const char *shown;
    const char *bitmap; /* that tells what was changed; NULL: none */
    int fd;             /* becomes qemu-nbd's DRV_TOOL_FD; -1: none. Stays the caller's */
    guint users;
    gboolean writable;
    gboolean compress;
    gboolean direct; /* past the page cache, which the file system must know how to do */
} DrvStoreNbdParams;

/* DRV_ERROR_QEMU with QEMU's words. */
DrvStore *drv_store_nbd(const DrvStoreNbdParams *params, GError **error);

/* The same as _nbd(), read-only, for an image that is all in the one file 'fd' (taken) and locked:
 * what lies in that as it is, is read there. 'size' is the virtual disk's. */
DrvStore *drv_store_mapped(int fd, const DrvStoreNbdParams *params, guint64 size, GError **error);

/* The same where 'extents' (taken) tell already where that is, and none of it is QEMU's to read. */
DrvStore *drv_store_extents(int fd, GArray *extents, guint users, const char *shown);

/* What somebody serves over NBD at the unix socket 'socket': not ours to end, and only read. It is
 * connected to, and not of use before it has been greeted, which blocks. */
DrvStore *drv_store_export(const char *socket, const char *shown, guint users, GError **error);
/* Before that: it is to be asked for nothing but reads, and none beyond a multiple of 64 KiB. */
void drv_store_export_plain(DrvStore *store);
/* Asks for what is served under that name. */
gboolean drv_store_export_greet(DrvStore *store, const char *name, GError **error);
/* Any thread: whatever is asked of such a store fails from now on, also what is under way. */
void drv_store_export_break(DrvStore *store);

/* An empty qcow2 in 'fd' (taken), QEMU's or ours: it can be written once, each byte only once, and
 * is an image when it has been flushed. NULL where that must be left to QEMU. */
DrvStore *drv_store_qcow2(int fd, guint64 size, guint users, const char *shown);
/* Makes the empty file 'fd' such a one, as qemu-img makes them without options. FALSE where it
 * cannot be: qemu-img knows how, or why not. */
gboolean drv_store_qcow2_make(int fd, guint64 size);
