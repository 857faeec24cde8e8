/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "common/json.h"
#include "engine/channel/test-guest-fake.h"
#include "engine/live/memory-check.h"

#include <string.h>

/* Two guests' memories, as if at two hosts. FAKE_GOOD blocks of each can be reached. */
typedef struct {
    Fake fake[2];
    DrvMemoryCheck *here, *there;
} Pair;

static void
pair_start(Pair *pair)
{
    for (guint i = 0; i < 2; i++)
        fake_start(&pair->fake[i]);
    pair->here = drv_memory_check_new(fake_open(&pair->fake[0]), FAKE_ANON);
    pair->there = drv_memory_check_new(fake_open(&pair->fake[1]), -1);
}

static void
pair_stop(Pair *pair)
{
    drv_memory_check_unref(pair->here);
    drv_memory_check_unref(pair->there);
    for (guint i = 0; i < 2; i++)
        fake_stop(&pair->fake[i]);
}

static DrvMemoryPlan *
make_plan(const Pair *pair)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonArray) offer = drv_memory_check_offer(pair->there);
    DrvMemoryPlan *plan = drv_memory_plan_new(pair->here, offer, &error);
    g_assert_no_error(error);
    return plan;
}

static void
take_result(GObject *source, GAsyncResult *result, gpointer data)
{
    *(GAsyncResult **)data = g_object_ref(result);
}

static JsonObject *
hash(const DrvMemoryPlan *plan, GCancellable *cancellable, GError **error)
{
    g_autoptr(GAsyncResult) result = NULL;
    drv_memory_plan_hash_async(plan, cancellable, take_result, &result);
    while (result == NULL)
        g_main_context_iteration(NULL, TRUE);
    return drv_memory_plan_hash_finish(result, error);
}

/* Both hash what the plan says, as it comes over the wire; compares. */
static gboolean
compare(const Pair *pair, const DrvMemoryPlan *plan, char **changed, GError **error)
{
    g_autoptr(JsonObject) request = drv_memory_plan_to_json(plan);
    g_autofree char *text = drv_json_text(request);
    g_autoptr(JsonObject) heard = drv_json_parse_object(text, strlen(text), error);
    g_assert_no_error(*error);
    g_autoptr(DrvMemoryPlan) same = drv_memory_plan_from_json(pair->there, heard, error);
    g_assert_no_error(*error);
    g_autoptr(JsonObject) ours = hash(plan, NULL, error);
    g_assert_no_error(*error);
    g_autoptr(JsonObject) theirs = hash(same, NULL, error);
    g_assert_no_error(*error);
    return drv_memory_compare(plan, ours, theirs, changed, error);
}

static void
poke(const Pair *pair, guint block, guint64 page)
{
    guint8 byte = 0;
    fake_peek(&pair->fake[1], block, page * DRV_GUEST_PAGE + 99, &byte, 1);
    byte ^= 0x10;
    fake_poke(&pair->fake[1], block, page * DRV_GUEST_PAGE + 99, &byte, 1);
}

