/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/vm.h"

#include "common/error.h"
#include "qmp/json.h"

#include <stdio.h>
#include <string.h>

/* Blocks that a peer may name: QEMU has a handful, a machine full of devices some dozens. */
#define MAX_BLOCKS 256

static void
free_block(gpointer data)
{
    DrvVmBlock *block = data;
    g_free(block->block);
    g_free(block);
}

static DrvVm *
new_vm(void)
{
    DrvVm *vm = g_new0(DrvVm, 1);
    vm->name = g_strdup("");
    vm->status = g_strdup("");
    vm->machine = g_strdup("");
    vm->cpu = g_strdup("");
    vm->version = g_strdup("");
    vm->migration = g_strdup("none");
    vm->blocks = g_ptr_array_new_with_free_func(free_block);
    return vm;
}

void
drv_vm_free(DrvVm *vm)
{
    if (vm == NULL)
        return;
    g_free(vm->name);
    g_free(vm->status);
    g_free(vm->machine);
    g_free(vm->cpu);
    g_free(vm->version);
    g_free(vm->migration);
    g_ptr_array_unref(vm->blocks);
    g_free(vm);
}

static void
set(char **field, const char *value)
{
    if (value != NULL) {
        g_free(*field);
        *field = g_strdup(value);
    }
}

static void
add_block(GPtrArray *blocks, const char *name, guint64 size)
{
    DrvVmBlock *block = g_new0(DrvVmBlock, 1);
    block->block = g_strdup(name);
    block->size = size;
    g_ptr_array_add(blocks, block);
}

GPtrArray *
drv_vm_parse_ramblocks(const char *text)
{
    GPtrArray *blocks = g_ptr_array_new_with_free_func(free_block);
    g_auto(GStrv) lines = g_strsplit(text, "\n", MAX_BLOCKS + 1);
    for (guint i = 0; lines[i] != NULL && i < MAX_BLOCKS; i++) {
        char name[256];
        guint64 page, offset, used, total;
        /* "pc.ram  4 KiB  0x0...  0x0...  0x0...": later versions add columns, the first six stay.
         */
        if (sscanf(lines[i],
                   "%255s %" G_GINT64_MODIFIER "u %*s %" G_GINT64_MODIFIER "x %" G_GINT64_MODIFIER
                   "x %" G_GINT64_MODIFIER "x",
                   name, &page, &offset, &used, &total) == 5)
            add_block(blocks, name, total);
    }
    return blocks;
}

/* --- asking --- */

typedef void (*Take)(DrvVm *vm, JsonNode *reply);

static void
take_status(DrvVm *vm, JsonNode *reply)
{
    JsonObject *object = qmp_node_object(reply);
    set(&vm->status, qmp_get_string(object, "status"));
    qmp_get_bool(object, "running", &vm->running);
}

static void
take_name(DrvVm *vm, JsonNode *reply)
{
    set(&vm->name, qmp_get_string(qmp_node_object(reply), "name"));
}

static void
take_kvm(DrvVm *vm, JsonNode *reply)
{
    qmp_get_bool(qmp_node_object(reply), "enabled", &vm->kvm);
}

static void
take_machine(DrvVm *vm, JsonNode *reply)
{
    const char *type = qmp_node_string(reply);
    if (type == NULL)
        return;
    g_free(vm->machine);
    vm->machine = g_str_has_suffix(type, "-machine")
                      ? g_strndup(type, strlen(type) - strlen("-machine"))
                      : g_strdup(type);
}

static void
take_memory(DrvVm *vm, JsonNode *reply)
{
    gint64 bytes = 0;
    if (qmp_get_int(qmp_node_object(reply), "base-memory", &bytes))
        vm->memory = (guint64)MAX(bytes, 0);
}

static void
take_cpus(DrvVm *vm, JsonNode *reply)
{
    JsonArray *cpus = qmp_node_array(reply);
    vm->cpus = cpus != NULL ? json_array_get_length(cpus) : 0;
}

static void
take_cpu_type(DrvVm *vm, JsonNode *reply)
{
    JsonArray *slots = qmp_node_array(reply);
    if (slots != NULL && json_array_get_length(slots) > 0)
        set(&vm->cpu, qmp_get_string(qmp_node_object(json_array_get_element(slots, 0)), "type"));
}

static void
take_migration(DrvVm *vm, JsonNode *reply)
{
    set(&vm->migration, qmp_get_string(qmp_node_object(reply), "status"));
}

