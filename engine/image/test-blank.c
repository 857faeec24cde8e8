/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/image/blank.h"
#include "engine/image/probe.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Images that are made, that are there already, and that cannot be made. */

#define SIZE ((1u << 20) + 512)

typedef struct {
    char *dir;
    GPtrArray *blanks;
    GError *error;
} Fixture;

static void
free_blank(gpointer data)
{
    drv_blank_free(data);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("drover-test-XXXXXX", NULL);
    f->blanks = g_ptr_array_new_with_free_func(free_blank);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    const char *name;
    while ((name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);
        g_remove(path);
    }
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_ptr_array_unref(f->blanks);
    g_clear_error(&f->error);
    g_free(f->dir);
}

static DrvBlank *
want(Fixture *f, const char *name, const char *format)
{
    DrvBlank *blank = drv_blank_new();
    blank->disk = g_strdup_printf("vd-%s", name);
    blank->path = g_build_filename(f->dir, name, NULL);
    blank->format = g_strdup(format);
    blank->size = SIZE;
    g_ptr_array_add(f->blanks, blank);
    return blank;
}

/* The same wishes, by somebody who has not looked. */
static void
again(Fixture *f)
{
    g_autoptr(GPtrArray) before = g_steal_pointer(&f->blanks);
    f->blanks = g_ptr_array_new_with_free_func(free_blank);
    for (guint i = 0; i < before->len; i++) {
        const DrvBlank *old = before->pdata[i];
        g_autofree char *name = g_path_get_basename(old->path);
        DrvBlank *blank = want(f, name, old->format);
        blank->backing = g_strdup(old->backing);
        blank->backing_format = g_strdup(old->backing_format);
    }
    g_clear_error(&f->error);
}

static void
look(Fixture *f)
{
    g_assert_true(drv_blanks_look(f->blanks, NULL, &f->error));
    g_assert_no_error(f->error);
}

static void
make(Fixture *f)
{
    look(f);
    g_assert_true(drv_blanks_make(f->blanks, NULL, &f->error));
    g_assert_no_error(f->error);
}

static void
assert_refused(Fixture *f, int code, const char *words)
{
    g_assert_false(drv_blanks_look(f->blanks, NULL, &f->error));
    g_assert_error(f->error, DRV_ERROR, code);
    if (strstr(f->error->message, words) == NULL)
        g_error("\"%s\" is not in \"%s\"", words, f->error->message);
}

static guint
files(Fixture *f)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    guint count = 0;
    while (g_dir_read_name(dir) != NULL)
        count++;
    return count;
}

static void
put(const DrvBlank *blank, const char *text)
{
    g_assert_true(g_file_set_contents(blank->path, text, -1, NULL));
}

static void
test_made(Fixture *f, gconstpointer data)
{
    static const char *const formats[] = {"raw", "qcow2", "vmdk", "vdi", "vhdx"};
    struct stat st;
    for (guint i = 0; i < G_N_ELEMENTS(formats); i++)
        want(f, formats[i], formats[i]);
    ((DrvBlank *)f->blanks->pdata[1])->options = g_strdup("cluster_size=131072,extended_l2=on");
    make(f);
    for (guint i = 0; i < f->blanks->len; i++) {
        const DrvBlank *blank = f->blanks->pdata[i];
        g_assert_cmpint(blank->state, ==, DRV_BLANK_MADE);
        g_autoptr(DrvImageInfo) info = drv_image_probe(blank->path, NULL, &f->error);
        g_assert_no_error(f->error);
        g_assert_cmpuint(info->size, ==, SIZE);
        g_assert_cmpstr(info->format, ==, formats[i]);
        g_assert_cmpint(stat(blank->path, &st), ==, 0);
        g_assert_cmphex(st.st_mode & 07777, ==, 0600);
    }
    g_assert_cmpuint(files(f), ==, f->blanks->len);
    again(f);
    make(f);
    for (guint i = 0; i < f->blanks->len; i++)
        g_assert_cmpint(((DrvBlank *)f->blanks->pdata[i])->state, ==, DRV_BLANK_THERE);
    drv_blanks_unmake(f->blanks);
    g_assert_cmpuint(files(f), ==, f->blanks->len);
}

