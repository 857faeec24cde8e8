/* SPDX-License-Identifier: Apache-2.0 */

/* Batches in relay: whatever goes in comes out; and batches that a peer has made up. */
#include "precopy/batch-reader.h"
#include "precopy/batch-writer.h"

#include "common/error.h"
#include "precopy/test-sample.h"

#include <string.h>

static const guint8 pieces_secret[DRV_PAGE_SECRET] = {1, 2, 3};
static const guint8 digest_secret[DRV_PAGE_SECRET] = {4, 5, 6};

static DrvPageTable *
new_table(void)
{
    return drv_page_table_new(pieces_secret, digest_secret, DRV_DEDUP_MEMORY_DEFAULT);
}

/* ---- a relay: writer, reader, and what comes out ---- */

typedef struct {
    DrvPageTable *table;
    DrvBatchWriter *writer;
    DrvStream *stream;
    guint8 *room, *emitted;
    gsize size;

    guint64 number; /* of the last batch */
    guint records[DRV_RECORD_NAME + 1];
    guint64 pages;
    GArray *blocks; /* DrvBatchBlock */
    GByteArray *out;
} Relay;

static void
relay_init(Relay *relay, gsize size)
{
    *relay = (Relay){.table = new_table(), .stream = drv_stream_new(), .size = size};
    relay->writer = drv_batch_writer_new(relay->table);
    relay->room = g_malloc(size);
    relay->emitted = g_malloc(size);
    relay->blocks = g_array_new(FALSE, FALSE, sizeof(DrvBatchBlock));
    relay->out = g_byte_array_new();
    drv_batch_writer_begin(relay->writer, relay->room, size);
}

static void
relay_clear(Relay *relay)
{
    drv_batch_writer_free(relay->writer);
    drv_stream_free(relay->stream);
    drv_page_table_free(relay->table);
    g_array_unref(relay->blocks);
    g_byte_array_unref(relay->out);
    g_free(relay->room);
    g_free(relay->emitted);
}

static void
relay_record(Relay *relay, const DrvRecord *record, DrvCursor *out)
{
    relay->records[record->kind]++;
    if (record->kind == DRV_RECORD_ZERO || record->kind == DRV_RECORD_LITERAL)
        relay->pages += record->count;
    if (record->kind == DRV_RECORD_BLOCK) {
        DrvBatchBlock block;
        drv_batch_block(record, FALSE, &block);
        g_assert_cmpuint(record->block, ==, relay->blocks->len);
        g_array_append_val(relay->blocks, block);
    }
    drv_batch_relay(out, (const DrvBatchBlock *)relay->blocks->data, record);
}

