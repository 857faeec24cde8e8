/* SPDX-License-Identifier: Apache-2.0 */

/* The table by itself, and with several threads at once. */
#include "precopy/test-model.h"

#include "common/error.h"
#include "precopy/page-table-private.h"

#include <string.h>

static void
test_blocks(void)
{
    g_autoptr(DrvPageTable) table = model_table(1 << 20);
    g_autoptr(GError) error = NULL;
    g_assert_false(drv_page_table_add_block(table, 1, "b", 4096, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_cmpstr(error->message, ==, "RAM block 'b' has number 1 where 0 was expected");
    g_clear_error(&error);
    g_assert_true(drv_page_table_add_block(table, 0, "a", 4096, TRUE, NULL));
    g_assert_cmpint(drv_page_table_find_block(table, "a"), ==, 0);
    g_assert_cmpint(drv_page_table_find_block(table, "b"), ==, -1);

    /* 2^63 bytes: no machine has the address space, and a failure leaves all as it was. */
    g_assert_false(drv_page_table_add_block(table, 1, "b", (guint64)1 << 63, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_LIMIT);
    g_assert_nonnull(strstr(error->message, "RAM block 'b' of 9223372036854775808 bytes"));
    g_assert_true(drv_page_table_add_block(table, 1, "b", (guint64)1 << 63, FALSE, NULL));
    for (guint i = 2; i < DRV_STREAM_MAX_BLOCKS; i++)
        g_assert_true(drv_page_table_add_block(table, i, "more", 0, TRUE, NULL));
    g_clear_error(&error);
    g_assert_false(drv_page_table_add_block(table, DRV_STREAM_MAX_BLOCKS, "more", 0, TRUE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
}

/* Memory is taken as pages are sent, and stays under 2 % of them; zero pages take less. */
static void
test_memory(void)
{
    guint64 pages = 64 * 1024; /* 256 MiB */
    g_autoptr(DrvPageTable) table = model_table(DRV_DEDUP_MEMORY_DEFAULT);
    g_assert_true(drv_page_table_add_block(table, 0, "a", pages * DRV_PAGE_LEN, TRUE, NULL));
    guint64 empty = drv_page_table_memory(table);
    g_assert_cmpuint(empty, <, 64 << 10);
    DrvTableBlock *block = drv_page_table_block(table, 0);
    guint64 number = drv_page_table_number(table), after = 0;
    const DrvVerdict zero = {.kind = DRV_RECORD_ZERO};
    for (guint64 page = 0; page < pages; page++)
        drv_page_table_settle(table, number, block, page, NULL, &zero, &after);
    guint64 zeros = drv_page_table_memory(table);
    g_assert_cmpuint(zeros, >=, pages * 8);
    g_assert_cmpuint(zeros, <, pages * DRV_PAGE_LEN / 400);
    for (guint64 page = 0; page < pages; page++) {
        DrvPageHash hash = {.key = page * 0x9e3779b97f4a7c15u};
        DrvVerdict verdict;
        hash.pieces[0] = page;
        g_assert_true(drv_page_table_judge(table, number, block, page, &hash, &verdict));
        verdict.kind = DRV_RECORD_LITERAL;
        drv_page_table_settle(table, number, block, page, &hash, &verdict, &after);
    }
    g_assert_cmpuint(drv_page_table_memory(table), >=, pages * 72);
    g_assert_cmpuint(drv_page_table_memory(table), <, pages * DRV_PAGE_LEN / 50);
}

/* ---- several threads ---- */

#define THREADS 3u
#define THREAD_SENDS 600u

typedef struct {
    DrvPageTable *table;
    guint32 seed;
    GPtrArray *batches; /* GBytes */
} Sender;

static void
sender_finish(Sender *sender, DrvBatchWriter *writer, guint8 *room)
{
    gsize len = drv_batch_writer_finish(writer);
    if (len > 0)
        g_ptr_array_add(sender->batches, g_bytes_new(room, len));
    drv_batch_writer_begin(writer, room, DRV_BATCH_MIN);
}

static void
sender_feed(Sender *sender, DrvStream *stream, DrvBatchWriter *writer, guint8 *room,
            const DrvCursor *bytes)
{
    DrvStreamEvent event;
    drv_stream_push(stream, bytes->data, bytes->pos);
    while (drv_stream_next(stream, &event)) {
        guint32 done = 0;
        while (!drv_batch_writer_add(writer, stream, &event, &done))
            sender_finish(sender, writer, room);
    }
}

/* Sends pages of all threads' own making to the same few places. */
static gpointer
send_thread(gpointer data)
{
    Sender *sender = data;
    g_autoptr(DrvStream) stream = drv_stream_new();
    g_autoptr(DrvBatchWriter) writer = drv_batch_writer_new(sender->table);
    g_autoptr(GRand) rand = g_rand_new_with_seed(sender->seed);
    DrvEmit emit = DRV_EMIT_INIT;
    guint8 room[DRV_BATCH_MIN], bytes[DRV_BATCH_MIN], page[DRV_PAGE_LEN] = {0};
    DrvRamBlock block = model_blocks[1].ram;

    drv_batch_writer_begin(writer, room, sizeof room);
    DrvCursor out = drv_cursor_writer(bytes, sizeof bytes);
    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, 2, "ram", 4);
    drv_emit_blocks(&out, &block, 1);
    sender_feed(sender, stream, writer, room, &out);
    for (guint i = 0; i < THREAD_SENDS; i++) {
        guint number = (guint)g_rand_int_range(rand, 0, 50);
        if (g_rand_int_range(rand, 0, 3) == 0)
            memset(page, g_rand_int_range(rand, 0, 4), sizeof page);
        page[g_rand_int_range(rand, 0, DRV_PAGE_LEN)]++;
        out.pos = 0;
        drv_emit_page(&emit, &out, &block, 0, DRV_PAGES_NORMAL, number * DRV_PAGE_LEN, page,
                      sizeof page);
        sender_feed(sender, stream, writer, room, &out);
    }
    sender_finish(sender, writer, room);
    return NULL;
}

static gint
by_number(gconstpointer a, gconstpointer b)
{
    const ModelBatch *const *x = a, *const *y = b;
    return (*x)->head.number < (*y)->head.number ? -1 : 1;
}

/* Everything that the threads sent, as a model's batches of blocks of the right number. */
static void
collect(Model *model, const Sender *senders)
{
    for (guint t = 0; t < THREADS; t++)
        for (guint i = 0; i < senders[t].batches->len; i++) {
            gsize len;
            ModelBatch *batch = g_new0(ModelBatch, 1);
            batch->data = g_bytes_unref_to_data(senders[t].batches->pdata[i], &len);
            batch->len = len;
            batch->channel = 1;
            batch->for_qemu = g_byte_array_new();
            g_assert_true(drv_batch_head(batch->data, len, &batch->head, NULL));
            g_ptr_array_add(model->batches, batch);
        }
    g_ptr_array_sort(model->batches, by_number);
    for (guint i = 0; i < model->batches->len; i++)
        g_assert_cmpuint(model_batch(model, i + 1)->head.number, ==, i + 1);
    g_array_append_val(model->known, model_blocks[1]);
}

/* Whatever the order in which batches are placed, the digests fit and the result is one. */
static void
test_threads(void)
{
    g_autofree guint8 *first = NULL;
    g_autoptr(DrvPageTable) table = model_table(1 << 20);
    Sender senders[THREADS];
    GThread *threads[THREADS];
    g_assert_true(drv_page_table_add_block(table, 0, model_blocks[1].ram.id,
                                           model_blocks[1].ram.size, TRUE, NULL));
    for (guint t = 0; t < THREADS; t++) {
        senders[t] = (Sender){.table = table, .seed = t, .batches = g_ptr_array_new()};
        threads[t] = g_thread_new("sender", send_thread, &senders[t]);
    }
    for (guint t = 0; t < THREADS; t++)
        g_thread_join(threads[t]);

    g_autoptr(Model) model = model_new(DRV_BATCH_MIN, 0);
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    collect(model, senders);
    for (guint order = 0; order < 5; order++) {
        for (guint i = 0; i < model->batches->len; i++)
            model_batch(model, i + 1)->placed = FALSE;
        model->given = 0;
        memset(model->dest[0], 0xee, model_blocks[1].ram.size);
        model_place_all(model, rand);
        if (first == NULL)
            first = g_memdup2(model->dest[0], model_blocks[1].ram.size);
        g_assert_cmpmem(model->dest[0], model_blocks[1].ram.size, first, model_blocks[1].ram.size);
    }
    for (guint t = 0; t < THREADS; t++)
        g_ptr_array_unref(senders[t].batches);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-table/blocks", test_blocks);
    g_test_add_func("/page-table/memory", test_memory);
    g_test_add_func("/page-table/threads", test_threads);
    return g_test_run();
}
