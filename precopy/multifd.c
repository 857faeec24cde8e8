/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A multifd channel is an init message and packets, each a head of fixed length and data. The head
 * always has room for the offsets of as many pages as fit in 512 KiB, used or not; the field that
 * says so is 0 in the SYNC packets of newer QEMUs. Nothing has to be guessed, so the parser leaves
 * the structure only when a head makes no sense; then it looks for the next one that does.
 */
#include "precopy/multifd.h"

#include "common/cursor.h"
#include "precopy/be.h"

#include <string.h>

#define MULTIFD_MAGIC 0x11223344u
#define MULTIFD_VERSION 1
#define MULTIFD_FLAGS (DRV_MULTIFD_SYNC | DRV_MULTIFD_COMPRESSION | DRV_MULTIFD_DEVICE_STATE)
#define INIT_LEN 64
#define UUID_LEN 16
#define ID_LEN 256
#define COMMON_LEN 12 /* magic, version, flags */
#define RAM_FIXED_LEN DRV_MULTIFD_FIXED_LEN
#define RAM_RESERVED_LEN 28                     /* after the number of zero pages */
#define STATE_LEN (COMMON_LEN + ID_LEN + 4 + 4) /* a head of device state */

typedef enum {
    AT_INIT,
    AT_PACKET,
    IN_PAGES,   /* normal pages, pages_left of them */
    IN_COUNTED, /* opaque bytes of known number */
    IN_OPAQUE,  /* opaque up to the next head */
    IN_FOREIGN, /* not multifd: opaque to its end */
} MultifdState;

struct _DrvMultifd {
    DrvPieces in;
    gsize need;
    MultifdState state;
    guint32 page_len;
    guint32 max_pages; /* in a packet */
    gboolean guessed;

    DrvMultifdPacket packet;
    guint64 *offsets; /* max_pages */
    guint32 pages_left;
    guint64 counted;
};

DrvMultifd *
drv_multifd_new(guint32 page_len)
{
    g_return_val_if_fail(page_len >= 1024 && page_len <= 65536, NULL);
    DrvMultifd *multifd = g_new0(DrvMultifd, 1);
    multifd->need = 1;
    multifd->page_len = page_len;
    multifd->max_pages = DRV_MULTIFD_PACKET_BYTES / page_len;
    multifd->offsets = g_new0(guint64, multifd->max_pages);
    drv_pieces_init(&multifd->in, MAX(page_len, RAM_FIXED_LEN + 8 * multifd->max_pages));
    return multifd;
}

void
drv_multifd_free(DrvMultifd *multifd)
{
    if (multifd == NULL)
        return;
    drv_pieces_finish(&multifd->in);
    g_free(multifd->offsets);
    g_free(multifd);
}

void
drv_multifd_push(DrvMultifd *multifd, const void *data, gsize len)
{
    drv_pieces_push(&multifd->in, data, len);
}

static gsize
needs(DrvMultifd *multifd, gsize need)
{
    multifd->need = need;
    return 0;
}

static gsize
lose(DrvMultifd *multifd, MultifdState state)
{
    multifd->guessed = TRUE;
    multifd->state = state;
    return 0;
}

static gsize
parse_init(DrvMultifd *multifd, const guint8 *p, gsize len, DrvMultifdEvent *event)
{
    if (len < INIT_LEN)
        return needs(multifd, INIT_LEN);
    if (drv_be32(p) != MULTIFD_MAGIC || drv_be32(p + 4) != MULTIFD_VERSION)
        return lose(multifd, IN_FOREIGN);
    event->kind = DRV_MULTIFD_INIT;
    event->channel = p[8 + UUID_LEN];
    multifd->state = AT_PACKET;
    return INIT_LEN;
}

/* ---- a packet's head ---- */

static gboolean
common_fits(const guint8 *p)
{
    return drv_be32(p) == MULTIFD_MAGIC && drv_be32(p + 4) == MULTIFD_VERSION &&
           (drv_be32(p + 8) & ~MULTIFD_FLAGS) == 0;
}

static gsize
head_len(const DrvMultifd *multifd, const guint8 *p)
{
    gboolean state = (drv_be32(p + 8) & DRV_MULTIFD_DEVICE_STATE) != 0;
    return state ? STATE_LEN : RAM_FIXED_LEN + 8 * (gsize)multifd->max_pages;
}