/* The batch is copied to where it ends, so that reading beyond it is seen. */
static void
relay_finish(Relay *relay)
{
    gsize len = drv_batch_writer_finish(relay->writer);
    if (len > 0) {
        g_autofree guint8 *batch = g_memdup2(relay->room, len);
        DrvCursor out = drv_cursor_writer(relay->emitted, relay->size);
        DrvBatchReader reader;
        DrvRecord record;
        g_autoptr(GError) error = NULL;

        g_assert_cmpuint(len, <=, relay->size);
        drv_batch_reader_init(&reader, batch, len, (const DrvBatchBlock *)relay->blocks->data,
                              relay->blocks->len, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(reader.head.number, ==, ++relay->number);
        g_assert_cmpuint(reader.head.digest, ==, 0);
        while (drv_batch_reader_next(&reader, &record))
            relay_record(relay, &record, &out);
        g_assert_true(drv_cursor_ok(&out));
        g_assert_cmpuint(out.pos, <=, reader.emitted);
        g_byte_array_append(relay->out, relay->emitted, (guint)out.pos);
    }
    drv_batch_writer_begin(relay->writer, relay->room, relay->size);
}

static void
relay_event(Relay *relay, const DrvStreamEvent *event)
{
    guint32 done = 0;
    if (event->kind == DRV_STREAM_RAM_BLOCK) {
        const DrvRamBlock *block = drv_stream_block(relay->stream, event->block);
        g_assert_true(drv_page_table_add_block(relay->table, event->block, block->id, block->size,
                                               FALSE, NULL));
    }
    while (!drv_batch_writer_add(relay->writer, relay->stream, event, &done)) {
        g_assert_false(drv_batch_writer_is_empty(relay->writer));
        relay_finish(relay);
    }
}

static void
relay_feed(Relay *relay, const guint8 *data, gsize len, gboolean flush)
{
    DrvStreamEvent event;
    g_autofree guint8 *copy = g_memdup2(data, len);
    drv_stream_push(relay->stream, copy, len);
    while (drv_stream_next(relay->stream, &event))
        relay_event(relay, &event);
    if (flush && drv_stream_flush(relay->stream, &event))
        relay_event(relay, &event);
    if (flush)
        relay_finish(relay);
}

/* Feeds all in pieces; what comes out must be the same. */
static void
relay_all(Relay *relay, const GByteArray *in, gsize piece, gboolean flush)
{
    for (gsize at = 0; at < in->len; at += piece)
        relay_feed(relay, in->data + at, MIN(piece, in->len - at), flush || at + piece >= in->len);
    g_assert_cmpmem(relay->out->data, relay->out->len, in->data, in->len);
}

static void
check_relay(const GByteArray *in)
{
    static const gsize pieces[] = {1, 7, 512, 4104, 30000, 1 << 20};
    for (guint i = 0; i < G_N_ELEMENTS(pieces); i++) {
        for (guint how = 0; how < 4; how++) {
            Relay relay;
            relay_init(&relay, how & 1 ? DRV_BATCH_MIN : DRV_BATCH_MAX);
            relay_all(&relay, in, pieces[i], (how & 2) != 0);
            relay_clear(&relay);
        }
    }
}

static void
test_samples(void)
{
    for (guint normal = 0; normal <= 50; normal += 50) {
        g_autoptr(GByteArray) plain = sample_stream(FALSE, normal);
        g_autoptr(GByteArray) iterables = sample_stream(TRUE, normal);
        check_relay(plain);
        check_relay(iterables);
    }
}

/* Streams that are not quite QEMU's: nothing is lost or made better. */
static void
test_damaged(void)
{
    g_autoptr(GByteArray) good = sample_stream(FALSE, 5);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    for (guint i = 0; i < 400; i++) {
        Relay relay;
        g_autoptr(GByteArray) bad = g_byte_array_new();
        g_byte_array_append(bad, good->data, good->len);
        /* In the structure rather than in a page. */
        for (guint n = g_rand_int_range(rand, 1, 6); n > 0; n--)
            bad->data[g_rand_int_range(rand, 8, 400)] ^=
                (guint8)(1 << g_rand_int_range(rand, 0, 8));
        relay_init(&relay, DRV_BATCH_MAX);
        relay_all(&relay, bad, (gsize)g_rand_int_range(rand, 1, 9000), g_rand_boolean(rand));
        relay_clear(&relay);
    }
}

/* A stream of one block, 'ram', of so many pages, whose RAM goes on where the cursor is. */
static DrvCursor
begin_stream(GByteArray *in, const char *id, gsize id_len, guint pages)
{
    g_byte_array_set_size(in, 4 << 20);
    DrvCursor out = drv_cursor_writer(in->data, in->len);
    drv_emit_header(&out);
    drv_emit_section(&out, DRV_SECTION_START, 2, "ram", 4);
    drv_cursor_put_u64(&out, (guint64)pages * SAMPLE_PAGE | 4);
    drv_cursor_put_u8(&out, (guint8)id_len);
    drv_cursor_put_bytes(&out, id, id_len);
    drv_cursor_put_u64(&out, (guint64)pages * SAMPLE_PAGE);
    drv_emit_eos(&out);
    drv_emit_footer(&out, 2);
    drv_emit_section(&out, DRV_SECTION_PART, 2, NULL, 0);
    return out;
}

static const DrvRamBlock ram = {.id = "ram", .size = 40000 * (guint64)SAMPLE_PAGE};

static void
end_stream(GByteArray *in, DrvCursor *out)
{
    drv_emit_eos(out);
    drv_emit_footer(out, 2);
    g_assert_true(drv_cursor_ok(out));
    g_byte_array_set_size(in, (guint)out->pos);
}

/* Runs end where the batch is full, and go on in the next; the records say all that there was. */
static void
test_runs_are_split(void)
{
    g_autoptr(GByteArray) in = g_byte_array_new();
    DrvCursor out = begin_stream(in, "ram", 3, 40000);
    DrvEmit emit = DRV_EMIT_INIT;
    guint8 page[SAMPLE_PAGE];
    for (guint i = 0; i < 100; i++) {
        memset(page, (int)i + 1, sizeof page);
        drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_NORMAL, i * SAMPLE_PAGE, page, sizeof page);
    }
    for (guint i = 0; i < 30000; i++)
        drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_ZERO, (1000 + i) * SAMPLE_PAGE, "", 1);
    end_stream(in, &out);

    Relay relay;
    DrvPageCounts counts;
    relay_init(&relay, DRV_BATCH_MAX);
    relay_all(&relay, in, in->len, FALSE);
    drv_page_table_counts(relay.table, &counts);
    g_assert_cmpuint(counts.literal, ==, 100);
    g_assert_cmpuint(counts.zero, ==, 30000);
    g_assert_cmpuint(counts.dup + counts.delta, ==, 0);
    g_assert_cmpuint(counts.opaque_bytes, ==, in->len - 100 * 4104 - 30000 * 9 - 4 - 12);
    g_assert_cmpuint(counts.saved_bytes, >, 30000 * 9 - 200);
    /* The blocks' batch; 31 pages in each of three, 7 in the next with 10,000 and some zero pages,
     * then as many as re-emitted fill a batch: 14,562. */
    g_assert_cmpuint(relay.number, ==, 1 + 3 + 1 + 1 + 1);
    g_assert_cmpuint(relay.records[DRV_RECORD_LITERAL], ==, 4);
    g_assert_cmpuint(relay.records[DRV_RECORD_ZERO], ==, 3);
    g_assert_cmpuint(relay.pages, ==, 30100);
    relay_clear(&relay);
}

