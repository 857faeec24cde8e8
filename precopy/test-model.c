/* SPDX-License-Identifier: Apache-2.0 */
#include "precopy/test-model.h"

#include <string.h>

#define RAM_ID 2u

const DrvBatchBlock model_blocks[MODEL_BLOCKS] = {
    {.ram = {.id = "pc.ram", .size = MODEL_PAGES * DRV_PAGE_LEN}, .placeable = TRUE},
    {.ram = {.id = "ram-node1", .size = 50 * DRV_PAGE_LEN}, .placeable = TRUE},
    {.ram = {.id = "vga.vram", .size = 20 * DRV_PAGE_LEN}},
};

/* A secret with few bits in it makes weak hashes: pieces that differ are taken for the same. */
void
model_secret(guint32 seed, guint8 secret[DRV_PAGE_SECRET])
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    for (guint i = 0; i < DRV_PAGE_SECRET; i++)
        secret[i] = (guint8)g_rand_int_range(rand, 0, 256);
}

DrvPageTable *
model_table(gsize dedup_memory)
{
    guint8 pieces[DRV_PAGE_SECRET], digest[DRV_PAGE_SECRET];
    model_secret(MODEL_PIECES_SEED, pieces);
    model_secret(MODEL_DIGEST_SEED, digest);
    return drv_page_table_new(pieces, digest, dedup_memory);
}

guint
model_pages(guint block)
{
    return (guint)(model_blocks[block].ram.size / DRV_PAGE_LEN);
}

guint8 *
model_page(Model *model, guint block, guint page)
{
    return model->source[block] + (gsize)page * DRV_PAGE_LEN;
}

static void
batch_free(gpointer data)
{
    ModelBatch *batch = data;
    g_free(batch->data);
    g_byte_array_unref(batch->for_qemu);
    g_free(batch);
}

Model *
model_new(gsize size, gsize dedup_memory)
{
    Model *model = g_new0(Model, 1);
    model->size = size;
    model_secret(MODEL_DIGEST_SEED, model->digest_secret);
    model->table = model_table(dedup_memory);
    model->batches = g_ptr_array_new_with_free_func(batch_free);
    model->known = g_array_new(FALSE, FALSE, sizeof(DrvBatchBlock));
    model->emit = DRV_EMIT_INIT;
    model->qemu = drv_stream_new();
    for (guint i = 0; i < MODEL_BLOCKS; i++) {
        model->source[i] = g_malloc0(model_blocks[i].ram.size);
        model->dest[i] = g_malloc(model_blocks[i].ram.size);
        memset(model->dest[i], 0xee, model_blocks[i].ram.size); /* what a mistake leaves is seen */
    }
    for (guint i = 0; i < MODEL_CHANNELS; i++) {
        ModelChannel *channel = &model->channels[i];
        *channel = (ModelChannel){.stream = drv_stream_new(),
                                  .writer = drv_batch_writer_new(model->table),
                                  .emit = DRV_EMIT_INIT,
                                  .room = g_malloc(size)};
        drv_batch_writer_begin(channel->writer, channel->room, size);
    }
    return model;
}

void
model_free(Model *model)
{
    for (guint i = 0; i < MODEL_BLOCKS; i++) {
        g_free(model->source[i]);
        g_free(model->dest[i]);
    }
    for (guint i = 0; i < MODEL_CHANNELS; i++) {
        drv_stream_free(model->channels[i].stream);
        drv_kept_user_free(model->channels[i].kept);
        drv_batch_writer_free(model->channels[i].writer);
        g_free(model->channels[i].room);
    }
    drv_page_table_free(model->table);
    g_ptr_array_unref(model->batches);
    g_array_unref(model->known);
    drv_stream_free(model->qemu);
    g_free(model);
}

static void
count_wake(gpointer data)
{
    ModelChannel *channel = data;
    channel->wakes++;
}

void
model_use_kept(Model *model, DrvKeptPages *kept, DrvPageStore *store,
               void (*waits)(gpointer data, guint channel), gpointer data)
{
    model->store = store;
    model->waits = waits;
    model->data = data;
    drv_page_table_use_kept(model->table, kept);
    for (guint i = 0; i < MODEL_CHANNELS; i++) {
        ModelChannel *channel = &model->channels[i];
        channel->kept = drv_kept_user_new(kept, model, count_wake, channel);
        drv_batch_writer_use_kept(channel->writer, channel->kept);
    }
}