/* An id in a field of fixed length. What follows its terminator may be anything. */
static gboolean
read_id(DrvCursor *in, char id[static ID_LEN])
{
    const char *field = (const char *)drv_cursor_take(in, ID_LEN);
    gsize n = strnlen(field, ID_LEN);
    if (n == ID_LEN)
        return FALSE;
    memset(id, 0, ID_LEN);
    memcpy(id, field, n);
    return TRUE;
}

static gboolean
read_state_head(const guint8 *p, DrvMultifdPacket *packet)
{
    DrvCursor in = drv_cursor_reader(p, STATE_LEN);
    drv_cursor_take(&in, 8);
    packet->flags = drv_cursor_get_u32(&in);
    if (!read_id(&in, packet->block))
        return FALSE;
    packet->instance = drv_cursor_get_u32(&in);
    packet->data_len = drv_cursor_get_u32(&in);
    return TRUE;
}

static gboolean
read_ram_head(const DrvMultifd *multifd, const guint8 *p, DrvMultifdPacket *packet)
{
    DrvCursor in = drv_cursor_reader(p, RAM_FIXED_LEN);
    drv_cursor_take(&in, 8);
    packet->flags = drv_cursor_get_u32(&in);
    guint32 allocated = drv_cursor_get_u32(&in);
    packet->normal = drv_cursor_get_u32(&in);
    packet->data_len = drv_cursor_get_u32(&in);
    packet->number = drv_cursor_get_u64(&in);
    packet->zero = drv_cursor_get_u32(&in);
    drv_cursor_take(&in, RAM_RESERVED_LEN);
    if (!read_id(&in, packet->block))
        return FALSE;
    /* Without pages QEMU 7.2 leaves the length of those before. */
    if (packet->normal == 0)
        packet->data_len = 0;
    if ((allocated != 0 && allocated != multifd->max_pages) ||
        packet->normal > multifd->max_pages || packet->zero > multifd->max_pages - packet->normal)
        return FALSE;
    return (packet->flags & DRV_MULTIFD_COMPRESSION) != 0 ||
           packet->data_len == packet->normal * multifd->page_len;
}

static gboolean
offsets_fit(const DrvMultifd *multifd, const guint8 *p, const DrvMultifdPacket *packet)
{
    for (guint32 i = 0; i < packet->normal + packet->zero; i++)
        if (drv_be64(p + RAM_FIXED_LEN + 8 * (gsize)i) % multifd->page_len != 0)
            return FALSE;
    return TRUE;
}

/* 'p' has all of head_len() bytes. */
static gboolean
read_head(const DrvMultifd *multifd, const guint8 *p, DrvMultifdPacket *packet)
{
    if (!common_fits(p))
        return FALSE;
    if (drv_be32(p + 8) & DRV_MULTIFD_DEVICE_STATE)
        return read_state_head(p, packet);
    return read_ram_head(multifd, p, packet) && offsets_fit(multifd, p, packet);
}

static void
begin_data(DrvMultifd *multifd)
{
    const DrvMultifdPacket *packet = &multifd->packet;
    gboolean plain = !(packet->flags & (DRV_MULTIFD_COMPRESSION | DRV_MULTIFD_DEVICE_STATE));
    multifd->pages_left = plain ? packet->normal : 0;
    multifd->counted = plain ? 0 : packet->data_len;
    if (multifd->pages_left > 0)
        multifd->state = IN_PAGES;
    else
        multifd->state = multifd->counted > 0 ? IN_COUNTED : AT_PACKET;
}

static gsize
parse_packet(DrvMultifd *multifd, const guint8 *p, gsize len, DrvMultifdEvent *event)
{
    DrvMultifdPacket packet = {0};
    if (len < COMMON_LEN)
        return needs(multifd, COMMON_LEN);
    if (!common_fits(p))
        return lose(multifd, IN_OPAQUE);
    gsize unit = head_len(multifd, p);
    if (len < unit)
        return needs(multifd, unit);
    if (!read_head(multifd, p, &packet))
        return lose(multifd, IN_OPAQUE);

    multifd->packet = packet;
    for (guint32 i = 0; i < packet.normal + packet.zero; i++)
        multifd->offsets[i] = drv_be64(p + RAM_FIXED_LEN + 8 * (gsize)i);
    event->kind = DRV_MULTIFD_PACKET;
    begin_data(multifd);
    return unit;
}

