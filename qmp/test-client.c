/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/test-fake.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- Replies ---- */

static void
start(Fake *fake, const char *command, guint timeout_ms, GAsyncResult **result)
{
    qmp_client_execute_async(fake->client, command, NULL, timeout_ms, NULL, fake_store, result);
}

static void
expect(Fake *fake, GAsyncResult **result, const char *value)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = fake_finish(fake->client, result, &error);
    g_assert_no_error(error);
    g_autofree char *text = json_to_string(node, FALSE);
    g_assert_cmpstr(text, ==, value);
}

static void
expect_error(Fake *fake, GAsyncResult **result, QmpErrorCode code, const char *words)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(fake_finish(fake->client, result, &error));
    g_assert_error(error, QMP_ERROR, (int)code);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, words));
}

static void
test_bytewise(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result = NULL;
    qmp_client_execute_async(fake->client, "set", qmp_args("a", "s", "\"\n", NULL), 0, NULL,
                             fake_store, &result);
    g_autofree char *line = fake_hear(fake);
    g_autoptr(JsonNode) sent = json_from_string(line, NULL);
    JsonObject *object = qmp_node_object(sent);
    g_assert_cmpstr(qmp_get_string(object, "execute"), ==, "set");
    g_assert_cmpstr(qmp_get_string(qmp_get_object(object, "arguments"), "a"), ==, "\"\n");

    g_autofree char *reply = g_strdup_printf("{\"id\": \"%s\", \"return\":\r\n [1, \"}\"]}",
                                             qmp_get_string(object, "id"));
    for (char *p = reply; *p != '\0'; p++) {
        g_assert_null(result);
        fake_say(fake, (char[]){*p, '\0'});
        fake_settle();
    }
    expect(fake, &result, "[1,\"}\"]");
}