void
model_acknowledge(Model *model)
{
    for (guint i = 0; i < MODEL_CHANNELS; i++) {
        guint64 first_missing = model->channels[i].frames + 1;
        for (guint n = 0; n < model->batches->len; n++) {
            const ModelBatch *batch = model->batches->pdata[n];
            if (batch != NULL && batch->channel == i && !batch->placed)
                first_missing = MIN(first_missing, batch->frame);
        }
        if (model->channels[i].kept != NULL)
            drv_kept_user_acknowledged(model->channels[i].kept, first_missing);
    }
}

/* ---- the source ---- */

static void
keep_batch(Model *model, guint number, ModelBatch *batch)
{
    /* Channels finish their batches in any order. */
    if (model->batches->len < number)
        g_ptr_array_set_size(model->batches, (gint)number);
    g_assert_null(model->batches->pdata[number - 1]);
    model->batches->pdata[number - 1] = batch;
}

void
model_finish(Model *model, guint number)
{
    ModelChannel *channel = &model->channels[number];
    gsize len = drv_batch_writer_finish(channel->writer);
    if (len > 0) {
        ModelBatch *batch = g_new0(ModelBatch, 1);
        batch->data = g_memdup2(channel->room, len);
        batch->len = len;
        batch->channel = number;
        batch->frame = ++channel->frames;
        batch->for_qemu = g_byte_array_new();
        g_assert_true(drv_batch_head(batch->data, len, &batch->head, NULL));
        keep_batch(model, (guint)batch->head.number, batch);
    }
    if (channel->kept != NULL)
        drv_kept_user_sent(channel->kept, channel->frames + 1);
    drv_batch_writer_begin(channel->writer, channel->room, model->size);
}

static void
add_event(Model *model, guint number, const DrvStreamEvent *event)
{
    ModelChannel *channel = &model->channels[number];
    guint32 done = 0;
    if (event->kind == DRV_STREAM_RAM_BLOCK && number == 0) {
        const DrvRamBlock *block = drv_stream_block(channel->stream, event->block);
        g_assert_true(drv_page_table_add_block(model->table, event->block, block->id, block->size,
                                               model_blocks[event->block].placeable, NULL));
    }
    while (!drv_batch_writer_add(channel->writer, channel->stream, event, &done)) {
        gboolean waits = drv_batch_writer_waits(channel->writer);
        g_assert_true(waits || !drv_batch_writer_is_empty(channel->writer));
        model_finish(model, number);
        if (waits && drv_kept_user_wait(channel->kept))
            model->waits(model->data, number);
    }
}

void
model_feed(Model *model, guint number, const void *bytes, gsize len)
{
    DrvStream *stream = model->channels[number].stream;
    DrvStreamEvent event;
    drv_stream_push(stream, bytes, len);
    while (drv_stream_next(stream, &event))
        add_event(model, number, &event);
}

void
model_flush(Model *model, guint number)
{
    DrvStreamEvent event;
    if (drv_stream_flush(model->channels[number].stream, &event))
        add_event(model, number, &event);
}

void
model_begin(Model *model, guint channel)
{
    guint8 room[1000];
    DrvRamBlock blocks[MODEL_BLOCKS];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    for (guint i = 0; i < MODEL_BLOCKS; i++)
        blocks[i] = model_blocks[i].ram;
    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, RAM_ID, "ram", 4);
    drv_emit_blocks(&out, blocks, MODEL_BLOCKS);
    if (channel == 0) {
        drv_emit_eos(&out);
        drv_emit_footer(&out, RAM_ID);
    }
    model_feed(model, channel, room, out.pos);
}

void
model_section(Model *model, DrvSectionType type)
{
    guint8 room[20];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    drv_emit_section(&out, type, RAM_ID, NULL, 0);
    model_feed(model, 0, room, out.pos);
}

void
model_section_end(Model *model)
{
    guint8 room[20];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    drv_emit_eos(&out);
    drv_emit_footer(&out, RAM_ID);
    model_feed(model, 0, room, out.pos);
}