/* ---- data ---- */

static gsize
parse_pages(DrvMultifd *multifd, gsize len, DrvMultifdEvent *event)
{
    if (len < multifd->page_len)
        return needs(multifd, multifd->page_len);
    event->kind = DRV_MULTIFD_PAGES;
    event->pages.first = multifd->packet.normal - multifd->pages_left;
    event->pages.count = (guint32)MIN(len / multifd->page_len, multifd->pages_left);
    multifd->pages_left -= event->pages.count;
    if (multifd->pages_left == 0)
        multifd->state = AT_PACKET;
    return (gsize)event->pages.count * multifd->page_len;
}

static gsize
parse_counted(DrvMultifd *multifd, gsize len)
{
    gsize n = MIN(len, multifd->counted);
    multifd->counted -= n;
    if (multifd->counted == 0)
        multifd->state = AT_PACKET;
    return n;
}

/* Whether a head that makes sense begins here: its length; 0: needs more bytes; -1: none. */
static gssize
head_fits(DrvMultifd *multifd, const guint8 *p, gsize len)
{
    DrvMultifdPacket packet = {0};
    if (len < COMMON_LEN)
        return (gssize)needs(multifd, COMMON_LEN);
    if (!common_fits(p))
        return -1;
    gsize unit = head_len(multifd, p);
    if (len < unit)
        return (gssize)needs(multifd, unit);
    return read_head(multifd, p, &packet) ? (gssize)unit : -1;
}

static gsize
parse_opaque(DrvMultifd *multifd, const guint8 *p, gsize len)
{
    const guint8 *at = p;
    const guint8 *end = p + len;
    while ((at = memchr(at, MULTIFD_MAGIC >> 24, (gsize)(end - at))) != NULL) {
        gssize head = head_fits(multifd, at, (gsize)(end - at));
        if (head < 0) {
            at++;
            continue;
        }
        if (at == p && head > 0)
            multifd->state = AT_PACKET;
        if (at > p)
            multifd->need = 1;
        return (gsize)(at - p);
    }
    return len;
}

static gsize
parse(DrvMultifd *multifd, const guint8 *p, gsize len, DrvMultifdEvent *event)
{
    switch (multifd->state) {
    case AT_INIT:
        return parse_init(multifd, p, len, event);
    case AT_PACKET:
        return parse_packet(multifd, p, len, event);
    case IN_PAGES:
        return parse_pages(multifd, len, event);
    case IN_COUNTED:
        return parse_counted(multifd, len);
    case IN_OPAQUE:
        return parse_opaque(multifd, p, len);
    case IN_FOREIGN:
        return len;
    }
    g_assert_not_reached();
}

gboolean
drv_multifd_next(DrvMultifd *multifd, DrvMultifdEvent *event)
{
    while (drv_pieces_want(&multifd->in, multifd->need)) {
        gsize len;
        const guint8 *p = drv_pieces_peek(&multifd->in, &len);
        multifd->need = 1;
        *event = (DrvMultifdEvent){.kind = DRV_MULTIFD_OPAQUE};
        gsize n = parse(multifd, p, len, event);
        if (n > 0) {
            drv_pieces_take(&multifd->in, n, &event->piece);
            return TRUE;
        }
    }
    return FALSE;
}

gboolean
drv_multifd_flush(DrvMultifd *multifd, DrvMultifdEvent *event)
{
    *event = (DrvMultifdEvent){.kind = DRV_MULTIFD_OPAQUE};
    return drv_pieces_flush(&multifd->in, &event->piece);
}

gboolean
drv_multifd_exact(const DrvMultifd *multifd)
{
    return !multifd->guessed;
}

const DrvMultifdPacket *
drv_multifd_packet(const DrvMultifd *multifd)
{
    return &multifd->packet;
}

guint64
drv_multifd_offset(const DrvMultifd *multifd, guint32 i)
{
    g_return_val_if_fail(i < multifd->packet.normal + multifd->packet.zero, 0);
    return multifd->offsets[i];
}