/* Many in flight, answered in one packet, in another order, with events between. */
static void
test_many(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *results[3] = {0};
    char *ids[3];
    for (guint i = 0; i < 3; i++)
        start(fake, "x", 0, &results[i]);
    for (guint i = 0; i < 3; i++)
        ids[i] = fake_hear_command(fake, "x");
    g_autofree char *packet = g_strdup_printf(
        "{\"return\": 2, \"id\": \"%s\"}\r\n{\"event\": \"A\", \"data\": {\"x\": \"1\"}, "
        "\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n"
        "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"No such thing\"}, \"id\": \"%s\"}"
        "{\"event\": \"B\"}{\"return\": 1, \"id\": \"%s\"}",
        ids[2], ids[0], ids[1]);
    fake_say(fake, packet);
    expect(fake, &results[2], "2");
    expect(fake, &results[1], "1");
    g_autoptr(GError) error = NULL;
    g_assert_null(fake_finish(fake->client, &results[0], &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_COMMAND);
    g_assert_cmpstr(error->message, ==, "QEMU refused 'x': No such thing (DeviceNotFound)");
    g_assert_cmpstr(qmp_error_get_class(error), ==, "DeviceNotFound");
    g_assert_cmpstr(qmp_error_get_desc(error), ==, "No such thing");
    g_assert_cmpuint(fake->events->len, ==, 2);
    g_assert_cmpstr(fake->events->pdata[0], ==, "A 1 1000002");
    g_assert_cmpstr(fake->events->pdata[1], ==, "B - -1");
    for (guint i = 0; i < 3; i++)
        g_free(ids[i]);
}

static void
count(gpointer *any, const char *name, JsonObject *data, gint64 at, gpointer user_data)
{
    ++*(guint *)user_data;
}

static void
test_event_detail(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    guint stops = 0;
    g_signal_connect(fake->client, "event::QMP_TEST_STOP", G_CALLBACK(count), &stops);
    fake_say(fake, "{\"event\": \"QMP_TEST_STOP\"}{\"event\": \"QMP_TEST_OTHER\"}");
    fake_wait(fake->events->len == 2);
    g_assert_cmpuint(stops, ==, 1);
    /* Names nobody asked for take no memory for good. */
    g_assert_cmpuint(g_quark_try_string("QMP_TEST_OTHER"), ==, 0);
}

static void
test_human(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    for (int good = 0; good < 2; good++) {
        g_autoptr(GAsyncResult) result = NULL;
        g_autoptr(GError) error = NULL;
        qmp_client_human_async(fake->client, "info x", 0, NULL, fake_store, &result);
        g_autofree char *id = fake_hear_command(fake, "human-monitor-command");
        fake_return(fake, id, good ? "\"text\\r\\n\"" : "5");
        fake_wait(result != NULL);
        g_autofree char *text = qmp_client_human_finish(fake->client, result, &error);
        g_assert_cmpstr(text, ==, good ? "text\r\n" : NULL);
        if (!good)
            g_assert_error(error, QMP_ERROR, QMP_ERROR_UNEXPECTED);
    }
}

/* ---- No reply ---- */

static void
test_timeout(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *late = NULL, *next = NULL;
    start(fake, "slow", 20, &late);
    g_autofree char *late_id = fake_hear_command(fake, "slow");
    expect_error(fake, &late, QMP_ERROR_TIMEOUT, "did not answer 'slow' within 20 ms");

    /* The late reply is dropped, and the connection goes on. */
    start(fake, "next", 0, &next);
    g_autofree char *next_id = fake_hear_command(fake, "next");
    fake_return(fake, late_id, "1");
    fake_return(fake, next_id, "2");
    expect(fake, &next, "2");
    g_assert_null(late);

    /* But once: a second reply to it belongs to nothing. */
    fake_return(fake, late_id, "1");
    fake_wait(fake->n_closed == 1);
    g_assert_error(fake->closed, QMP_ERROR, QMP_ERROR_PROTOCOL);
}

static void
test_cancel(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    GAsyncResult *results[3] = {0};
    g_autoptr(GError) error = NULL;
    /* Sent, then cancelled: the late reply is dropped. */
    qmp_client_execute_async(fake->client, "one", NULL, 0, cancellable, fake_store, &results[0]);
    g_autofree char *id = fake_hear_command(fake, "one");
    /* Queued only: it is taken back. */
    qmp_client_execute_async(fake->client, "two", NULL, 0, cancellable, fake_store, &results[1]);
    g_cancellable_cancel(cancellable);
    /* Cancelled before it is issued. */
    qmp_client_execute_async(fake->client, "three", qmp_args("a", "i", 1, NULL), 0, cancellable,
                             fake_store, &results[2]);
    for (guint i = 0; i < 3; i++) {
        g_assert_null(fake_finish(fake->client, &results[i], &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
        g_clear_error(&error);
    }
    GAsyncResult *last = NULL;
    start(fake, "last", 0, &last);
    g_autofree char *last_id = fake_hear_command(fake, "last"); /* and neither two nor three */
    fake_return(fake, id, "0");
    fake_return(fake, last_id, "4");
    expect(fake, &last, "4");
}

/* QEMU has executed it: so says the result, however late the cancellation. */
static void
test_cancel_too_late(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    GAsyncResult *result = NULL;
    qmp_client_execute_async(fake->client, "cont", NULL, 0, cancellable, fake_store, &result);
    g_autofree char *id = fake_hear_command(fake, "cont");
    fake_return(fake, id, "{}");
    fake_wait(result != NULL);
    g_cancellable_cancel(cancellable);
    expect(fake, &result, "{}");
}

/* ---- Bounds ---- */

static void
test_inflight(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    QmpLimits limits = QMP_LIMITS_DEFAULT;
    GAsyncResult *results[3] = {0};
    limits.max_inflight = 2;
    qmp_client_set_limits(fake->client, &limits);
    start(fake, "a", 0, &results[0]);
    start(fake, "b", 10, &results[1]);
    start(fake, "c", 0, &results[2]);
    expect_error(fake, &results[2], QMP_ERROR_LIMIT, "has not answered the 2 commands before it");
    g_autofree char *a = fake_hear_command(fake, "a");
    g_autofree char *b = fake_hear_command(fake, "b");
    /* A timeout frees no place: QEMU still owes the reply. */
    expect_error(fake, &results[1], QMP_ERROR_TIMEOUT, "'b'");
    start(fake, "c", 0, &results[2]);
    expect_error(fake, &results[2], QMP_ERROR_LIMIT, "'c' was not sent");
    fake_return(fake, b, "{}");
    fake_return(fake, a, "{}");
    expect(fake, &results[0], "{}");
    start(fake, "c", 0, &results[2]);
    g_autofree char *c = fake_hear_command(fake, "c");
    fake_return(fake, c, "3");
    expect(fake, &results[2], "3");
}

/* A server that never reads: the queue fills, nothing blocks, and it can be drained later. */
static void
test_unsent(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autofree char *fill = g_strnfill(100000, 'x');
    GAsyncResult *results[100] = {0};
    guint n = 0;
    while (n < 100) {
        qmp_client_execute_async(fake->client, "fill", qmp_args("x", "s", fill, NULL), 0, NULL,
                                 fake_store, &results[n++]);
        fake_settle();
        if (results[n - 1] != NULL)
            break;
    }
    g_assert_cmpuint(n, >, 40); /* the queue alone takes 41 */
    g_assert_cmpuint(n, <, 100);
    expect_error(fake, &results[--n], QMP_ERROR_LIMIT, "seems to hang");
    for (guint i = 0; i < n; i++) {
        g_autofree char *id = fake_hear_command(fake, "fill");
        fake_return(fake, id, "{}");
        expect(fake, &results[i], "{}");
    }
}

static void
test_not_utf8(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result = NULL;
    qmp_client_execute_async(fake->client, "x", qmp_args("a", "s", "\xff", NULL), 0, NULL,
                             fake_store, &result);
    expect_error(fake, &result, QMP_ERROR_ARGUMENT, "not UTF-8");
    g_assert_false(qmp_client_is_closed(fake->client));
}

/* ---- A peer that breaks the rules, or off ---- */

/* With a command pending, 'said' must end the connection so; and everybody is told once. */
static void
breaks(const char *said, QmpErrorCode code, const char *words)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *results[2] = {0};
    start(fake, "a", 60000, &results[0]);
    g_autofree char *id = fake_hear_command(fake, "a");
    if (said != NULL)
        fake_say(fake, said);
    else
        fake_hang_up(fake);
    fake_wait(fake->n_closed > 0);
    g_assert_nonnull(results[0]); /* failed before "closed" */
    expect_error(fake, &results[0], code, words);
    g_assert_error(fake->closed, QMP_ERROR, (int)code);
    g_assert_nonnull(strstr(fake->closed->message, words));
    g_assert_true(qmp_client_is_closed(fake->client));
    start(fake, "b", 0, &results[1]);
    g_assert_null(results[1]);
    expect_error(fake, &results[1], code, words);
    fake_settle();
    g_assert_cmpuint(fake->n_closed, ==, 1);
}

static void
test_broken(void)
{
    g_autofree char *deep = g_strnfill(100000, '[');
    g_autofree char *nested = g_strconcat("{\"return\":", deep, NULL);
    breaks("{\"return\": 1, \"id\": \"unknown\"}", QMP_ERROR_PROTOCOL, "never sent");
    breaks("{\"return\": 1, \"id\": 7}", QMP_ERROR_PROTOCOL, "never sent");
    breaks("{\"return\": 1}", QMP_ERROR_PROTOCOL, "never sent");
    breaks("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}",
           QMP_ERROR_PROTOCOL, "JSON parse error");
    breaks("[]", QMP_ERROR_PROTOCOL, "not a JSON object");
    breaks("garbage", QMP_ERROR_PROTOCOL, "'garbage'");
    breaks("{\"a\": 1]}", QMP_ERROR_PROTOCOL, "not JSON");
    breaks("{\"what\": 1}", QMP_ERROR_PROTOCOL, "neither");
    breaks(nested, QMP_ERROR_PROTOCOL, "nested too deeply");
    breaks(FAKE_GREETING, QMP_ERROR_PROTOCOL, "second greeting");
    breaks(NULL, QMP_ERROR_CLOSED, "has quit or was killed");
}

static void
test_huge_message(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    QmpLimits limits = QMP_LIMITS_DEFAULT;
    limits.max_message = 300000;
    qmp_client_set_limits(fake->client, &limits);
    GAsyncResult *result = NULL;
    start(fake, "a", 0, &result);
    g_autofree char *id = fake_hear_command(fake, "a");
    g_autofree char *fill = g_strnfill(299000, 'x');
    g_autofree char *value = g_strdup_printf("\"%s\"", fill);
    fake_return(fake, id, value);
    expect(fake, &result, value);
    fake_say(fake, "{\"event\": \"");
    fake_say(fake, fill);
    g_assert_cmpuint(fake->n_closed, ==, 0);
    fake_say(fake, fill);
    fake_wait(fake->n_closed == 1);
    g_assert_nonnull(strstr(fake->closed->message, "too long"));
}

static void
test_ends_in_message(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    fake_say(fake, "{\"event\": \"ST");
    fake_hang_up(fake);
    fake_wait(fake->n_closed == 1);
    g_assert_error(fake->closed, QMP_ERROR, QMP_ERROR_CLOSED);
    g_assert_nonnull(strstr(fake->closed->message, "in the middle of a message"));
}

/* The last words of a QEMU that quits are heard, even while we still talk to it. */
static void
test_last_words(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *results[2] = {0};
    start(fake, "quit", 0, &results[0]);
    g_autofree char *id = fake_hear_command(fake, "quit");
    fake_return(fake, id, "{}");
    fake_say(fake, "{\"event\": \"SHUTDOWN\"}");
    fake_hang_up(fake);
    start(fake, "more", 0, &results[1]);
    fake_wait(fake->n_closed == 1);
    expect(fake, &results[0], "{}");
    expect_error(fake, &results[1], QMP_ERROR_CLOSED, "has quit");
    g_assert_cmpstr(fake->events->pdata[0], ==, "SHUTDOWN - -1");
}

/* A peer that closes only its ear: there is no end of file to read, and yet it is over. */
static void
test_deaf(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result = NULL;
    fake_say(fake, "{\"event\": \"A\"}");
    g_assert_no_errno(shutdown(fake->fd, SHUT_RD));
    start(fake, "a", 0, &result);
    expect_error(fake, &result, QMP_ERROR_CLOSED, "has quit");
    fake_wait(fake->n_closed == 1);
    g_assert_cmpuint(fake->events->len, ==, 1);
}

/* ---- Closing, from wherever ---- */

static void
test_close(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result = NULL;
    start(fake, "a", 0, &result);
    g_autofree char *id = fake_hear_command(fake, "a");
    qmp_client_close(fake->client);
    char byte;
    g_assert_cmpint(recv(fake->fd, &byte, 1, MSG_DONTWAIT), ==, 0); /* at once */
    g_assert_null(result); /* but nobody is called from within the call */
    g_assert_cmpuint(fake->n_closed, ==, 0);
    qmp_client_close(fake->client);
    expect_error(fake, &result, QMP_ERROR_CLOSED, "this side closed");
    fake_wait(fake->n_closed == 1);
    qmp_client_close(fake->client);
    fake_settle();
    g_assert_cmpuint(fake->n_closed, ==, 1);
}

typedef struct {
    Fake *fake;
    guint n;
    GAsyncResult *result;
} Reentry;

static void
close_in_callback(GObject *object, GAsyncResult *result, gpointer user_data)
{
    Reentry *r = user_data;
    g_autoptr(JsonNode) node = qmp_client_execute_finish(QMP_CLIENT(object), result, NULL);
    r->n++;
    guint before = r->n;
    qmp_client_close(QMP_CLIENT(object));
    if (r->n == 1)
        qmp_client_execute_async(QMP_CLIENT(object), "after", NULL, 0, NULL, fake_store,
                                 &r->result);
    g_assert_cmpuint(r->n, ==, before); /* the other command's callback is not nested in this */
}

/* The rest of the packet is not delivered to a client that has closed. */
static void
test_close_in_callback(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    Reentry r = {.fake = fake};
    for (int i = 0; i < 2; i++)
        qmp_client_execute_async(fake->client, "a", NULL, 0, NULL, close_in_callback, &r);
    g_autofree char *first = fake_hear_command(fake, "a");
    g_autofree char *second = fake_hear_command(fake, "a");
    g_autofree char *packet = g_strdup_printf(
        "{\"return\": {}, \"id\": \"%s\"}{\"event\": \"A\"}{\"return\": {}, \"id\": \"%s\"}", first,
        second);
    fake_say(fake, packet);
    fake_wait(fake->n_closed == 1);
    fake_wait(r.result != NULL);
    g_assert_cmpuint(r.n, ==, 2);
    g_assert_cmpuint(fake->events->len, ==, 0);
    g_clear_object(&r.result);
}

static void
close_in_event(QmpClient *client, const char *name, JsonObject *data, gint64 at, gpointer user_data)
{
    qmp_client_close(client);
}

static void
test_close_in_event(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_signal_connect(fake->client, "event", G_CALLBACK(close_in_event), NULL);
    fake_say(fake, "{\"event\": \"A\"}{\"event\": \"B\"}garbage");
    fake_wait(fake->n_closed == 1);
    g_assert_cmpuint(fake->events->len, ==, 1);
    g_assert_error(fake->closed, QMP_ERROR, QMP_ERROR_CLOSED);
}

static void
unref_in_callback(GObject *object, GAsyncResult *result, gpointer user_data)
{
    Reentry *r = user_data;
    g_autoptr(JsonNode) node = qmp_client_execute_finish(QMP_CLIENT(object), result, NULL);
    g_signal_handlers_disconnect_by_data(object, r->fake);
    g_clear_object(&r->fake->client); /* the last one but for what the library holds */
    r->n++;
}

/* The client goes away in the middle of its own dispatch, with more to read. */
static void
test_unref_in_callback(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    Reentry r = {.fake = fake};
    gpointer weak = fake->client;
    g_object_add_weak_pointer(weak, &weak);
    qmp_client_execute_async(fake->client, "a", NULL, 0, NULL, unref_in_callback, &r);
    g_autofree char *id = fake_hear_command(fake, "a");
    g_autofree char *packet =
        g_strdup_printf("{\"return\": {}, \"id\": \"%s\"}{\"event\": \"A\"}{\"event\":", id);
    fake_say(fake, packet);
    fake_wait(r.n == 1);
    fake_settle();
    g_assert_null(weak);
    char byte;
    g_assert_cmpint(recv(fake->fd, &byte, 1, MSG_DONTWAIT), ==, 0);
}

static void
next_in_callback(GObject *object, GAsyncResult *result, gpointer user_data)
{
    Reentry *r = user_data;
    g_autoptr(JsonNode) node = qmp_client_execute_finish(QMP_CLIENT(object), result, NULL);
    g_assert_nonnull(node);
    if (++r->n < 1000)
        qmp_client_execute_async(QMP_CLIENT(object), "x", NULL, 1000, NULL, next_in_callback, r);
}

/* A long sequence out of its own callbacks neither piles up on the stack nor loses a step. */
static void
test_sequence(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    Reentry r = {.fake = fake};
    qmp_client_execute_async(fake->client, "x", NULL, 0, NULL, next_in_callback, &r);
    for (guint i = 0; i < 1000; i++) {
        g_autofree char *id = fake_hear_command(fake, "x");
        fake_return(fake, id, "{}");
    }
    fake_wait(r.n == 1000);
}

/* ---- File descriptors ---- */

/* Reads one line and the descriptor that came with it, -1 for none. */
static int
hear_fd(Fake *fake, char **id)
{
    char text[4096];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 4)];
    } control;
    struct iovec iov = {text, sizeof text - 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    gssize n;
    while ((n = recvmsg(fake->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0)
        g_main_context_iteration(NULL, TRUE);
    g_string_append_len(fake->in, text, n);
    *id = fake_hear_command(fake, "getfd");
    int fd = -1;
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    if (cmsg != NULL) {
        g_assert_cmpuint(cmsg->cmsg_len, ==, CMSG_LEN(sizeof(int)));
        memcpy(&fd, CMSG_DATA(cmsg), sizeof fd);
    }
    return fd;
}

/* Each descriptor arrives with its own command. */
static void
test_fd(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *results[2] = {0};
    for (guint i = 0; i < 2; i++) {
        int pipe_fds[2];
        g_assert_no_errno(pipe(pipe_fds));
        g_assert_cmpint(write(pipe_fds[1], i == 0 ? "0" : "1", 1), ==, 1);
        qmp_client_execute_with_fd_async(fake->client, "getfd", qmp_args("fdname", "s", "x", NULL),
                                         pipe_fds[0], 0, NULL, fake_store, &results[i]);
        close(pipe_fds[0]); /* ours is not needed any more */
        close(pipe_fds[1]);
    }
    for (guint i = 0; i < 2; i++) {
        g_autofree char *id = NULL;
        char byte;
        int fd = hear_fd(fake, &id);
        g_assert_cmpint(read(fd, &byte, 1), ==, 1);
        g_assert_cmpint(byte, ==, '0' + (int)i);
        close(fd);
        fake_return(fake, id, "{}");
        expect(fake, &results[i], "{}");
    }
}

static void
test_fd_unsent(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    GAsyncResult *result = NULL;
    qmp_client_execute_with_fd_async(fake->client, "getfd", qmp_args("fdname", "s", "x", NULL), -1,
                                     0, NULL, fake_store, &result);
    expect_error(fake, &result, QMP_ERROR_IO, "cannot duplicate file descriptor -1");

    /* The copy of one that is never sent is closed: the pipe's other end sees it. */
    int pipe_fds[2];
    char byte;
    g_assert_no_errno(pipe(pipe_fds));
    qmp_client_execute_with_fd_async(fake->client, "getfd", NULL, pipe_fds[1], 0, NULL, fake_store,
                                     &result);
    close(pipe_fds[1]);
    qmp_client_close(fake->client);
    expect_error(fake, &result, QMP_ERROR_CLOSED, "this side");
    g_assert_cmpint(read(pipe_fds[0], &byte, 1), ==, 0);
    close(pipe_fds[0]);
}

/* A QMP server over TCP works, but a descriptor has no way through it. */
static void
test_fd_tcp(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    g_assert_no_errno(bind(listener, (struct sockaddr *)&address, len));
    g_assert_no_errno(listen(listener, 1));
    g_assert_no_errno(getsockname(listener, (struct sockaddr *)&address, &len));
    g_assert_no_errno(connect(client, (struct sockaddr *)&address, len));
    g_autoptr(Fake) fake = fake_new_on(accept(listener, NULL, NULL), client, 0);
    close(listener);
    fake_make_ready(fake);
    g_assert_cmpint(qmp_client_get_peer_pid(fake->client), ==, 0);

    GAsyncResult *result = NULL;
    qmp_client_execute_with_fd_async(fake->client, "getfd", NULL, STDIN_FILENO, 0, NULL, fake_store,
                                     &result);
    expect_error(fake, &result, QMP_ERROR_ARGUMENT, "over unix sockets only");
    start(fake, "a", 0, &result);
    g_autofree char *id = fake_hear_command(fake, "a");
    fake_return(fake, id, "{}");
    expect(fake, &result, "{}");
}

/* ---- Features over the wire ---- */

static void
test_probe(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GAsyncResult) result = NULL;
    g_autoptr(GError) error = NULL;
    qmp_features_probe_async(fake->client, 0, NULL, fake_store, &result);
    g_autofree char *id = fake_hear_command(fake, "query-commands");
    fake_return(fake, id, "[{\"name\": \"quit\"}]");
    for (int i = 0; i < 2; i++) { /* a server without migration and schema */
        g_autofree char *query =
            fake_hear_command(fake, i == 0 ? "query-migrate-capabilities" : "query-qmp-schema");
        g_autofree char *text = g_strdup_printf(
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"\"}, \"id\": \"%s\"}", query);
        fake_say(fake, text);
    }
    fake_wait(result != NULL);
    g_autoptr(QmpFeatures) features = qmp_features_probe_finish(fake->client, result, &error);
    g_assert_no_error(error);
    g_assert_true(qmp_features_has_command(features, "quit"));
    g_assert_false(qmp_features_has_migration_capability(features, "events"));
}

static void
test_probe_fails(void)
{
    g_autoptr(Fake) fake = fake_new_ready();
    g_autoptr(GAsyncResult) result = NULL;
    g_autoptr(GError) error = NULL;
    qmp_features_probe_async(fake->client, 0, NULL, fake_store, &result);
    g_autofree char *id = fake_hear_command(fake, "query-commands");
    fake_hang_up(fake);
    fake_wait(result != NULL);
    g_assert_null(qmp_features_probe_finish(fake->client, result, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_CLOSED);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_watchdog();
    g_test_add_func("/client/bytewise", test_bytewise);
    g_test_add_func("/client/many", test_many);
    g_test_add_func("/client/event-detail", test_event_detail);
    g_test_add_func("/client/human", test_human);
    g_test_add_func("/client/timeout", test_timeout);
    g_test_add_func("/client/cancel", test_cancel);
    g_test_add_func("/client/cancel-too-late", test_cancel_too_late);
    g_test_add_func("/client/inflight", test_inflight);
    g_test_add_func("/client/unsent", test_unsent);
    g_test_add_func("/client/not-utf8", test_not_utf8);
    g_test_add_func("/client/broken", test_broken);
    g_test_add_func("/client/huge-message", test_huge_message);
    g_test_add_func("/client/ends-in-message", test_ends_in_message);
    g_test_add_func("/client/last-words", test_last_words);
    g_test_add_func("/client/deaf", test_deaf);
    g_test_add_func("/client/close", test_close);
    g_test_add_func("/client/close-in-callback", test_close_in_callback);
    g_test_add_func("/client/close-in-event", test_close_in_event);
    g_test_add_func("/client/unref-in-callback", test_unref_in_callback);
    g_test_add_func("/client/sequence", test_sequence);
    g_test_add_func("/client/fd", test_fd);
    g_test_add_func("/client/fd-unsent", test_fd_unsent);
    g_test_add_func("/client/fd-tcp", test_fd_tcp);
    g_test_add_func("/client/probe", test_probe);
    g_test_add_func("/client/probe-fails", test_probe_fails);
    return g_test_run();
}
