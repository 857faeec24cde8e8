/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/test-source.h"

#include <sys/socket.h>

#define MUCH 60000

void
source_begin(DrvCursor *out, const DrvRamBlock *blocks, guint n)
{
    drv_emit_header(out);
    drv_emit_section(out, DRV_SECTION_START, 2, "ram", 4);
    drv_emit_blocks(out, blocks, n);
    drv_emit_eos(out);
    drv_emit_footer(out, 2);
}

void
source_end(DrvCursor *out, const guint8 *device, gsize len)
{
    if (len > 0) {
        drv_emit_section(out, DRV_SECTION_FULL, 7, "device", 1);
        drv_cursor_put_bytes(out, device, len);
        drv_emit_footer(out, 7);
    }
    drv_cursor_put_u8(out, 0);
}

void
source_put(int fd, DrvCursor *out, gboolean all)
{
    const guint8 *buffer = out->data;
    if (!all && out->pos < MUCH)
        return;
    for (gsize done = 0; done < out->pos;) {
        ssize_t n = send(fd, buffer + done, out->pos - done, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        done += (gsize)n;
    }
    out->pos = 0;
}