static void
assert_differs(const Pair *pair, const DrvMemoryPlan *plan, const char *where)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *changed = NULL;
    g_assert_false(compare(pair, plan, &changed, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_true(g_str_has_suffix(error->message, where));
    g_assert_null(changed);
}

static void
test_compare(void)
{
    Pair pair;
    pair_start(&pair);
    g_autoptr(DrvMemoryPlan) plan = make_plan(&pair);
    g_autoptr(GError) error = NULL;
    g_autofree char *changed = NULL;
    g_assert_cmpuint(drv_memory_plan_size(plan), ==, FAKE_GOOD * FAKE_SIZE);
    g_assert_true(compare(&pair, plan, &changed, &error));
    g_assert_null(changed);
    for (guint block = 0; block < FAKE_GOOD; block++) {
        g_autofree char *where = g_strdup_printf("in RAM block 'block%u'", block);
        poke(&pair, block, 600);
        assert_differs(&pair, plan, where);
        poke(&pair, block, 600);
    }
    /* Of the option ROMs' pages, at 0xc0000 to 0xfffff, QEMU may have changed one; */
    poke(&pair, FAKE_ANON, 0xe8);
    g_assert_true(compare(&pair, plan, &changed, &error));
    g_assert_cmpstr(changed, ==, "block0 0xe8000");
    /* not two, and none next to them. */
    poke(&pair, FAKE_ANON, 0xff);
    assert_differs(&pair, plan, "in RAM block 'block0' near 0xe8000");
    poke(&pair, FAKE_ANON, 0xff);
    poke(&pair, FAKE_ANON, 0x100);
    assert_differs(&pair, plan, "in RAM block 'block0'");
    poke(&pair, FAKE_ANON, 0x100);
    poke(&pair, FAKE_ANON, 0xbf);
    assert_differs(&pair, plan, "in RAM block 'block0'");
    pair_stop(&pair);
}

static void
test_left_out(void)
{
    Pair pair;
    pair_start(&pair);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonArray) offer = drv_memory_check_offer(pair.there);
    g_assert_cmpuint(json_array_get_length(offer), ==, FAKE_GOOD);
    json_array_remove_element(offer, 1);
    json_array_add_int_element(offer, 7); /* of a peer that talks nonsense */
    g_autoptr(DrvMemoryPlan) plan = drv_memory_plan_new(pair.here, offer, &error);
    g_assert_no_error(error);
    g_autoptr(JsonArray) left_out = drv_memory_plan_left_out(plan);
    g_assert_cmpuint(json_array_get_length(left_out), ==, 1 + FAKE_N - FAKE_GOOD);
    g_assert_cmpstr(json_array_get_string_element(left_out, 0), ==, "block1");

    json_array_remove_element(offer, 0);
    g_assert_null(drv_memory_plan_new(pair.here, offer, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_cmpstr(error->message, ==,
                    "RAM block 'block0', the guest's main memory, is not one that both ends can "
                    "read");
    pair_stop(&pair);
}

/* What a source may say. */
static void
test_requests(void)
{
#define BLOCK "{\"block\":\"block0\",\"size\":2867200}"
#define SEED "\"seed\":\"0123456789abcdef\""
    static const char *const wrong[] = {
        "{}",
        "{" SEED "}",
        "{" SEED ",\"blocks\":[]}",
        "{" SEED ",\"blocks\":7}",
        "{\"blocks\":[" BLOCK "]}",
        "{\"seed\":\"0123456789abcdeg\",\"blocks\":[" BLOCK "]}",
        "{\"seed\":\"-123456789abcdef\",\"blocks\":[" BLOCK "]}",
        "{\"seed\":\"0\",\"blocks\":[" BLOCK "]}",
        "{" SEED ",\"blocks\":[" BLOCK "," BLOCK "]}",
        "{" SEED ",\"blocks\":[{\"block\":\"block0\",\"size\":4096}]}",
        "{" SEED ",\"blocks\":[{\"block\":\"block4\",\"size\":2867200}]}", /* read-only */
        "{" SEED ",\"blocks\":[{\"block\":\"block9\",\"size\":2867200}]}",
        "{" SEED ",\"blocks\":[" BLOCK "],\"apart\":{}}",
        "{" SEED ",\"blocks\":[" BLOCK "],\"apart\":{\"block\":\"block1\",\"size\":2867200,"
        "\"first\":0,\"count\":1}}",
        "{" SEED ",\"blocks\":[" BLOCK "],\"apart\":{\"block\":\"block0\",\"size\":2867200,"
        "\"first\":0,\"count\":65}}",
        "{" SEED ",\"blocks\":[" BLOCK "],\"apart\":{\"block\":\"block0\",\"size\":2867200,"
        "\"first\":-1,\"count\":1}}",
        "{" SEED ",\"blocks\":[" BLOCK "],\"apart\":{\"block\":\"block0\",\"size\":2867200,"
        "\"first\":700,\"count\":1}}",
        "{" SEED ",\"blocks\":[" BLOCK "],\"apart\":{\"block\":\"block0\",\"size\":2867200,"
        "\"first\":9223372036854775807,\"count\":64}}",
    };
    static const char right[] = "{" SEED ",\"blocks\":[" BLOCK "],\"apart\":{\"block\":\"block0\","
                                "\"size\":2867200,\"first\":699,\"count\":1}}";
    Pair pair;
    pair_start(&pair);
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonObject) request = drv_json_parse_object(wrong[i], strlen(wrong[i]), &error);
        g_assert_no_error(error);
        g_assert_null(drv_memory_plan_from_json(pair.there, request, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) request = drv_json_parse_object(right, strlen(right), &error);
    g_autoptr(DrvMemoryPlan) plan = drv_memory_plan_from_json(pair.there, request, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(drv_memory_plan_size(plan), ==, FAKE_SIZE);
    pair_stop(&pair);
}

/* What a destination may answer. */
static void
test_answers(void)
{
    static const char *const wrong[] = {"{}", "{\"digests\":[]}", "{\"digests\":[1,2,3,4]}"};
    Pair pair;
    pair_start(&pair);
    g_autoptr(DrvMemoryPlan) plan = make_plan(&pair);
    g_autoptr(GError) error = NULL;
    g_autofree char *changed = NULL;
    g_autoptr(JsonObject) ours = hash(plan, NULL, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(JsonObject) theirs = drv_json_parse_object(wrong[i], strlen(wrong[i]), NULL);
        g_assert_false(drv_memory_compare(plan, ours, theirs, &changed, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
        g_clear_error(&error);
    }
    /* Of the right length, and nothing else. */
    JsonArray *digests = json_array_new();
    json_array_ref(drv_json_array(ours, "pages"));
    g_autoptr(JsonObject) theirs = json_object_new();
    for (guint i = 0; i < FAKE_GOOD; i++)
        json_array_add_null_element(digests);
    json_object_set_array_member(theirs, "digests", digests);
    json_object_set_array_member(theirs, "pages", drv_json_array(ours, "pages"));
    g_assert_false(drv_memory_compare(plan, ours, theirs, &changed, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_MISMATCH);
    pair_stop(&pair);
}

static void
test_given_up(void)
{
    Pair pair;
    pair_start(&pair);
    DrvMemoryPlan *plan = make_plan(&pair);
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GAsyncResult) result = NULL;
    drv_memory_plan_hash_async(plan, cancellable, take_result, &result);
    g_cancellable_cancel(cancellable);
    drv_memory_plan_free(plan); /* the thread has what it needs */
    while (result == NULL)
        g_main_context_iteration(NULL, TRUE);
    g_assert_null(drv_memory_plan_hash_finish(result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_clear_error(&error);

    g_autoptr(DrvMemoryPlan) other = make_plan(&pair);
    fake_kill(&pair.fake[0]);
    g_assert_null(hash(other, NULL, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    pair_stop(&pair);
}

/* However many blocks there are, the offer fits into a message. */
static void
test_many_blocks(void)
{
    Fake fake;
    DrvGuestBlock *blocks = g_new0(DrvGuestBlock, 2000);
    g_autoptr(GError) error = NULL;
    fake_start(&fake);
    for (guint i = 0; i < FAKE_PAGES; i++) { /* each page of one block as a block of its own */
        g_snprintf(blocks[i].id, sizeof blocks[i].id, "\"%0200u\\", i);
        blocks[i].size = DRV_GUEST_PAGE;
        blocks[i].hva = fake.blocks[FAKE_ANON].hva + (guint64)i * DRV_GUEST_PAGE;
    }
    blocks[FAKE_PAGES] = fake.blocks[FAKE_MEMFD];
    DrvGuestRam *ram = drv_guest_ram_open(fake.pid, blocks, FAKE_PAGES + 1, &error);
    g_assert_no_error(error);
    g_autoptr(DrvMemoryCheck) memory = drv_memory_check_new(ram, -1);
    g_autoptr(JsonArray) offer = drv_memory_check_offer(memory);
    g_assert_cmpuint(json_array_get_length(offer), >, 50);
    g_assert_cmpuint(json_array_get_length(offer), <, FAKE_PAGES);
    /* The biggest first: it is the one that must not be missing. */
    g_assert_cmpstr(drv_json_string(drv_json_element(offer, 0), "block", ""), ==, "block1");
    g_autoptr(DrvMemoryPlan) plan = drv_memory_plan_new(memory, offer, &error);
    g_assert_no_error(error);
    g_autoptr(JsonObject) request = drv_memory_plan_to_json(plan);
    g_autofree char *text = drv_json_text(request);
    g_assert_cmpuint(strlen(text), <, 25 << 10);
    g_autoptr(JsonObject) answer = hash(plan, NULL, &error);
    g_assert_no_error(error);
    g_autofree char *answered = drv_json_text(answer);
    g_assert_cmpuint(strlen(answered), <, 32 << 10);
    g_free(blocks);
    fake_stop(&fake);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory-check/compare", test_compare);
    g_test_add_func("/memory-check/left-out", test_left_out);
    g_test_add_func("/memory-check/requests", test_requests);
    g_test_add_func("/memory-check/answers", test_answers);
    g_test_add_func("/memory-check/given-up", test_given_up);
    g_test_add_func("/memory-check/many-blocks", test_many_blocks);
    return g_test_run();
}
