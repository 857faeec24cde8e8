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

/* How long one may take that only opens images; a pipe in place of one, or a file on a host that is
 * gone, would be waited for without end. And one that reads or writes all of an image's tables. */
#define DRV_TOOL_BRIEF_MS 60000
#define DRV_TOOL_LONG_MS (6 * 3600 * 1000)

typedef struct {
    const char *const *argv;
    int fd;                /* becomes its DRV_TOOL_FD (-1: none; stays the caller's) */
    const char *shown;     /* what DRV_TOOL_FD_PATH stands for */
    guint limit_ms;        /* it is killed after so long */
    const gint *cancelled; /* atomic; it is killed when that is set. NULL: never */
} DrvToolCall;

/* Runs one to its end. Gives what it wrote to stdout, owned by the caller. '*status' receives its
 * exit status; a program that cannot be run, or is killed, fails with DRV_ERROR_QEMU, and so does
 * an exit status above 0 where 'status' is NULL; one that took too long with DRV_ERROR_TIMEOUT.
 * Blocks. */
char *drv_tool_call(const DrvToolCall *call, int *status, char **words, GError **error);

/* The same of one that is brief. */
char *drv_tool_run(const char *const *argv, int fd, const char *shown, int *status, char **words,
                   GError **error);

/* The words in what such a program wrote to stderr, as one line. Owned by the caller. */
char *drv_tool_words(const char *text, const char *shown);
