/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/guest-ram-private.h"

#include "common/error.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * process_vm_writev and process_vm_readv copy straight between two processes: no mapping to be
 * agreed on with QEMU, and private memory is reached like shared memory. The kernel takes the pages
 * of a range in batches, so long runs are what is fast: a call for each page costs as much again
 * as copying it.
 *
 * They name the process by its number only. So a pidfd is held, and asked before each call whether
 * it is still that process. (Numbers are given out in a circle: between the question and the call
 * it would have to come round.)
 *
 * Shared memory of which we have the file is read through that: holes then stay holes.
 */

#define MAX_IOV 256
#define ZEROS 65536u

static const guint8 zeros[ZEROS];

/* --- what went wrong --- */

static gboolean
fail_gone(const DrvGuestRam *ram, GError **error)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "QEMU (pid %d) has ended", (int)ram->pid);
    return FALSE;
}

/* The effective user of a process, -1: not known. Not the owner of /proc/PID, which is root for
 * those that the kernel protects. */
static gint64
user_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid);
    g_autofree char *text = NULL;
    guint uid;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return -1;
    const char *line = strstr(text, "\nUid:");
    return line != NULL && sscanf(line, "\nUid: %*u %u", &uid) == 1 ? (gint64)uid : -1;
}

static gboolean
fail_permission(pid_t pid, GError **error)
{
    g_autofree char *scope = NULL;
    gint64 user = user_of(pid);
    g_file_get_contents("/proc/sys/kernel/yama/ptrace_scope", &scope, NULL, NULL);
    if (user >= 0 && user != geteuid())
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "droverd may not reach into the memory of QEMU (pid %d), which runs as user "
                    "%d while droverd runs as user %u without CAP_SYS_PTRACE: give it that "
                    "capability, or run both as the same user",
                    (int)pid, (int)user, geteuid());
    else if (scope != NULL && atoi(scope) > 0)
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "droverd may not reach into the memory of QEMU (pid %d), as "
                    "kernel.yama.ptrace_scope is %d: give it CAP_SYS_PTRACE, or set that to 0",
                    (int)pid, atoi(scope));
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_USAGE,
                    "droverd may not reach into the memory of QEMU (pid %d), which the kernel "
                    "protects: give droverd CAP_SYS_PTRACE",
                    (int)pid);
    return FALSE;
}

static gboolean
is_gone(const DrvGuestRam *ram)
{
    struct pollfd p = {.fd = ram->pidfd, .events = POLLIN};
    int n;
    while ((n = poll(&p, 1, 0)) < 0 && errno == EINTR)
        ;
    return n != 0; /* that it cannot be asked, too */
}

static gboolean
fail_copy(const DrvGuestRam *ram, const DrvGuestPart *part, guint64 offset, int err, GError **error)
{
    if (err == ESRCH || is_gone(ram))
        return fail_gone(ram, error);
    if (err == EPERM)
        return fail_permission(ram->pid, error);
    if (err == EFAULT)
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "QEMU (pid %d) has no memory at %" G_GUINT64_FORMAT
                    " of RAM block '%s': it was unplugged, or the host has run out of memory or of "
                    "huge pages",
                    (int)ram->pid, offset, part->info.id);
    else
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "cannot reach %" G_GUINT64_FORMAT " of RAM block '%s' in QEMU (pid %d): %s",
                    offset, part->info.id, (int)ram->pid, g_strerror(err));
    return FALSE;
}

/* --- bounds --- */

static const DrvGuestPart *
find_part(const DrvGuestRam *ram, guint block, guint64 offset, guint64 len, GError **error)
{
    if (block >= ram->n || ram->parts[block].why != NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "there is no RAM block %u that can be reached from outside", block);
        return NULL;
    }
    const DrvGuestPart *part = &ram->parts[block];
    if (offset <= part->info.size && len <= part->info.size - offset)
        return part;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT " are beyond the end of RAM "
                "block '%s', which has %" G_GUINT64_FORMAT,
                len, offset, part->info.id, part->info.size);
    return NULL;
}

/* --- copying --- */

typedef gssize (*CopyFunc)(pid_t, const struct iovec *, unsigned long, const struct iovec *,
                           unsigned long, unsigned long);

