/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/map.h"

#include "common/error.h"
#include "common/json.h"
#include "engine/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define EXTENT_MAX 4096
#define WORDS_MAX 4096

enum { OUT, WORDS, PIPES };

typedef struct {
    int fds[PIPES]; /* -1: has ended */
    GString *text[PIPES];
    gint64 until_us;
    gboolean odd; /* it says what is not understood: all else is only waited for */
    DrvMapTake take;
    gpointer data;
} Map;

/* Whole lines, each an extent and a comma, but for the first, which has a bracket before it, and
 * the last, which has one behind. Several at once: a parser for each would take most of the time.
 */
static JsonObject *
parse_lines(const char *lines, gsize len)
{
    while (len > 0 && (*lines == '[' || *lines == ' ')) {
        lines++;
        len--;
    }
    while (len > 0 && memchr(",] \n", lines[len - 1], 4) != NULL)
        len--;
    g_autoptr(GString) text = g_string_new("{\"map\":[");
    g_string_append_len(text, lines, (gssize)len);
    g_string_append(text, "]}");
    return drv_json_parse_object(text->str, text->len, NULL);
}

static gboolean
take_extents(Map *map, const char *lines, gsize len, GError **error)
{
    g_autoptr(JsonObject) parsed = parse_lines(lines, len);
    JsonArray *extents = drv_json_array(parsed, "map");
    guint n = extents != NULL ? json_array_get_length(extents) : 0;
    gboolean good = n > 0;
    for (guint i = 0; good && i < n; i++) {
        JsonObject *extent = drv_json_element(extents, i);
        good = extent != NULL;
        if (good && !map->take(extent, map->data, error))
            return FALSE;
    }
    map->odd |= !good;
    return TRUE;
}

/* What is whole of it, or will not be more. */
static gboolean
take_lines(Map *map, GError **error)
{
    GString *text = map->text[OUT];
    const char *end = memrchr(text->str, '\n', text->len);
    gsize len = end != NULL ? (gsize)(end - text->str) + 1 : 0;
    if (map->fds[OUT] < 0 || text->len - len > EXTENT_MAX)
        len = text->len;
    if (len > 0 && !map->odd && !take_extents(map, text->str, len, error))
        return FALSE;
    g_string_erase(text, 0, (gssize)len);
    return TRUE;
}

static void
read_pipe(Map *map, guint i)
{
    char part[16384];
    gssize got = read(map->fds[i], part, sizeof part);
    if (got > 0) {
        g_string_append_len(map->text[i], part, got);
    } else if (got == 0 || errno != EINTR) {
        close(map->fds[i]);
        map->fds[i] = -1;
    }
    if (map->text[WORDS]->len > WORDS_MAX)
        g_string_truncate(map->text[WORDS], WORDS_MAX);
}

static gboolean
wait_for_more(Map *map, guint limit_ms, GError **error)
{
    struct pollfd ready[PIPES];
    for (guint i = 0; i < PIPES; i++) /* poll() leaves out what is below 0 */
        ready[i] = (struct pollfd){.fd = map->fds[i], .events = POLLIN};
    gint64 left_us = MAX(map->until_us - g_get_monotonic_time(), 0);
    int n = poll(ready, PIPES, (int)(left_us / 1000));
    for (guint i = 0; n > 0 && i < PIPES; i++) {
        if (ready[i].revents != 0)
            read_pipe(map, i);
    }
    if (n > 0 || (n < 0 && errno == EINTR))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_TIMEOUT,
                "qemu-img was not done within %u s and was ended: see whether every file of the "
                "image can be read",
                (limit_ms + 999) / 1000);
    return FALSE;
}

static gboolean
read_map(Map *map, guint limit_ms, GError **error)
{
    map->until_us = g_get_monotonic_time() + (gint64)limit_ms * 1000;
    while (map->fds[OUT] >= 0 || map->fds[WORDS] >= 0) {
        if (!wait_for_more(map, limit_ms, error) || !take_lines(map, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_exit(const Map *map, GSubprocess *process, GError **error)
{
    if (g_subprocess_wait_check(process, NULL, NULL)) {
        if (map->odd)
            g_set_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL,
                        "qemu-img does not tell where its data is in words that drover knows");
        return !map->odd;
    }
    g_autofree char *words = drv_tool_words(map->text[WORDS]->str, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "%s",
                g_subprocess_get_if_exited(process) ? words : "QEMU's program was killed");
    return FALSE;
}

static GSubprocess *
spawn(Map *map, const char *path, const char *format, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_NONE);
    int ends[PIPES][2];
    for (guint i = 0; i < PIPES; i++) {
        if (pipe2(ends[i], O_CLOEXEC) != 0) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "no pipe can be made: %s",
                        g_strerror(errno));
            return NULL;
        }
        map->fds[i] = ends[i][0];
        if (i == OUT)
            g_subprocess_launcher_take_stdout_fd(launcher, ends[i][1]);
        else
            g_subprocess_launcher_take_stderr_fd(launcher, ends[i][1]);
    }
    /* With the launcher its ends of the pipes go. */
    GSubprocess *process = g_subprocess_launcher_spawn(launcher, &why, "qemu-img", "map",
                                                       "--output=json", "-f", format, path, NULL);
    if (process == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "qemu-img cannot be run (%s): install qemu-utils, or put it into PATH",
                    why->message);
    return process;
}

gboolean
drv_image_map(const char *path, const char *format, guint limit_ms, DrvMapTake take, gpointer data,
              GError **error)
{
    Map map = {.fds = {-1, -1},
               .text = {g_string_new(NULL), g_string_new(NULL)},
               .take = take,
               .data = data};
    g_autoptr(GSubprocess) process = spawn(&map, path, format, error);
    gboolean told = process != NULL && read_map(&map, limit_ms, error);
    gboolean good = told && check_exit(&map, process, error);
    /* One that hangs in the kernel does not even die: it is not waited for. */
    if (process != NULL && !told)
        g_subprocess_force_exit(process);
    for (guint i = 0; i < PIPES; i++) {
        if (map.fds[i] >= 0)
            close(map.fds[i]);
        g_string_free(map.text[i], TRUE);
    }
    return good;
}
