/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/delta-writer.h"

#include "common/error.h"
#include "engine/channel/nbd-requests.h"

#include <string.h>

/*
 * A write's data are gathered block by block, where a block of the disk is written whole and the
 * destination's may be the same. One whose SHA-256 is the destination's leaf is named, and every
 * other byte goes as it is. The destination puts the blocks that are named back into the stream
 * (delta-receive.c), so that its QEMU hears what ours has said, with one exception, below, and
 * without what need not be written (delta-skip.c).
 *
 * That a block which is named is still there, as it was when the destination hashed it:
 *
 *   - Nobody writes to the disk there but QEMU's NBD server, and what this writes comes by here.
 *   - Whatever changes a block, a write, zeroes, a trim, or a request that is not known to leave it
 *     alone, has it struck off the list when it comes by, for good. (A write that was named changes
 *     nothing, so that block stays: a mirror that is begun anew finds it once more.)
 *   - The destination reads a block when it has got so far in the stream that it is named. Requests
 *     that come before that in the stream may be under way in QEMU then, or not yet begun; but none
 *     of them is about this block, or it would have been struck off, except such as write the same
 *     bytes that are there. Requests that come later have not been given to QEMU yet.
 *
 * So it needs no replies to be waited for. And should a disk change by itself: the destination
 * hashes what it has read and compares it with its own leaf, and the job fails if it differs.
 *
 * The exception is a flag. QEMU's mirror clears its target before all else if the target may be
 * unmapped ("discard": "unmap"), and that would be the end of what it holds. So it may not, here;
 * but then a request for zeroes says that no holes are to be made (NO_HOLE), and the copy of a
 * sparse disk would be full. That flag is taken away on the way: zeroes are zeroes either way, and
 * whether they become holes is up to the destination's own "discard".
 *
 * A stream that is not understood (DrvNbdRequests) is passed on as it is from there on.
 */

#define FLAGS_AT 4 /* of a request's header, in both forms */
#define FLAG_NO_HOLE 0x02

struct _DrvDeltaKnown {
    gatomicrefcount refs;
    DrvImageDigest *digest;
    guint8 *struck; /* a bit for each block: the destination's may have changed */
    guint64 reused; /* atomic */
};

struct _DrvDeltaWriter {
    DrvDeltaKnown *known;
    DrvNbdRequests requests;
    guint64 data, zero; /* of requests', that were counted */

    guint8 head[DRV_NBD_HEADER_MAX]; /* of the message at hand */
    guint head_len;
    guint64 at; /* on the disk, of the write's next byte */

    guint8 *block; /* that is being gathered */
    gsize want;    /* 0: none is */
    gsize have;

    /* What comes next is these bytes, or that block; then the input. */
    const guint8 *next;
    gsize next_len;
    gboolean names;
    guint64 name;
    const guint8 *input;
    gsize input_len;

    guint8 *frame;
    gsize size, len;
    DrvDeltaRecord record; /* the last in it ... */
    guint8 *record_head;   /* ... which is there; NULL: there is none */
    gsize named;           /* bytes of blocks in it */
};

/* --- what is known --- */

DrvDeltaKnown *
drv_delta_known_new(guint64 size, guint32 block, GError **error)
{
    DrvImageDigest *digest = drv_image_digest_new_with(size, block, error);
    if (digest == NULL)
        return NULL;
    DrvDeltaKnown *known = g_new0(DrvDeltaKnown, 1);
    g_atomic_ref_count_init(&known->refs);
    known->digest = digest;
    /* Until it is told, nothing is known. */
    known->struck = g_malloc(digest->blocks / 8 + 1);
    memset(known->struck, 0xff, digest->blocks / 8 + 1);
    return known;
}

DrvDeltaKnown *
drv_delta_known_ref(DrvDeltaKnown *known)
{
    g_atomic_ref_count_inc(&known->refs);
    return known;
}

void
drv_delta_known_unref(DrvDeltaKnown *known)
{
    if (known == NULL || !g_atomic_ref_count_dec(&known->refs))
        return;
    drv_image_digest_free(known->digest);
    g_free(known->struck);
    g_free(known);
}

guint64
drv_delta_known_blocks(const DrvDeltaKnown *known)
{
    return known->digest->blocks;
}

guint64
drv_delta_known_reused(DrvDeltaKnown *known)
{
    return __atomic_load_n(&known->reused, __ATOMIC_RELAXED);
}

