/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

/* Programs that end, and such that do not. */

static void
test_ends(void)
{
    static const char *const good[] = {"sh", "-c", "echo out; echo 'qemu-img: Word.' >&2; exit 3",
                                       NULL};
    g_autoptr(GError) error = NULL;
    g_autofree char *words = NULL;
    int status = -1;
    g_autofree char *out = drv_tool_run(good, -1, NULL, &status, &words, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(out, ==, "out\n");
    g_assert_cmpint(status, ==, 3);
    g_assert_cmpstr(words, ==, "Word");

    g_assert_null(drv_tool_run(good, -1, NULL, NULL, NULL, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_cmpstr(error->message, ==, "Word");
}

static void
test_killed(void)
{
    static const char *const killed[] = {"sh", "-c", "kill -9 $$", NULL};
    static const char *const missing[] = {"drover-has-no-such-program", NULL};
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_tool_run(killed, -1, NULL, NULL, NULL, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_cmpstr(error->message, ==, "QEMU's program was killed");
    g_clear_error(&error);
    g_assert_null(drv_tool_run(missing, -1, NULL, NULL, NULL, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_nonnull(strstr(error->message, "install qemu-utils"));
}

/* It holds its pipes, and so do those that it has started. */
static const char *const endless[] = {"sh", "-c", "sleep 3 & exec sleep 1000", NULL};

static void
test_limit(void)
{
    const DrvToolCall call = {.argv = endless, .fd = -1, .limit_ms = 200};
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_tool_call(&call, NULL, NULL, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_TIMEOUT);
    g_assert_nonnull(strstr(error->message, "sh was not done within 1 s"));
}

static gpointer
cancel(gpointer data)
{
    g_usleep(100000);
    g_atomic_int_set((gint *)data, 1);
    return NULL;
}

static void
test_cancel(void)
{
    gint cancelled = 0;
    const DrvToolCall call = {
        .argv = endless, .fd = -1, .limit_ms = DRV_TOOL_LONG_MS, .cancelled = &cancelled};
    g_autoptr(GError) error = NULL;
    GThread *thread = g_thread_new("cancel", cancel, &cancelled);
    g_assert_null(drv_tool_call(&call, NULL, NULL, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_CANCELLED);
    g_thread_join(thread);
}

/* A backing file that is a pipe is opened for ever. */
static void
test_pipe(void)
{
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    if (qemu_img == NULL) {
        g_test_skip("there is no qemu-img");
        return;
    }
    g_autofree char *dir = g_dir_make_tmp("drover-test-XXXXXX", NULL);
    g_autofree char *pipe = g_build_filename(dir, "pipe", NULL);
    g_autofree char *path = g_build_filename(dir, "image", NULL);
    const char *const argv[] = {"qemu-img", "create", "-q",    "-f", "qcow2", "-b",
                                pipe,       "-F",     "qcow2", path, "1M",    NULL};
    const DrvToolCall call = {.argv = argv, .fd = -1, .limit_ms = 500};
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(mkfifo(pipe, 0600), ==, 0);
    g_assert_null(drv_tool_call(&call, NULL, NULL, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_TIMEOUT);
    /* Nobody waits there any more. */
    g_assert_cmpint(open(pipe, O_WRONLY | O_NONBLOCK | O_CLOEXEC), ==, -1);
    g_assert_cmpint(errno, ==, ENXIO);
    g_unlink(path);
    g_unlink(pipe);
    g_rmdir(dir);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/image/tool/ends", test_ends);
    g_test_add_func("/image/tool/killed", test_killed);
    g_test_add_func("/image/tool/limit", test_limit);
    g_test_add_func("/image/tool/cancel", test_cancel);
    g_test_add_func("/image/tool/pipe", test_pipe);
    return g_test_run();
}
