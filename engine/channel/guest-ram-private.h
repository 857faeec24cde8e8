/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-maps.h"
#include "engine/channel/guest-ram.h"

typedef struct {
    DrvGuestBlock info;
    char *why;        /* NULL: reachable, and then what follows is meant */
    gboolean shared;  /* what others write to the file is seen here, and the other way round */
    gboolean is_file; /* there is a file below, known to us or not */
    int fd;           /* that file, read-only; -1: there is none, or it could not be had */
    guint64 fd_start; /* where in it the block begins */
} DrvGuestPart;

typedef struct _DrvGuestPlacing DrvGuestPlacing;

/* Fixed once it is open. */
struct _DrvGuestRam {
    pid_t pid;
    int pidfd;
    int pagemap; /* -1: not to be had */
    guint n;
    DrvGuestPart *parts;
    DrvGuestPlacing *placing; /* NULL: pages come to be wherever they do */
};

/* Whether all that was reachable is still mapped. What is not mapped any more looks like memory
 * that was never touched. FALSE with DRV_ERROR_QEMU. */
gboolean drv_guest_ram_recheck(const DrvGuestRam *ram, GError **error);

/* --- guest-place.c --- */

void drv_guest_placing_free(DrvGuestPlacing *placing);
/* Around the writing of runs that are all of one block. */
void drv_guest_placing_begin(const DrvGuestPlacing *placing, guint block);
void drv_guest_placing_end(DrvGuestRam *ram, const DrvGuestRun *runs, guint n);

/* --- guest-holes.c --- */

/* Windows of pages, so that buffers may be on the stack. */
#define DRV_GUEST_WINDOW 512u

/* What there is to know without touching pages: /proc/PID/pagemap, or -1. */
int drv_guest_open_pagemap(pid_t pid);
/* The file below a mapping, read-only; -1 when it is none or cannot be had. */
int drv_guest_open_file(pid_t pid, const DrvGuestMap *map);

/*
 * Sets known[i] for those of 'n' (at most DRV_GUEST_WINDOW) pages from 'first' on that are
 * certainly zero because they have no memory at all; FALSE is always right. The block is
 * reachable, and the pages are within.
 */
void drv_guest_known_zero(const DrvGuestRam *ram, const DrvGuestPart *part, guint64 first, guint n,
                          gboolean *known);