static void
test_owner(Fixture *f, gconstpointer data)
{
    struct stat st;
    if (geteuid() != 0) {
        g_test_skip("only root can give files away");
        return;
    }
    const DrvBlank *blank = want(f, "one", "raw");
    g_assert_cmpint(chown(f->dir, 12345, 23456), ==, 0);
    make(f);
    g_assert_cmpint(stat(blank->path, &st), ==, 0);
    g_assert_cmpuint(st.st_uid, ==, 12345);
    g_assert_cmpuint(st.st_gid, ==, 23456);
    g_assert_cmphex(st.st_mode & 07777, ==, 0600);
}

static void
test_there(Fixture *f, gconstpointer data)
{
    DrvBlank *blank = want(f, "one", "qcow2");
    put(blank, "something else");
    assert_refused(f, DRV_ERROR_MISMATCH, "is there already and is raw, not qcow2");
    g_assert_nonnull(strstr(f->error->message, "disk 'vd-one': "));

    again(f);
    blank = f->blanks->pdata[0];
    g_free(blank->format);
    blank->format = g_strdup("raw");
    assert_refused(f, DRV_ERROR_MISMATCH, "has 512 bytes, and the disk 1049088");

    again(f);
    blank = f->blanks->pdata[0];
    g_unlink(blank->path);
    g_assert_cmpint(mkfifo(blank->path, 0600), ==, 0);
    assert_refused(f, DRV_ERROR_STATE, "neither a file nor a block device");

    again(f);
    blank = f->blanks->pdata[0];
    g_unlink(blank->path);
    g_assert_cmpint(symlink("/dev/null", blank->path), ==, 0);
    assert_refused(f, DRV_ERROR_STATE, "is a symbolic link");
}

static void
test_wishes(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *name, *format, *options, *words;
    } cases[] = {
        {"one", "qed", NULL, "cannot be made"},
        {"one", "-o x", NULL, "cannot be made"},
        {"one", "qcow2", "backing_file=/etc/shadow", "the option 'backing_file=/etc/shadow'"},
        {"one", "qcow2", "data_file=/tmp/x", "the option 'data_file=/tmp/x'"},
        {"no/such", "raw", NULL, "No such file or directory"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        DrvBlank *blank = want(f, cases[i].name, cases[i].format);
        blank->options = g_strdup(cases[i].options);
        g_assert_false(drv_blanks_look(f->blanks, NULL, &f->error));
        g_assert_nonnull(strstr(f->error->message, cases[i].words));
        g_clear_error(&f->error);
        g_ptr_array_set_size(f->blanks, 0);
    }
    want(f, "one", "qcow2")->encrypted = TRUE;
    assert_refused(f, DRV_ERROR_STATE, "it is encrypted");
    g_clear_error(&f->error);
    g_ptr_array_set_size(f->blanks, 0);
    want(f, "one", "raw");
    want(f, "../../../../../../tmp/x", "raw");
    char *folders[] = {f->dir, NULL};
    g_assert_false(drv_blanks_look(f->blanks, folders, &f->error));
    g_assert_nonnull(strstr(f->error->message, "none of the folders"));
    g_clear_error(&f->error);
    g_ptr_array_set_size(f->blanks, 0);
    want(f, "one", "raw");
    want(f, "./one", "raw");
    assert_refused(f, DRV_ERROR_USAGE, "the same image as disk 'vd-one'");
    g_assert_cmpuint(files(f), ==, 0);
}

