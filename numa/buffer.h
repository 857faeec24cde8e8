/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Memory for buffers that is on a certain node, there before it is needed (no page faults while
 * data flows), and never swapped; of huge pages if that is asked for and there are any. What cannot
 * be had of that is done without: there is always memory, or none at all.
 */
typedef struct {
    gint node;           /* -1: plain memory, from wherever it comes when it is touched */
    gboolean huge_pages; /* reserved ones, if their size divides the length */
} DrvBufferWish;

/* What of a wish was not to be had. */
typedef enum {
    DRV_SHORT_HUGE = 1 << 0,   /* ordinary pages it is */
    DRV_SHORT_LOCK = 1 << 1,   /* it may be swapped */
    DRV_SHORT_NODE = 1 << 2,   /* most of it is on another node */
    DRV_SHORT_POLICY = 1 << 3, /* the kernel has none: it is wherever it is */
    DRV_SHORT_COUNT = 4
} DrvShort;

typedef struct {
    void *data;
    gsize len;
    gint node;   /* where it is, by the kernel's word; -1: not asked for */
    guint lacks; /* of DrvShort */
} DrvBuffer;

/* 'len' is a multiple of 2 MiB. FALSE when the system has no memory to give. */
gboolean drv_buffer_map(gsize len, const DrvBufferWish *wish, DrvBuffer *buffer);
void drv_buffer_unmap(DrvBuffer *buffer);

/* What lacks, and what to do about it: a clause for the log. Static. */
const char *drv_short_text(DrvShort lack);
