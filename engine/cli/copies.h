/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/cli/follow.h"

/*
 * The disks of one VM, each by a copy job of its own, which are begun, followed and told of as one.
 */
typedef struct {
    GPtrArray *disks; /* drv_copies_disks_new(), at least one */
    const char *vm;   /* what it is called; NULL: nobody said */
    const char *to;
    gboolean running; /* the guest runs: its disks are read one after the other */
    gboolean json;
} DrvCopies;

GPtrArray *drv_copies_disks_new(void);

/* Adds one, and gives the specification of its job, which begins as a copy of 'common' and is the
 * array's. 'name' is what people call the disk; 'image' is its path here. */
JsonObject *drv_copies_add(GPtrArray *disks, JsonObject *common, const char *name,
                           const char *image);

/* Splits "WHAT=/PATH": WHAT, owned by the caller; '*path' (borrowed) is NULL where there is none.
 */
char *drv_copies_split(const char *text, const char **path);

/* Sets "dest": 'path', or else the image's name in 'dest_dir', or else the path that it has here.
 */
gboolean drv_copies_place(JsonObject *spec, const char *path, const char *image,
                          const char *dest_dir, GError **error);

/* Whether each can have its path over there. */
gboolean drv_copies_check(GPtrArray *disks, const char *dest_dir, GError **error);

/* The exit status; -1 with 'error' where not all could be begun. */
int drv_copies_run(const DrvCopies *what, DrvClient *client, DrvFollow *follow, GError **error);
