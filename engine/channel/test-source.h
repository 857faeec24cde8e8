/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/emit.h"

/* What a source's QEMU sends around the pages, and how it sends it: the RAM is section 2. */

#define SOURCE_BUFFER 70000 /* bytes of the writer's buffer */

/* The header, and the RAM's first section with its blocks. */
void source_begin(DrvCursor *out, const DrvRamBlock *blocks, guint n);
/* A device of 'len' bytes, none if 0, and the stream's end. */
void source_end(DrvCursor *out, const guint8 *device, gsize len);
/* What there is, when it is much or when it is to be 'all', to the socket. That the other end has
 * given up is seen elsewhere. */
void source_put(int fd, DrvCursor *out, gboolean all);