/* All that QEMU could say of a page, and some that it does not. */
static void
test_odd_pages(void)
{
    g_autoptr(GByteArray) in = g_byte_array_new();
    DrvCursor out = begin_stream(in, "ram", 3, 40000);
    DrvEmit emit = DRV_EMIT_INIT;
    static const guint8 zeros[SAMPLE_PAGE];
    guint8 xbzrle[3 + 100] = {1, 0, 100};
    guint8 zlib[4 + 50] = {0, 0, 0, 50};
    for (guint i = 0; i < 3; i++) /* zero pages in full */
        drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_NORMAL, i * SAMPLE_PAGE, zeros, sizeof zeros);
    for (guint i = 3; i < 6; i++)
        drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_ZERO, i * SAMPLE_PAGE, "", 1);
    for (guint i = 6; i < 9; i++)
        drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_ZERO, i * SAMPLE_PAGE, "\x55", 1);
    emit.block = -1; /* named again in the middle */
    drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_ZERO, 9 * SAMPLE_PAGE, "\x55", 1);
    drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_XBZRLE, 5 * SAMPLE_PAGE, xbzrle, sizeof xbzrle);
    drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_COMPRESSED, 6 * SAMPLE_PAGE, zlib, sizeof zlib);
    end_stream(in, &out);
    check_relay(in);

    Relay relay;
    relay_init(&relay, DRV_BATCH_MAX);
    relay_all(&relay, in, in->len, FALSE);
    g_assert_cmpuint(relay.records[DRV_RECORD_ZERO], ==, 4);
    g_assert_cmpuint(relay.records[DRV_RECORD_LITERAL], ==, 0);
    g_assert_cmpuint(relay.pages, ==, 10);
    g_assert_cmpuint(relay.number, ==, 2);
    relay_clear(&relay);
}

