/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/delta-skip.h"

#include "common/cursor.h"
#include "engine/channel/nbd-requests.h"

/*
 * QEMU's mirror writes all of a disk, up to 1 MiB a request, and wants an answer to each. So each
 * request has to reach QEMU at the destination, but need not write:
 *
 *   - One of which the disk holds every byte becomes a request to cache them (NBD_CMD_CACHE). That
 *     is answered like a write, and there is nothing to do for it: QEMU reads nothing of what is
 *     allocated. (What is not, and holds zeroes therefore, a qcow2 image then notes as such.)
 *   - Of any other, what the disk holds is cut off at its beginning and its end. What lies between
 *     two pieces that differ is written: two requests would be answered twice.
 *
 * So the data of a write are gathered, until it is known where it begins and ends. Whatever else is
 * said passes as it is: writes that are longer than any of QEMU's mirror, such as have to be on the
 * disk when they are answered (FUA), as what is there may not be; and all of a stream from there on
 * where it is not understood.
 *
 * Why the disk still holds, when QEMU gets to the request, what was read of it before, is said in
 * delta-writer.c. That it is the place which the request is about is looked at here.
 */
#define HELD_MAX (2u << 20)

/* In a request's header, in both forms. */
#define FLAGS_AT 4
#define FLAG_FUA 0x01
#define TYPE_AT 6
#define OFFSET_AT 16
#define EXTENDED_BYTES 32

struct _DrvDeltaSkip {
    DrvNbdRequests requests;
    guint8 head[DRV_NBD_HEADER_MAX]; /* of the message at hand */
    guint head_len;
    gboolean holding;
    GByteArray *held;  /* of a write, as far as it has come */
    gsize first, last; /* what of it the disk does not hold lies between; equal: nothing */
};

DrvDeltaSkip *
drv_delta_skip_new(void)
{
    DrvDeltaSkip *skip = g_new0(DrvDeltaSkip, 1);
    drv_nbd_requests_init(&skip->requests);
    skip->held = g_byte_array_new();
    return skip;
}

void
drv_delta_skip_free(DrvDeltaSkip *skip)
{
    if (skip == NULL)
        return;
    g_byte_array_unref(skip->held);
    g_free(skip);
}

/* Whether the request at hand, of which the header is whole, is a write that is held back. */
static gboolean
is_to_be_held(const DrvDeltaSkip *self)
{
    const DrvNbdRequests *requests = &self->requests;
    return requests->skip > 0 && requests->payload && requests->length <= HELD_MAX &&
           (self->head[FLAGS_AT + 1] & FLAG_FUA) == 0;
}

static void
tell(DrvDeltaSkip *self, GByteArray *out)
{
    g_byte_array_append(out, self->head, self->head_len);
    self->head_len = 0;
}

/* No data will follow, and no flag is of any use. */
static void
tell_cache(DrvDeltaSkip *self, GByteArray *out)
{
    DrvCursor c = drv_cursor_writer(self->head + FLAGS_AT, OFFSET_AT - FLAGS_AT);
    drv_cursor_put_u16(&c, 0);
    drv_cursor_put_u16(&c, DRV_NBD_CACHE);
    tell(self, out);
}

static void
tell_write(DrvDeltaSkip *self, GByteArray *out)
{
    gsize len = self->last - self->first;
    DrvCursor c = drv_cursor_writer(self->head + OFFSET_AT, sizeof self->head - OFFSET_AT);
    drv_cursor_put_u64(&c, self->requests.offset + self->first);
    if (self->head_len == EXTENDED_BYTES)
        drv_cursor_put_u64(&c, len);
    else
        drv_cursor_put_u32(&c, (guint32)len);
    tell(self, out);
    g_byte_array_append(out, self->held->data + self->first, (guint)len);
}

static void
end_write(DrvDeltaSkip *self, GByteArray *out)
{
    if (self->first == self->last)
        tell_cache(self, out);
    else
        tell_write(self, out);
    g_byte_array_set_size(self->held, 0);
}

static gsize
take_data(DrvDeltaSkip *self, const guint8 *bytes, gsize len, guint64 at, GByteArray *out)
{
    gsize pos = self->held->len;
    gsize n = drv_nbd_requests_step(&self->requests, bytes, len);
    g_byte_array_append(self->held, bytes, (guint)n);
    if (at != self->requests.offset + pos) {
        self->first = self->first == self->last ? pos : self->first;
        self->last = pos + n;
    }
    if (self->requests.skip == 0)
        end_write(self, out);
    return n;
}

static gsize
take_header(DrvDeltaSkip *self, const guint8 *bytes, gsize len, GByteArray *out)
{
    gsize n = drv_nbd_requests_step(&self->requests, bytes, len);
    memcpy(self->head + self->head_len, bytes, n);
    self->head_len += (guint)n;
    gboolean whole = self->requests.have == 0;
    self->holding = whole && !self->requests.lost && is_to_be_held(self);
    if (self->requests.lost || (whole && !self->holding))
        tell(self, out);
    self->first = self->last = 0;
    return n;
}

static gsize
take(DrvDeltaSkip *self, const guint8 *bytes, gsize len, guint64 at, GByteArray *out)
{
    if (!self->requests.lost && self->requests.skip == 0)
        return take_header(self, bytes, len, out);
    if (!self->requests.lost && self->holding)
        return take_data(self, bytes, len, at, out);
    gsize n = drv_nbd_requests_step(&self->requests, bytes, len);
    g_byte_array_append(out, bytes, (guint)n);
    return n;
}

void
drv_delta_skip_feed(DrvDeltaSkip *skip, const guint8 *bytes, gsize len, guint64 at, GByteArray *out)
{
    for (gsize done = 0, n; done < len; done += n) {
        n = take(skip, bytes + done, len - done, at, out);
        at += at != DRV_DELTA_NOWHERE ? n : 0;
    }
}
