/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * /proc/PID/maps: what a range of another process's memory is made of. Pure: lines in, an answer
 * out.
 */

/* One line. */
typedef struct {
    guint64 start, end; /* addresses; end is the first one behind */
    gboolean readable, writable, shared;
    guint64 offset;     /* in the file, of 'start' */
    guint major, minor; /* of the file's device */
    guint64 inode;      /* 0: there is no file */
} DrvGuestMap;

/* FALSE when the line is none of maps; the path at its end is not looked at. */
gboolean drv_guest_map_parse(const char *line, DrvGuestMap *map);

/* Whether a range is wholly mapped by memory of one kind, that may be read and written. */
typedef struct {
    guint64 start, end;
    guint64 next;      /* up to here it is covered */
    DrvGuestMap first; /* the mapping at 'start' */
    const char *why;   /* what is wrong with it, static; NULL: nothing so far */
} DrvGuestCover;

void drv_guest_cover_init(DrvGuestCover *cover, guint64 start, guint64 len);
/* All mappings of the process, in the order of their addresses. */
void drv_guest_cover_add(DrvGuestCover *cover, const DrvGuestMap *map);
/* When all were added: NULL, or why the range is not what it should be. Static. */
const char *drv_guest_cover_problem(const DrvGuestCover *cover);