/* A name with a 0 in it is found by its beginning as well: the two are told apart. */
static void
test_odd_names(void)
{
    g_autoptr(GByteArray) in = g_byte_array_new();
    DrvCursor out = begin_stream(in, "ram\0x", 5, 16);
    DrvEmit emit = DRV_EMIT_INIT;
    drv_emit_page(&emit, &out, &ram, 0, DRV_PAGES_ZERO, 0, "", 1);
    drv_cursor_put_u64(&out, SAMPLE_PAGE | 2);
    drv_cursor_put_u8(&out, 5);
    drv_cursor_put_bytes(&out, "ram\0x", 5);
    drv_cursor_put_u8(&out, 0);
    end_stream(in, &out);
    check_relay(in);
}

/* ---- what a peer has made up ---- */

static const DrvBatchBlock known[] = {
    {.ram = {.id = "ram", .size = 16 * SAMPLE_PAGE}, .placeable = TRUE},
    {.ram = {.id = "rom", .size = 16 * SAMPLE_PAGE + 512}},
    {.ram = {.id = "huge", .size = (guint64)1 << 50}},
    {.ram = {.id = "hugest", .size = (guint64)1 << 50}, .placeable = TRUE},
};

static void
put_head(DrvCursor *out, guint64 number, guint64 after)
{
    drv_cursor_put_u64(out, number);
    drv_cursor_put_u64(out, after);
    drv_cursor_put_u64(out, 0);
}

/* "kind flags block16 fields": each number of a string of hexadecimal digits is as long as it is.
 */
static void
put_hex(DrvCursor *out, const char *hex)
{
    for (; *hex != '\0'; hex++)
        if (*hex != ' ') {
            drv_cursor_put_u8(
                out, (guint8)(g_ascii_xdigit_value(hex[0]) << 4 | g_ascii_xdigit_value(hex[1])));
            hex++;
        }
}

