/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * The digest of what is in an image: SHA-256, as a tree of two levels, over the virtual disk and
 * not the file, so that it is the same in every format.
 *
 *   leaf = SHA-256(00 || the block's bytes)
 *   root = SHA-256(01 || "drover image 1" || size, be64 || block size, be32 || all leaves)
 *
 * Blocks can be hashed by several threads in any order, both ends of a copy can compare them one by
 * one, and the root is known without anything being read again. The prefixes keep a leaf from being
 * taken for a root, as in RFC 6962.
 */
#define DRV_IMAGE_LEAF 32
#define DRV_IMAGE_BLOCK_MIN (64u << 10)
#define DRV_IMAGE_BLOCK_MAX (4u << 20)
#define DRV_IMAGE_SIZE_MAX (G_GUINT64_CONSTANT(16) << 40)

typedef struct {
    guint64 size;
    guint32 block;
    guint64 blocks;
    guint8 zero[DRV_IMAGE_LEAF]; /* the leaf of a whole block of zeros */
    guint8 *leaves;              /* of all blocks; each written by one thread only */
} DrvImageDigest;

/* From 64 KiB to 4 MiB: 2^18 blocks at most as long as that is possible. */
guint32 drv_image_block_size(guint64 size);

/* Of an image of zeros. DRV_ERROR_LIMIT where it is too big. */
DrvImageDigest *drv_image_digest_new(guint64 size, GError **error);
/* The same with blocks of that size. */
DrvImageDigest *drv_image_digest_new_with(guint64 size, guint32 block, GError **error);
void drv_image_digest_free(DrvImageDigest *digest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvImageDigest, drv_image_digest_free)

/* How long the block is: the last may be shorter. */
gsize drv_image_block_len(const DrvImageDigest *digest, guint64 index);
/* The same of several. */
guint64 drv_image_blocks_len(const DrvImageDigest *digest, guint64 first, guint64 blocks);
guint8 *drv_image_digest_leaf(const DrvImageDigest *digest, guint64 index);
/* The leaf of the block's bytes, without setting it; any thread. */
void drv_image_digest_hash(const DrvImageDigest *digest, guint64 index, const guint8 *bytes,
                           guint8 leaf[DRV_IMAGE_LEAF]);
/* Sets the leaves of all blocks in 'bytes' but those of zeros, which they are to begin with. */
void drv_image_digest_take(DrvImageDigest *digest, guint64 first, const guint8 *bytes,
                           guint64 blocks);
/* Sets leaves of zeros. */
void drv_image_digest_zero(DrvImageDigest *digest, guint64 first, guint64 count);
/* Whether the leaf is that of zeros. */
gboolean drv_image_digest_is_zero(const DrvImageDigest *digest, guint64 index);
/* In hexadecimal digits; g_free it. */
char *drv_image_digest_root(const DrvImageDigest *digest);

/* Whether all bytes are 0. */
gboolean drv_is_zero(const guint8 *bytes, gsize len);
