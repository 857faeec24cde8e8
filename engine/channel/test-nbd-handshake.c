/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"
#include "common/error.h"
#include "engine/channel/nbd-handshake.h"

#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 20000
#define SHORT_MS 50

static const DrvNbdExport full = {
    .size = (guint64)3 << 40,
    .flags = 0x5ed,
    .block_min = 1,
    .block_preferred = 4096,
    .block_max = 32 << 20,
    .structured = TRUE,
    .status = TRUE,
    .context = 77,
};

typedef struct {
    int fd;
    const DrvNbdExport *export;
    gboolean good;
    GError *error;
} Welcome;

static gpointer
welcome(gpointer data)
{
    Welcome *w = data;
    w->good = drv_nbd_welcome(w->fd, "disk0", TIMEOUT_MS, w->export, &w->error);
    shutdown(w->fd, SHUT_WR);
    return NULL;
}

/* The two sides, over a socket; how the client fares is returned, its error with it. */
static gboolean
meet(const DrvNbdExport *offered, const char *name, gboolean extended, DrvNbdExport *got,
     GError **error)
{
    int pair[2];
    char more;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    Welcome w = {.fd = pair[0], .export = offered};
    GThread *thread = g_thread_new("welcome", welcome, &w);
    gboolean good = drv_nbd_greet(pair[1], name, TIMEOUT_MS, extended, got, error);
    shutdown(pair[1], SHUT_WR);
    g_thread_join(thread);
    g_assert_cmpint(w.good, ==, good);
    g_assert_true(good == (w.error == NULL));
    g_clear_error(&w.error);
    if (good) /* nothing is left of it for those that come after */
        g_assert_cmpint(read(pair[1], &more, 1), ==, 0);
    close(pair[0]);
    close(pair[1]);
    return good;
}

static void
assert_same(const DrvNbdExport *a, const DrvNbdExport *b)
{
    g_assert_cmpuint(a->size, ==, b->size);
    g_assert_cmpuint(a->flags, ==, b->flags);
    g_assert_cmpuint(a->block_min, ==, b->block_min);
    g_assert_cmpuint(a->block_preferred, ==, b->block_preferred);
    g_assert_cmpuint(a->block_max, ==, b->block_max);
    g_assert_cmpint(a->extended, ==, b->extended);
    g_assert_cmpint(a->structured, ==, b->structured);
    g_assert_cmpint(a->status, ==, b->status);
    g_assert_cmpuint(a->context, ==, b->context);
}

/* What one end offers is what the other has, however little that is. */
static void
test_agree(void)
{
    DrvNbdExport plain = {.size = 512, .flags = 1}, no_status = full, extended = full, got;
    no_status.status = FALSE;
    no_status.context = 0;
    extended.extended = TRUE;
    const DrvNbdExport *offers[] = {&full, &plain, &no_status, &extended};
    for (guint i = 0; i < G_N_ELEMENTS(offers); i++) {
        for (gboolean ask = offers[i]->extended; ask <= TRUE; ask++) {
            g_autoptr(GError) error = NULL;
            meet(offers[i], "disk0", ask, &got, &error);
            g_assert_no_error(error);
            assert_same(&got, offers[i]);
        }
    }
}