/* What cannot be made, or comes by meanwhile, costs those that were made before. */
static void
test_all_or_none(Fixture *f, gconstpointer data)
{
    g_autofree char *text = NULL;
    want(f, "one", "qcow2");
    const DrvBlank *two = want(f, "two", "qcow2");
    look(f);
    put(two, "faster");
    g_assert_false(drv_blanks_make(f->blanks, NULL, &f->error));
    g_assert_cmpstr(strstr(f->error->message, "given its name"), ==, "given its name: File exists");
    g_assert_cmpuint(files(f), ==, 1);
    g_assert_true(g_file_get_contents(two->path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "faster");

    g_unlink(two->path);
    again(f);
    look(f);
    ((DrvBlank *)f->blanks->pdata[1])->options = g_strdup("cluster_size=7");
    g_assert_false(drv_blanks_make(f->blanks, NULL, &f->error));
    g_assert_error(f->error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_cmpuint(files(f), ==, 0);
}

static void
test_size(Fixture *f, gconstpointer data)
{
    DrvBlank *blank = want(f, "one", "raw");
    blank->size = 1000;
    look(f);
    g_assert_false(drv_blanks_make(f->blanks, NULL, &f->error));
    g_assert_nonnull(strstr(f->error->message, "1024 bytes instead of 1000"));
    g_assert_cmpuint(files(f), ==, 0);
}

static void
test_cancelled(Fixture *f, gconstpointer data)
{
    const gint cancelled = 1;
    DrvBlank *blank = want(f, "one", "qcow2");
    g_autofree char *base = g_build_filename(f->dir, "base", NULL);
    look(f);
    blank->backing = g_strdup(base);
    blank->backing_format = g_strdup("raw");
    g_assert_cmpint(mkfifo(base, 0600), ==, 0); /* nothing but the word ends it */
    g_assert_false(drv_blanks_make(f->blanks, &cancelled, &f->error));
    g_assert_error(f->error, DRV_ERROR, DRV_ERROR_CANCELLED);
    g_assert_cmpuint(files(f), ==, 1);
}

static void
test_backing(Fixture *f, gconstpointer data)
{
    DrvBlank *blank = want(f, "one", "qcow2");
    blank->backing = g_build_filename(f->dir, "base", NULL);
    blank->backing_format = g_strdup("raw");
    assert_refused(f, DRV_ERROR_IO, "the backing file has to be copied first");
    g_assert_true(g_file_set_contents(blank->backing, "base", -1, NULL));
    again(f);
    make(f);
    blank = f->blanks->pdata[0];
    g_autoptr(DrvImageInfo) info = drv_image_probe(blank->path, NULL, NULL);
    g_assert_true(info->backed);
    g_assert_cmpuint(info->size, ==, SIZE);
    g_assert_cmpstr(info->files->pdata[1], ==, blank->backing);

    /* One that has none is not it. */
    g_unlink(blank->path);
    want(f, "two", "qcow2");
    g_ptr_array_remove_index(f->blanks, 0);
    make(f);
    blank = f->blanks->pdata[0];
    blank->backing = g_build_filename(f->dir, "base", NULL);
    blank->backing_format = g_strdup("raw");
    again(f);
    assert_refused(f, DRV_ERROR_MISMATCH, "has no backing file, unlike the disk");
}

/* Somebody else's file is not removed, even if it has the name now. */
static void
test_unmade(Fixture *f, gconstpointer data)
{
    want(f, "one", "raw");
    const DrvBlank *two = want(f, "two", "raw");
    make(f);
    g_autofree char *other = g_build_filename(f->dir, "other", NULL);
    g_assert_true(g_file_set_contents(other, "x", -1, NULL));
    g_assert_cmpint(g_rename(other, two->path), ==, 0);
    drv_blanks_unmake(f->blanks);
    g_assert_cmpuint(files(f), ==, 1);
    g_assert_true(g_file_test(two->path, G_FILE_TEST_EXISTS));
}

static void
test_room(Fixture *f, gconstpointer data)
{
    const guint64 tib = G_GUINT64_CONSTANT(1) << 40;
    DrvBlank *blank = want(f, "one", "qcow2");
    look(f);
    g_auto(GStrv) none = drv_blanks_doubts(f->blanks);
    g_assert_null(none[0]);
    blank->size = 1000 * tib;
    g_auto(GStrv) size = drv_blanks_doubts(f->blanks);
    g_assert_cmpuint(g_strv_length(size), ==, 1);
    g_assert_nonnull(strstr(size[0], "the disks may grow by 1000.0"));
    blank->data = 900 * tib;
    g_auto(GStrv) full = drv_blanks_doubts(f->blanks);
    g_assert_nonnull(strstr(full[0], "will probably be full"));
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *path;
        void (*func)(Fixture *f, gconstpointer data);
    } tests[] = {
        {"/image/blank/made", test_made},
        {"/image/blank/owner", test_owner},
        {"/image/blank/there", test_there},
        {"/image/blank/wishes", test_wishes},
        {"/image/blank/all-or-none", test_all_or_none},
        {"/image/blank/size", test_size},
        {"/image/blank/cancelled", test_cancelled},
        {"/image/blank/backing", test_backing},
        {"/image/blank/unmade", test_unmade},
        {"/image/blank/room", test_room},
    };
    g_test_init(&argc, &argv, NULL);
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    for (guint i = 0; i < G_N_ELEMENTS(tests) && qemu_img != NULL; i++)
        g_test_add(tests[i].path, Fixture, NULL, set_up, tests[i].func, tear_down);
    return g_test_run();
}
