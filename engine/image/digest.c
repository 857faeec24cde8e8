/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/digest.h"

#include "common/error.h"

#include <openssl/evp.h>
#include <string.h>

/* Up to here blocks stay small, as the leaves are: 8 MiB of them. */
#define BLOCKS_WANTED (G_GUINT64_CONSTANT(1) << 18)

guint32
drv_image_block_size(guint64 size)
{
    guint32 block = DRV_IMAGE_BLOCK_MIN;
    while (block < DRV_IMAGE_BLOCK_MAX && size > BLOCKS_WANTED * block)
        block *= 2;
    return block;
}

gboolean
drv_is_zero(const guint8 *bytes, gsize len)
{
    /* The first bytes tell most blocks; then the block is compared with itself, one word on. */
    gsize head = MIN(len, 16);
    for (gsize i = 0; i < head; i++) {
        if (bytes[i] != 0)
            return FALSE;
    }
    return len <= 16 || memcmp(bytes, bytes + 16, len - 16) == 0;
}

typedef struct {
    const void *bytes;
    gsize len;
} Part;

/* OpenSSL fails at this only without memory or without SHA-256: there is no going on then. */
static void
sha256(guint8 prefix, const Part *parts, guint count, guint8 out[DRV_IMAGE_LEAF])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    gboolean good = ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
                    EVP_DigestUpdate(ctx, &prefix, 1) == 1;
    for (guint i = 0; good && i < count; i++)
        good = EVP_DigestUpdate(ctx, parts[i].bytes, parts[i].len) == 1;
    good = good && EVP_DigestFinal_ex(ctx, out, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    if (!good)
        g_error("OpenSSL has no SHA-256");
}

void
drv_image_digest_hash(const DrvImageDigest *digest, guint64 index, const guint8 *bytes,
                      guint8 leaf[DRV_IMAGE_LEAF])
{
    const Part block = {bytes, drv_image_block_len(digest, index)};
    sha256(0, &block, 1, leaf);
}

void
drv_image_digest_take(DrvImageDigest *digest, guint64 first, const guint8 *bytes, guint64 blocks)
{
    for (guint64 i = first; i < first + blocks; i++, bytes += digest->block) {
        if (!drv_is_zero(bytes, drv_image_block_len(digest, i)))
            drv_image_digest_hash(digest, i, bytes, drv_image_digest_leaf(digest, i));
    }
}

/* The last block may be shorter, and its leaf another. */
static void
zero_leaf(const DrvImageDigest *digest, guint64 index, guint8 leaf[DRV_IMAGE_LEAF])
{
    gsize len = drv_image_block_len(digest, index);
    if (len == digest->block) {
        memcpy(leaf, digest->zero, DRV_IMAGE_LEAF);
        return;
    }
    g_autofree guint8 *nothing = g_malloc0(len);
    const Part block = {nothing, len};
    sha256(0, &block, 1, leaf);
}

void
drv_image_digest_zero(DrvImageDigest *digest, guint64 first, guint64 count)
{
    for (guint64 i = first; i < first + count; i++)
        zero_leaf(digest, i, drv_image_digest_leaf(digest, i));
}

gboolean
drv_image_digest_is_zero(const DrvImageDigest *digest, guint64 index)
{
    guint8 leaf[DRV_IMAGE_LEAF];
    zero_leaf(digest, index, leaf);
    return memcmp(leaf, drv_image_digest_leaf(digest, index), DRV_IMAGE_LEAF) == 0;
}

DrvImageDigest *
drv_image_digest_new(guint64 size, GError **error)
{
    return drv_image_digest_new_with(size, drv_image_block_size(size), error);
}

DrvImageDigest *
drv_image_digest_new_with(guint64 size, guint32 block, GError **error)
{
    if (size > DRV_IMAGE_SIZE_MAX) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                    "the image has %" G_GUINT64_FORMAT " bytes, and no more than 16 TiB can be "
                    "copied",
                    size);
        return NULL;
    }
    g_autoptr(DrvImageDigest) digest = g_new0(DrvImageDigest, 1);
    digest->size = size;
    digest->block = block;
    digest->blocks = (size + digest->block - 1) / digest->block;
    digest->leaves = g_try_malloc(digest->blocks * DRV_IMAGE_LEAF + 1);
    if (digest->leaves == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_LIMIT,
                    "there is no memory for the digests of %" G_GUINT64_FORMAT " blocks",
                    digest->blocks);
        return NULL;
    }
    g_autofree guint8 *nothing = g_malloc0(digest->block);
    const Part zeros = {nothing, digest->block};
    sha256(0, &zeros, 1, digest->zero);
    drv_image_digest_zero(digest, 0, digest->blocks);
    return g_steal_pointer(&digest);
}

void
drv_image_digest_free(DrvImageDigest *digest)
{
    if (digest == NULL)
        return;
    g_free(digest->leaves);
    g_free(digest);
}

gsize
drv_image_block_len(const DrvImageDigest *digest, guint64 index)
{
    return (gsize)MIN(digest->block, digest->size - index * digest->block);
}

guint64
drv_image_blocks_len(const DrvImageDigest *digest, guint64 first, guint64 blocks)
{
    return MIN(digest->size, (first + blocks) * digest->block) - first * digest->block;
}

guint8 *
drv_image_digest_leaf(const DrvImageDigest *digest, guint64 index)
{
    return digest->leaves + index * DRV_IMAGE_LEAF;
}

char *
drv_image_digest_root(const DrvImageDigest *digest)
{
    static const char name[] = "drover image 1";
    guint64 size = GUINT64_TO_BE(digest->size);
    guint32 block = GUINT32_TO_BE(digest->block);
    guint8 root[DRV_IMAGE_LEAF];
    const Part parts[] = {
        {name, sizeof name - 1},
        {&size, sizeof size},
        {&block, sizeof block},
        {digest->leaves, digest->blocks * DRV_IMAGE_LEAF},
    };
    sha256(1, parts, G_N_ELEMENTS(parts), root);
    GString *text = g_string_sized_new(2 * sizeof root);
    for (guint i = 0; i < sizeof root; i++)
        g_string_append_printf(text, "%02x", root[i]);
    return g_string_free(text, FALSE);
}