static void
test_unknown_name(void)
{
    g_autoptr(GError) error = NULL;
    DrvNbdExport got;
    g_assert_false(meet(&full, "disk1", FALSE, &got, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_QEMU);
    g_assert_nonnull(strstr(error->message, "does not serve 'disk1'"));
}

/* What the one end has agreed on, the other end's client has to ask for. */
static void
test_no_extended(void)
{
    g_autoptr(GError) error = NULL;
    DrvNbdExport extended = full, got;
    int pair[2];
    extended.extended = TRUE;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    Welcome w = {.fd = pair[0], .export = &extended};
    GThread *thread = g_thread_new("welcome", welcome, &w);
    drv_nbd_greet(pair[1], "disk0", TIMEOUT_MS, FALSE, &got, NULL);
    g_thread_join(thread);
    g_assert_error(w.error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(w.error->message, "takes no extended headers"));
    g_clear_error(&w.error);
    close(pair[0]);
    close(pair[1]);
}

/* --- one side is played --- */

static void
say(int fd, const guint8 *bytes, gsize len)
{
    g_assert_cmpint(send(fd, bytes, len, MSG_NOSIGNAL), ==, (ssize_t)len);
}

/* Either end, with what the other one says, and is silent then, or hangs up. */
static GError *
told(gboolean client, const guint8 *bytes, gsize len, gboolean hang_up)
{
    int pair[2];
    GError *error = NULL;
    DrvNbdExport got;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    if (len > 0)
        say(pair[0], bytes, len);
    if (hang_up)
        shutdown(pair[0], SHUT_WR);
    gboolean good = client ? drv_nbd_greet(pair[1], "disk0", SHORT_MS, FALSE, &got, &error)
                           : drv_nbd_welcome(pair[1], "disk0", SHORT_MS, &full, &error);
    g_assert_true(good == (error == NULL));
    close(pair[0]);
    close(pair[1]);
    return error;
}

static void
assert_told(gboolean client, const DrvCursor *said, gboolean hang_up, DrvErrorCode code,
            const char *words)
{
    g_autoptr(GError) error = told(client, said->data, said->pos, hang_up);
    g_assert_error(error, DRV_ERROR, (int)code);
    g_assert_nonnull(strstr(error->message, words));
}

static void
put_hello(DrvCursor *c, guint16 flags)
{
    drv_cursor_put_u64(c, 0x4e42444d41474943);
    drv_cursor_put_u64(c, 0x49484156454f5054);
    drv_cursor_put_u16(c, flags);
}

static void
put_reply(DrvCursor *c, guint32 option, guint32 type, guint32 len)
{
    drv_cursor_put_u64(c, 0x0003e889045565a9);
    drv_cursor_put_u32(c, option);
    drv_cursor_put_u32(c, type);
    drv_cursor_put_u32(c, len);
}

static void
put_option(DrvCursor *c, guint32 option, guint32 len)
{
    drv_cursor_put_u64(c, 0x49484156454f5054);
    drv_cursor_put_u32(c, option);
    drv_cursor_put_u32(c, len);
}

static void
test_bad_servers(void)
{
    guint8 bytes[4096] = {0};
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    assert_told(TRUE, &c, FALSE, DRV_ERROR_TIMEOUT, "does not answer");
    assert_told(TRUE, &c, TRUE, DRV_ERROR_QEMU, "hung up");
    put_hello(&c, 0);
    assert_told(TRUE, &c, FALSE, DRV_ERROR_PROTOCOL, "does not greet");
    c = drv_cursor_writer(bytes, sizeof bytes);
    put_hello(&c, 3);
    assert_told(TRUE, &c, TRUE, DRV_ERROR_QEMU, "hung up");
    put_reply(&c, 7, 1, 0);
    assert_told(TRUE, &c, FALSE, DRV_ERROR_PROTOCOL, "a reply to something else");
    c = drv_cursor_writer(bytes, sizeof bytes);
    put_hello(&c, 3);
    put_reply(&c, 8, 1, 5000);
    assert_told(TRUE, &c, FALSE, DRV_ERROR_PROTOCOL, "too long");
    c = drv_cursor_writer(bytes, sizeof bytes);
    put_hello(&c, 3);
    put_reply(&c, 8, 0x80000001, 0);
    put_reply(&c, 7, 1, 0);
    assert_told(TRUE, &c, FALSE, DRV_ERROR_PROTOCOL, "how large it is");
    c.pos -= 20;
    put_reply(&c, 7, 3, 4);
    drv_cursor_put_u32(&c, 0);
    assert_told(TRUE, &c, FALSE, DRV_ERROR_PROTOCOL, "cut short");
}

static void
test_bad_clients(void)
{
    guint8 bytes[4096] = {0};
    DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
    assert_told(FALSE, &c, FALSE, DRV_ERROR_TIMEOUT, "does not answer");
    assert_told(FALSE, &c, TRUE, DRV_ERROR_QEMU, "hung up");
    drv_cursor_put_u32(&c, 3);
    drv_cursor_put_u64(&c, 77);
    drv_cursor_put_u64(&c, 77);
    assert_told(FALSE, &c, FALSE, DRV_ERROR_PROTOCOL, "something else than an option");
    c.pos = 4;
    put_option(&c, 1, 5);
    drv_cursor_put_bytes(&c, "disk0", 5);
    assert_told(FALSE, &c, FALSE, DRV_ERROR_PROTOCOL, "asks as clients did long ago");
    c.pos = 4;
    put_option(&c, 2, 0);
    assert_told(FALSE, &c, FALSE, DRV_ERROR_QEMU, "gives the NBD handshake up");
    c.pos = 4;
    put_option(&c, 7, 1 << 20);
    assert_told(FALSE, &c, FALSE, DRV_ERROR_PROTOCOL, "too long");
    c.pos = 4;
    put_option(&c, 7, 11); /* "disk0", at once */
    drv_cursor_put_u32(&c, 5);
    drv_cursor_put_bytes(&c, "disk0", 5);
    drv_cursor_put_u16(&c, 0);
    assert_told(FALSE, &c, FALSE, DRV_ERROR_PROTOCOL, "takes no structured replies");
    c.pos = 4;
    for (guint i = 0; i < 101; i++)
        put_option(&c, 5, 0);
    assert_told(FALSE, &c, FALSE, DRV_ERROR_PROTOCOL, "message after message");
}

/* What a client may not leave out, and what it may not ask for. */
static void
test_client_flags(void)
{
    for (guint32 flags = 0; flags < 8; flags++) {
        guint8 bytes[64];
        DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
        drv_cursor_put_u32(&c, flags);
        put_option(&c, 2, 0);
        if (flags == 1 || flags == 3)
            assert_told(FALSE, &c, FALSE, DRV_ERROR_QEMU, "gives the NBD handshake up");
        else
            assert_told(FALSE, &c, FALSE, DRV_ERROR_PROTOCOL, "does not greet as a client");
    }
}

static void
agreed(GObject *source, GAsyncResult *result, gpointer data)
{
    int *fd = data;
    g_autoptr(GError) error = NULL;
    *fd = drv_nbd_agree_finish(result, NULL, &error);
    g_assert_true((*fd >= 0) == (error == NULL));
}

static void
sleep_long(GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
    GMutex *gate = data;
    g_mutex_lock(gate);
    g_mutex_unlock(gate);
    g_task_return_boolean(task, TRUE);
}

/* However many others are busy. The descriptor comes back, or is closed. */
static void
test_threads(void)
{
    GMutex gate;
    int pair[2], here = -2, there = -2;
    char more;
    g_mutex_init(&gate);
    g_mutex_lock(&gate);
    for (guint i = 0; i < 200; i++) {
        g_autoptr(GTask) task = g_task_new(NULL, NULL, NULL, NULL);
        g_task_set_task_data(task, &gate, NULL);
        g_task_run_in_thread(task, sleep_long);
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    drv_nbd_welcome_async(pair[0], "disk0", TIMEOUT_MS, &full, agreed, &here);
    drv_nbd_greet_async(pair[1], "disk0", TIMEOUT_MS, FALSE, agreed, &there);
    while (here == -2 || there == -2)
        g_main_context_iteration(NULL, TRUE);
    g_assert_cmpint(here, ==, pair[0]);
    g_assert_cmpint(there, ==, pair[1]);
    there = -2;
    shutdown(pair[0], SHUT_WR);
    drv_nbd_greet_async(pair[1], "disk0", TIMEOUT_MS, FALSE, agreed, &there);
    while (there == -2)
        g_main_context_iteration(NULL, TRUE);
    g_assert_cmpint(there, ==, -1);
    g_assert_cmpint(read(pair[0], &more, 1), ==, 0);
    close(pair[0]);
    g_mutex_unlock(&gate);
}

/* Any bytes after a good beginning: within its bounds, which the sanitizers watch. */
static void
test_garbage(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    for (guint run = 0; run < 2000; run++) {
        guint8 bytes[600];
        gboolean client = run % 2 == 0;
        DrvCursor c = drv_cursor_writer(bytes, sizeof bytes);
        if (client) {
            put_hello(&c, 3);
            put_reply(&c, 8, 1, 0);
            put_reply(&c, 10, 4, (guint32)g_rand_int_range(rand, 0, 50));
        } else {
            drv_cursor_put_u32(&c, 3);
            put_option(&c, 8, 0);
            put_option(&c, (guint32)g_rand_int_range(rand, 6, 11),
                       (guint32)g_rand_int_range(rand, 0, 50));
        }
        while (drv_cursor_left(&c) > 0)
            drv_cursor_put_u8(&c,
                              (guint8)(g_rand_boolean(rand) ? g_rand_int_range(rand, 0, 12) : 0));
        g_autoptr(GError) error = told(client, bytes, c.pos, TRUE);
        g_assert_true(client || error != NULL);
    }
}

static void
test_json(void)
{
    static const char *const bad[] = {
        "{}",
        "{\"size\":-1,\"flags\":1,\"block_min\":1,\"block_preferred\":1,\"block_max\":1}",
        "{\"size\":1,\"flags\":65536,\"block_min\":1,\"block_preferred\":1,\"block_max\":1}",
        "{\"size\":1,\"flags\":1,\"block_min\":1,\"block_preferred\":4294967296,\"block_max\":1}",
        "{\"size\":1,\"flags\":1,\"block_min\":1,\"block_preferred\":1}",
        "{\"size\":1,\"flags\":1,\"block_min\":1,\"block_preferred\":1,\"block_max\":1,"
        "\"context\":-1}",
    };
    DrvNbdExport got;
    JsonObject *object = drv_nbd_export_to_json(&full);
    g_assert_true(drv_nbd_export_from_json(object, &got, NULL));
    assert_same(&got, &full);
    json_object_unref(object);
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonNode) node = json_from_string(bad[i], NULL);
        g_assert_false(drv_nbd_export_from_json(json_node_get_object(node), &got, &error));
        g_assert_error(error, DRV_ERROR, DRV_ERROR_PROTOCOL);
    }
    g_assert_false(drv_nbd_export_from_json(NULL, &got, NULL));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-handshake/agree", test_agree);
    g_test_add_func("/nbd-handshake/unknown-name", test_unknown_name);
    g_test_add_func("/nbd-handshake/no-extended", test_no_extended);
    g_test_add_func("/nbd-handshake/bad-servers", test_bad_servers);
    g_test_add_func("/nbd-handshake/bad-clients", test_bad_clients);
    g_test_add_func("/nbd-handshake/client-flags", test_client_flags);
    g_test_add_func("/nbd-handshake/threads", test_threads);
    g_test_add_func("/nbd-handshake/garbage", test_garbage);
    g_test_add_func("/nbd-handshake/json", test_json);
    return g_test_run();
}
