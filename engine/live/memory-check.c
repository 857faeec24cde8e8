/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/live/memory-check.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/channel/guest-digest.h"
#include "engine/host/guest-blocks.h"
#include "engine/host/guest-layout.h"

#include <openssl/rand.h>
#include <string.h>

/*
 * A digest for each block, and one more thing: under KVM a PC's QEMU writes to a page of its own
 * option ROM (kvmvapic's) at each end for itself, somewhere between 0xc0000 and 0xfffff. Which
 * page, nobody tells. So these 64 pages count as zeros in their block's digest and are compared one
 * by one, and a single one may differ. Which block they are in, gpa2hva tells: the one at address
 * 0.
 */

/* The offer in a message of 64 KiB, which may bring another list of the blocks. What is asked for
 * and answered is shorter. */
#define OFFER_MAX ((gsize)24 << 10)

#define ROMS_FIRST (0xc0000u / DRV_GUEST_PAGE)
#define ROMS_PAGES (0x40000u / DRV_GUEST_PAGE)

struct _DrvMemoryCheck {
    gint refs; /* atomic: hashing goes on for a moment when its job is over */
    DrvGuestRam *ram;
    gint first; /* the block at the guest's address 0, or -1 */
};

struct _DrvMemoryPlan {
    DrvMemoryCheck *memory;
    guint64 seed;
    GArray *blocks; /* of guint: indexes */
    DrvGuestPages apart;
};

DrvMemoryCheck *
drv_memory_check_new(DrvGuestRam *ram, gint first)
{
    DrvMemoryCheck *memory = g_new(DrvMemoryCheck, 1);
    *memory = (DrvMemoryCheck){1, ram, first};
    return memory;
}

DrvMemoryCheck *
drv_memory_check_ref(DrvMemoryCheck *memory)
{
    g_atomic_int_inc(&memory->refs);
    return memory;
}

void
drv_memory_check_unref(DrvMemoryCheck *memory)
{
    if (memory == NULL || !g_atomic_int_dec_and_test(&memory->refs))
        return;
    drv_guest_ram_free(memory->ram);
    g_free(memory);
}

/* --- opening --- */

typedef struct {
    gboolean apart;
    guint timeout_ms;
    DrvGuestRam *ram;
} Opening;

static void
opening_free(gpointer data)
{
    Opening *opening = data;
    drv_guest_ram_free(opening->ram);
    g_free(opening);
}

/* These two take the reference to the task. */
static void
finish_opening(GTask *task, gint first)
{
    Opening *opening = g_task_get_task_data(task);
    g_task_return_pointer(task, drv_memory_check_new(g_steal_pointer(&opening->ram), first),
                          (GDestroyNotify)drv_memory_check_unref);
    g_object_unref(task);
}

static void
fail_opening(GTask *task, GError *error)
{
    g_task_return_error(task, error);
    g_object_unref(task);
}

static gint
block_at_zero(const DrvGuestRam *ram, const char *text)
{
    guint64 hva;
    for (guint i = 0; i < drv_guest_ram_blocks(ram); i++) {
        const DrvGuestBlock *block = drv_guest_ram_block(ram, i);
        if (block->hva != 0 && drv_guest_parse_hva(text, 0, block->id, &hva) && hva == block->hva &&
            block->size / DRV_GUEST_PAGE >= ROMS_FIRST + ROMS_PAGES)
            return (gint)i;
    }
    return -1;
}

static void
zero_known(GObject *source, GAsyncResult *result, gpointer data)
{
    GTask *task = data;
    Opening *opening = g_task_get_task_data(task);
    GError *error = NULL;
    g_autofree char *text = qmp_client_human_finish(QMP_CLIENT(source), result, &error);
    gint first = text != NULL ? block_at_zero(opening->ram, text) : -1;
    if (text == NULL)
        fail_opening(task, error);
    else if (first < 0)
        fail_opening(task, g_error_new_literal(DRV_ERROR, DRV_ERROR_QEMU,
                                               "QEMU does not say which RAM block the guest's "
                                               "low memory is in"));
    else
        finish_opening(task, first);
}

static void
blocks_known(GObject *source, GAsyncResult *result, gpointer data)
{
    GTask *task = data;
    Opening *opening = g_task_get_task_data(task);
    GError *error = NULL;
    g_autoptr(DrvGuestBlocks) blocks = drv_guest_blocks_find_finish(result, &error);
    if (blocks != NULL)
        opening->ram = drv_guest_ram_open(blocks->pid, blocks->blocks, blocks->n, &error);
    if (opening->ram == NULL || drv_guest_ram_main(opening->ram, &error) < 0)
        fail_opening(task, error);
    else if (opening->apart)
        qmp_client_human_async(QMP_CLIENT(source), "gpa2hva 0x0", opening->timeout_ms,
                               g_task_get_cancellable(task), zero_known, task);
    else
        finish_opening(task, -1);
}

