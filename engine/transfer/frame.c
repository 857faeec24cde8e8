/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transfer/frame.h"

#include "common/cursor.h"
#include "common/error.h"

#include <xxhash.h>

static const char hello_magic[8] = {'D', 'R', 'O', 'V', 'E', 'R', '\r', '\n'};

void
drv_frame_encode(const DrvFrameHeader *header, guint8 out[DRV_FRAME_HEADER])
{
    DrvCursor c = drv_cursor_writer(out, DRV_FRAME_HEADER);
    drv_cursor_put_u8(&c, (guint8)header->type);
    drv_cursor_put_u8(&c, (guint8)header->codec);
    drv_cursor_put_u16(&c, header->flags);
    drv_cursor_put_u32(&c, header->channel);
    drv_cursor_put_u64(&c, header->seq);
    drv_cursor_put_u32(&c, header->raw_len);
    drv_cursor_put_u32(&c, header->wire_len);
    drv_cursor_put_u64(&c, header->checksum.high);
    drv_cursor_put_u64(&c, header->checksum.low);
    g_assert(drv_cursor_ok(&c) && drv_cursor_left(&c) == 0);
}

/* The largest payload of each type. */
static gsize
raw_limit(DrvFrameType type)
{
    switch (type) {
    case DRV_FRAME_HELLO:
    case DRV_FRAME_WELCOME:
    case DRV_FRAME_REFUSE:
    case DRV_FRAME_BYE:
        return DRV_HELLO_MAX;
    case DRV_FRAME_ACK:
        return DRV_ACK_BYTES;
    case DRV_FRAME_DATA:
        return DRV_FRAME_RAW_MAX;
    case DRV_FRAME_PING:
    case DRV_FRAME_PONG:
        return 0;
    }
    return 0;
}

gboolean
drv_frame_decode(const guint8 in[DRV_FRAME_HEADER], DrvFrameHeader *header, GError **error)
{
    DrvCursor c = drv_cursor_reader(in, DRV_FRAME_HEADER);
    guint8 type = drv_cursor_get_u8(&c);
    guint8 codec = drv_cursor_get_u8(&c);
    *header = (DrvFrameHeader){
        .type = type,
        .codec = codec,
        .flags = drv_cursor_get_u16(&c),
        .channel = drv_cursor_get_u32(&c),
        .seq = drv_cursor_get_u64(&c),
        .raw_len = drv_cursor_get_u32(&c),
        .wire_len = drv_cursor_get_u32(&c),
    };
    header->checksum.high = drv_cursor_get_u64(&c);
    header->checksum.low = drv_cursor_get_u64(&c);

    const char *wrong = NULL;
    gboolean data = type == DRV_FRAME_DATA;
    if (type < DRV_FRAME_HELLO || type > DRV_FRAME_BYE)
        wrong = "type";
    else if (codec >= DRV_CODEC_COUNT || (!data && codec != DRV_CODEC_NONE))
        wrong = "codec";
    else if (header->flags & ~(data ? DRV_DATA_FLAGS : 0))
        wrong = "flags";
    else if (header->raw_len > raw_limit(header->type))
        wrong = "raw length";
    /* An encoding that does not save anything is never sent, so this bounds what a lane must hold.
     */
    else if (codec == DRV_CODEC_NONE ? header->wire_len != header->raw_len
                                     : header->wire_len >= header->raw_len)
        wrong = "wire length";
    if (wrong != NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the peer sent a frame (type %u) whose %s is out of bounds", type, wrong);
        return FALSE;
    }
    return TRUE;
}

DrvChecksum
drv_checksum(const void *data, gsize len)
{
    XXH128_hash_t hash = XXH3_128bits(data, len);
    return (DrvChecksum){hash.high64, hash.low64};
}

gboolean
drv_checksum_equal(DrvChecksum a, DrvChecksum b)
{
    return a.high == b.high && a.low == b.low;
}

void
drv_ack_encode(const DrvProgress *ack, guint8 out[DRV_ACK_BYTES])
{
    DrvCursor c = drv_cursor_writer(out, DRV_ACK_BYTES);
    drv_cursor_put_u32(&c, ack->channel);
    drv_cursor_put_u64(&c, ack->received);
    drv_cursor_put_u64(&c, ack->delivered);
}

static DrvProgress
get_progress(DrvCursor *c)
{
    DrvProgress p = {.channel = drv_cursor_get_u32(c)};
    p.received = drv_cursor_get_u64(c);
    p.delivered = drv_cursor_get_u64(c);
    return p;
}

gboolean
drv_ack_decode(const guint8 *in, gsize len, DrvProgress *ack, GError **error)
{
    DrvCursor c = drv_cursor_reader(in, len);
    *ack = get_progress(&c);
    if (!drv_cursor_ok(&c) || drv_cursor_left(&c) != 0 || ack->delivered > ack->received) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL, "the peer sent a malformed ack");
        return FALSE;
    }
    return TRUE;
}

DrvHello *
drv_hello_new(void)
{
    DrvHello *hello = g_new0(DrvHello, 1);
    hello->version_min = hello->version_max = DRV_WIRE_VERSION;
    hello->progress = g_array_new(FALSE, FALSE, sizeof(DrvProgress));
    return hello;
}