/* Pieces of ours and of QEMU's of the same lengths, pair by pair. */
typedef struct {
    struct iovec ours[MAX_IOV], theirs[MAX_IOV];
    guint first, n;
} Pieces;

static void
add_piece(Pieces *pieces, const DrvGuestPart *part, guint64 offset, const void *data, gsize len)
{
    if (len == 0)
        return;
    pieces->ours[pieces->n] = (struct iovec){(void *)data, len};
    pieces->theirs[pieces->n++] = (struct iovec){(void *)(guintptr)(part->info.hva + offset), len};
}

/* Drops the first 'n' bytes. */
static void
advance(Pieces *pieces, gsize n)
{
    while (n > 0) {
        struct iovec *ours = &pieces->ours[pieces->first];
        struct iovec *theirs = &pieces->theirs[pieces->first];
        gsize part = MIN(n, ours->iov_len);
        *ours = (struct iovec){(guint8 *)ours->iov_base + part, ours->iov_len - part};
        *theirs = (struct iovec){(guint8 *)theirs->iov_base + part, theirs->iov_len - part};
        n -= part;
        if (ours->iov_len == 0)
            pieces->first++;
    }
}

/* Which block an address is in; for error messages. */
static const DrvGuestPart *
part_at(const DrvGuestRam *ram, guint64 address)
{
    for (guint i = 0; i < ram->n; i++) {
        const DrvGuestPart *part = &ram->parts[i];
        if (part->why == NULL && address - part->info.hva < part->info.size)
            return part;
    }
    g_return_val_if_reached(&ram->parts[0]);
}

/* Copies all pieces, and leaves none. */
static gboolean
copy(const DrvGuestRam *ram, Pieces *pieces, CopyFunc func, GError **error)
{
    while (pieces->first < pieces->n) {
        if (is_gone(ram))
            return fail_gone(ram, error);
        guint count = pieces->n - pieces->first;
        const struct iovec *theirs = &pieces->theirs[pieces->first];
        gssize n = func(ram->pid, &pieces->ours[pieces->first], count, theirs, count, 0);
        if (n <= 0) {
            guint64 address = (guint64)(guintptr)theirs->iov_base;
            const DrvGuestPart *part = part_at(ram, address);
            return fail_copy(ram, part, address - part->info.hva, n < 0 ? errno : EFAULT, error);
        }
        advance(pieces, (gsize)n);
    }
    pieces->first = pieces->n = 0;
    return TRUE;
}

/* Their bounds are known to be good. */
static gboolean
write_runs(DrvGuestRam *ram, const DrvGuestRun *runs, guint n, GError **error)
{
    Pieces pieces;
    pieces.first = pieces.n = 0;
    for (guint i = 0; i < n; i++) {
        add_piece(&pieces, &ram->parts[runs[i].block], runs[i].offset, runs[i].data, runs[i].len);
        if (pieces.n == MAX_IOV && !copy(ram, &pieces, process_vm_writev, error))
            return FALSE;
    }
    return copy(ram, &pieces, process_vm_writev, error);
}

/* Block by block, each with what was planned for it. */
static gboolean
write_placed(DrvGuestRam *ram, const DrvGuestRun *runs, guint n, GError **error)
{
    gboolean good = TRUE;
    for (guint i = 0, of_block; i < n && good; i += of_block) {
        for (of_block = 1; i + of_block < n && runs[i + of_block].block == runs[i].block;)
            of_block++;
        drv_guest_placing_begin(ram->placing, runs[i].block);
        good = write_runs(ram, &runs[i], of_block, error);
        drv_guest_placing_end(ram, &runs[i], of_block);
    }
    return good;
}

gboolean
drv_guest_ram_write(DrvGuestRam *ram, const DrvGuestRun *runs, guint n, GError **error)
{
    for (guint i = 0; i < n; i++)
        if (find_part(ram, runs[i].block, runs[i].offset, runs[i].len, error) == NULL)
            return FALSE;
    return ram->placing != NULL ? write_placed(ram, runs, n, error)
                                : write_runs(ram, runs, n, error);
}