void
drv_memory_check_open_async(QmpClient *client, gboolean apart, guint timeout_ms,
                            GCancellable *cancellable, GAsyncReadyCallback callback,
                            gpointer user_data)
{
    GTask *task = g_task_new(client, cancellable, callback, user_data);
    Opening *opening = g_new(Opening, 1);
    *opening = (Opening){apart, timeout_ms, NULL};
    g_task_set_source_tag(task, drv_memory_check_open_async);
    g_task_set_task_data(task, opening, opening_free);
    drv_guest_blocks_find_async(client, timeout_ms, cancellable, blocks_known, task);
}

DrvMemoryCheck *
drv_memory_check_open_finish(GAsyncResult *result, GError **error)
{
    return g_task_propagate_pointer(G_TASK(result), error);
}

/* --- what can be compared --- */

static JsonObject *
block_to_json(const DrvGuestBlock *block)
{
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "block", block->id);
    json_object_set_int_member(object, "size", (gint64)block->size);
    return object;
}

static gint
bigger_first(gconstpointer a, gconstpointer b, gpointer ram)
{
    const DrvGuestBlock *one = drv_guest_ram_block(ram, *(const guint *)a);
    const DrvGuestBlock *other = drv_guest_ram_block(ram, *(const guint *)b);
    return one->size != other->size ? (one->size > other->size ? -1 : 1)
                                    : strcmp(one->id, other->id);
}

/* Of guint: those that are reachable, the biggest first. */
static GArray *
reachable(const DrvMemoryCheck *memory)
{
    GArray *blocks = g_array_new(FALSE, FALSE, sizeof(guint));
    for (guint i = 0; i < drv_guest_ram_blocks(memory->ram); i++)
        if (drv_guest_ram_block(memory->ram, i)->hva != 0)
            g_array_append_val(blocks, i);
    g_array_sort_with_data(blocks, bigger_first, memory->ram);
    return blocks;
}

JsonArray *
drv_memory_check_offer(const DrvMemoryCheck *memory)
{
    JsonArray *offer = json_array_new();
    g_autoptr(GArray) blocks = reachable(memory);
    gsize len = 0;
    for (guint i = 0; i < blocks->len; i++) {
        guint block = g_array_index(blocks, guint, i);
        JsonObject *object = block_to_json(drv_guest_ram_block(memory->ram, block));
        g_autofree char *text = drv_json_text(object);
        len += strlen(text) + 1;
        if (len <= OFFER_MAX)
            json_array_add_object_element(offer, object);
        else
            json_object_unref(object);
    }
    return offer;
}

/* --- the plan --- */

static DrvMemoryPlan *
new_plan(const DrvMemoryCheck *memory)
{
    DrvMemoryPlan *plan = g_new0(DrvMemoryPlan, 1);
    plan->memory = drv_memory_check_ref((DrvMemoryCheck *)memory);
    plan->blocks = g_array_new(FALSE, FALSE, sizeof(guint));
    return plan;
}

void
drv_memory_plan_free(DrvMemoryPlan *plan)
{
    if (plan == NULL)
        return;
    drv_memory_check_unref(plan->memory);
    g_array_unref(plan->blocks);
    g_free(plan);
}

static DrvMemoryPlan *
copy_plan(const DrvMemoryPlan *plan)
{
    DrvMemoryPlan *copy = new_plan(plan->memory);
    copy->seed = plan->seed;
    copy->apart = plan->apart;
    g_array_append_vals(copy->blocks, plan->blocks->data, plan->blocks->len);
    return copy;
}

static const DrvGuestBlock *
plan_block(const DrvMemoryPlan *plan, guint i)
{
    return drv_guest_ram_block(plan->memory->ram, g_array_index(plan->blocks, guint, i));
}

static gboolean
plan_has(const DrvMemoryPlan *plan, guint block)
{
    for (guint i = 0; i < plan->blocks->len; i++)
        if (g_array_index(plan->blocks, guint, i) == block)
            return TRUE;
    return FALSE;
}

