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

/* --- a run --- */

/* How often it is looked whether it is to end. */
#define TICK_MS 50
/* How long one that was killed may take to be gone. */
#define DEATH_MS 2000

typedef struct {
    const DrvToolCall *call;
    GSubprocess *process;
    gint64 until_us;
    GCancellable *stop;
    gboolean over;
    GBytes *out, *complaint;
    GError *stopped; /* why it was killed */
    GError *error;
} Run;

/* Why it is to end now; NULL: it may go on. */
static GError *
reason(const Run *run)
{
    if (run->call->cancelled != NULL && g_atomic_int_get(run->call->cancelled))
        return g_error_new_literal(DRV_ERROR, DRV_ERROR_CANCELLED, "it was called off meanwhile");
    if (g_get_monotonic_time() >= run->until_us)
        return g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                           "%s was not done within %u s and was ended: see whether every "
                           "file of the image can be read",
                           run->call->argv[0], (run->call->limit_ms + 999) / 1000);
    return NULL;
}

/* It is killed, and is gone when we go on: so are its locks. But one that hangs in the kernel does
 * not even die, and is not waited for without end. */
static gboolean
tick(gpointer data)
{
    Run *run = data;
    if (run->stopped == NULL) {
        run->stopped = reason(run);
        if (run->stopped != NULL) {
            g_subprocess_force_exit(run->process);
            run->until_us = g_get_monotonic_time() + DEATH_MS * 1000;
        }
    } else if (g_get_monotonic_time() >= run->until_us) {
        g_cancellable_cancel(run->stop);
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

static void
communicated(GObject *source, GAsyncResult *result, gpointer data)
{
    Run *run = data;
    g_subprocess_communicate_finish(run->process, result, &run->out, &run->complaint, &run->error);
    run->over = TRUE;
}

/* On a context of its own, so that nothing else of this thread goes on meanwhile. */
static void
communicate(Run *run)
{
    g_autoptr(GMainContext) context = g_main_context_new();
    g_autoptr(GSource) timer = g_timeout_source_new(TICK_MS);
    g_main_context_push_thread_default(context);
    g_source_set_callback(timer, tick, run, NULL);
    g_source_attach(timer, context);
    g_subprocess_communicate_async(run->process, NULL, run->stop, communicated, run);
    while (!run->over)
        g_main_context_iteration(context, TRUE);
    g_source_destroy(timer);
    g_main_context_pop_thread_default(context);
}

static void
run_clear(Run *run)
{
    g_clear_object(&run->process);
    g_clear_object(&run->stop);
    g_clear_pointer(&run->out, g_bytes_unref);
    g_clear_pointer(&run->complaint, g_bytes_unref);
    g_clear_error(&run->stopped);
    g_clear_error(&run->error);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Run, run_clear)

static gboolean
run_to_end(Run *run, GError **error)
{
    const DrvToolCall *call = run->call;
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    if (call->fd >= 0)
        g_subprocess_launcher_take_fd(launcher, fcntl(call->fd, F_DUPFD_CLOEXEC, 0), DRV_TOOL_FD);
    run->process =
        g_subprocess_launcher_spawnv(launcher, (const gchar *const *)call->argv, &run->error);
    run->stop = g_cancellable_new();
    run->until_us = g_get_monotonic_time() + (gint64)call->limit_ms * 1000;
    if (run->process != NULL)
        communicate(run);
    if (run->stopped != NULL)
        g_propagate_error(error, g_steal_pointer(&run->stopped));
    else if (run->error != NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "%s cannot be run (%s): install qemu-utils, or put it into PATH", call->argv[0],
                    run->error->message);
    else
        return TRUE;
    return FALSE;
}

char *
drv_tool_call(const DrvToolCall *call, int *status, char **words, GError **error)
{
    g_auto(Run) run = {.call = call};
    if (!run_to_end(&run, error))
        return NULL;
    gsize len;
    const char *raw = g_bytes_get_data(run.complaint, &len);
    g_autofree char *text = g_strndup(raw != NULL ? raw : "", len);
    g_autofree char *line = drv_tool_words(text, call->shown);
    gboolean exited = g_subprocess_get_if_exited(run.process);
    if (!exited || (status == NULL && g_subprocess_get_exit_status(run.process) != 0)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "%s",
                    exited ? line : "QEMU's program was killed");
        return NULL;
    }
    if (status != NULL)
        *status = g_subprocess_get_exit_status(run.process);
    if (words != NULL)
        *words = g_steal_pointer(&line);
    raw = g_bytes_get_data(run.out, &len);
    return g_strndup(raw != NULL ? raw : "", len);
}

char *
drv_tool_run(const char *const *argv, int fd, const char *shown, int *status, char **words,
             GError **error)
{
    const DrvToolCall call = {
        .argv = argv, .fd = fd, .shown = shown, .limit_ms = DRV_TOOL_BRIEF_MS};
    return drv_tool_call(&call, status, words, error);
}
