/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/guest-blocks.h"

#include "engine/host/guest-layout.h"

/*
 * Where blocks begin in QEMU's memory.
 *
 * QEMU 8.x and later list it ('info ramblock', column HVA). Before, three answers are put together:
 *
 *   info ramblock   which blocks there are, and their sizes
 *   info mtree -f   at which guest addresses RAM is, of which region, and from where in it on
 *   gpa2hva         where in QEMU's memory the byte at a guest address is
 *
 * The address less the offset is where the block begins. It is asked for the first and the last
 * byte of every range that the block has in the map (a PC's RAM has one below the hole, one above,
 * and some around the firmware's). All of them must give the same, otherwise the block is left to
 * QEMU. That takes the split around the hole, other machines' maps, several memory backends and
 * hotplugged DIMMs as they come; what is not in the map, as a graphics card's memory of a guest
 * that has not switched it on yet, is not found.
 *
 * A block's id and its region's name are the same where no device owns it. One whose name is also
 * that of a device's region is not certain, and left.
 */

#define MAX_RANGES 32     /* of a block that are asked for; the others need not be */
#define MAX_QUESTIONS 200 /* libqmp has 256 under way at most */

typedef struct {
    GArray *listed;
    gboolean tells;
    DrvGuestBlocks *found;
    gint64 deadline; /* monotonic, in microseconds; 0: none */
    guint open;      /* questions that are not answered yet */
    guint asked;
    GError *error; /* the first that an open question met */
} Search;

/* Where is this byte? */
typedef struct {
    GTask *task;
    guint block;
    guint64 address; /* guest-physical */
    guint64 offset;  /* in the block */
} Question;

void
drv_guest_blocks_free(DrvGuestBlocks *blocks)
{
    if (blocks == NULL)
        return;
    g_free(blocks->blocks);
    g_free(blocks);
}

static void
search_free(gpointer data)
{
    Search *self = data;
    g_clear_pointer(&self->listed, g_array_unref);
    drv_guest_blocks_free(self->found);
    g_clear_error(&self->error);
    g_free(self);
}

static guint
time_left(const Search *self)
{
    if (self->deadline == 0)
        return 0;
    gint64 left = (self->deadline - g_get_monotonic_time()) / 1000;
    return (guint)CLAMP(left, 1, G_MAXINT);
}

static void
ask(GTask *task, const char *line, GAsyncReadyCallback callback, gpointer data)
{
    Search *self = g_task_get_task_data(task);
    qmp_client_human_async(g_task_get_source_object(task), line, time_left(self),
                           g_task_get_cancellable(task), callback, data);
}

/* These two take the reference to the task. */
static void
finish_error(GTask *task, GError *error)
{
    g_task_return_error(task, error);
    g_object_unref(task);
}

static void
finish(GTask *task)
{
    Search *self = g_task_get_task_data(task);
    if (self->error != NULL) {
        finish_error(task, g_steal_pointer(&self->error));
        return;
    }
    for (guint i = 0; i < self->found->n; i++) {
        DrvGuestBlock *block = &self->found->blocks[i];
        if (block->why != NULL)
            block->hva = 0;
        else if (block->hva == 0)
            block->why = "it is not in the guest's memory map, and this QEMU tells no address";
    }
    g_task_return_pointer(task, g_steal_pointer(&self->found),
                          (GDestroyNotify)drv_guest_blocks_free);
    g_object_unref(task);
}

/* --- QEMU before 8.x --- */

static void
hva_answered(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autofree Question *question = data;
    GTask *task = question->task;
    Search *self = g_task_get_task_data(task);
    DrvGuestBlock *block = &self->found->blocks[question->block];
    g_autoptr(GError) error = NULL;
    g_autofree char *text = qmp_client_human_finish(QMP_CLIENT(source), result, &error);
    guint64 hva;
    if (text == NULL) {
        if (self->error == NULL)
            self->error = g_steal_pointer(&error);
    } else if (!drv_guest_parse_hva(text, question->address, block->id, &hva) ||
               hva < question->offset) {
        block->why = "QEMU does not say its address where its memory map has it";
    } else if (block->hva == 0) {
        block->hva = hva - question->offset;
    } else if (block->hva != hva - question->offset) {
        block->why = "QEMU says that it lies in several places";
    }
    if (--self->open > 0)
        return;
    finish(task);
}