/* Takes over the blocks of a list that are here, too, each once; returns how many are not. */
static guint
take_blocks(DrvMemoryPlan *plan, JsonArray *list)
{
    guint unknown = 0;
    for (guint i = 0; list != NULL && i < json_array_get_length(list); i++) {
        JsonObject *object = drv_json_element(list, i);
        const char *id = drv_json_string(object, "block", "");
        guint64 size = (guint64)MAX(drv_json_int(object, "size", 0), 0);
        gint found = drv_guest_ram_find(plan->memory->ram, id, strlen(id), size);
        guint block = (guint)found;
        if (found < 0 || plan_has(plan, block))
            unknown++;
        else
            g_array_append_val(plan->blocks, block);
    }
    return unknown;
}

DrvMemoryPlan *
drv_memory_plan_new(const DrvMemoryCheck *memory, JsonArray *offer, GError **error)
{
    g_autoptr(DrvMemoryPlan) plan = new_plan(memory);
    gint main = drv_guest_ram_main(memory->ram, error);
    if (main < 0)
        return NULL;
    take_blocks(plan, offer);
    if (!plan_has(plan, (guint)main)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                    "RAM block '%s', the guest's main memory, is not one that both ends can read",
                    drv_guest_ram_block(memory->ram, (guint)main)->id);
        return NULL;
    }
    if (memory->first >= 0)
        plan->apart = (DrvGuestPages){(guint)memory->first, ROMS_FIRST, ROMS_PAGES};
    if (RAND_bytes((guint8 *)&plan->seed, sizeof plan->seed) != 1) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_IO, "no random numbers are to be had");
        return NULL;
    }
    return g_steal_pointer(&plan);
}

guint64
drv_memory_plan_size(const DrvMemoryPlan *plan)
{
    guint64 size = 0;
    for (guint i = 0; i < plan->blocks->len; i++)
        size += plan_block(plan, i)->size;
    return size;
}

JsonArray *
drv_memory_plan_left_out(const DrvMemoryPlan *plan)
{
    JsonArray *ids = json_array_new();
    for (guint i = 0; i < drv_guest_ram_blocks(plan->memory->ram); i++)
        if (!plan_has(plan, i))
            json_array_add_string_element(ids, drv_guest_ram_block(plan->memory->ram, i)->id);
    return ids;
}

JsonObject *
drv_memory_plan_to_json(const DrvMemoryPlan *plan)
{
    JsonObject *request = json_object_new();
    JsonArray *blocks = json_array_new();
    g_autofree char *seed = g_strdup_printf("%016" G_GINT64_MODIFIER "x", plan->seed);
    for (guint i = 0; i < plan->blocks->len; i++)
        json_array_add_object_element(blocks, block_to_json(plan_block(plan, i)));
    json_object_set_string_member(request, "seed", seed);
    json_object_set_array_member(request, "blocks", blocks);
    if (plan->apart.n > 0) {
        JsonObject *apart =
            block_to_json(drv_guest_ram_block(plan->memory->ram, plan->apart.block));
        json_object_set_int_member(apart, "first", (gint64)plan->apart.first);
        json_object_set_int_member(apart, "count", plan->apart.n);
        json_object_set_object_member(request, "apart", apart);
    }
    return request;
}

static gboolean
take_apart(DrvMemoryPlan *plan, JsonObject *apart)
{
    const char *id = drv_json_string(apart, "block", "");
    gint64 size = drv_json_int(apart, "size", 0), first = drv_json_int(apart, "first", -1);
    gint64 count = drv_json_int(apart, "count", 0);
    gint block = drv_guest_ram_find(plan->memory->ram, id, strlen(id), (guint64)MAX(size, 0));
    if (block < 0 || !plan_has(plan, (guint)block) || first < 0 || count < 1 ||
        count > ROMS_PAGES || first > size / DRV_GUEST_PAGE - count)
        return FALSE;
    plan->apart = (DrvGuestPages){(guint)block, (guint64)first, (guint)count};
    return TRUE;
}

DrvMemoryPlan *
drv_memory_plan_from_json(const DrvMemoryCheck *memory, JsonObject *request, GError **error)
{
    g_autoptr(DrvMemoryPlan) plan = new_plan(memory);
    JsonObject *apart = drv_json_object(request, "apart");
    const char *seed = drv_json_string(request, "seed", "");
    if (strlen(seed) != 16 ||
        !g_ascii_string_to_unsigned(seed, 16, 0, G_MAXUINT64, &plan->seed, NULL) ||
        take_blocks(plan, drv_json_array(request, "blocks")) > 0 || plan->blocks->len == 0 ||
        (apart != NULL && !take_apart(plan, apart))) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "what the source wants to compare makes no sense");
        return NULL;
    }
    return g_steal_pointer(&plan);
}

/* --- hashing --- */