static void
take_blocks(DrvVm *vm, JsonNode *reply)
{
    const char *text = qmp_node_string(reply);
    if (text == NULL)
        return;
    g_ptr_array_unref(vm->blocks);
    vm->blocks = drv_vm_parse_ramblocks(text);
}

/* 'optional': some machines have no such thing, and the comparison does without. */
static const struct {
    const char *command;
    const char *argument; /* of human-monitor-command or qom-get */
    Take take;
    gboolean optional;
} questions[] = {
    {"query-status", NULL, take_status, FALSE},
    {"query-name", NULL, take_name, TRUE},
    {"query-kvm", NULL, take_kvm, TRUE},
    {"qom-get", "type", take_machine, FALSE},
    {"query-memory-size-summary", NULL, take_memory, FALSE},
    {"query-cpus-fast", NULL, take_cpus, FALSE},
    {"query-hotpluggable-cpus", NULL, take_cpu_type, TRUE},
    {"query-migrate", NULL, take_migration, FALSE},
    {"human-monitor-command", "info ramblock", take_blocks, FALSE},
};

typedef struct {
    GTask *task;
    DrvVm *vm;
    guint open;
    GError *error;
} Asking;

typedef struct {
    Asking *asking;
    guint question;
} Question;

static void
answered(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autofree Question *question = data;
    Asking *asking = question->asking;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    gboolean refused = g_error_matches(error, QMP_ERROR, QMP_ERROR_COMMAND);
    if (reply != NULL)
        questions[question->question].take(asking->vm, reply);
    else if (asking->error == NULL && !(refused && questions[question->question].optional))
        asking->error = g_steal_pointer(&error);
    if (--asking->open > 0)
        return;
    if (asking->error != NULL) {
        g_task_return_error(asking->task, asking->error);
        drv_vm_free(asking->vm);
    } else {
        g_task_return_pointer(asking->task, asking->vm, (GDestroyNotify)drv_vm_free);
    }
    g_object_unref(asking->task);
    g_free(asking);
}

static JsonNode *
arguments(const char *command, const char *argument)
{
    if (argument == NULL)
        return NULL;
    if (g_str_equal(command, "qom-get"))
        return qmp_args("path", "s", "/machine", "property", "s", argument, NULL);
    return qmp_args("command-line", "s", argument, NULL);
}

void
drv_vm_describe_async(QmpClient *client, guint timeout_ms, GCancellable *cancellable,
                      GAsyncReadyCallback callback, gpointer user_data)
{
    Asking *asking = g_new0(Asking, 1);
    asking->task = g_task_new(client, cancellable, callback, user_data);
    asking->vm = new_vm();
    asking->open = G_N_ELEMENTS(questions);
    const QmpVersion *version = qmp_client_get_version(client);
    g_free(asking->vm->version);
    asking->vm->version =
        g_strdup_printf("%d.%d.%d", version->major, version->minor, version->micro);
    for (guint i = 0; i < G_N_ELEMENTS(questions); i++) {
        Question *question = g_new(Question, 1);
        *question = (Question){asking, i};
        qmp_client_execute_async(client, questions[i].command,
                                 arguments(questions[i].command, questions[i].argument), timeout_ms,
                                 cancellable, answered, question);
    }
}

DrvVm *
drv_vm_describe_finish(GAsyncResult *result, GError **error)
{
    return g_task_propagate_pointer(G_TASK(result), error);
}

/* --- for the other side --- */

JsonObject *
drv_vm_to_json(const DrvVm *vm)
{
    JsonObject *object = json_object_new();
    JsonArray *blocks = json_array_new();
    json_object_set_string_member(object, "name", vm->name);
    json_object_set_string_member(object, "status", vm->status);
    json_object_set_string_member(object, "machine", vm->machine);
    json_object_set_string_member(object, "cpu", vm->cpu);
    json_object_set_string_member(object, "version", vm->version);
    json_object_set_boolean_member(object, "running", vm->running);
    json_object_set_boolean_member(object, "kvm", vm->kvm);
    json_object_set_int_member(object, "cpus", vm->cpus);
    json_object_set_int_member(object, "memory", (gint64)vm->memory);
    for (guint i = 0; i < vm->blocks->len; i++) {
        DrvVmBlock *b = vm->blocks->pdata[i];
        JsonObject *block = json_object_new();
        json_object_set_string_member(block, "block", b->block);
        json_object_set_int_member(block, "size", (gint64)b->size);
        json_array_add_object_element(blocks, block);
    }
    json_object_set_array_member(object, "blocks", blocks);
    return object;
}