gboolean
drv_delta_known_take(DrvDeltaKnown *known, guint64 first, const guint8 *leaves, gsize count,
                     GError **error)
{
    const DrvImageDigest *digest = known->digest;
    if (first > digest->blocks || count > digest->blocks - first) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                    "the destination's daemon tells digests of more blocks than the disk has: "
                    "install the same version of drover at both ends");
        return FALSE;
    }
    memcpy(digest->leaves + first * DRV_IMAGE_LEAF, leaves, count * DRV_IMAGE_LEAF);
    for (guint64 i = first; i < first + count; i++)
        known->struck[i / 8] &= (guint8) ~(1u << i % 8);
    return TRUE;
}

static gboolean
is_struck(const DrvDeltaKnown *known, guint64 block)
{
    return (known->struck[block / 8] >> block % 8 & 1) != 0;
}

/* All blocks that have one of these bytes. */
static void
strike(DrvDeltaKnown *known, guint64 offset, guint64 len)
{
    const DrvImageDigest *digest = known->digest;
    if (len == 0 || offset >= digest->size)
        return;
    guint64 last = offset + (MIN(len, digest->size - offset) - 1);
    for (guint64 i = offset / digest->block; i <= last / digest->block; i++)
        known->struck[i / 8] |= (guint8)(1u << i % 8);
}

/* --- the frame --- */

DrvDeltaWriter *
drv_delta_writer_new(DrvDeltaKnown *known)
{
    DrvDeltaWriter *writer = g_new0(DrvDeltaWriter, 1);
    writer->known = drv_delta_known_ref(known);
    writer->block = g_malloc(known->digest->block);
    drv_nbd_requests_init(&writer->requests);
    return writer;
}

void
drv_delta_writer_free(DrvDeltaWriter *writer)
{
    if (writer == NULL)
        return;
    drv_delta_known_unref(writer->known);
    g_free(writer->block);
    g_free(writer);
}

void
drv_delta_writer_begin(DrvDeltaWriter *writer, guint8 *frame, gsize size)
{
    writer->frame = frame;
    writer->size = size;
    writer->len = writer->named = 0;
    writer->record_head = NULL;
}

gsize
drv_delta_writer_len(const DrvDeltaWriter *writer)
{
    return writer->len;
}

static void
put_record(DrvDeltaWriter *self, DrvDeltaRecord record)
{
    self->record = record;
    self->record_head = self->frame + self->len;
    self->len += DRV_DELTA_HEAD;
    drv_delta_put(&self->record, self->record_head);
}

/* As many of the bytes that come next as there is room for; FALSE: not all of them. */
static gboolean
put_bytes(DrvDeltaWriter *self)
{
    gboolean on = self->record_head != NULL && self->record.kind == DRV_DELTA_BYTES;
    gsize room = self->size - self->len, head = on ? 0 : DRV_DELTA_HEAD;
    if (self->next_len == 0)
        return TRUE;
    if (room <= head)
        return FALSE;
    gsize n = MIN(self->next_len, room - head);
    if (!on)
        put_record(self, (DrvDeltaRecord){.kind = DRV_DELTA_BYTES});
    memcpy(self->frame + self->len, self->next, n);
    self->len += n;
    self->record.count += (guint32)n;
    drv_delta_put(&self->record, self->record_head);
    self->next += n;
    self->next_len -= n;
    return self->next_len == 0;
}

static gboolean
put_name(DrvDeltaWriter *self)
{
    DrvDeltaRecord *last = self->record_head != NULL ? &self->record : NULL;
    gsize len = drv_image_block_len(self->known->digest, self->name);
    if (self->named + len > DRV_DELTA_BLOCKS_MAX)
        return FALSE;
    if (last != NULL && last->kind == DRV_DELTA_BLOCKS && last->first + last->count == self->name) {
        last->count++;
        drv_delta_put(last, self->record_head);
    } else if (self->size - self->len < DRV_DELTA_HEAD) {
        return FALSE;
    } else {
        put_record(self, (DrvDeltaRecord){DRV_DELTA_BLOCKS, 1, self->name, NULL});
    }
    self->named += len;
    self->names = FALSE;
    __atomic_fetch_add(&self->known->reused, len, __ATOMIC_RELAXED);
    return TRUE;
}

/* --- what is said --- */

static void
say(DrvDeltaWriter *self, const guint8 *bytes, gsize len)
{
    self->next = bytes;
    self->next_len = len;
}

