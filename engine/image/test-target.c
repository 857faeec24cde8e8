/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/image/target.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

/* Who else has to do with the image that is made: another that makes it, and a QEMU. */

#define SIZE 8192u
/* QEMU holds it while it may write an image. */
#define QEMU_WRITES 101

typedef struct {
    char *dir, *out;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("drover-test-XXXXXX", NULL);
    f->out = g_build_filename(f->dir, "out", NULL);
}

/* Of all that was made there is nothing but what has its name. */
static void
tear_down(Fixture *f, gconstpointer data)
{
    g_unlink(f->out);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->dir);
    g_free(f->out);
}

static DrvTarget *
open_target(const Fixture *f, GError **error)
{
    const DrvTargetParams params = {.path = f->out, .format = "raw", .size = SIZE, .users = 1};
    return drv_target_open(&params, error);
}

static void
fill(DrvTarget *target, guint8 byte)
{
    guint8 bytes[SIZE];
    memset(bytes, byte, sizeof bytes);
    g_assert_true(drv_store_write(drv_target_store(target), 0, 0, bytes, SIZE, NULL));
    g_assert_true(drv_store_settle(drv_target_store(target), 0, NULL));
}

static void
assert_filled(const Fixture *f, guint8 byte)
{
    g_autofree char *got = NULL;
    gsize len;
    g_assert_true(g_file_get_contents(f->out, &got, &len, NULL));
    g_assert_cmpuint(len, ==, SIZE);
    for (gsize i = 0; i < len; i++)
        g_assert_cmpuint((guint8)got[i], ==, byte);
}

static void
make(const Fixture *f, guint8 byte)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvTarget) target = open_target(f, &error);
    g_assert_no_error(error);
    fill(target, byte);
    g_assert_true(drv_target_commit(target, &error));
}

/* --- another that makes it --- */

static gpointer
open_in_thread(gpointer data)
{
    g_autoptr(GError) error = NULL;
    DrvTarget *target = open_target(data, &error);
    g_assert_no_error(error);
    return target;
}

/* It is opened again while the first is being written, and the first ends then. */
static DrvTarget *
open_second(const Fixture *f, DrvTarget *first, gboolean named)
{
    char events[4096];
    int watch = inotify_init1(IN_CLOEXEC);
    g_assert_cmpint(inotify_add_watch(watch, f->dir, IN_OPEN), >=, 0);
    GThread *thread = g_thread_new("second", open_in_thread, (gpointer)f);
    do
        g_assert_cmpint(read(watch, events, sizeof events), >, 0);
    while (strstr(((struct inotify_event *)(gpointer)events)->name, ".out.drover-") == NULL);
    close(watch);
    if (named)
        g_assert_true(drv_target_commit(first, NULL));
    drv_target_free(first);
    return g_thread_join(thread);
}

/* What it has made is whole, and stays so until the second is. */
static void
test_named_meanwhile(Fixture *f, gconstpointer data)
{
    DrvTarget *first = open_target(f, NULL);
    fill(first, 1);
    g_autoptr(DrvTarget) second = open_second(f, first, TRUE);
    assert_filled(f, 1);
    fill(second, 2);
    assert_filled(f, 1);
    g_assert_true(drv_target_commit(second, NULL));
    assert_filled(f, 2);
}

static void
test_dropped_meanwhile(Fixture *f, gconstpointer data)
{
    DrvTarget *first = open_target(f, NULL);
    fill(first, 1);
    g_autoptr(DrvTarget) second = open_second(f, first, FALSE);
    fill(second, 2);
    g_assert_true(drv_target_commit(second, NULL));
    assert_filled(f, 2);
}

/* Somebody has removed what it writes to, and another makes it anew: that is not the first's to
 * remove. */
static void
test_removed_meanwhile(Fixture *f, gconstpointer data)
{
    DrvTarget *first = open_target(f, NULL);
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    g_autofree char *temp = g_build_filename(f->dir, g_dir_read_name(dir), NULL);
    g_assert_cmpint(g_unlink(temp), ==, 0);
    g_autoptr(DrvTarget) second = open_target(f, NULL);
    fill(second, 2);
    g_assert_false(drv_target_commit(first, NULL));
    drv_target_free(first);
    g_assert_true(drv_target_commit(second, NULL));
    assert_filled(f, 2);
}

/* --- a QEMU --- */

static int
open_as_qemu(const Fixture *f)
{
    struct flock lock = {.l_type = F_RDLCK, .l_start = QEMU_WRITES, .l_len = 1};
    int fd = open(f->out, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
    return fd;
}

static void
test_in_use(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    make(f, 1);
    int qemu = open_as_qemu(f);
    g_assert_null(open_target(f, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_STATE);
    assert_filled(f, 1);
    close(qemu);
}

/* Without its name, all that the VM writes would be lost when it ends. */
static void
test_in_use_meanwhile(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    make(f, 1);
    g_autoptr(DrvTarget) target = open_target(f, NULL);
    fill(target, 2);
    int qemu = open_as_qemu(f);
    g_assert_true(drv_target_seal(target, NULL));
    g_assert_false(drv_target_name(target, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "cannot be given its name: "));
    g_assert_nonnull(strstr(error->message, " is in use: stop the VM"));
    assert_filled(f, 1);
    close(qemu);
    g_assert_true(drv_target_name(target, NULL));
    assert_filled(f, 2);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(Fixture *f, gconstpointer data);
    } tests[] = {
        {"named-meanwhile", test_named_meanwhile},
        {"dropped-meanwhile", test_dropped_meanwhile},
        {"removed-meanwhile", test_removed_meanwhile},
        {"in-use", test_in_use},
        {"in-use-meanwhile", test_in_use_meanwhile},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *name = g_strconcat("/image/target/", tests[i].name, NULL);
        g_test_add(name, Fixture, NULL, set_up, tests[i].run, tear_down);
    }
    return g_test_run();
}
