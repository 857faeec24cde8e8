/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The folders that images may be read from and written to. A path is judged by where it leads:
 * links and ".." count as what they come to, so neither leads out.
 *
 * 'folders' NULL: anywhere. None in it: nobody has said, and then anywhere but where the system
 * keeps its own files, or below a hidden folder.
 */

/* Whether a path without links is a folder's, or in it; "/" has all. One that is not there has
 * nothing. */
gboolean drv_allowed_is_below(const char *real, const char *folder);

/* The path without links, "." and "..", of an existing file; owned by the caller.
 * DRV_ERROR_STATE where it may not lead. */
char *drv_allowed_file(char *const *folders, const char *path, GError **error);

/* Opens a path that one of these functions gave: fails if there is a link on the way by now. -1
 * with errno set. */
int drv_allowed_open(const char *real, int flags);

/* Opens the folder that a file of that path is in or is to be in, and gives its path; *name is the
 * file's own name, and both are owned by the caller. A file that is there and is itself a link is
 * refused. -1 on failure. */
int drv_allowed_folder(char *const *folders, const char *path, char **folder, char **name,
                       GError **error);
