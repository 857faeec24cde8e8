/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/guest-ram.h"

/*
 * What QEMU's human monitor says of where RAM is, understood without asking anything. It is text
 * for people, so what is not exactly as expected counts as not said.
 */

/* A block in 'info ramblock'. */
typedef struct {
    char id[256];
    guint64 used, size; /* bytes; 'used' is what of 'size' it has now */
    guint64 hva;        /* 0: not said */
    gboolean read_only; /* FALSE also when not said */
} DrvGuestListed;

/* Of DrvGuestListed; 'tells' says whether this QEMU tells addresses at all. Lines that are not
 * understood are left out. NULL with DRV_ERROR_QEMU when it is no such list, or one without end. */
GArray *drv_guest_parse_ramblock(const char *text, gboolean *tells, GError **error);

/* RAM in the guest's address space, from 'info mtree -f'. */
typedef struct {
    guint64 start, last; /* guest-physical addresses */
    char region[320];    /* what it is: the region's name, maybe " @OFFSET", maybe an accelerator */
} DrvGuestRange;

/* Of DrvGuestRange, those of type "ram" in the address space "memory"; empty when there are none
 * or nothing is understood. */
GArray *drv_guest_parse_mtree(const char *text);

/* Whether it is a piece of the block of that name and size, and where in it it begins. */
gboolean drv_guest_range_in(const DrvGuestRange *range, const char *id, guint64 size,
                            guint64 *offset);

/* The answer to 'gpa2hva ADDRESS', when it says that the region of that very name is there. */
gboolean drv_guest_parse_hva(const char *text, guint64 address, const char *region, guint64 *hva);

/*
 * Why a listed block is not to be reached whatever its address, or NULL: it may change its size, it
 * is read-only, or (when QEMU does not tell addresses, and they come from names of regions) its
 * name means something else as well. Static.
 */
const char *drv_guest_listed_problem(const GArray *listed, guint index, gboolean tells);
