/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"
#include "engine/image/receive.h"
#include "engine/image/send.h"
#include "engine/image/stream.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Both ends of a copy over a socket pair, raw on both sides, and each end against a bad other. */

#define SIZE ((5u << 20) + 512)
#define BLOCK 65536u

typedef struct {
    char *dir, *in, *out;
    guint8 *bytes;
    int fds[2]; /* the source's end, the destination's */
    DrvCopyCount sent, received;
    char *root; /* by the receiver */
    GError *error;
    gboolean delta;
    GThread *thread;
} Fixture;

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
    f->dir = g_dir_make_tmp("drover-test-XXXXXX", NULL);
    f->in = g_build_filename(f->dir, "in", NULL);
    f->out = g_build_filename(f->dir, "out", NULL);
    f->bytes = g_malloc0(SIZE);
    fill(f->bytes + BLOCK, 3 * BLOCK + 5, 1);
    fill(f->bytes + SIZE - 700, 700, 2);
    g_assert_true(g_file_set_contents(f->in, (char *)f->bytes, SIZE, NULL));
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->fds), ==, 0);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    const char *name;
    while ((name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);
        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    close(f->fds[0]);
    close(f->fds[1]);
    g_clear_error(&f->error);
    g_free(f->root);
    g_free(f->bytes);
    g_free(f->dir);
    g_free(f->in);
    g_free(f->out);
}

static gpointer
receive(gpointer data)
{
    Fixture *f = data;
    const DrvTargetParams params = {
        .path = f->out,
        .format = "raw",
        .resume = TRUE,
        .delta = f->delta,
        .size = SIZE,
        .users = drv_image_receive_users(),
    };
    g_autoptr(DrvTarget) target = drv_target_open(&params, &f->error);
    if (target == NULL)
        return NULL;
    g_assert_true(drv_target_has_base(target) == f->delta);
    f->root = drv_image_receive(target, SIZE, f->fds[1], &f->received, &f->error);
    shutdown(f->fds[1], SHUT_RDWR);
    if (f->root == NULL)
        drv_target_drop(target, FALSE);
    else
        g_assert_true(drv_target_name(target, NULL));
    return NULL;
}

static void
receiver_start(Fixture *f)
{
    f->thread = g_thread_new("receive", receive, f);
}

static char *
send_all(Fixture *f, GError **error)
{
    int fd = open(f->in, O_RDONLY | O_CLOEXEC);
    DrvStore *store = drv_store_raw(fd, SIZE, 4, FALSE, f->in);
    f->sent = (DrvCopyCount){.total = SIZE};
    char *root = drv_image_send(store, 3, f->fds[0], f->delta, NULL, &f->sent, error);
    drv_store_close(store, NULL);
    return root;
}

static void
assert_same(Fixture *f)
{
    g_autofree char *got = NULL;
    gsize len;
    g_assert_true(g_file_get_contents(f->out, &got, &len, NULL));
    g_assert_cmpmem(got, len, f->bytes, SIZE);
}

static void
copy(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    receiver_start(f);
    g_autofree char *root = send_all(f, &error);
    g_thread_join(f->thread);
    g_assert_no_error(error);
    g_assert_no_error(f->error);
    g_assert_cmpstr(root, ==, f->root);
    g_assert_cmpuint(f->sent.done, ==, SIZE);
    g_assert_cmpuint(f->sent.data + f->sent.zero + f->sent.same, ==, SIZE);
    assert_same(f);
}

static void
test_fresh(Fixture *f, gconstpointer data)
{
    struct stat st;
    copy(f);
    g_assert_cmpuint(f->sent.data, ==, 4 * BLOCK + BLOCK + 512);
    g_assert_cmpint(stat(f->out, &st), ==, 0);
    g_assert_cmpint(st.st_blocks * 512, <, SIZE / 2);
}

static void
test_delta(Fixture *f, gconstpointer data)
{
    g_autofree guint8 *older = g_memdup2(f->bytes, SIZE);
    older[2 * BLOCK + 7] ^= 1;        /* data there, other data here */
    fill(older + 20 * BLOCK, 9, 3);   /* data there, nothing here */
    memset(older + SIZE - 512, 0, 9); /* the short last block */
    g_assert_true(g_file_set_contents(f->out, (char *)older, SIZE, NULL));
    f->delta = TRUE;
    copy(f);
    g_assert_cmpuint(f->sent.data, ==, BLOCK + 512);
    g_assert_cmpuint(f->sent.zero, ==, BLOCK);
}

static void
test_equal(Fixture *f, gconstpointer data)
{
    g_assert_true(g_file_set_contents(f->out, (char *)f->bytes, SIZE, NULL));
    f->delta = TRUE;
    copy(f);
    g_assert_cmpuint(f->sent.same, ==, SIZE);
}

static void
test_source_ends(Fixture *f, gconstpointer data)
{
    receiver_start(f);
    shutdown(f->fds[0], SHUT_RDWR);
    g_thread_join(f->thread);
    g_assert_error(f->error, DRV_ERROR, DRV_ERROR_UNREACHABLE);
    g_assert_false(g_file_test(f->out, G_FILE_TEST_EXISTS));
}

