/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/image/direct.h"
#include "engine/image/store.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* A raw store, past the page cache and through it: that is chosen by how the bytes are aligned. */

#define SIZE ((3u << 20) + 512)
#define PIECE (128u << 10)

typedef struct {
    char *path;
    guint8 *memory; /* aligned, with room for something that is not */
    DrvStore *store;
} Fixture;

static const struct {
    const char *name;
    guint shift; /* of the bytes in memory */
} ways[] = {{"direct", 0}, {"cached", 1}};

static guint8 *
bytes_of(Fixture *f, gconstpointer data)
{
    return f->memory + ways[GPOINTER_TO_UINT(data)].shift;
}

static void
fill(guint8 *bytes, gsize len, guint32 seed)
{
    for (gsize i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = (guint8)(seed >> 24);
    }
}

static void
set_up(Fixture *f, gconstpointer data)
{
    /* Where builds are: /tmp may be a file system that has no O_DIRECT. */
    f->path = g_strdup("test-store-XXXXXX");
    int fd = g_mkstemp(f->path);
    g_assert_cmpint(ftruncate(fd, SIZE), ==, 0);
    f->memory = drv_store_buffer(SIZE + 1);
    f->store = drv_store_raw(fd, SIZE, 2, TRUE, "the image");
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_assert_true(drv_store_close(f->store, NULL));
    g_assert_cmpint(g_unlink(f->path), ==, 0);
    g_aligned_free(f->memory);
    g_free(f->path);
}

/* Writes all of it in more requests than can be under way at once. */
static void
write_all(Fixture *f, guint8 *bytes)
{
    g_autoptr(GError) error = NULL;
    fill(bytes, SIZE, 1);
    for (guint64 at = 0, len; at < SIZE; at += len) {
        len = MIN(PIECE, SIZE - at);
        g_assert_true(drv_store_write(f->store, 1, at, bytes + at, len, &error));
    }
    g_assert_true(drv_store_settle(f->store, 1, &error));
    g_assert_true(drv_store_flush(f->store, 0, &error));
    g_assert_no_error(error);
}

static void
test_write_and_read(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *file = NULL;
    gsize len;
    guint8 *bytes = bytes_of(f, data);
    write_all(f, bytes);
    g_assert_true(g_file_get_contents(f->path, &file, &len, NULL));
    g_assert_cmpmem(file, len, bytes, SIZE);
    for (guint64 at = 0, part; at < SIZE; at += part) {
        part = MIN(PIECE, SIZE - at);
        if (at / PIECE % 2 == 0)
            drv_store_ahead(f->store, 0, at, bytes + at, part);
        memset(bytes + at, 0, at / PIECE % 2 == 0 ? 0 : part);
        g_assert_true(drv_store_read(f->store, 0, at, bytes + at, part, &error));
    }
    g_assert_cmpmem(file, len, bytes, SIZE);
}

static gboolean
in_page_cache(int fd)
{
    guint8 there;
    void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    g_assert_true(page != MAP_FAILED);
    g_assert_cmpint(mincore(page, 4096, &there), ==, 0);
    munmap(page, 4096);
    return there & 1;
}

/* What is not in the page cache is not brought there, and what is comes from there. */
static void
test_page_cache(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    guint8 *bytes = bytes_of(f, data);
    gboolean direct = ways[GPOINTER_TO_UINT(data)].shift == 0;
    g_autofree guint8 *same = g_malloc(PIECE);
    write_all(f, bytes);
    int fd = open(f->path, O_RDONLY | O_CLOEXEC), other = drv_direct_open(fd, FALSE);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (other < 0 || in_page_cache(fd)) {
        g_test_skip("a file system that is in memory, or has no O_DIRECT");
    } else {
        g_assert_true(drv_store_read(f->store, 0, 0, bytes, PIECE, &error));
        g_assert_cmpint(in_page_cache(fd), ==, !direct);
        g_assert_cmpint(pread(fd, same, PIECE, 0), ==, PIECE);
        g_assert_cmpmem(bytes, PIECE, same, PIECE);
        g_assert_true(drv_store_read(f->store, 0, 0, bytes, PIECE, &error));
        g_assert_cmpmem(bytes, PIECE, same, PIECE);
    }
    close(fd);
    if (other >= 0)
        close(other);
}

static void
test_ahead_for_nothing(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    guint8 *bytes = bytes_of(f, data);
    drv_store_ahead(f->store, 0, 0, bytes, PIECE);
    g_assert_true(drv_store_settle(f->store, 0, &error));
    g_assert_true(drv_store_read(f->store, 0, PIECE, bytes, PIECE, &error));
    g_assert_no_error(error);
}

