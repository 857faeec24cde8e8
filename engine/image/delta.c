/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/delta.h"

#include "common/cursor.h"
#include "common/error.h"

guint32
drv_delta_block_size(guint64 bytes, guint disks)
{
    for (guint32 block = DRV_DELTA_BLOCK_MIN; block <= DRV_DELTA_BLOCK_MAX; block *= 2) {
        if (bytes / block + disks <= DRV_DELTA_LEAVES_MAX) /* each may have a short one */
            return block;
    }
    return 0;
}

gboolean
drv_delta_block_is_valid(gint64 block)
{
    return block >= DRV_DELTA_BLOCK_MIN && block <= DRV_DELTA_BLOCK_MAX &&
           (block & (block - 1)) == 0;
}

void
drv_delta_put(const DrvDeltaRecord *record, guint8 head[DRV_DELTA_HEAD])
{
    DrvCursor c = drv_cursor_writer(head, DRV_DELTA_HEAD);
    drv_cursor_put_u32(&c, record->kind);
    drv_cursor_put_u32(&c, record->count);
    drv_cursor_put_u64(&c, record->kind == DRV_DELTA_BLOCKS ? record->first : 0);
}

static gboolean
wrong(GError **error, const char *what)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                "the source's daemon sent a part of a disk that %s: install the same version of "
                "drover at both ends",
                what);
    return FALSE;
}

gboolean
drv_delta_get(const guint8 *frame, gsize len, gsize *pos, const DrvImageDigest *layout,
              DrvDeltaRecord *record, GError **error)
{
    DrvCursor c = drv_cursor_reader(frame + *pos, len - *pos);
    guint32 kind = drv_cursor_get_u32(&c);
    guint32 count = drv_cursor_get_u32(&c);
    guint64 first = drv_cursor_get_u64(&c);
    *record = (DrvDeltaRecord){.kind = kind, .count = count, .first = first};
    if (!drv_cursor_ok(&c) || count == 0 || (kind != DRV_DELTA_BYTES && kind != DRV_DELTA_BLOCKS))
        return wrong(error, "makes no sense");
    if (kind == DRV_DELTA_BYTES) {
        record->bytes = drv_cursor_take(&c, count);
        if (record->bytes == NULL)
            return wrong(error, "is longer than its frame");
    } else if (first >= layout->blocks || count > layout->blocks - first) {
        return wrong(error, "names blocks behind the disk's end");
    }
    *pos += c.pos;
    return TRUE;
}

gboolean
drv_delta_check(const guint8 *frame, gsize len, const DrvImageDigest *layout, gsize *made,
                GError **error)
{
    DrvDeltaRecord record;
    gsize bytes = 0;
    guint64 blocks = 0;
    for (gsize pos = 0; pos < len;) {
        if (!drv_delta_get(frame, len, &pos, layout, &record, error))
            return FALSE;
        if (record.kind == DRV_DELTA_BYTES)
            bytes += record.count;
        else
            blocks += drv_image_blocks_len(layout, record.first, record.count);
        if (blocks > DRV_DELTA_BLOCKS_MAX)
            return wrong(error, "is made of too many blocks");
    }
    *made = bytes + blocks;
    return TRUE;
}
