/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/guest-ram-private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/*
 * Which pages are zero because nobody ever gave them memory.
 *
 * To look at such a page is to change something: reading through the page table of QEMU gives a
 * page of shared memory or of hugetlbfs real memory, for nothing but zeros. A guest of which half
 * is untouched would double. So we look where the kernel tells without touching:
 *
 *   private, no file     the page table (pagemap): neither present nor swapped out, so untouched
 *   shared, of a file    a hole of the file, whatever page tables say: others may have filled it
 *   private, of a file   both: not in the page table, so the file's content counts, and that is a
 *                        hole
 *
 * Where one of them cannot be asked, nothing is known, and the page is read.
 */

#define PAGEMAP_USED (G_GUINT64_CONSTANT(7) << 61) /* present, swapped out, of a file */

int
drv_guest_open_pagemap(pid_t pid)
{
    char path[48];
    if (sysconf(_SC_PAGESIZE) != DRV_GUEST_PAGE)
        return -1;
    g_snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static gboolean
is_same(const struct stat *st, const DrvGuestMap *map)
{
    return S_ISREG(st->st_mode) && st->st_ino == map->inode && major(st->st_dev) == map->major &&
           minor(st->st_dev) == map->minor;
}

/* Opens what the link leads to if that is the file of the mapping. It is looked at before: merely
 * to open a device may do things. */
static int
open_if_same(const char *path, const DrvGuestMap *map)
{
    struct stat st;
    if (stat(path, &st) < 0 || !is_same(&st, map))
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !is_same(&st, map))) {
        close(fd);
        return -1;
    }
    return fd;
}

int
drv_guest_open_file(pid_t pid, const DrvGuestMap *map)
{
    char path[320];
    if (map->inode == 0)
        return -1;
    /* Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN ... */
    g_snprintf(path, sizeof path,
               "/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", (int)pid,
               map->start, map->end);
    int fd = open_if_same(path, map);
    if (fd >= 0)
        return fd;
    /* ... but QEMU keeps the file open, too. */
    g_snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir != NULL && fd < 0 && (name = g_dir_read_name(dir)) != NULL) {
        g_snprintf(path, sizeof path, "/proc/%d/fd/%s", (int)pid, name);
        fd = open_if_same(path, map);
    }
    return fd;
}

/* Leaves known[i] TRUE only for pages that are not in QEMU's page table. */
static void
keep_unmapped(int pagemap, guint64 page, guint n, gboolean *known)
{
    guint64 entries[DRV_GUEST_WINDOW];
    gssize got = pread(pagemap, entries, n * sizeof *entries, (off_t)(page * sizeof *entries));
    guint have = got < 0 ? 0 : (guint)((gsize)got / sizeof *entries);
    for (guint i = 0; i < n; i++)
        known[i] = known[i] && i < have && (entries[i] & PAGEMAP_USED) == 0;
}

/* Leaves known[i] TRUE only for pages that lie wholly in holes of the file. -1 has none. */
static void
keep_holes(int fd, guint64 start, guint n, gboolean *known)
{
    guint64 end = start + (guint64)n * DRV_GUEST_PAGE;
    for (guint64 at = start; at < end;) {
        gint64 data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return; /* holes only, from here on */
        gint64 hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
        /* What cannot be told counts as data. */
        guint64 from = data < 0 ? at : MAX((guint64)data, at);
        guint64 until = hole < 0 ? end : MIN((guint64)hole, end);
        for (guint64 i = (from - start) / DRV_GUEST_PAGE;
             i < n && start + i * DRV_GUEST_PAGE < until; i++)
            known[i] = FALSE;
        at = MAX(until, at + 1);
        if (from >= end)
            return;
    }
}

void
drv_guest_known_zero(const DrvGuestRam *ram, const DrvGuestPart *part, guint64 first, guint n,
                     gboolean *known)
{
    g_assert(n <= DRV_GUEST_WINDOW);
    for (guint i = 0; i < n; i++)
        known[i] = TRUE;
    if (!part->shared)
        keep_unmapped(ram->pagemap, part->info.hva / DRV_GUEST_PAGE + first, n, known);
    if (part->is_file)
        keep_holes(part->fd, part->fd_start + first * DRV_GUEST_PAGE, n, known);
}