DrvVm *
drv_vm_from_json(JsonObject *object)
{
    DrvVm *vm = new_vm();
    gint64 number = 0;
    set(&vm->name, qmp_get_string(object, "name"));
    set(&vm->status, qmp_get_string(object, "status"));
    set(&vm->machine, qmp_get_string(object, "machine"));
    set(&vm->cpu, qmp_get_string(object, "cpu"));
    set(&vm->version, qmp_get_string(object, "version"));
    qmp_get_bool(object, "running", &vm->running);
    qmp_get_bool(object, "kvm", &vm->kvm);
    if (qmp_get_int(object, "cpus", &number))
        vm->cpus = (guint)CLAMP(number, 0, G_MAXINT);
    if (qmp_get_int(object, "memory", &number))
        vm->memory = (guint64)MAX(number, 0);
    JsonArray *blocks = qmp_get_array(object, "blocks");
    for (guint i = 0; blocks != NULL && i < MIN(json_array_get_length(blocks), MAX_BLOCKS); i++) {
        JsonObject *block = qmp_node_object(json_array_get_element(blocks, i));
        const char *name = qmp_get_string(block, "block");
        if (name != NULL && qmp_get_int(block, "size", &number))
            add_block(vm->blocks, name, (guint64)MAX(number, 0));
    }
    return vm;
}

/* --- comparing --- */

static const DrvVmBlock *
find_block(const DrvVm *vm, const char *name)
{
    for (guint i = 0; i < vm->blocks->len; i++) {
        const DrvVmBlock *block = vm->blocks->pdata[i];
        if (g_str_equal(block->block, name))
            return block;
    }
    return NULL;
}

static gboolean mismatch(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static gboolean
mismatch(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, DRV_ERROR, DRV_ERROR_MISMATCH, message);
    return FALSE;
}

static gboolean
blocks_compatible(const DrvVm *source, const DrvVm *dest, GError **error)
{
    for (guint i = 0; i < source->blocks->len; i++) {
        const DrvVmBlock *block = source->blocks->pdata[i];
        const DrvVmBlock *other = find_block(dest, block->block);
        if (other == NULL)
            return mismatch(error,
                            "the destination's QEMU has no RAM block '%s': start it with the same "
                            "devices and memory backend ids as the source",
                            block->block);
        if (other->size != block->size)
            return mismatch(error,
                            "RAM block '%s' has %" G_GUINT64_FORMAT " KiB at the source and "
                            "%" G_GUINT64_FORMAT " KiB at the destination: start the destination "
                            "with the same memory and devices",
                            block->block, block->size / 1024, other->size / 1024);
    }
    for (guint i = 0; i < dest->blocks->len; i++) {
        const DrvVmBlock *block = dest->blocks->pdata[i];
        if (find_block(source, block->block) == NULL)
            return mismatch(error,
                            "the destination's QEMU has a RAM block '%s' that the source has not: "
                            "start it with the same devices and memory backend ids as the source",
                            block->block);
    }
    return TRUE;
}

gboolean
drv_vm_compatible(const DrvVm *source, const DrvVm *dest, GError **error)
{
    if (!g_str_equal(source->machine, dest->machine))
        return mismatch(error,
                        "the machine types differ, '%s' at the source and '%s' at the destination: "
                        "start the destination with -machine %s",
                        source->machine, dest->machine, source->machine);
    if (source->memory != dest->memory)
        return mismatch(error,
                        "the guest has %" G_GUINT64_FORMAT " MiB of memory at the source and "
                        "%" G_GUINT64_FORMAT " MiB at the destination: start the destination with "
                        "-m %" G_GUINT64_FORMAT "M",
                        source->memory >> 20, dest->memory >> 20, source->memory >> 20);
    if (source->cpus != dest->cpus)
        return mismatch(error,
                        "the guest has %u vCPUs at the source and %u at the destination: start the "
                        "destination with the same -smp",
                        source->cpus, dest->cpus);
    if (!g_str_equal(source->cpu, dest->cpu) && *source->cpu != '\0' && *dest->cpu != '\0')
        return mismatch(error,
                        "the CPU models differ, '%s' at the source and '%s' at the destination: "
                        "start the destination with the same -cpu",
                        source->cpu, dest->cpu);
    return blocks_compatible(source, dest, error);
}
