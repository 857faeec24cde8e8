/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <gio/gio.h>

/*
 * QEMU's own programs (qemu-img, qemu-nbd), run and listened to. They are found in PATH. What they
 * complain about is given on in their words, less the program's name; a path through a file
 * descriptor, which is how they are handed a file without a race, is shown as the user's.
 */

/* The descriptor that a program is handed a file or folder as, and the path by which it opens it.
 */
#define DRV_TOOL_FD 4
#define DRV_TOOL_FD_PATH "/proc/self/fd/4"

/* Runs one to its end. 'fd' becomes its DRV_TOOL_FD (-1: none; stays the caller's) and 'shown' is
 * what DRV_TOOL_FD_PATH stands for. Gives what it wrote to stdout, owned by the
 * caller. '*status' receives its exit status; a program that cannot be run, or is killed, fails
 * with DRV_ERROR_QEMU, and so does an exit status above 0 where 'status' is NULL. Blocks. */
char *drv_tool_run(const char *const *argv, int fd, const char *shown, int *status, char **words,
                   GError **error);

/* The words in what such a program wrote to stderr, as one line. Owned by the caller. */
char *drv_tool_words(const char *text, const char *shown);
