/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/qcow2-look.h"

#include "engine/image/qcow2.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What QEMU has made is understood or left to it, and not one bit of it can be wrong unnoticed. */

typedef struct {
    int fd; /* in memory, for no disk's sake */
    char *path;
} Fixture;

static gboolean run(const char *format, ...) G_GNUC_PRINTF(1, 2);

static gboolean
run(const char *format, ...)
{
    g_auto(GStrv) argv = NULL;
    int status = -1;
    va_list args;
    va_start(args, format);
    g_autofree char *command = g_strdup_vprintf(format, args);
    va_end(args);
    g_assert_true(g_shell_parse_argv(command, NULL, &argv, NULL));
    return g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                        NULL, NULL, NULL, &status, NULL) &&
           status == 0;
}

static void
set_up(Fixture *f, gconstpointer data)
{
    f->fd = memfd_create("image", MFD_CLOEXEC);
    f->path = g_strdup_printf("/proc/%d/fd/%d", getpid(), f->fd);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    close(f->fd);
    g_free(f->path);
}

/* FALSE: without QEMU's programs there is nothing to look at. */
static gboolean
make(Fixture *f, const char *options, const char *size)
{
    g_autofree char *program = g_find_program_in_path("qemu-io");
    if (program == NULL) {
        g_test_skip("no QEMU here");
        return FALSE;
    }
    g_assert_true(run("qemu-img create -q -f qcow2 -o %s %s %s", options, f->path, size));
    return TRUE;
}

static gboolean
is_accepted(const Fixture *f)
{
    guint64 size;
    g_autoptr(GArray) extents = drv_qcow2_look(f->fd, &size);
    return extents != NULL;
}

static guint8 *
get(int fd, guint64 at, gsize len)
{
    guint8 *bytes = g_malloc(len);
    g_assert_cmpint(pread(fd, bytes, len, (off_t)at), ==, (gssize)len);
    return bytes;
}

/* The extents make the disk that QEMU reads. */
static void
assert_same_disk(const Fixture *f, const GArray *extents, guint64 size)
{
    int raw = memfd_create("raw", MFD_CLOEXEC);
    g_assert_true(
        run("qemu-img convert -f qcow2 -O raw %s /proc/%d/fd/%d", f->path, getpid(), raw));
    struct stat st;
    g_assert_cmpint(fstat(raw, &st), ==, 0);
    g_assert_cmpuint(size, ==, (guint64)st.st_size);
    g_assert_cmpuint(drv_extents_end(extents), ==, size);
    guint64 at = 0;
    for (guint i = 0; i < extents->len; i++) {
        const DrvExtent *e = &g_array_index(extents, DrvExtent, i);
        gsize len = e->end - e->start;
        g_assert_cmpuint(e->start, ==, at);
        g_autofree guint8 *wanted = get(raw, at, len);
        g_autofree guint8 *found =
            e->kind == DRV_EXTENT_PLAIN ? get(f->fd, e->offset, len) : g_malloc0(len);
        g_assert_cmpint(e->kind, !=, DRV_EXTENT_OTHER);
        g_assert_cmpmem(found, len, wanted, len);
        at = e->end;
    }
    close(raw);
}

static void
test_plain(Fixture *f, gconstpointer data)
{
    static const char *const options[] = {
        "cluster_size=512",    "cluster_size=4k",   "cluster_size=64k",
        "cluster_size=2M",     "lazy_refcounts=on", "preallocation=metadata,cluster_size=64k",
        "preallocation=falloc"};
    for (guint i = 0; i < G_N_ELEMENTS(options); i++) {
        guint64 size = 0;
        if (!make(f, options[i], "5000k"))
            return;
        g_assert_true(is_accepted(f)); /* while it is empty, too */
        g_assert_true(run("qemu-io -c 'write -P 1 0 100k' -c 'write -P 2 4999k 1k' "
                          "-c 'write -P 3 1111k 1500k' -c 'write -z 1500k 200k' "
                          "-c 'discard 1800k 300k' -c 'write -P 4 700k 512' %s",
                          f->path));
        g_autoptr(GArray) extents = drv_qcow2_look(f->fd, &size);
        g_assert_nonnull(extents);
        g_assert_cmpuint(extents->len, >, 1);
        assert_same_disk(f, extents, size);
        g_assert_cmpint(ftruncate(f->fd, 0), ==, 0);
    }
}

static void
test_leaks(Fixture *f, gconstpointer data)
{
    const guint16 one = GUINT16_TO_BE(1);
    guint64 size;
    if (!make(f, "cluster_size=64k", "1M"))
        return;
    g_assert_cmpint(pwrite(f->fd, &one, 2, (2 << 16) + 1000), ==, 2);
    g_autoptr(GArray) extents = drv_qcow2_look(f->fd, &size);
    g_assert_nonnull(extents);
    g_assert_cmpuint(extents->len, ==, 1);
    g_assert_cmpint(g_array_index(extents, DrvExtent, 0).kind, ==, DRV_EXTENT_ZERO);
}