void
model_send_as(Model *model, guint channel, guint block, guint page, DrvPagesKind kind,
              const void *payload, gsize len)
{
    guint8 room[DRV_EMIT_MAX_HEAD + DRV_PAGE_LEN];
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    drv_emit_page(&model->channels[channel].emit, &out, &model_blocks[block].ram, block, kind,
                  (guint64)page * DRV_PAGE_LEN, payload, len);
    model_feed(model, channel, room, out.pos);
}

void
model_send(Model *model, guint channel, guint block, guint page)
{
    static const guint8 zero[DRV_PAGE_LEN];
    const guint8 *content = model_page(model, block, page);
    if (memcmp(content, zero, sizeof zero) == 0)
        model_send_as(model, channel, block, page, DRV_PAGES_ZERO, "", 1);
    else
        model_send_as(model, channel, block, page, DRV_PAGES_NORMAL, content, DRV_PAGE_LEN);
}

void
model_devices(Model *model)
{
    guint8 room[300] = {0};
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    model_section(model, DRV_SECTION_END);
    model_section_end(model);
    drv_emit_section(&out, DRV_SECTION_FULL, 9, "cpu", 12);
    drv_cursor_take(&out, 200);
    drv_emit_footer(&out, 9);
    model_feed(model, 0, room, out.pos);
    model_flush(model, 0);
    for (guint i = 0; i < MODEL_CHANNELS; i++)
        model_finish(model, i);
}

ModelBatch *
model_batch(Model *model, guint64 number)
{
    g_assert_cmpuint(number, >=, 1);
    g_assert_cmpuint(number, <=, model->batches->len);
    return model->batches->pdata[number - 1];
}

guint64
model_last(const Model *model)
{
    return model->batches->len;
}

void
model_fill(Model *model, guint block, guint page, guint32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    guint8 *content = model_page(model, block, page);
    for (guint i = 0; i < DRV_PAGE_LEN; i += 4) {
        guint32 value = g_rand_int(rand);
        memcpy(content + i, &value, 4);
    }
}

Model *
model_begun(void)
{
    Model *model = model_new(DRV_BATCH_MAX, DRV_DEDUP_MEMORY_DEFAULT);
    model_begin(model, 0);
    model_section(model, DRV_SECTION_PART);
    return model;
}

/* ---- the destination ---- */

static guint8 *
dest_page(Model *model, guint block, guint64 page)
{
    return model->dest[block] + page * DRV_PAGE_LEN;
}

static guint64
place_record(Model *model, const DrvRecord *record)
{
    guint8 *page = dest_page(model, record->block, record->first);
    switch (record->kind) {
    case DRV_RECORD_ZERO:
        memset(page, record->fill, (gsize)record->count * DRV_PAGE_LEN);
        return 0;
    case DRV_RECORD_LITERAL:
        if (record->keep)
            g_assert_true(
                drv_page_store_put(model->store, record->slot, record->count, record->bytes, NULL));
        memcpy(page, record->bytes, record->len);
        return 0;
    case DRV_RECORD_KEPT:
        g_assert_true(drv_page_store_get(model->store, record->slot, page, NULL));
        break;
    case DRV_RECORD_DELTA:
        drv_batch_patch(record, page);
        break;
    case DRV_RECORD_DUP:
        memmove(page, dest_page(model, record->from_block, record->from), DRV_PAGE_LEN);
        break;
    default:
        g_assert_not_reached();
    }
    return drv_batch_digest(model->digest_secret, record->block, record->first, page);
}

static void
learn_block(Model *model, const DrvRecord *record)
{
    DrvBatchBlock block;
    if (record->block < model->known->len)
        return; /* from another channel */
    g_assert_cmpuint(record->block, ==, model->known->len);
    drv_batch_block(record, model_blocks[record->block].placeable, &block);
    g_assert_cmpstr(block.ram.id, ==, model_blocks[record->block].ram.id);
    g_array_append_val(model->known, block);
}

