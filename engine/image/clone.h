/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * Makes the file 'to', which is empty, what the file 'from' is: by sharing its blocks where the
 * file system can, else by copying its data. The first blocks are written last, so that what a
 * crash leaves of an image with a header is not taken for one. Blocks. 'cancelled' is looked at now
 * and then; may be NULL.
 */
gboolean drv_clone_file(int from, int to, const gint *cancelled, GError **error);