static void
test_special(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *options, *then; /* a command of QEMU's, with the image after it */
    } images[] = {
        {"compat=0.10", "qemu-img info"},
        {"refcount_bits=8", "qemu-img info"},
        {"extended_l2=on", "qemu-img info"},
        {"compression_type=zstd", "qemu-img info"},
        {"cluster_size=64k", "qemu-io -c 'write -c 64k 64k'"},
        {"cluster_size=64k", "qemu-img snapshot -c now"},
        {"cluster_size=64k", "qemu-img rebase -u -F raw -b /dev/null"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(images); i++) {
        if (!make(f, images[i].options, "1M"))
            return;
        g_assert_true(run("%s %s", images[i].then, f->path));
        g_assert_false(is_accepted(f));
        g_assert_cmpint(ftruncate(f->fd, 0), ==, 0);
    }
    g_assert_true(make(f, "cluster_size=64k", "1M"));
    g_assert_true(is_accepted(f));
    g_assert_true(run("qemu-img bitmap --add %s b", f->path));
    g_assert_false(is_accepted(f));
}

/* Each bit from 'at' on is changed and put back; in numbers of 64 bits, but for those in 'but',
 * which make another image: all others make none. */
static void
assert_each_bit_counts(const Fixture *f, guint64 at, gsize len, guint64 but)
{
    for (gsize i = 0; i < len * 8; i++) {
        guint8 byte, changed;
        guint64 where = at + i / 8;
        if ((but >> (63 - i % 64) & 1) != 0)
            continue;
        g_assert_cmpint(pread(f->fd, &byte, 1, (off_t)where), ==, 1);
        changed = byte ^ (guint8)(0x80 >> i % 8);
        g_assert_cmpint(pwrite(f->fd, &changed, 1, (off_t)where), ==, 1);
        if (is_accepted(f))
            g_error("bit %u of byte %" G_GUINT64_FORMAT " may be wrong", 7 - (guint)(i % 8), where);
        g_assert_cmpint(pwrite(f->fd, &byte, 1, (off_t)where), ==, 1);
    }
}

static guint64
number_at(const Fixture *f, guint64 at)
{
    g_autofree guint8 *bytes = get(f->fd, at, 8);
    guint64 number;
    memcpy(&number, bytes, 8);
    return GUINT64_FROM_BE(number);
}

static void
test_each_bit(Fixture *f, gconstpointer data)
{
    if (!make(f, "cluster_size=4k", "5000k"))
        return;
    g_assert_true(run("qemu-io -c 'write -P 1 0 100k' -c 'write -P 2 4999k 1k' "
                      "-c 'write -P 3 2100k 20k' %s",
                      f->path));
    struct stat st;
    g_assert_cmpint(fstat(f->fd, &st), ==, 0);
    g_assert_true(is_accepted(f));
    guint64 table = number_at(f, 48), l1 = number_at(f, 40);
    assert_each_bit_counts(f, 0, 24, 0); /* then the disk's size, which may be another */
    assert_each_bit_counts(f, 32, 4, 0); /* then the L1's, which may be more than is needed */
    assert_each_bit_counts(f, 40, 40, 0);
    assert_each_bit_counts(f, 80, 8, 1); /* lazy refcounts */
    assert_each_bit_counts(f, 88, 12, 0);
    assert_each_bit_counts(f, 104, 8, 0); /* how clusters are compressed */
    assert_each_bit_counts(f, table, 16, 0);
    assert_each_bit_counts(f, number_at(f, table), 2 * ((gsize)st.st_size / 4096), 0);
    for (guint i = 0; i < 3; i++) {
        guint64 l2 = number_at(f, l1 + 8 * i) & DRV_QCOW2_OFFSET;
        g_assert_cmpuint(l2, >, 0);
        assert_each_bit_counts(f, l1 + 8 * i, 8, 0);
        assert_each_bit_counts(f, l2, 30 * 8, DRV_QCOW2_ZERO);
    }
    g_assert_true(is_accepted(f)); /* all was put back */
}

static void
test_cut_short(Fixture *f, gconstpointer data)
{
    struct stat st;
    if (!make(f, "cluster_size=4k", "5000k"))
        return;
    g_assert_true(run("qemu-io -c 'write -P 1 0 100k' %s", f->path));
    g_assert_cmpint(fstat(f->fd, &st), ==, 0);
    g_assert_true(is_accepted(f));
    for (off_t size = st.st_size - 1; size >= 0; size -= 511) {
        g_assert_cmpint(ftruncate(f->fd, size), ==, 0);
        g_assert_false(is_accepted(f));
    }
}

static void
test_nothing(Fixture *f, gconstpointer data)
{
    g_autofree guint8 *bytes = g_malloc(1 << 20);
    memset(bytes, 0xff, 1 << 20);
    g_assert_false(is_accepted(f));
    g_assert_cmpint(ftruncate(f->fd, 1 << 20), ==, 0);
    g_assert_false(is_accepted(f));
    g_assert_cmpint(pwrite(f->fd, bytes, 1 << 20, 0), ==, 1 << 20);
    g_assert_false(is_accepted(f));
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(Fixture *f, gconstpointer data);
    } tests[] = {
        {"plain", test_plain},       {"leaks", test_leaks},         {"special", test_special},
        {"each-bit", test_each_bit}, {"cut-short", test_cut_short}, {"nothing", test_nothing},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *name = g_strdup_printf("/image/qcow2-look/%s", tests[i].name);
        g_test_add(name, Fixture, NULL, set_up, tests[i].run, tear_down);
    }
    return g_test_run();
}
