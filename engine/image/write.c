/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/write.h"

/* Bytes that are written at once. */
#define RUN (512u << 10)

gboolean
drv_write_zeros(const DrvWriter *writer, guint user, guint64 first, guint64 blocks, GError **error)
{
    guint64 len = drv_image_blocks_len(writer->digest, first, blocks);
    drv_copy_count_add(&writer->count->zero, len);
    if (writer->blank) /* and so are the leaves */
        return TRUE;
    drv_image_digest_zero(writer->digest, first, blocks);
    return drv_store_zero(writer->store, user, first * writer->digest->block, len, error);
}

/* Each run of data is under way while the next is hashed. */
static gboolean
write_runs(const DrvWriter *writer, guint user, guint64 first, const guint8 *bytes, guint64 len,
           GError **error)
{
    DrvImageDigest *digest = writer->digest;
    guint64 blocks = (len + digest->block - 1) / digest->block;
    for (guint64 at = 0, run; at < blocks; at += run) {
        gboolean zero = FALSE;
        guint64 data = at, end = MIN(blocks, at + MAX(1, RUN / digest->block));
        for (; data < end && !zero; data++) {
            const guint8 *block = bytes + data * digest->block;
            zero = drv_is_zero(block, drv_image_block_len(digest, first + data));
            if (!zero)
                drv_image_digest_hash(digest, first + data, block,
                                      drv_image_digest_leaf(digest, first + data));
        }
        run = data - at;
        guint64 filled = run - (zero ? 1 : 0);
        guint64 size = filled > 0 ? drv_image_blocks_len(digest, first + at, filled) : 0;
        drv_copy_count_add(&writer->count->data, size);
        if (size > 0 && !drv_store_write(writer->store, user, (first + at) * digest->block,
                                         bytes + at * digest->block, size, error))
            return FALSE;
        if (zero && !drv_write_zeros(writer, user, first + at + filled, 1, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
drv_write_piece(const DrvWriter *writer, guint user, guint64 first, const guint8 *bytes,
                guint64 len, GError **error)
{
    gboolean good = write_runs(writer, user, first, bytes, len, error);
    /* Also after a failure: the bytes are in use until then. */
    return drv_store_settle(writer->store, user, good ? error : NULL) && good;
}