static gboolean
read_file(const DrvGuestRam *ram, const DrvGuestPart *part, guint64 offset, guint8 *data, gsize len,
          GError **error)
{
    if (is_gone(ram))
        return fail_gone(ram, error);
    while (len > 0) {
        gssize n = pread(part->fd, data, len, (off_t)(part->fd_start + offset));
        if (n <= 0)
            return fail_copy(ram, part, offset, n < 0 ? errno : EFAULT, error);
        data += n;
        offset += (gsize)n;
        len -= (gsize)n;
    }
    return TRUE;
}

gboolean
drv_guest_ram_read_all(DrvGuestRam *ram, const DrvGuestRoom *rooms, guint n, GError **error)
{
    Pieces pieces;
    pieces.first = pieces.n = 0;
    for (guint i = 0; i < n; i++)
        if (find_part(ram, rooms[i].block, rooms[i].offset, rooms[i].len, error) == NULL)
            return FALSE;
    for (guint i = 0; i < n; i++) {
        const DrvGuestPart *part = &ram->parts[rooms[i].block];
        gboolean by_file = part->shared && part->fd >= 0;
        if (by_file && !read_file(ram, part, rooms[i].offset, rooms[i].data, rooms[i].len, error))
            return FALSE;
        if (!by_file)
            add_piece(&pieces, part, rooms[i].offset, rooms[i].data, rooms[i].len);
        if (pieces.n == MAX_IOV && !copy(ram, &pieces, process_vm_readv, error))
            return FALSE;
    }
    return copy(ram, &pieces, process_vm_readv, error);
}

gboolean
drv_guest_ram_read(DrvGuestRam *ram, guint block, guint64 offset, void *data, gsize len,
                   GError **error)
{
    DrvGuestRoom room = {.block = block, .offset = offset, .data = data, .len = len};
    return drv_guest_ram_read_all(ram, &room, 1, error);
}

/* --- zero --- */

static gboolean
is_zero(const guint8 *page)
{
    return page[0] == 0 && memcmp(page, page + 1, DRV_GUEST_PAGE - 1) == 0;
}

/* Pages that may hold something, at most ZEROS bytes: those that do are written. */
static gboolean
zero_pages(DrvGuestRam *ram, guint block, guint64 offset, gsize len, guint64 *written,
           GError **error)
{
    guint8 content[ZEROS];
    DrvGuestRun runs[ZEROS / DRV_GUEST_PAGE];
    guint n = 0;
    if (!drv_guest_ram_read(ram, block, offset, content, len, error))
        return FALSE;
    for (gsize at = 0; at < len; at += DRV_GUEST_PAGE) {
        if (is_zero(content + at))
            continue;
        DrvGuestRun *last = n > 0 ? &runs[n - 1] : NULL;
        if (last != NULL && last->offset + last->len == offset + at)
            last->len += DRV_GUEST_PAGE;
        else
            runs[n++] = (DrvGuestRun){block, offset + at, zeros, DRV_GUEST_PAGE};
        *written += DRV_GUEST_PAGE;
    }
    return drv_guest_ram_write(ram, runs, n, error);
}

gboolean
drv_guest_ram_zero(DrvGuestRam *ram, guint block, guint64 offset, guint64 len, guint64 *written,
                   GError **error)
{
    gboolean known[DRV_GUEST_WINDOW];
    guint64 sum = 0;
    const DrvGuestPart *part = find_part(ram, block, offset, len, error);
    if (part == NULL)
        return FALSE;
    if ((offset | len) % DRV_GUEST_PAGE != 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT
                    " of RAM block '%s' are not whole pages",
                    len, offset, part->info.id);
        return FALSE;
    }
    if (is_gone(ram))
        return fail_gone(ram, error);
    guint64 page = offset / DRV_GUEST_PAGE, end = (offset + len) / DRV_GUEST_PAGE;
    while (page < end) {
        guint n = (guint)MIN(end - page, DRV_GUEST_WINDOW);
        drv_guest_known_zero(ram, part, page, n, known);
        for (guint i = 0, run; i < n; i += MAX(run, 1)) {
            for (run = 0; i + run < n && !known[i + run] && run < ZEROS / DRV_GUEST_PAGE;)
                run++;
            if (run > 0 && !zero_pages(ram, block, (page + i) * DRV_GUEST_PAGE,
                                       (gsize)run * DRV_GUEST_PAGE, &sum, error))
                return FALSE;
        }
        page += n;
    }
    if (written != NULL)
        *written = sum;
    return TRUE;
}