static JsonArray *
hex_digests(const guint8 *digests, guint n)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < n; i++) {
        char hex[2 * DRV_GUEST_DIGEST_LEN + 1];
        for (guint j = 0; j < DRV_GUEST_DIGEST_LEN; j++)
            g_snprintf(hex + 2 * (gsize)j, 3, "%02x", digests[(gsize)i * DRV_GUEST_DIGEST_LEN + j]);
        json_array_add_string_element(array, hex);
    }
    return array;
}

static void
free_plan(gpointer plan)
{
    drv_memory_plan_free(plan);
}

static void
hash(GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
    const DrvMemoryPlan *plan = data;
    DrvGuestRam *ram = plan->memory->ram;
    DrvGuestDigestOptions options = {
        .seed = plan->seed, .apart = plan->apart, .cancellable = cancellable};
    guint n = plan->blocks->len;
    g_autofree guint8 *blocks = g_malloc((gsize)n * DRV_GUEST_DIGEST_LEN);
    guint8 pages[ROMS_PAGES * DRV_GUEST_DIGEST_LEN];
    GError *error = NULL;
    if (!drv_guest_digest(ram, (const guint *)plan->blocks->data, n, &options, blocks, &error) ||
        (plan->apart.n > 0 &&
         !drv_guest_digest_pages(ram, &plan->apart, plan->seed, pages, &error))) {
        g_task_return_error(task, error);
        return;
    }
    JsonObject *answer = json_object_new();
    json_object_set_array_member(answer, "digests", hex_digests(blocks, n));
    json_object_set_array_member(answer, "pages", hex_digests(pages, plan->apart.n));
    g_task_return_pointer(task, answer, (GDestroyNotify)json_object_unref);
}

void
drv_memory_plan_hash_async(const DrvMemoryPlan *plan, GCancellable *cancellable,
                           GAsyncReadyCallback callback, gpointer user_data)
{
    g_autoptr(GTask) task = g_task_new(NULL, cancellable, callback, user_data);
    g_task_set_source_tag(task, drv_memory_plan_hash_async);
    g_task_set_task_data(task, copy_plan(plan), free_plan);
    g_task_run_in_thread(task, hash);
}

JsonObject *
drv_memory_plan_hash_finish(GAsyncResult *result, GError **error)
{
    return g_task_propagate_pointer(G_TASK(result), error);
}

/* --- comparing --- */

static const char *
element(JsonArray *array, guint i)
{
    JsonNode *node = json_array_get_element(array, i);
    return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : "";
}

/* How many of the elements differ; 'first' gets the first. Both have 'n' elements. */
static guint
count_differing(JsonArray *ours, JsonArray *theirs, guint n, guint *first)
{
    guint differing = 0;
    for (guint i = 0; i < n; i++)
        if (!g_str_equal(element(ours, i), element(theirs, i)) && differing++ == 0)
            *first = i;
    return differing;
}

static gboolean
fail_compare(const DrvGuestBlock *block, guint64 address, GError **error)
{
    g_autofree char *where =
        address > 0 ? g_strdup_printf(" near 0x%" G_GINT64_MODIFIER "x", address) : g_strdup("");
    g_set_error(error, DRV_ERROR, DRV_ERROR_MISMATCH,
                "the destination's memory differs from the guest's in RAM block '%s'%s", block->id,
                where);
    return FALSE;
}

gboolean
drv_memory_compare(const DrvMemoryPlan *plan, JsonObject *ours, JsonObject *theirs, char **changed,
                   GError **error)
{
    JsonArray *blocks = drv_json_array(theirs, "digests"), *pages = drv_json_array(theirs, "pages");
    guint n = plan->blocks->len, first = 0;
    *changed = NULL;
    if (blocks == NULL || json_array_get_length(blocks) != n ||
        (pages != NULL ? json_array_get_length(pages) : 0) != plan->apart.n) {
        g_set_error_literal(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                            "the destination's digests of the memory make no sense");
        return FALSE;
    }
    if (count_differing(drv_json_array(ours, "digests"), blocks, n, &first) > 0)
        return fail_compare(plan_block(plan, first), 0, error);
    guint differing = count_differing(drv_json_array(ours, "pages"), pages, plan->apart.n, &first);
    if (differing == 0)
        return TRUE;
    const DrvGuestBlock *block = drv_guest_ram_block(plan->memory->ram, plan->apart.block);
    guint64 address = (plan->apart.first + first) * DRV_GUEST_PAGE;
    if (differing > 1)
        return fail_compare(block, address, error);
    *changed = g_strdup_printf("%s 0x%" G_GINT64_MODIFIER "x", block->id, address);
    return TRUE;
}