static void
test_destination_ends(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    shutdown(f->fds[1], SHUT_RDWR);
    g_assert_null(send_all(f, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_UNREACHABLE);
}

static void
test_cancelled(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    int fd = open(f->in, O_RDONLY | O_CLOEXEC);
    DrvStore *store = drv_store_raw(fd, SIZE, 4, FALSE, f->in);
    drv_copy_cancel(&f->sent);
    g_assert_null(drv_image_send(store, 3, f->fds[0], FALSE, NULL, &f->sent, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_CANCELLED);
    drv_store_close(store, NULL);
}

/* What a source says that lies. */
static void
say(Fixture *f, guint32 type, guint64 first, guint32 count, gsize bytes)
{
    const DrvRecord record = {type, first, count};
    guint8 header[DRV_RECORD_LEN];
    g_autofree guint8 *body = g_malloc0(bytes + 1);
    memset(body, '0', bytes);
    drv_record_put(&record, header);
    drv_stream_write(f->fds[0], header, sizeof header, NULL);
    drv_stream_write(f->fds[0], body, bytes, NULL);
}

static void
test_wrong_digest(Fixture *f, gconstpointer data)
{
    receiver_start(f);
    say(f, DRV_RECORD_DATA, 3, BLOCK, BLOCK);
    say(f, DRV_RECORD_END, (SIZE + BLOCK - 1) / BLOCK, DRV_RECORD_ROOT_LEN, DRV_RECORD_ROOT_LEN);
    g_thread_join(f->thread);
    g_assert_error(f->error, DRV_ERROR, DRV_ERROR_MISMATCH);
    g_assert_false(g_file_test(f->out, G_FILE_TEST_EXISTS));
}

static const struct {
    const char *name;
    guint32 type;
    guint64 first;
    guint32 count;
} lies[] = {
    {"type", 4, 0, 1},
    {"nothing", 0, 0, 0},
    {"no-bytes", DRV_RECORD_DATA, 0, 0},
    {"part-of-block", DRV_RECORD_DATA, 0, BLOCK - 1},
    {"too-long", DRV_RECORD_DATA, 0, DRV_RECORD_DATA_MAX + BLOCK},
    {"past-the-end", DRV_RECORD_DATA, 80, 2 * BLOCK},
    {"far-out", DRV_RECORD_DATA, G_MAXUINT64, BLOCK},
    {"zeros-past-the-end", DRV_RECORD_ZERO, 80, 2},
    {"end-too-early", DRV_RECORD_END, 80, DRV_RECORD_ROOT_LEN},
    {"end-too-long", DRV_RECORD_END, 81, DRV_RECORD_ROOT_LEN + 1},
};

static void
test_lie(Fixture *f, gconstpointer data)
{
    guint i = GPOINTER_TO_UINT(data);
    receiver_start(f);
    say(f, lies[i].type, lies[i].first, lies[i].count, 0);
    g_thread_join(f->thread);
    g_assert_error(f->error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_false(g_file_test(f->out, G_FILE_TEST_EXISTS));
}

static void
test_backwards(Fixture *f, gconstpointer data)
{
    receiver_start(f);
    say(f, DRV_RECORD_ZERO, 5, 2, 0);
    say(f, DRV_RECORD_ZERO, 6, 1, 0);
    g_thread_join(f->thread);
    g_assert_error(f->error, DRV_ERROR, DRV_ERROR_PROTOCOL);
}

/* Until what is received has a file, with some data or yet without. */
static void
wait_for_target(const Fixture *f, gboolean data)
{
    struct stat st = {0};
    while (st.st_size != SIZE || (data && st.st_blocks == 0)) {
        g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
        const char *name;
        while ((name = g_dir_read_name(dir)) != NULL && !g_str_has_prefix(name, ".out."))
            ;
        g_autofree char *path = name != NULL ? g_build_filename(f->dir, name, NULL) : NULL;
        if (path == NULL || stat(path, &st) != 0)
            st.st_size = 0;
    }
}

/* It is told at once, though the source says nothing more. */
static void
test_cannot_be_written(Fixture *f, gconstpointer data)
{
    struct rlimit before, limit;
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &before), ==, 0);
    limit = (struct rlimit){BLOCK, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    receiver_start(f);
    wait_for_target(f, FALSE);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    say(f, DRV_RECORD_DATA, 0, BLOCK, BLOCK); /* that can */
    wait_for_target(f, TRUE);
    say(f, DRV_RECORD_DATA, 3, BLOCK, BLOCK);
    g_thread_join(f->thread);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &before), ==, 0);
    g_assert_error(f->error, DRV_ERROR, DRV_ERROR_IO);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(Fixture *f, gconstpointer data);
    } tests[] = {
        {"fresh", test_fresh},
        {"delta", test_delta},
        {"equal", test_equal},
        {"source-ends", test_source_ends},
        {"destination-ends", test_destination_ends},
        {"cancelled", test_cancelled},
        {"wrong-digest", test_wrong_digest},
        {"backwards", test_backwards},
        {"cannot-be-written", test_cannot_be_written},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *name = g_strconcat("/image/copy/", tests[i].name, NULL);
        g_test_add(name, Fixture, NULL, set_up, tests[i].run, tear_down);
    }
    for (guint i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autofree char *name = g_strconcat("/image/copy/lie/", lies[i].name, NULL);
        g_test_add(name, Fixture, GUINT_TO_POINTER(i), set_up, test_lie, tear_down);
    }
    return g_test_run();
}