/* --- opening --- */

static void
refuse(DrvGuestPart *part, const char *why)
{
    part->why = g_strdup(why);
    part->info.hva = 0;
}

static gboolean
cover_parts(const DrvGuestRam *ram, DrvGuestCover *covers, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)ram->pid);
    FILE *file = fopen(path, "re");
    if (file == NULL && (errno == EACCES || errno == EPERM))
        return fail_permission(ram->pid, error);
    if (file == NULL && (errno == ENOENT || errno == ESRCH))
        return fail_gone(ram, error);
    if (file == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "cannot read %s: %s", path, g_strerror(errno));
        return FALSE;
    }
    for (guint i = 0; i < ram->n; i++)
        drv_guest_cover_init(&covers[i], ram->parts[i].info.hva, ram->parts[i].info.size);
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, file) >= 0) {
        DrvGuestMap map;
        for (guint i = 0; drv_guest_map_parse(line, &map) && i < ram->n; i++)
            drv_guest_cover_add(&covers[i], &map);
    }
    free(line);
    fclose(file);
    return TRUE;
}

/* The first byte shows whether we are permitted; what is device memory shows here, too: it cannot
 * be reached like this. */
static gboolean
try_part(const DrvGuestRam *ram, DrvGuestPart *part, GError **error)
{
    guint8 byte;
    struct iovec ours = {&byte, 1};
    struct iovec theirs = {(void *)(guintptr)part->info.hva, 1};
    if (process_vm_readv(ram->pid, &ours, 1, &theirs, 1, 0) == 1)
        return TRUE;
    if (errno == EPERM || errno == ESRCH || is_gone(ram))
        return fail_copy(ram, part, 0, errno, error);
    refuse(part, "its memory cannot be reached from outside QEMU");
    return TRUE;
}

static gboolean
open_part(DrvGuestRam *ram, DrvGuestPart *part, const DrvGuestCover *cover, GError **error)
{
    const char *problem = drv_guest_cover_problem(cover);
    if (part->info.hva == 0)
        problem = part->info.why != NULL ? part->info.why : "its address is not known";
    else if (part->info.hva % DRV_GUEST_PAGE != 0 || part->info.size % DRV_GUEST_PAGE != 0)
        problem = "it is not made of whole pages";
    if (problem != NULL) {
        refuse(part, problem);
        return TRUE;
    }
    if (!try_part(ram, part, error))
        return FALSE;
    part->shared = cover->first.shared;
    part->is_file = cover->first.inode != 0;
    part->fd_start = cover->first.offset + (cover->start - cover->first.start);
    if (part->why == NULL)
        part->fd = drv_guest_open_file(ram->pid, &cover->first);
    return TRUE;
}

/* Two blocks in the same place: one of them is not where it is said to be. */
static void
refuse_overlaps(DrvGuestRam *ram)
{
    g_autofree gboolean *bad = g_new0(gboolean, ram->n);
    for (guint i = 0; i < ram->n; i++)
        for (guint j = 0; j < i; j++) {
            const DrvGuestBlock *a = &ram->parts[i].info, *b = &ram->parts[j].info;
            if (a->hva != 0 && b->hva != 0 && a->hva < b->hva + b->size &&
                b->hva < a->hva + a->size)
                bad[i] = bad[j] = TRUE;
        }
    for (guint i = 0; i < ram->n; i++)
        if (bad[i])
            refuse(&ram->parts[i], "its range of addresses is that of another block, too");
}

static gboolean
open_parts(DrvGuestRam *ram, GError **error)
{
    g_autofree DrvGuestCover *covers = g_new(DrvGuestCover, ram->n);
    if (!cover_parts(ram, covers, error))
        return FALSE;
    for (guint i = 0; i < ram->n; i++)
        if (!open_part(ram, &ram->parts[i], &covers[i], error))
            return FALSE;
    refuse_overlaps(ram);
    ram->pagemap = drv_guest_open_pagemap(ram->pid);
    /* All of that was about the process that the pidfd holds, and not about its successor. */
    return is_gone(ram) ? fail_gone(ram, error) : TRUE;
}

