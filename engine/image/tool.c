/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/tool.h"

#include "common/error.h"

#include <fcntl.h>
#include <string.h>

#define WORDS_MAX 1000

/* "qemu-img: Could not open 'x': ..." without who says it. */
static const char *
skip_name(const char *line)
{
    static const char *const names[] = {"qemu-img: ", "qemu-nbd: "};
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        if (g_str_has_prefix(line, names[i]))
            line += strlen(names[i]);
    }
    /* qemu-nbd repeats its whole command line there. */
    const char *why =
        g_str_has_prefix(line, "Failed to blk_new_open '") ? strstr(line, "': ") : NULL;
    return why != NULL ? why + 3 : line;
}

char *
drv_tool_words(const char *text, const char *shown)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autoptr(GString) out = g_string_new(NULL);
    for (guint i = 0; lines[i] != NULL; i++) {
        const char *line = skip_name(g_strstrip(lines[i]));
        if (*line != '\0')
            g_string_append_printf(out, "%s%s", out->len > 0 ? "; " : "", line);
    }
    if (shown != NULL)
        g_string_replace(out, DRV_TOOL_FD_PATH, shown, 0);
    if (out->len > WORDS_MAX)
        g_string_truncate(out, WORDS_MAX);
    while (out->len > 0 && out->str[out->len - 1] == '.')
        g_string_truncate(out, out->len - 1);
    return g_utf8_make_valid(out->len > 0 ? out->str : "it gave no reason", -1);
}

char *
drv_tool_run(const char *const *argv, int fd, const char *shown, int *status, char **words,
             GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GBytes) out = NULL, complaint = NULL;
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    if (fd >= 0)
        g_subprocess_launcher_take_fd(launcher, fcntl(fd, F_DUPFD_CLOEXEC, 0), DRV_TOOL_FD);
    g_autoptr(GSubprocess) process =
        g_subprocess_launcher_spawnv(launcher, (const gchar *const *)argv, &why);
    if (process == NULL || !g_subprocess_communicate(process, NULL, NULL, &out, &complaint, &why)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "%s cannot be run (%s): install qemu-utils, or put it into PATH", argv[0],
                    why->message);
        return NULL;
    }
    gsize len;
    const char *raw = g_bytes_get_data(complaint, &len);
    g_autofree char *text = g_strndup(raw != NULL ? raw : "", len);
    g_autofree char *line = drv_tool_words(text, shown);
    gboolean exited = g_subprocess_get_if_exited(process);
    if (!exited || (status == NULL && g_subprocess_get_exit_status(process) != 0)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "%s",
                    exited ? line : "QEMU's program was killed");
        return NULL;
    }
    if (status != NULL)
        *status = g_subprocess_get_exit_status(process);
    if (words != NULL)
        *words = g_steal_pointer(&line);
    raw = g_bytes_get_data(out, &len);
    return g_strndup(raw != NULL ? raw : "", len);
}