static void
test_cut_short(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    guint8 *bytes = bytes_of(f, data);
    g_assert_cmpint(truncate(f->path, PIECE + 512), ==, 0);
    g_assert_true(drv_store_read(f->store, 0, 0, bytes, PIECE, &error));
    drv_store_ahead(f->store, 0, PIECE, bytes, PIECE);
    g_assert_false(drv_store_read(f->store, 0, PIECE, bytes, PIECE, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_IO);
    g_assert_cmpstr(error->message, ==,
                    "the image cannot be read at byte 131072: it has become shorter since it was "
                    "opened");
}

/* Told at the latest when it is settled, with its own place. */
static void
test_cannot_write(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    struct rlimit before, limit;
    guint8 *bytes = bytes_of(f, data);
    memset(bytes, 1, 3 * PIECE);
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &before), ==, 0);
    limit = before;
    limit.rlim_cur = 2 * PIECE;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    gboolean good = TRUE;
    for (guint i = 0; i < 3 && good; i++)
        good = drv_store_write(f->store, 1, (guint64)i * PIECE, bytes + (gsize)i * PIECE, PIECE,
                               &error);
    good = drv_store_settle(f->store, 1, good ? &error : NULL) && good;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &before), ==, 0);
    g_assert_false(good);
    g_assert_error(error, DRV_ERROR, DRV_ERROR_IO);
    g_assert_cmpstr(error->message, ==,
                    "the image cannot be written at byte 262144: File too large");
}

/* --- a new qcow2 --- */

static void
test_buffers(void)
{
    static const struct {
        gsize len, align;
    } wanted[] = {{1, DRV_DIRECT_ALIGN},
                  {1 << 20, DRV_DIRECT_ALIGN},
                  {2 << 20, 2 << 20},
                  {(5 << 20) + 1, 2 << 20}};
    for (guint i = 0; i < G_N_ELEMENTS(wanted); i++) {
        guint8 *bytes = drv_store_buffer(wanted[i].len);
        g_assert_cmpuint((gsize)bytes % wanted[i].align, ==, 0);
        memset(bytes, 1, wanted[i].len);
        g_aligned_free(bytes);
    }
}

#define CLUSTER (64u << 10)

static gboolean
run(const char *command)
{
    g_auto(GStrv) argv = NULL;
    int status = -1;
    g_assert_true(g_shell_parse_argv(command, NULL, &argv, NULL));
    return g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                        NULL, NULL, NULL, &status, NULL) &&
           status == 0;
}

/* So many clusters that their refcounts take two blocks: something in each, backwards. */
static void
test_large_qcow2(gconstpointer own)
{
    const guint64 size = G_GUINT64_CONSTANT(5) << 30, count = 33000;
    g_autofree char *program = g_find_program_in_path("qemu-img");
    g_autoptr(GError) error = NULL;
    if (program == NULL) {
        g_test_skip("no qemu-img here");
        return;
    }
    int fd = memfd_create("image", MFD_CLOEXEC); /* for no disk's sake */
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", getpid(), fd);
    g_autofree char *create = g_strdup_printf("qemu-img create -q -f qcow2 %s 5G", path);
    g_autofree char *check = g_strdup_printf("qemu-img check -f qcow2 %s", path);
    g_autofree char *first = g_strdup_printf("qemu-io -c 'read -P 7 %u 512' %s", CLUSTER, path);
    g_assert_true(own != NULL ? drv_store_qcow2_make(fd, size) : run(create));
    g_assert_true(run(check));
    DrvStore *store = drv_store_qcow2(dup(fd), size, 1, "the image");
    guint8 bytes[512];
    memset(bytes, 7, sizeof bytes);
    g_assert_nonnull(store);
    for (guint64 i = count; i > 0; i--)
        g_assert_true(drv_store_write(store, 0, i * CLUSTER, bytes, sizeof bytes, &error));
    g_assert_true(drv_store_settle(store, 0, &error));
    g_assert_true(drv_store_flush(store, 0, &error));
    g_assert_true(drv_store_flush(store, 0, &error)); /* once more changes nothing */
    g_assert_true(drv_store_close(store, &error));
    g_assert_true(run(check));
    g_assert_true(run(first));
    close(fd);
}

static void
test_no_qcow2(void)
{
    g_autofree char *path = g_strdup("test-store-XXXXXX");
    int fd = g_mkstemp(path);
    for (gsize size = 0; size <= 200000; size += 100000) {
        g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
        g_assert_null(drv_store_qcow2(dup(fd), 1 << 20, 1, "the image"));
    }
    static const guint64 sizes[] = {0, 1, 511, 513, (G_GUINT64_CONSTANT(512) << 30) + 65536};
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++)
        g_assert_false(drv_store_qcow2_make(fd, sizes[i]));
    close(fd);
    g_assert_cmpint(g_unlink(path), ==, 0);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(Fixture *f, gconstpointer data);
    } tests[] = {
        {"write-and-read", test_write_and_read},       {"page-cache", test_page_cache},
        {"ahead-for-nothing", test_ahead_for_nothing}, {"cut-short", test_cut_short},
        {"cannot-write", test_cannot_write},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++) {
        for (guint way = 0; way < G_N_ELEMENTS(ways); way++) {
            g_autofree char *name =
                g_strdup_printf("/image/store/%s/%s", tests[i].name, ways[way].name);
            g_test_add(name, Fixture, GUINT_TO_POINTER(way), set_up, tests[i].run, tear_down);
        }
    }
    g_test_add_func("/image/store/buffers", test_buffers);
    g_test_add_data_func("/image/store/qcow2/large", NULL, test_large_qcow2);
    g_test_add_data_func("/image/store/qcow2/large-own", "own", test_large_qcow2);
    g_test_add_func("/image/store/qcow2/none", test_no_qcow2);
    return g_test_run();
}