DrvGuestRam *
drv_guest_ram_open(pid_t pid, const DrvGuestBlock *blocks, guint n, GError **error)
{
    g_autoptr(DrvGuestRam) ram = g_new0(DrvGuestRam, 1);
    ram->pid = pid;
    ram->pagemap = -1;
    ram->n = n;
    ram->parts = g_new0(DrvGuestPart, n);
    for (guint i = 0; i < n; i++) {
        ram->parts[i].info = blocks[i];
        ram->parts[i].info.id[sizeof blocks[i].id - 1] = '\0';
        ram->parts[i].fd = -1;
    }
    ram->pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (ram->pidfd < 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "there is no process %d that could be QEMU (has it ended, or does it run in "
                    "another PID namespace?)",
                    (int)pid);
        return NULL;
    }
    if (!open_parts(ram, error))
        return NULL;
    for (guint i = 0; i < n; i++)
        ram->parts[i].info.why = ram->parts[i].why;
    return g_steal_pointer(&ram);
}

void
drv_guest_ram_free(DrvGuestRam *ram)
{
    if (ram == NULL)
        return;
    for (guint i = 0; i < ram->n; i++) {
        if (ram->parts[i].fd >= 0)
            close(ram->parts[i].fd);
        g_free(ram->parts[i].why);
    }
    if (ram->pagemap >= 0)
        close(ram->pagemap);
    if (ram->pidfd >= 0)
        close(ram->pidfd);
    drv_guest_placing_free(ram->placing);
    g_free(ram->parts);
    g_free(ram);
}

gboolean
drv_guest_ram_recheck(const DrvGuestRam *ram, GError **error)
{
    g_autofree DrvGuestCover *covers = g_new(DrvGuestCover, ram->n);
    if (is_gone(ram))
        return fail_gone(ram, error);
    if (!cover_parts(ram, covers, error))
        return FALSE;
    for (guint i = 0; i < ram->n; i++) {
        const DrvGuestPart *part = &ram->parts[i];
        const char *problem = drv_guest_cover_problem(&covers[i]);
        if (part->why != NULL || problem == NULL)
            continue;
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "RAM block '%s' of QEMU (pid %d) has changed meanwhile: %s", part->info.id,
                    (int)ram->pid, problem);
        return FALSE;
    }
    return is_gone(ram) ? fail_gone(ram, error) : TRUE;
}

/* --- asking --- */

guint
drv_guest_ram_blocks(const DrvGuestRam *ram)
{
    return ram->n;
}

const DrvGuestBlock *
drv_guest_ram_block(const DrvGuestRam *ram, guint block)
{
    g_return_val_if_fail(block < ram->n, NULL);
    return &ram->parts[block].info;
}

const char *
drv_guest_ram_why(const DrvGuestRam *ram, guint block)
{
    g_return_val_if_fail(block < ram->n, NULL);
    return ram->parts[block].why;
}

gint
drv_guest_ram_find(const DrvGuestRam *ram, const char *id, gsize id_len, guint64 size)
{
    for (guint i = 0; i < ram->n; i++) {
        const DrvGuestPart *part = &ram->parts[i];
        if (part->why == NULL && part->info.size == size && strlen(part->info.id) == id_len &&
            memcmp(part->info.id, id, id_len) == 0)
            return (gint)i;
    }
    return -1;
}

static guint
biggest(const DrvGuestRam *ram)
{
    guint main = 0;
    for (guint i = 1; i < ram->n; i++)
        if (ram->parts[i].info.size > ram->parts[main].info.size)
            main = i;
    return main;
}

gint
drv_guest_ram_main(const DrvGuestRam *ram, GError **error)
{
    guint main = biggest(ram);
    if (ram->n > 0 && ram->parts[main].why == NULL)
        return (gint)main;
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "RAM block '%s' is not reachable: %s",
                ram->n > 0 ? ram->parts[main].info.id : "",
                ram->n > 0 ? ram->parts[main].why : "QEMU names none");
    return -1;
}