static void
ask_hva(GTask *task, guint block, guint64 address, guint64 offset)
{
    Search *self = g_task_get_task_data(task);
    Question *question = g_new(Question, 1);
    *question = (Question){task, block, address, offset};
    self->open++;
    self->asked++;
    g_autofree char *line = g_strdup_printf("gpa2hva 0x%" G_GINT64_MODIFIER "x", address);
    ask(task, line, hva_answered, question);
}

static void
ask_ranges(GTask *task, guint block, const GArray *ranges)
{
    Search *self = g_task_get_task_data(task);
    const DrvGuestBlock *found = &self->found->blocks[block];
    guint n = 0;
    for (guint i = 0; i < ranges->len && n < MAX_RANGES; i++) {
        const DrvGuestRange *range = &g_array_index(ranges, DrvGuestRange, i);
        guint64 offset;
        if (!drv_guest_range_in(range, found->id, found->size, &offset))
            continue;
        if (self->asked + 2 > MAX_QUESTIONS)
            break;
        ask_hva(task, block, range->start, offset);
        ask_hva(task, block, range->last, offset + (range->last - range->start));
        n++;
    }
}

static void
mtree_answered(GObject *source, GAsyncResult *result, gpointer data)
{
    GTask *task = data;
    Search *self = g_task_get_task_data(task);
    GError *error = NULL;
    g_autofree char *text = qmp_client_human_finish(QMP_CLIENT(source), result, &error);
    if (text == NULL) {
        finish_error(task, error);
        return;
    }
    g_autoptr(GArray) ranges = drv_guest_parse_mtree(text);
    for (guint i = 0; i < self->found->n; i++)
        if (self->found->blocks[i].why == NULL)
            ask_ranges(task, i, ranges);
    if (self->open == 0)
        finish(task);
}

/* --- all --- */

static void
take_listed(Search *self)
{
    self->found->n = self->listed->len;
    self->found->blocks = g_new0(DrvGuestBlock, self->listed->len);
    for (guint i = 0; i < self->listed->len; i++) {
        const DrvGuestListed *listed = &g_array_index(self->listed, DrvGuestListed, i);
        DrvGuestBlock *block = &self->found->blocks[i];
        g_strlcpy(block->id, listed->id, sizeof block->id);
        block->size = listed->size;
        block->hva = listed->hva;
        block->why = drv_guest_listed_problem(self->listed, i, self->tells);
    }
}

static void
ramblock_answered(GObject *source, GAsyncResult *result, gpointer data)
{
    GTask *task = data;
    Search *self = g_task_get_task_data(task);
    GError *error = NULL;
    g_autofree char *text = qmp_client_human_finish(QMP_CLIENT(source), result, &error);
    if (text != NULL)
        self->listed = drv_guest_parse_ramblock(text, &self->tells, &error);
    if (self->listed == NULL) {
        finish_error(task, error);
        return;
    }
    take_listed(self);
    if (self->tells)
        finish(task);
    else
        ask(task, "info mtree -f", mtree_answered, task);
}

void
drv_guest_blocks_find_async(QmpClient *client, guint timeout_ms, GCancellable *cancellable,
                            GAsyncReadyCallback callback, gpointer user_data)
{
    GTask *task = g_task_new(client, cancellable, callback, user_data);
    Search *self = g_new0(Search, 1);
    self->found = g_new0(DrvGuestBlocks, 1);
    self->found->pid = qmp_client_get_peer_pid(client);
    if (timeout_ms > 0)
        self->deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    g_task_set_source_tag(task, drv_guest_blocks_find_async);
    g_task_set_task_data(task, self, search_free);
    ask(task, "info ramblock", ramblock_answered, task);
}

DrvGuestBlocks *
drv_guest_blocks_find_finish(GAsyncResult *result, GError **error)
{
    return g_task_propagate_pointer(G_TASK(result), error);
}
