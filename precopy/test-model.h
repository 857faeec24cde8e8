/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "precopy/batch-reader.h"
#include "precopy/batch-writer.h"
#include "precopy/page-store.h"

/*
 * A guest that migrates in direct mode, in memory: a source with channels, batches that wait to be
 * placed in whatever order is allowed, a destination that places them, and its QEMU, which reads
 * what it is given and must load devices only when the RAM is complete.
 */

#define MODEL_BLOCKS 3u /* the last one is not placeable */
#define MODEL_CHANNELS 2u
#define MODEL_PAGES 300u /* of the first block; the others are smaller */

extern const DrvBatchBlock model_blocks[MODEL_BLOCKS];

#define MODEL_PIECES_SEED 1u
#define MODEL_DIGEST_SEED 2u

void model_secret(guint32 seed, guint8 secret[DRV_PAGE_SECRET]);
DrvPageTable *model_table(gsize dedup_memory);

typedef struct {
    guint8 *data;
    gsize len;
    guint channel;
    guint64 frame; /* number within its channel, from 1 on */
    DrvBatchHead head;
    gboolean placed;
    GByteArray *for_qemu;
} ModelBatch;

typedef struct {
    DrvStream *stream;
    DrvBatchWriter *writer;
    DrvEmit emit; /* of QEMU's writer */
    guint8 *room;
    DrvKeptUser *kept; /* NULL: none are */
    guint64 frames;
    guint wakes;
} ModelChannel;

typedef struct {
    guint8 *source[MODEL_BLOCKS]; /* the guest's RAM */
    DrvPageTable *table;
    ModelChannel channels[MODEL_CHANNELS];
    gsize size; /* of batches */

    GPtrArray *batches; /* ModelBatch; number n is element n - 1 */

    guint8 *dest[MODEL_BLOCKS];
    guint8 digest_secret[DRV_PAGE_SECRET];
    GArray *known; /* DrvBatchBlock */
    DrvEmit emit;  /* to QEMU */
    DrvStream *qemu;
    guint given;     /* batches that QEMU was given */
    guint devices;   /* sections that QEMU has begun to load */
    gboolean rushed; /* one of them when the RAM was not complete */

    DrvPageStore *store;
    /* A channel waits for a page of another guest: see to it that it comes, or give up. */
    void (*waits)(gpointer data, guint channel);
    gpointer data;
} Model;

Model *model_new(gsize size, gsize dedup_memory);
/* Pages are shared with others; 'store' is borrowed. Before anything else. */
void model_use_kept(Model *model, DrvKeptPages *kept, DrvPageStore *store,
                    void (*waits)(gpointer data, guint channel), gpointer data);
/* The source hears of what was placed. */
void model_acknowledge(Model *model);
Model *model_begun(void); /* within a section of the RAM already */
void model_free(Model *model);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Model, model_free)

guint model_pages(guint block);
guint8 *model_page(Model *model, guint block, guint page);

/* Random content, the same for the same seed. */
void model_fill(Model *model, guint block, guint page, guint32 seed);

/* What QEMU writes to a channel. */
void model_begin(Model *model, guint channel); /* header, blocks */
void model_feed(Model *model, guint channel, const void *bytes, gsize len);
void model_section(Model *model, DrvSectionType type); /* of the RAM, in channel 0 */
void model_section_end(Model *model);
/* A page as it is in the source now, as QEMU would send it. */
void model_send(Model *model, guint channel, guint block, guint page);
void model_send_as(Model *model, guint channel, guint block, guint page, DrvPagesKind kind,
                   const void *payload, gsize len);
void model_flush(Model *model, guint channel);  /* the parser */
void model_finish(Model *model, guint channel); /* the batch */
void model_devices(Model *model);               /* END, a device, the end */

ModelBatch *model_batch(Model *model, guint64 number);
guint64 model_last(const Model *model);

/* Places a batch, whether it may be or not. FALSE with the digest's error. */
gboolean model_place(Model *model, ModelBatch *batch, GError **error);
/* Places one that may be, and gives QEMU its share; FALSE: there is none. */
gboolean model_place_one(Model *model, GRand *rand);
/* Places all that were not, in random order as far as one is allowed. */
void model_place_all(Model *model, GRand *rand);
gboolean model_is_equal(Model *model);