gboolean
model_place(Model *model, ModelBatch *batch, GError **error)
{
    const DrvBatchBlock *known = (const DrvBatchBlock *)model->known->data;
    g_autoptr(GError) refused = NULL;
    DrvBatchReader reader;
    DrvRecord record;
    guint64 digest = 0;

    drv_batch_reader_init(&reader, batch->data, batch->len, known, model->known->len, &refused);
    g_assert_no_error(refused);
    while (drv_batch_reader_next(&reader, &record)) {
        if (record.kind == DRV_RECORD_BLOCK)
            learn_block(model, &record);
        known = (const DrvBatchBlock *)model->known->data;
        if (drv_batch_is_placed(known, &record))
            digest += place_record(model, &record);
    }
    batch->placed = TRUE;
    return drv_batch_check(&reader.head, digest, error);
}

/* Writes what QEMU is to be given of a batch that was placed. */
static void
emit_batch(Model *model, ModelBatch *batch)
{
    const DrvBatchBlock *known = (const DrvBatchBlock *)model->known->data;
    g_autofree guint8 *room = g_malloc(DRV_BATCH_MAX);
    DrvCursor out = drv_cursor_writer(room, DRV_BATCH_MAX);
    DrvBatchReader reader;
    DrvRecord record;
    drv_batch_reader_init(&reader, batch->data, batch->len, known, model->known->len, NULL);
    while (drv_batch_reader_next(&reader, &record)) {
        drv_batch_direct(&model->emit, &out, known, &record);
    }
    g_assert_true(drv_cursor_ok(&out));
    g_assert_cmpuint(out.pos, <=, reader.emitted);
    g_byte_array_append(batch->for_qemu, room, (guint)out.pos);
}

static void
qemu_event(Model *model, const DrvStreamEvent *event)
{
    if (event->kind == DRV_STREAM_SECTION && event->section.type == DRV_SECTION_FULL) {
        model->devices++;
        model->rushed |= !model_is_equal(model);
    }
    if (event->kind != DRV_STREAM_RAM_PAGES)
        return;
    for (guint32 i = 0; i < event->pages.count; i++) {
        guint8 *page = dest_page(model, event->pages.block, event->pages.offset / DRV_PAGE_LEN + i);
        if (event->pages.kind == DRV_PAGES_NORMAL)
            memcpy(page, drv_stream_payload(event, i), DRV_PAGE_LEN);
        else if (event->pages.kind == DRV_PAGES_ZERO)
            memset(page, event->pages.fill, DRV_PAGE_LEN);
    }
}

/* In the stream's order, which is that of a channel's batches. */
static void
give_qemu(Model *model)
{
    DrvStreamEvent event;
    for (; model->given < model->batches->len; model->given++) {
        ModelBatch *batch = model->batches->pdata[model->given];
        if (batch == NULL)
            return;
        if (batch->channel != 0)
            continue;
        if (!batch->placed)
            return;
        emit_batch(model, batch);
        drv_stream_push(model->qemu, batch->for_qemu->data, batch->for_qemu->len);
        while (drv_stream_next(model->qemu, &event))
            qemu_event(model, &event);
    }
}

static guint64
placed_up_to(const Model *model)
{
    guint64 n = 0;
    const ModelBatch *batch;
    while (n < model->batches->len && (batch = model->batches->pdata[n]) != NULL && batch->placed)
        n++;
    return n;
}

gboolean
model_place_one(Model *model, GRand *rand)
{
    g_autoptr(GPtrArray) allowed = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    guint64 low = placed_up_to(model);
    for (guint i = (guint)low; i < model->batches->len; i++) {
        ModelBatch *batch = model->batches->pdata[i];
        if (batch != NULL && !batch->placed && batch->head.after <= low)
            g_ptr_array_add(allowed, batch);
    }
    if (allowed->len == 0)
        return FALSE;
    guint pick = (guint)g_rand_int_range(rand, 0, (gint)allowed->len);
    model_place(model, allowed->pdata[pick], &error);
    g_assert_no_error(error);
    give_qemu(model);
    return TRUE;
}

void
model_place_all(Model *model, GRand *rand)
{
    while (model_place_one(model, rand))
        ;
    g_assert_cmpuint(placed_up_to(model), ==, model->batches->len);
}

gboolean
model_is_equal(Model *model)
{
    for (guint i = 0; i < MODEL_BLOCKS; i++)
        for (guint p = 0; p < model_pages(i); p++)
            if (memcmp(model_page(model, i, p), dest_page(model, i, p), DRV_PAGE_LEN) != 0) {
                g_test_message("page %u of block %u differs", p, i);
                return FALSE;
            }
    return TRUE;
}
