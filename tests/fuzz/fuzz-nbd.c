/* SPDX-License-Identifier: Apache-2.0 */

/* What an NBD client says, read along. The first byte says how it is cut: the figures are the same
 * as when all of it comes at once, and no greater than what was said. Then the same as a delta to a
 * disk of zeros: what is made of its records is what was said. And as the records of a peer, of
 * which none may go beyond its frame or the disk. */
#include "engine/channel/nbd-requests.h"
#include "engine/image/delta-skip.h"
#include "engine/image/delta-writer.h"
#include "tests/fuzz/fuzz.h"

static DrvNbdRequests
read_along(const guint8 *data, gsize size, gsize piece)
{
    DrvNbdRequests requests;
    drv_nbd_requests_init(&requests);
    for (gsize at = 0; at < size; at += piece) {
        gsize len = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, len); /* its end is the sanitizer's */
        drv_nbd_requests_feed(&requests, copy, len);
        g_assert(requests.lost || requests.have <= sizeof requests.header);
    }
    return requests;
}

#define BLOCK 4096u
#define DISK (3 * BLOCK + 512)
#define NO_HOLE 2 /* may be taken away */
#define FRAME 2000u

/* 'said' goes on with what a frame stands for. */
static gsize
compare(const guint8 *frame, gsize len, const DrvImageDigest *layout, const guint8 *said, gsize max)
{
    gsize made, at = 0;
    DrvDeltaRecord record;
    g_assert(drv_delta_check(frame, len, layout, &made, NULL) && made <= max);
    for (gsize pos = 0; pos < len;) {
        g_assert(drv_delta_get(frame, len, &pos, layout, &record, NULL));
        gboolean bytes = record.kind == DRV_DELTA_BYTES;
        gsize n = bytes ? record.count : drv_image_blocks_len(layout, record.first, record.count);
        for (gsize i = 0; i < n; i++)
            g_assert(((bytes ? record.bytes[i] : 0) | NO_HOLE) == (said[at + i] | NO_HOLE));
        at += n;
    }
    g_assert(at == made);
    return at;
}

static void
as_delta(const guint8 *data, gsize size, gsize piece, const DrvImageDigest *zeros)
{
    g_autoptr(DrvDeltaKnown) known = drv_delta_known_new(DISK, BLOCK, NULL);
    g_assert(drv_delta_known_take(known, 0, zeros->leaves, zeros->blocks, NULL));
    g_autoptr(DrvDeltaWriter) writer = drv_delta_writer_new(known);
    g_autofree guint8 *frame = g_malloc(FRAME);
    gsize heard = 0;
    for (gsize at = 0; at < size; at += piece) {
        gsize len = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, len);
        gboolean all;
        drv_delta_writer_push(writer, copy, len);
        do {
            drv_delta_writer_begin(writer, frame, FRAME);
            all = drv_delta_writer_run(writer);
            heard +=
                compare(frame, drv_delta_writer_len(writer), zeros, data + heard, size - heard);
        } while (!all);
    }
    g_assert(size - heard <= BLOCK + DRV_NBD_HEADER_MAX); /* is held back */
}

static void
as_records(const guint8 *data, gsize size, const DrvImageDigest *layout)
{
    DrvDeltaRecord record;
    gsize made = 0, pos = 0, sum = 0;
    gboolean good = drv_delta_check(data, size, layout, &made, NULL);
    while (pos < size && drv_delta_get(data, size, &pos, layout, &record, NULL)) {
        g_assert(pos <= size);
        if (record.kind == DRV_DELTA_BYTES) {
            g_assert(record.bytes >= data && record.bytes + record.count <= data + size);
            sum += record.count;
        } else {
            g_assert(record.first + record.count <= layout->blocks);
            sum += drv_image_blocks_len(layout, record.first, record.count);
        }
    }
    g_assert(!good || (pos == size && sum == made && made <= DRV_DELTA_BLOCKS_MAX + size));
}

static GByteArray *
skipped(const guint8 *data, gsize size, gsize piece, gboolean there)
{
    g_autoptr(DrvDeltaSkip) skip = drv_delta_skip_new();
    GByteArray *out = g_byte_array_new();
    for (gsize at = 0; at < size; at += piece) {
        gsize len = MIN(piece, size - at);
        g_autofree guint8 *copy = g_memdup2(data + at, len);
        drv_delta_skip_feed(skip, copy, len, there ? at : DRV_DELTA_NOWHERE, out);
    }
    return out;
}

static void
as_skipped(const guint8 *data, gsize size, gsize piece)
{
    for (gboolean there = FALSE; there <= TRUE; there++) {
        g_autoptr(GByteArray) whole = skipped(data, size, size + 1, there);
        g_autoptr(GByteArray) cut = skipped(data, size, piece, there);
        g_assert(whole->len <= size && whole->len == cut->len);
        if (whole->len == 0)
            continue;
        g_assert(there || memcmp(whole->data, data, whole->len) == 0);
        g_assert(memcmp(whole->data, cut->data, cut->len) == 0);
    }
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    if (size < 1)
        return 0;
    DrvNbdRequests whole = read_along(data + 1, size - 1, size);
    DrvNbdRequests cut = read_along(data + 1, size - 1, fuzz_piece(data[0]));
    g_assert(whole.lost == cut.lost && whole.requests == cut.requests);
    g_assert(whole.data_bytes == cut.data_bytes && whole.zero_bytes == cut.zero_bytes);
    g_assert(whole.data_bytes <= size);
    static DrvImageDigest *zeros; /* takes its time to be made */
    if (zeros == NULL)
        zeros = drv_image_digest_new_with(DISK, BLOCK, NULL);
    as_delta(data + 1, size - 1, fuzz_piece(data[0]), zeros);
    as_records(data + 1, size - 1, zeros);
    as_skipped(data + 1, size - 1, fuzz_piece(data[0]));
    return 0;
}