static void
expect_refused(const guint8 *data, gsize len, const char *why)
{
    g_autofree guint8 *copy = g_memdup2(data, len);
    g_autoptr(GError) error = NULL;
    DrvBatchReader reader;
    g_assert_false(drv_batch_reader_init(&reader, copy, len, known, G_N_ELEMENTS(known), &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    if (strstr(error->message, why) == NULL)
        g_error("expected '%s' in '%s'", why, error->message);
}

static gboolean
accepted(const guint8 *data, gsize len)
{
    g_autofree guint8 *copy = g_memdup2(data, len);
    DrvBatchReader reader;
    return drv_batch_reader_init(&reader, copy, len, known, G_N_ELEMENTS(known), NULL);
}

static void
test_hostile(void)
{
    static const struct {
        const char *records;
        gsize more; /* bytes after it */
        const char *why;
    } table[] = {
        {"", 0, "nothing"},
        {"00 00 0000 00000001 00", 0, "unknown kind"},
        {"08 00 0000 00000001 00", 0, "unknown kind"},
        {"01 01 0000 00000001 00", 0, "unknown kind"},
        {"03 04 0000 00000000 00000001 00", 0, "unknown kind"},
        {"03 80 0000 00000000 00000001 00", 0, "unknown kind"},
        {"04 02 0000 00000000 00000001", 4096, "unknown kind"},
        {"05 01 0000 00000000 00", 0, "unknown kind"},
        {"01 00 0000 00000000", 0, "opaque bytes that are none"},
        {"01 00 0001 00000001 00", 0, "opaque bytes that are none"},
        {"01 00 0000 ffffffff 00", 0, "cut short"},
        {"01 00 0000 00000002 00", 0, "cut short"},
        {"02 00 0000 0000000000010000 00", 0, "without a name"},
        {"02 00 0400 0000000000010000 01 61", 0, "too high a number"},
        {"02 00 0000 0000000000010000 02 61", 0, "cut short"},
        {"02 00 0002 0000000000010000 01 61 03 00 0000 00000000 00000001 00", 0,
         "RAM blocks and pages at once"},
        {"03 00 0004 00000000 00000001 00", 0, "outside of every RAM block"},
        {"03 00 0000 00000000 00000000 00", 0, "outside of every RAM block"},
        {"03 00 0000 00000010 00000001 00", 0, "outside of every RAM block"},
        {"03 00 0000 0000000f 00000002 00", 0, "outside of every RAM block"},
        {"03 00 0001 00000010 00000001 00", 0, "outside of every RAM block"},
        {"03 00 0000 ffffffff ffffffff 00", 0, "outside of every RAM block"},
        {"03 02 0000 00000000 00000001 55", 0, "not what it is said to be"},
        {"03 00 0002 00000000 ffffffff 00", 0, "more than fits"},
        {"03 02 0002 00000000 00000020 00", 0, "more than fits"},
        {"03 00 0003 00000000 ffffffff 00", 0, "more pages than a batch may place"},
        {"03 00 0003 00000000 00004001 00", 0, "more pages than a batch may place"},
        {"04 00 0000 00000000 00000002", 4096, "cut short"},
        {"04 00 0000 00000000 ffffffff", 4096, "cut short"},
        {"04 00 0000 00000000 00000000", 0, "outside of every RAM block"},
        {"05 00 0001 00000000 00", 0, "not written to directly"},
        {"05 00 0000 00000010 00", 0, "outside of every RAM block"},
        {"05 00 0000 00000000 03", 512, "cut short"},
        {"06 00 0001 00000000 0000 00000001", 0, "not written to directly"},
        {"06 00 0000 00000010 0000 00000001", 0, "outside of every RAM block"},
        {"06 00 0000 00000000 0000 00000010", 0, "duplicate of a page that cannot be read"},
        {"06 00 0000 00000000 0001 00000001", 0, "duplicate of a page that cannot be read"},
        {"06 00 0000 00000000 0009 00000001", 0, "duplicate of a page that cannot be read"},
        {"07 00 0001 00000000", 0, "not written to directly"},
        {"07 00 0000 00000010", 0, "outside of every RAM block"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(table); i++) {
        guint8 room[DRV_BATCH_MIN] = {0};
        DrvCursor out = drv_cursor_writer(room, sizeof room);
        put_head(&out, 9, 8);
        put_hex(&out, table[i].records);
        drv_cursor_take(&out, table[i].more);
        g_assert_true(drv_cursor_ok(&out));
        g_test_message("%s", table[i].records);
        expect_refused(room, out.pos, table[i].why);
    }
}

static void
test_hostile_heads(void)
{
    guint8 room[100] = {0};
    for (gsize len = 0; len < DRV_BATCH_HEAD; len++)
        expect_refused(room, len, "whose head makes no sense");
    static const guint64 heads[][2] = {{0, 0}, {1, 1}, {1, 2}, {5, G_MAXUINT64}};
    for (guint i = 0; i < G_N_ELEMENTS(heads); i++) {
        DrvCursor out = drv_cursor_writer(room, sizeof room);
        put_head(&out, heads[i][0], heads[i][1]);
        put_hex(&out, "01 00 0000 00000001 00");
        expect_refused(room, out.pos, "whose head makes no sense");
    }
}

static void
test_too_long(void)
{
    g_autofree guint8 *room = g_malloc0(DRV_BATCH_MAX + 1);
    DrvCursor out = drv_cursor_writer(room, DRV_BATCH_MAX + 1);
    put_head(&out, 1, 0);
    put_hex(&out, "01 00 0000");
    drv_cursor_put_u32(&out, (guint32)(DRV_BATCH_MAX + 1 - DRV_BATCH_HEAD - 8));
    expect_refused(room, DRV_BATCH_MAX + 1, "more than fits");
    out.pos = DRV_BATCH_HEAD + 4;
    drv_cursor_put_u32(&out, (guint32)(DRV_BATCH_MAX - DRV_BATCH_HEAD - 8));
    g_assert_true(accepted(room, DRV_BATCH_MAX));
}

/* A good batch of every kind of record, cut anywhere but between two of them, is refused. */
static void
test_cut(void)
{
    static const char *const records[] = {
        "01 00 0000 00000003 616263",      "03 01 0000 00000000 00000010 00",
        "03 02 0001 00000000 00000002 00", "06 00 0000 00000001 0003 ffffffff",
        "05 00 0000 00000002 00",          "07 00 0000 0000000f",
    };
    guint8 room[8000] = {0};
    gboolean whole[8000] = {FALSE};
    DrvCursor out = drv_cursor_writer(room, sizeof room);
    put_head(&out, 3, 0);
    for (guint i = 0; i < G_N_ELEMENTS(records); i++) {
        put_hex(&out, records[i]);
        whole[out.pos] = TRUE;
    }
    put_hex(&out, "05 00 0000 00000002 81");
    drv_cursor_take(&out, 2 * DRV_PIECE_LEN);
    whole[out.pos] = TRUE;
    put_hex(&out, "04 01 0001 0000000f 00000001");
    drv_cursor_take(&out, SAMPLE_PAGE);
    whole[out.pos] = TRUE;
    for (gsize len = 0; len <= out.pos; len++)
        g_assert_cmpint(accepted(room, len), ==, whole[len]);
}

static void
test_patch(void)
{
    guint8 pieces[2 * DRV_PIECE_LEN], page[SAMPLE_PAGE], expected[SAMPLE_PAGE];
    memset(pieces, 0xaa, DRV_PIECE_LEN);
    memset(pieces + DRV_PIECE_LEN, 0xbb, DRV_PIECE_LEN);
    memset(page, 1, sizeof page);
    memset(expected, 1, sizeof expected);
    memset(expected, 0xaa, DRV_PIECE_LEN);
    memset(expected + 7 * DRV_PIECE_LEN, 0xbb, DRV_PIECE_LEN);
    DrvRecord record = {.kind = DRV_RECORD_DELTA, .mask = 0x81, .bytes = pieces};
    drv_batch_patch(&record, page);
    g_assert_cmpmem(page, sizeof page, expected, sizeof expected);
}

/* The digest is of the content, where it is, under the secret. */
static void
test_digest(void)
{
    guint8 page[SAMPLE_PAGE] = {0};
    guint64 digest = drv_batch_digest(digest_secret, 1, 2, page);
    g_assert_cmpuint(digest, ==, drv_batch_digest(digest_secret, 1, 2, page));
    g_assert_cmpuint(digest, !=, drv_batch_digest(digest_secret, 2, 1, page));
    g_assert_cmpuint(digest, !=, drv_batch_digest(digest_secret, 1, 3, page));
    g_assert_cmpuint(digest, !=, drv_batch_digest(pieces_secret, 1, 2, page));
    page[4095] = 1;
    g_assert_cmpuint(digest, !=, drv_batch_digest(digest_secret, 1, 2, page));

    g_autoptr(GError) error = NULL;
    DrvBatchHead head = {.number = 17, .digest = digest};
    g_assert_true(drv_batch_check(&head, digest, NULL));
    g_assert_false(drv_batch_check(&head, digest + 1, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_nonnull(strstr(error->message, "pages of batch 17 are not"));
}

static void
test_nothing_is_no_batch(void)
{
    g_autoptr(DrvPageTable) table = new_table();
    g_autoptr(DrvBatchWriter) writer = drv_batch_writer_new(table);
    guint8 room[DRV_BATCH_MIN];
    drv_batch_writer_begin(writer, room, sizeof room);
    g_assert_true(drv_batch_writer_is_empty(writer));
    g_assert_cmpuint(drv_batch_writer_finish(writer), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/batch/samples", test_samples);
    g_test_add_func("/batch/damaged", test_damaged);
    g_test_add_func("/batch/runs-are-split", test_runs_are_split);
    g_test_add_func("/batch/odd-pages", test_odd_pages);
    g_test_add_func("/batch/odd-names", test_odd_names);
    g_test_add_func("/batch/hostile", test_hostile);
    g_test_add_func("/batch/hostile-heads", test_hostile_heads);
    g_test_add_func("/batch/too-long", test_too_long);
    g_test_add_func("/batch/cut", test_cut);
    g_test_add_func("/batch/patch", test_patch);
    g_test_add_func("/batch/digest", test_digest);
    g_test_add_func("/batch/nothing-is-no-batch", test_nothing_is_no_batch);
    return g_test_run();
}