void
drv_hello_free(DrvHello *hello)
{
    if (hello == NULL)
        return;
    g_free(hello->name);
    g_array_unref(hello->progress);
    g_free(hello);
}

GByteArray *
drv_hello_encode(const DrvHello *hello)
{
    guint8 buffer[DRV_HELLO_MAX];
    DrvCursor c = drv_cursor_writer(buffer, sizeof buffer);
    gsize name_len = hello->name != NULL ? MIN(strlen(hello->name), DRV_NAME_MAX) : 0;
    guint channels = MIN(hello->progress->len, DRV_HELLO_CHANNELS);
    drv_cursor_put_bytes(&c, hello_magic, sizeof hello_magic);
    drv_cursor_put_u16(&c, hello->version_min);
    drv_cursor_put_u16(&c, hello->version_max);
    drv_cursor_put_u64(&c, hello->features);
    drv_cursor_put_bytes(&c, hello->session, sizeof hello->session);
    drv_cursor_put_bytes(&c, hello->secret, sizeof hello->secret);
    drv_cursor_put_u16(&c, hello->lane);
    drv_cursor_put_u8(&c, (guint8)name_len);
    if (name_len > 0)
        drv_cursor_put_bytes(&c, hello->name, name_len);
    drv_cursor_put_u16(&c, (guint16)channels);
    for (guint i = 0; i < channels; i++)
        drv_ack_encode(&g_array_index(hello->progress, DrvProgress, i),
                       drv_cursor_take(&c, DRV_ACK_BYTES));
    g_assert(drv_cursor_ok(&c));
    GByteArray *out = g_byte_array_new();
    g_byte_array_append(out, buffer, (guint)c.pos);
    return out;
}

DrvHello *
drv_hello_decode(const guint8 *in, gsize len, GError **error)
{
    DrvCursor c = drv_cursor_reader(in, len);
    guint8 magic[sizeof hello_magic];
    g_autoptr(DrvHello) hello = drv_hello_new();
    drv_cursor_get_bytes(&c, magic, sizeof magic);
    hello->version_min = drv_cursor_get_u16(&c);
    hello->version_max = drv_cursor_get_u16(&c);
    if (!drv_cursor_ok(&c) || memcmp(magic, hello_magic, sizeof magic) != 0) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "the peer does not speak drover's protocol");
        return NULL;
    }
    /* What follows belongs to a version: of another one only the versions are read, to be named. */
    if (hello->version_min > DRV_WIRE_VERSION || hello->version_max < DRV_WIRE_VERSION)
        return g_steal_pointer(&hello);
    hello->features = drv_cursor_get_u64(&c);
    drv_cursor_get_bytes(&c, hello->session, sizeof hello->session);
    drv_cursor_get_bytes(&c, hello->secret, sizeof hello->secret);
    hello->lane = drv_cursor_get_u16(&c);
    guint8 name_len = drv_cursor_get_u8(&c);
    const guint8 *name = drv_cursor_take(&c, name_len);
    if (name != NULL)
        hello->name = g_utf8_make_valid((const char *)name, name_len);
    guint16 channels = drv_cursor_get_u16(&c);
    for (guint i = 0; i < channels && drv_cursor_ok(&c); i++) {
        DrvProgress p = get_progress(&c);
        g_array_append_val(hello->progress, p);
    }
    if (!drv_cursor_ok(&c) || drv_cursor_left(&c) != 0 || hello->lane >= DRV_MAX_LANES) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "the peer sent a malformed hello");
        return NULL;
    }
    return g_steal_pointer(&hello);
}

gboolean
drv_hello_compatible(const DrvHello *hello, GError **error)
{
    if (hello->version_min > DRV_WIRE_VERSION || hello->version_max < DRV_WIRE_VERSION) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "protocol versions %u to %u are offered and %u is spoken here: bring both "
                    "hosts to the same drover",
                    hello->version_min, hello->version_max, DRV_WIRE_VERSION);
        return FALSE;
    }
    guint64 unknown = hello->features & ~DRV_FEATURES_KNOWN;
    if (unknown != 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "features 0x%" G_GINT64_MODIFIER "x are insisted on and not known here: bring "
                    "both hosts to the same drover",
                    unknown);
        return FALSE;
    }
    return TRUE;
}

gboolean
drv_hello_wants_new(const DrvHello *hello)
{
    static const guint8 zero[sizeof hello->session];
    return memcmp(hello->session, zero, sizeof zero) == 0;
}

static const char *const codec_names[] = {"none", "lz4", "zstd", "auto"};

const char *
drv_codec_name(DrvCodec codec)
{
    g_return_val_if_fail((guint)codec < G_N_ELEMENTS(codec_names), "none");
    return codec_names[codec];
}

gboolean
drv_codec_parse(const char *name, DrvCodec *codec)
{
    for (guint i = 0; i < G_N_ELEMENTS(codec_names); i++) {
        if (g_str_equal(name, codec_names[i])) {
            *codec = i;
            return TRUE;
        }
    }
    return FALSE;
}
