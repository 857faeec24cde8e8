/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/nbd-requests.h"

#include "common/cursor.h"

/*
 * Messages, told apart by their first four bytes. (The handshake before them is done by the daemons
 * themselves, nbd-handshake.h. The documentation of the protocol:
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md)
 *
 *   request   u32 magic, u16 flags, u16 type, u64 cookie, u64 offset, u32 length, and the data of a
 *             write
 *   extended  the same with another magic and a u64 length
 */

#define MAGIC_BYTES 4u
#define REQUEST_BYTES 28u
#define EXTENDED_BYTES 32u

#define REQUEST_MAGIC 0x25609513u
#define EXTENDED_MAGIC 0x21e41c71u
#define FLAG_PAYLOAD 0x20 /* extended: data follows whatever the type */

/* More than any server would take. */
#define WRITE_MAX (64u << 20)

void
drv_nbd_requests_init(DrvNbdRequests *self)
{
    *self = (DrvNbdRequests){.want = MAGIC_BYTES};
}

static void
take_request(DrvNbdRequests *self, gboolean extended)
{
    DrvCursor c = drv_cursor_reader(self->header, sizeof self->header);
    drv_cursor_take(&c, MAGIC_BYTES);
    guint16 flags = drv_cursor_get_u16(&c);
    self->type = drv_cursor_get_u16(&c);
    drv_cursor_take(&c, 8);
    self->offset = drv_cursor_get_u64(&c);
    self->length = extended ? drv_cursor_get_u64(&c) : drv_cursor_get_u32(&c);
    self->requests++;
    self->payload = self->type == DRV_NBD_WRITE;
    self->skip = self->payload || (extended && (flags & FLAG_PAYLOAD) != 0) ? self->length : 0;
    self->lost = self->skip > WRITE_MAX || self->length > G_MAXINT64;
    if (self->type == DRV_NBD_WRITE_ZEROES && !self->lost)
        self->zero_bytes += self->length;
}

/* The header has as many bytes as were wanted: it is whole, or now it is known how many it has. */
static void
take_header(DrvNbdRequests *self)
{
    DrvCursor c = drv_cursor_reader(self->header, MAGIC_BYTES);
    guint32 magic = drv_cursor_get_u32(&c);
    if (self->want == MAGIC_BYTES) {
        self->want = magic == REQUEST_MAGIC    ? REQUEST_BYTES
                     : magic == EXTENDED_MAGIC ? EXTENDED_BYTES
                                               : 0;
        self->lost = self->want == 0;
        return;
    }
    self->want = MAGIC_BYTES;
    self->have = 0;
    take_request(self, magic == EXTENDED_MAGIC);
}

gsize
drv_nbd_requests_step(DrvNbdRequests *self, const guint8 *data, gsize len)
{
    if (self->lost)
        return len;
    gsize n = self->skip > 0 ? MIN(self->skip, len) : MIN(self->want - self->have, len);
    if (self->skip > 0) {
        self->skip -= n;
        self->data_bytes += self->payload ? n : 0;
        return n;
    }
    memcpy(self->header + self->have, data, n);
    self->have += (guint)n;
    if (self->have == self->want)
        take_header(self);
    return n;
}

void
drv_nbd_requests_feed(DrvNbdRequests *self, const guint8 *data, gsize len)
{
    for (gsize done = 0; done < len;)
        done += drv_nbd_requests_step(self, data + done, len - done);
}