static void
take_request(DrvDeltaWriter *self)
{
    const DrvNbdRequests *requests = &self->requests;
    switch (requests->type) {
    case DRV_NBD_WRITE:
        self->at = requests->offset; /* struck off as its data come by */
        break;
    case DRV_NBD_WRITE_ZEROES:
        self->head[FLAGS_AT + 1] &= (guint8)~FLAG_NO_HOLE;
        strike(self->known, requests->offset, requests->length);
        break;
    case DRV_NBD_TRIM:
        strike(self->known, requests->offset, requests->length);
        break;
    case DRV_NBD_READ:
    case DRV_NBD_DISCONNECT:
    case DRV_NBD_FLUSH:
    case DRV_NBD_CACHE:
    case DRV_NBD_BLOCK_STATUS:
        break;
    default:
        strike(self->known, 0, self->known->digest->size);
    }
}

/* How long the block is that begins here, if all of it is written and it may be the same; else 0.
 */
static gsize
may_be_same(const DrvDeltaWriter *self)
{
    const DrvImageDigest *digest = self->known->digest;
    guint64 block = self->at / digest->block;
    if (self->at % digest->block != 0 || block >= digest->blocks || is_struck(self->known, block))
        return 0;
    gsize len = drv_image_block_len(digest, block);
    return self->requests.skip >= len ? len : 0;
}

static void
judge_block(DrvDeltaWriter *self)
{
    const DrvImageDigest *digest = self->known->digest;
    guint64 block = (self->at - self->want) / digest->block;
    guint8 leaf[DRV_IMAGE_LEAF];
    drv_image_digest_hash(digest, block, self->block, leaf);
    self->names = memcmp(leaf, drv_image_digest_leaf(digest, block), sizeof leaf) == 0;
    self->name = block;
    if (!self->names) {
        strike(self->known, self->at - self->want, self->want);
        say(self, self->block, self->want);
    }
    self->want = self->have = 0;
}

/* A write's data. */
static void
take_data(DrvDeltaWriter *self)
{
    guint32 block = self->known->digest->block;
    if (self->want == 0)
        self->want = may_be_same(self);
    gsize end = self->want > 0 ? self->want - self->have : block - self->at % block;
    gsize n = drv_nbd_requests_step(&self->requests, self->input, MIN(end, self->input_len));
    if (self->want > 0) {
        memcpy(self->block + self->have, self->input, n);
        self->have += n;
    } else {
        strike(self->known, self->at, n);
        say(self, self->input, n);
    }
    self->at += n;
    self->input += n;
    self->input_len -= n;
    if (self->want > 0 && self->have == self->want)
        judge_block(self);
}

/* Of a message, it is only now known what it is. */
static void
take_header(DrvDeltaWriter *self)
{
    gsize n = drv_nbd_requests_step(&self->requests, self->input, self->input_len);
    memcpy(self->head + self->head_len, self->input, n);
    self->head_len += (guint)n;
    self->input += n;
    self->input_len -= n;
    gboolean whole = self->requests.have == 0;
    if (!whole && !self->requests.lost)
        return;
    if (whole && !self->requests.lost)
        take_request(self);
    say(self, self->head, self->head_len);
    self->head_len = 0;
}

static void
take_input(DrvDeltaWriter *self)
{
    const DrvNbdRequests *requests = &self->requests;
    if (requests->lost || (requests->skip > 0 && !requests->payload)) {
        gsize n = drv_nbd_requests_step(&self->requests, self->input, self->input_len);
        say(self, self->input, n);
        self->input += n;
        self->input_len -= n;
    } else if (requests->skip > 0) {
        take_data(self);
    } else {
        take_header(self);
    }
}

void
drv_delta_writer_push(DrvDeltaWriter *writer, const guint8 *bytes, gsize len)
{
    g_return_if_fail(writer->input_len == 0 && writer->next_len == 0 && !writer->names);
    writer->input = bytes;
    writer->input_len = len;
}

gboolean
drv_delta_writer_run(DrvDeltaWriter *writer)
{
    for (;;) {
        if (!put_bytes(writer) || (writer->names && !put_name(writer)))
            return FALSE;
        if (writer->input_len == 0)
            return TRUE;
        take_input(writer);
    }
}

void
drv_delta_writer_count(DrvDeltaWriter *writer, guint64 *data, guint64 *zero)
{
    *data = writer->requests.data_bytes - writer->data;
    *zero = writer->requests.zero_bytes - writer->zero;
    writer->data += *data;
    writer->zero += *zero;
}
