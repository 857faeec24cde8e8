/* SPDX-License-Identifier: Apache-2.0 */

/*
 * guestram QMP-SOCKET [PID]
 *
 * Reaches into a QEMU's RAM as droverd does, at the word of a test: finds the blocks over QMP and
 * opens them (in another process than QEMU's if a PID is given), says what it found, and then does
 * what it reads from its standard input, a line each:
 *
 *   write BLOCK OFFSET FILE        zero BLOCK OFFSET LENGTH
 *   read BLOCK OFFSET LENGTH FILE  digest THREADS SEED BLOCK...
 *
 * BLOCK is an id, numbers are decimal. Each answer is one line of JSON: {"return": ...}, or
 * {"error": code, "desc": message}.
 */
#include "common/error.h"
#include "engine/channel/guest-digest.h"
#include "engine/host/guest-blocks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 60000

typedef struct {
    QmpClient *client; /* stays connected: QEMU's pid is its own as long as it lives */
    DrvGuestRam *ram;
} Tool;

static void
say(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    g_autofree char *text = json_to_string(node, FALSE);
    puts(text);
    fflush(stdout);
    json_object_unref(object);
}

static void
say_error(const GError *error)
{
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "error", drv_error_name(error));
    json_object_set_string_member(object, "desc", error->message);
    say(object);
}

static void
say_number(guint64 number)
{
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "return", (gint64)number);
    say(object);
}

/* --- beginning --- */

static void
keep_result(GObject *object, GAsyncResult *result, gpointer data)
{
    *(GAsyncResult **)data = g_object_ref(result);
}

static GAsyncResult *
wait_result(GAsyncResult **result)
{
    while (*result == NULL)
        g_main_context_iteration(NULL, TRUE);
    return *result;
}

static gboolean
begin(Tool *tool, const char *path, const char *pid, GError **error)
{
    g_autoptr(GAsyncResult) connected = NULL, found = NULL;
    qmp_client_connect_async(path, TIMEOUT_MS, NULL, keep_result, &connected);
    tool->client = qmp_client_connect_finish(wait_result(&connected), error);
    if (tool->client == NULL)
        return FALSE;
    drv_guest_blocks_find_async(tool->client, TIMEOUT_MS, NULL, keep_result, &found);
    g_autoptr(DrvGuestBlocks) blocks = drv_guest_blocks_find_finish(wait_result(&found), error);
    if (blocks == NULL)
        return FALSE;
    tool->ram =
        drv_guest_ram_open(pid != NULL ? atoi(pid) : blocks->pid, blocks->blocks, blocks->n, error);
    return tool->ram != NULL;
}

static void
say_blocks(const Tool *tool)
{
    JsonObject *object = json_object_new(), *blocks = json_object_new();
    for (guint i = 0; i < drv_guest_ram_blocks(tool->ram); i++) {
        const DrvGuestBlock *block = drv_guest_ram_block(tool->ram, i);
        JsonObject *entry = json_object_new();
        json_object_set_int_member(entry, "size", (gint64)block->size);
        json_object_set_int_member(entry, "hva", (gint64)block->hva);
        if (block->why != NULL)
            json_object_set_string_member(entry, "why", block->why);
        json_object_set_object_member(blocks, block->id, entry);
    }
    json_object_set_object_member(object, "return", blocks);
    say(object);
}

/* --- commands --- */

/* A block that is not there has an index that is refused. */
static guint
find_block(const Tool *tool, const char *id)
{
    guint i = 0;
    while (i < drv_guest_ram_blocks(tool->ram) &&
           !g_str_equal(drv_guest_ram_block(tool->ram, i)->id, id))
        i++;
    return i;
}

static guint64
number(const char *word)
{
    return g_ascii_strtoull(word, NULL, 10);
}

static gboolean
do_write(Tool *tool, char **words, GError **error)
{
    g_autofree char *data = NULL;
    gsize len;
    if (!g_file_get_contents(words[3], &data, &len, error))
        return FALSE;
    DrvGuestRun run = {find_block(tool, words[1]), number(words[2]), data, len};
    if (!drv_guest_ram_write(tool->ram, &run, 1, error))
        return FALSE;
    say_number(len);
    return TRUE;
}

static gboolean
do_zero(Tool *tool, char **words, GError **error)
{
    guint64 written;
    if (!drv_guest_ram_zero(tool->ram, find_block(tool, words[1]), number(words[2]),
                            number(words[3]), &written, error))
        return FALSE;
    say_number(written);
    return TRUE;
}

static gboolean
do_read(Tool *tool, char **words, GError **error)
{
    gsize len = number(words[3]);
    g_autofree char *data = g_malloc(len);
    if (!drv_guest_ram_read(tool->ram, find_block(tool, words[1]), number(words[2]), data, len,
                            error) ||
        !g_file_set_contents(words[4], data, (gssize)len, error))
        return FALSE;
    say_number(len);
    return TRUE;
}

static gboolean
do_digest(Tool *tool, char **words, GError **error)
{
    guint n = g_strv_length(words) - 3;
    DrvGuestDigestOptions options = {.threads = (guint)number(words[1]), .seed = number(words[2])};
    g_autofree guint *blocks = g_new(guint, n);
    g_autofree guint8 *digests = g_malloc((gsize)n * DRV_GUEST_DIGEST_LEN);
    for (guint i = 0; i < n; i++)
        blocks[i] = find_block(tool, words[3 + i]);
    if (!drv_guest_digest(tool->ram, blocks, n, &options, digests, error))
        return FALSE;
    JsonObject *object = json_object_new(), *list = json_object_new();
    for (guint i = 0; i < n; i++) {
        char hex[2 * DRV_GUEST_DIGEST_LEN + 1];
        for (guint j = 0; j < DRV_GUEST_DIGEST_LEN; j++)
            g_snprintf(hex + 2 * j, 3, "%02x", digests[i * DRV_GUEST_DIGEST_LEN + j]);
        json_object_set_string_member(list, words[3 + i], hex);
    }
    json_object_set_object_member(object, "return", list);
    say(object);
    return TRUE;
}

static const struct {
    const char *name;
    guint words; /* with itself, at least */
    gboolean (*func)(Tool *tool, char **words, GError **error);
} commands[] = {
    {"write", 4, do_write},
    {"zero", 4, do_zero},
    {"read", 5, do_read},
    {"digest", 3, do_digest},
};

static void
obey(Tool *tool, char *line)
{
    g_auto(GStrv) words = g_strsplit(g_strstrip(line), " ", -1);
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(words[0], commands[i].name) && g_strv_length(words) >= commands[i].words) {
            if (!commands[i].func(tool, words, &error))
                say_error(error);
            return;
        }
    }
    error = g_error_new(DRV_ERROR, DRV_ERROR_USAGE, "no command: %s", line);
    say_error(error);
}

int
main(int argc, char **argv)
{
    Tool tool = {0};
    g_autoptr(GError) error = NULL;
    char *line = NULL;
    size_t size = 0;
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: guestram QMP-SOCKET [PID]\n");
        return 2;
    }
    gboolean begun = begin(&tool, argv[1], argc > 2 ? argv[2] : NULL, &error);
    if (begun)
        say_blocks(&tool);
    else
        say_error(error);
    while (begun && getline(&line, &size, stdin) >= 0)
        obey(&tool, line);
    free(line);
    drv_guest_ram_free(tool.ram);
    g_clear_object(&tool.client);
    return begun ? 0 : 1;
}
