/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/guest-maps.h"

#include <string.h>

/* A number of at most 'digits' digits of that base, followed by 'end'. */
static gboolean
take(const char **at, guint base, guint digits, char end, guint64 *value)
{
    guint n = 0;
    *value = 0;
    for (; n < digits && g_ascii_isxdigit((*at)[n]); n++) {
        gint digit = g_ascii_xdigit_value((*at)[n]);
        if ((guint)digit >= base)
            return FALSE;
        *value = *value * base + (guint)digit;
    }
    if (n == 0 || (*at)[n] != end)
        return FALSE;
    *at += n + 1;
    return TRUE;
}

/* "7fe433e00000-7fe43be00000 rw-p 00000000 00:00 0                          [a name]" */
gboolean
drv_guest_map_parse(const char *line, DrvGuestMap *map)
{
    const char *at = line;
    guint64 major, minor;
    if (!take(&at, 16, 16, '-', &map->start) || !take(&at, 16, 16, ' ', &map->end) ||
        map->start >= map->end)
        return FALSE;
    if (strnlen(at, 5) < 5 || at[4] != ' ' || (at[3] != 's' && at[3] != 'p'))
        return FALSE;
    map->readable = at[0] == 'r';
    map->writable = at[1] == 'w';
    map->shared = at[3] == 's';
    at += 5;
    if (!take(&at, 16, 16, ' ', &map->offset) || !take(&at, 16, 8, ':', &major) ||
        !take(&at, 16, 8, ' ', &minor))
        return FALSE;
    map->major = (guint)major;
    map->minor = (guint)minor;
    const char *inode = at;
    return take(&at, 10, 19, ' ', &map->inode) || take(&inode, 10, 19, '\n', &map->inode) ||
           take(&inode, 10, 19, '\0', &map->inode);
}

void
drv_guest_cover_init(DrvGuestCover *cover, guint64 start, guint64 len)
{
    *cover = (DrvGuestCover){.start = start, .next = start};
    if (len == 0 || !g_uint64_checked_add(&cover->end, start, len))
        cover->why = "its range of addresses is impossible";
}

static gboolean
goes_on(const DrvGuestMap *first, const DrvGuestMap *map)
{
    if (map->shared != first->shared || map->inode != first->inode || map->major != first->major ||
        map->minor != first->minor)
        return FALSE;
    return map->inode == 0 || map->offset - first->offset == map->start - first->start;
}

void
drv_guest_cover_add(DrvGuestCover *cover, const DrvGuestMap *map)
{
    if (cover->why != NULL || map->end <= cover->next || map->start >= cover->end)
        return;
    if (map->start > cover->next)
        cover->why = "it is not wholly mapped in QEMU's memory";
    else if (!map->readable || !map->writable)
        cover->why = "QEMU has mapped it without the right to write";
    else if (cover->next == cover->start)
        cover->first = *map;
    else if (!goes_on(&cover->first, map))
        cover->why = "it is made of different kinds of memory";
    cover->next = map->end;
}

const char *
drv_guest_cover_problem(const DrvGuestCover *cover)
{
    if (cover->why != NULL)
        return cover->why;
    return cover->next < cover->end ? "it is not wholly mapped in QEMU's memory" : NULL;
}
