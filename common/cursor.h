/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <string.h>

/*
 * A bounds-checked cursor over bytes from a peer (reading) or for one (writing). Integers are big
 * endian, as in drover's frames and in QEMU's stream.
 *
 * The first access beyond the end sets 'failed'; from then on every read gives zero and every write
 * is dropped. So a parser reads all of its fields and looks at drv_cursor_ok() once, before it uses
 * any of them.
 */
typedef struct {
    guint8 *data; /* borrowed */
    gsize len;
    gsize pos;
    gboolean failed;
} DrvCursor;

static inline DrvCursor
drv_cursor_reader(const void *data, gsize len)
{
    return (DrvCursor){.data = (guint8 *)data, .len = len};
}

static inline DrvCursor
drv_cursor_writer(void *data, gsize len)
{
    return (DrvCursor){.data = data, .len = len};
}

static inline gboolean
drv_cursor_ok(const DrvCursor *c)
{
    return !c->failed;
}

static inline gsize
drv_cursor_left(const DrvCursor *c)
{
    return c->failed ? 0 : c->len - c->pos;
}

/* The next 'n' bytes, or NULL (and failed) when there are not as many. Borrowed from the cursor's
 * buffer. */
static inline guint8 *
drv_cursor_take(DrvCursor *c, gsize n)
{
    if (c->failed || n > c->len - c->pos) {
        c->failed = TRUE;
        return NULL;
    }
    guint8 *p = c->data + c->pos;
    c->pos += n;
    return p;
}

static inline guint64
drv_cursor_get(DrvCursor *c, guint bytes)
{
    const guint8 *p = drv_cursor_take(c, bytes);
    guint64 value = 0;
    for (guint i = 0; p != NULL && i < bytes; i++)
        value = value << 8 | p[i];
    return value;
}

static inline void
drv_cursor_put(DrvCursor *c, guint bytes, guint64 value)
{
    guint8 *p = drv_cursor_take(c, bytes);
    for (guint i = 0; p != NULL && i < bytes; i++)
        p[i] = (guint8)(value >> (8 * (bytes - 1 - i)));
}

static inline guint8
drv_cursor_get_u8(DrvCursor *c)
{
    return (guint8)drv_cursor_get(c, 1);
}

static inline guint16
drv_cursor_get_u16(DrvCursor *c)
{
    return (guint16)drv_cursor_get(c, 2);
}

static inline guint32
drv_cursor_get_u32(DrvCursor *c)
{
    return (guint32)drv_cursor_get(c, 4);
}

static inline guint64
drv_cursor_get_u64(DrvCursor *c)
{
    return drv_cursor_get(c, 8);
}

static inline void
drv_cursor_put_u8(DrvCursor *c, guint8 value)
{
    drv_cursor_put(c, 1, value);
}

static inline void
drv_cursor_put_u16(DrvCursor *c, guint16 value)
{
    drv_cursor_put(c, 2, value);
}

static inline void
drv_cursor_put_u32(DrvCursor *c, guint32 value)
{
    drv_cursor_put(c, 4, value);
}

static inline void
drv_cursor_put_u64(DrvCursor *c, guint64 value)
{
    drv_cursor_put(c, 8, value);
}

static inline void
drv_cursor_get_bytes(DrvCursor *c, void *out, gsize n)
{
    const guint8 *p = drv_cursor_take(c, n);
    if (p != NULL)
        memcpy(out, p, n);
    else
        memset(out, 0, n);
}

static inline void
drv_cursor_put_bytes(DrvCursor *c, const void *in, gsize n)
{
    guint8 *p = drv_cursor_take(c, n);
    if (p != NULL)
        memcpy(p, in, n);
}
