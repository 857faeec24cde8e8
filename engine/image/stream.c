/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/stream.h"

#include "common/error.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

void
drv_record_put(const DrvRecord *record, guint8 bytes[DRV_RECORD_LEN])
{
    guint32 type = GUINT32_TO_BE(record->type), count = GUINT32_TO_BE(record->count);
    guint64 first = GUINT64_TO_BE(record->first);
    memcpy(bytes, &type, 4);
    memcpy(bytes + 4, &count, 4);
    memcpy(bytes + 8, &first, 8);
}

static gboolean
fits(const DrvRecord *record, const DrvImageDigest *layout, guint64 from, guint64 *blocks)
{
    if (record->type == DRV_RECORD_END) {
        *blocks = 0;
        return record->first == layout->blocks && record->count == DRV_RECORD_ROOT_LEN;
    }
    if (record->first < from || record->first >= layout->blocks || record->count == 0)
        return FALSE;
    guint64 left = layout->blocks - record->first;
    if (record->type == DRV_RECORD_ZERO) {
        *blocks = record->count;
        return record->count <= left;
    }
    guint64 bytes_left = layout->size - record->first * layout->block;
    *blocks = (record->count + (guint64)layout->block - 1) / layout->block;
    return record->type == DRV_RECORD_DATA && record->count <= DRV_RECORD_DATA_MAX &&
           record->count <= bytes_left &&
           (record->count % layout->block == 0 || record->count == bytes_left);
}

gboolean
drv_record_get(const guint8 bytes[DRV_RECORD_LEN], const DrvImageDigest *layout, guint64 from,
               DrvRecord *record, guint64 *blocks, GError **error)
{
    guint32 type, count;
    guint64 first;
    memcpy(&type, bytes, 4);
    memcpy(&count, bytes + 4, 4);
    memcpy(&first, bytes + 8, 8);
    *record = (DrvRecord){GUINT32_FROM_BE(type), GUINT64_FROM_BE(first), GUINT32_FROM_BE(count)};
    if (fits(record, layout, from, blocks))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "the source sent a record that makes no sense (type %u, %u at block "
                "%" G_GUINT64_FORMAT ")",
                record->type, record->count, record->first);
    return FALSE;
}

static gboolean
cut(int why, GError **error)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_UNREACHABLE, "the other end's stream has ended%s%s",
                why != 0 ? ": " : "", why != 0 ? g_strerror(why) : "");
    return FALSE;
}

gboolean
drv_stream_read(int fd, void *bytes, gsize len, GError **error)
{
    for (gsize done = 0; done < len;) {
        gssize got = recv(fd, (guint8 *)bytes + done, len - done, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return cut(got < 0 ? errno : 0, error);
        done += (gsize)got;
    }
    return TRUE;
}

gboolean
drv_stream_write(int fd, const void *bytes, gsize len, GError **error)
{
    for (gsize done = 0; done < len;) {
        gssize put = send(fd, (const guint8 *)bytes + done, len - done, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return cut(errno, error);
        done += (gsize)put;
    }
    return TRUE;
}
