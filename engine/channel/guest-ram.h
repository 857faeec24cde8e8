/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

/*
 * A guest's RAM from outside: read and written in the memory of its QEMU, whether that is private
 * or shared, of small or of huge pages. docs/guest-ram.md says what it takes.
 *
 * Where the RAM is, guest-blocks.h finds out. It is only believed as far as the process agrees: a
 * block whose range is not wholly mapped and writable there is not reachable. A handle belongs to
 * one process and never touches another, also when QEMU has ended and its pid is somebody else's.
 *
 * A handle does not change once it is open: every function may be called by any thread, by several
 * at once. They block for as long as copying takes. Two that write the same bytes at once leave
 * either's: order is the caller's business.
 */
typedef struct _DrvGuestRam DrvGuestRam;

#define DRV_GUEST_PAGE 4096u

typedef struct {
    char id[256];    /* as in QEMU's stream, terminated */
    guint64 size;    /* bytes */
    guint64 hva;     /* where it begins in QEMU's memory; 0: not reachable */
    const char *why; /* hva 0: a few words why ("read-only"), or NULL. Borrowed, also by copies */
} DrvGuestBlock;

/*
 * For the process 'pid', which must not have ended unnoticed before: have the QMP connection that
 * named it still open. 'blocks' is copied; blocks are then known by their index in it. That some,
 * or all, are not reachable is no error: drv_guest_ram_why().
 *
 * Errors: DRV_ERROR_USAGE when droverd is not permitted to reach into QEMU's memory, with what it
 * would take; DRV_ERROR_QEMU when there is no such process; DRV_ERROR_IO.
 */
DrvGuestRam *drv_guest_ram_open(pid_t pid, const DrvGuestBlock *blocks, guint n, GError **error);
/* No function of it may be under way. NULL is fine. */
void drv_guest_ram_free(DrvGuestRam *ram);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvGuestRam, drv_guest_ram_free)

guint drv_guest_ram_blocks(const DrvGuestRam *ram);
/* Owned by the handle. hva is 0 when it is not reachable, for whatever reason. */
const DrvGuestBlock *drv_guest_ram_block(const DrvGuestRam *ram, guint block);
/* Why a block is not reachable: a few words, to follow "RAM block 'x' is not reachable: ". NULL
 * when it is. Owned by the handle. */
const char *drv_guest_ram_why(const DrvGuestRam *ram, guint block);

/* The index of the reachable block with this id ('id_len' bytes, as a stream has them) and size;
 * -1: there is none. */
gint drv_guest_ram_find(const DrvGuestRam *ram, const char *id, gsize id_len, guint64 size);

/* The biggest block, which is the guest's RAM proper: without it there is little to be gained by
 * reaching the others. -1, and DRV_ERROR_QEMU, when it is not reachable. */
gint drv_guest_ram_main(const DrvGuestRam *ram, GError **error);

/*
 * The functions below all check their bounds first. Errors:
 *   DRV_ERROR_PROTOCOL  no such block, or beyond its end; nothing was done
 *   DRV_ERROR_QEMU      QEMU has ended, or took that memory away
 *   DRV_ERROR_USAGE     not permitted any more
 * After the latter two a part may have been done.
 */

/* 'len' bytes for 'offset' of a block. */
typedef struct {
    guint block;
    guint64 offset;
    const void *data;
    gsize len;
} DrvGuestRun;

/* Writes all runs, in their order, in as few calls of the kernel as it takes. All bounds are
 * checked before the first is written. */
gboolean drv_guest_ram_write(DrvGuestRam *ram, const DrvGuestRun *runs, guint n, GError **error);

/* Makes whole pages zero ('offset' and 'len' in bytes, multiples of DRV_GUEST_PAGE, otherwise
 * DRV_ERROR_PROTOCOL). Pages that are zero are left alone, and those that QEMU has no memory for
 * yet get none. 'written', or NULL, gets the number of bytes that had to be written. */
gboolean drv_guest_ram_zero(DrvGuestRam *ram, guint block, guint64 offset, guint64 len,
                            guint64 *written, GError **error);

/* Room for 'len' bytes from 'offset' of a block on. */
typedef struct {
    guint block;
    guint64 offset;
    void *data;
    gsize len;
} DrvGuestRoom;

/* Fills all rooms, in as few calls of the kernel as it takes. All bounds are checked before the
 * first is read. */
gboolean drv_guest_ram_read_all(DrvGuestRam *ram, const DrvGuestRoom *rooms, guint n,
                                GError **error);
/* The same for one. */
gboolean drv_guest_ram_read(DrvGuestRam *ram, guint block, guint64 offset, void *data, gsize len,
                            GError **error);
