/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/test-fake.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- Paths ---- */

typedef struct {
    char *dir;
    char *path;
} Place;

static void
place_init(Place *place, gconstpointer data)
{
    place->dir = g_dir_make_tmp("qmp-XXXXXX", NULL);
    place->path = g_build_filename(place->dir, "s", NULL);
}

static void
place_clear(Place *place, gconstpointer data)
{
    g_unlink(place->path);
    g_rmdir(place->path);
    g_assert_no_errno(g_rmdir(place->dir));
    g_free(place->dir);
    g_free(place->path);
}

static int
listen_at(const char *path, int type, int backlog)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    g_assert_no_errno(bind(fd, (struct sockaddr *)&address, sizeof address));
    if (type == SOCK_STREAM)
        g_assert_no_errno(listen(fd, backlog));
    return fd;
}

/* Connecting to 'path' must fail so, and say 'words'. */
static void
refuse(const char *path, guint timeout_ms, QmpErrorCode code, const char *words)
{
    g_autoptr(GAsyncResult) result = NULL;
    g_autoptr(GError) error = NULL;
    qmp_client_connect_async(path, timeout_ms, NULL, fake_store, &result);
    g_assert_null(result); /* never from within the call */
    fake_wait(result != NULL);
    g_assert_null(qmp_client_connect_finish(result, &error));
    g_assert_error(error, QMP_ERROR, (int)code);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, words));
    g_assert_false(g_str_has_suffix(error->message, "."));
    fake_settle();
}

static void
test_paths(Place *place, gconstpointer data)
{
    g_autofree char *below = g_build_filename(place->path, "x", NULL);
    g_autofree char *longer = g_strnfill(108, 'x');
    g_autofree char *longest = g_strnfill(107, 'x');

    refuse(place->path, 0, QMP_ERROR_NOT_FOUND, "-qmp unix:");
    refuse("", 0, QMP_ERROR_PATH, "empty");
    refuse(longer, 0, QMP_ERROR_PATH, "108 bytes and a unix socket's may have 107");
    refuse(longest, 0, QMP_ERROR_NOT_FOUND, longest);

    g_assert_true(g_file_set_contents(place->path, "", 0, NULL));
    refuse(place->path, 0, QMP_ERROR_NOT_SOCKET, "not a socket");
    refuse(below, 0, QMP_ERROR_NOT_FOUND, below);
    g_unlink(place->path);
    g_mkdir(place->path, 0700);
    refuse(place->path, 0, QMP_ERROR_NOT_SOCKET, "not a socket");
}

static void
test_stale(Place *place, gconstpointer data)
{
    close(listen_at(place->path, SOCK_STREAM, 1));
    refuse(place->path, 0, QMP_ERROR_REFUSED, "nobody listens");
}

static void
test_datagram(Place *place, gconstpointer data)
{
    int fd = listen_at(place->path, SOCK_DGRAM, 0);
    refuse(place->path, 0, QMP_ERROR_NOT_SOCKET, "datagram");
    close(fd);
}

static void
test_permission(Place *place, gconstpointer data)
{
    int fd = listen_at(place->path, SOCK_STREAM, 1);
    g_chmod(place->path, 0);
    gboolean root = geteuid() == 0;
    if (root)
        g_assert_no_errno(seteuid(65534));
    refuse(place->path, 0, QMP_ERROR_PERMISSION, root ? "no permission" : "as root");
    if (root)
        g_assert_no_errno(seteuid(0));
    close(fd);
}

/* connect() succeeds, and that is all. */
static void
test_busy(Place *place, gconstpointer data)
{
    g_autofree char *pid = g_strdup_printf("pid %d", (int)getpid());
    int fd = listen_at(place->path, SOCK_STREAM, 1);
    refuse(place->path, 30, QMP_ERROR_BUSY, "busy with another client");
    refuse(place->path, 30, QMP_ERROR_BUSY, pid);
    /* The two above have left; now fill the backlog, which one more cannot even enter. */
    for (;;) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        g_strlcpy(address.sun_path, place->path, sizeof address.sun_path);
        int one = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (connect(one, (struct sockaddr *)&address, sizeof address) != 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            close(one);
            break;
        }
        close(one); /* stays in the backlog all the same */
    }
    refuse(place->path, 30, QMP_ERROR_BUSY, "busy with another client");

    /* A place that becomes free is taken. */
    g_autoptr(GAsyncResult) result = NULL;
    g_autoptr(GError) error = NULL;
    Fake fake = {.in = g_string_new(NULL)};
    qmp_client_connect_async(place->path, 0, NULL, fake_store, &result);
    for (int i = 0; i < 2; i++)
        close(accept(fd, NULL, NULL));
    char byte;
    for (fake.fd = -1; fake.fd < 0;) {
        g_main_context_iteration(NULL, TRUE); /* the next attempt */
        fake.fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (recv(fake.fd, &byte, 1, MSG_DONTWAIT) == 0) { /* one of those from above */
            close(fake.fd);
            fake.fd = -1;
        }
    }
    fake_say(&fake, FAKE_GREETING);
    g_autofree char *id = fake_hear_command(&fake, "qmp_capabilities");
    fake_return(&fake, id, "{}");
    fake_wait(result != NULL);
    g_autoptr(QmpClient) client = qmp_client_connect_finish(result, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(qmp_client_get_path(client), ==, place->path);
    g_assert_cmpint(qmp_client_get_peer_pid(client), ==, getpid());
    close(fake.fd);
    close(fd);
    g_string_free(fake.in, TRUE);
}

/* ---- What is said before the client is ready ---- */

/* After 'said' (and hanging up, if so), connecting must fail so. */
static void
refuse_saying(const char *said, gboolean hang_up, guint timeout_ms, QmpErrorCode code,
              const char *words)
{
    g_autoptr(Fake) fake = fake_new(timeout_ms);
    g_autoptr(GError) error = NULL;
    fake_say(fake, said);
    if (hang_up)
        fake_hang_up(fake);
    g_assert_null(fake_connect_finish(fake, &error));
    g_assert_error(error, QMP_ERROR, (int)code);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, words));
    fake_settle();
}

static void
test_not_qmp(void)
{
    refuse_saying("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", FALSE, 0,
                  QMP_ERROR_NOT_QMP, "'QEMU 7.2.22 monitor");
    refuse_saying("SSH-2.0-OpenSSH_9.2\r\n", TRUE, 0, QMP_ERROR_NOT_QMP, "not a QMP socket");
    refuse_saying("{\"hello\": 1}", FALSE, 0, QMP_ERROR_NOT_QMP, "neither a greeting");
    refuse_saying("{\"return\": {}}", FALSE, 0, QMP_ERROR_NOT_QMP, "never sent");
    refuse_saying("{\"QMP\"", TRUE, 0, QMP_ERROR_NOT_QMP, "in the middle");
    refuse_saying("{\"QMP\"", FALSE, 30, QMP_ERROR_NOT_QMP, "no QMP greeting within 30 ms");
}

static void
test_silence(void)
{
    refuse_saying("", FALSE, 30, QMP_ERROR_BUSY, "busy with another client");
    refuse_saying("", TRUE, 0, QMP_ERROR_CLOSED, "before its greeting");
    refuse_saying(FAKE_GREETING, FALSE, 30, QMP_ERROR_TIMEOUT, "and then nothing");
    refuse_saying(FAKE_GREETING, TRUE, 0, QMP_ERROR_CLOSED, "failed: it closed");
    refuse_saying(FAKE_GREETING "garbage", FALSE, 0, QMP_ERROR_PROTOCOL, "'garbage'");
    refuse_saying(FAKE_GREETING FAKE_GREETING, FALSE, 0, QMP_ERROR_PROTOCOL, "second greeting");
    refuse_saying(FAKE_GREETING "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Bad\"}}",
                  FALSE, 0, QMP_ERROR_PROTOCOL, "Bad");
}

static void
test_refused(void)
{
    g_autoptr(Fake) fake = fake_new(0);
    g_autoptr(GError) error = NULL;
    fake_say(fake, FAKE_GREETING);
    g_autofree char *id = fake_hear_command(fake, "qmp_capabilities");
    g_autofree char *text = g_strdup_printf(
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"No\"}, \"id\": \"%s\"}", id);
    fake_say(fake, text);
    g_assert_null(fake_connect_finish(fake, &error));
    g_assert_true(qmp_error_is_class(error, "CommandNotFound"));
    fake_settle();
}

static void
test_ready(void)
{
    g_autoptr(Fake) fake = fake_new(0);
    g_autoptr(GError) error = NULL;
    for (const char *p = FAKE_GREETING; *p != '\0'; p++) {
        fake_say(fake, (char[]){*p, '\0'});
        fake_settle();
    }
    g_autofree char *id = fake_hear_command(fake, "qmp_capabilities");
    /* What QEMU still owed to its last client is none of ours. */
    fake_return(fake, "q00000000-1", "{}");
    fake_settle();
    g_assert_null(fake->result);
    fake_return(fake, id, "{}");
    QmpClient *client = fake_connect_finish(fake, &error);
    g_assert_no_error(error);
    const QmpVersion *version = qmp_client_get_version(client);
    g_assert_cmpint(version->major, ==, 7);
    g_assert_cmpint(version->minor, ==, 2);
    g_assert_cmpint(version->micro, ==, 1);
    g_assert_cmpstr(version->package, ==, "fake");
    g_assert_cmpint(qmp_client_get_peer_pid(client), ==, getpid());
    g_assert_null(qmp_client_get_path(client));
    g_assert_false(qmp_client_is_closed(client));
}

static void
test_odd_version(void)
{
    g_autoptr(Fake) fake = fake_new(0);
    g_autoptr(GError) error = NULL;
    fake_say(fake, "{\"QMP\": {\"version\": {\"qemu\": {\"major\": \"x\", \"minor\": -1, "
                   "\"micro\": 99999999999}, \"package\": []}}}");
    g_autofree char *id = fake_hear_command(fake, "qmp_capabilities");
    fake_return(fake, id, "{}");
    const QmpVersion *version = qmp_client_get_version(fake_connect_finish(fake, &error));
    g_assert_cmpint(version->major, ==, 0);
    g_assert_cmpint(version->minor, ==, 0);
    g_assert_cmpint(version->micro, ==, 0);
    g_assert_cmpstr(version->package, ==, "");
}

/* Events that come with the last word of the negotiation wait for the signal to be connected. */
typedef struct {
    QmpClient *client;
    guint events;
} Early;

static void
count_events(QmpClient *client, const char *name, JsonObject *data, gint64 at, gpointer user_data)
{
    Early *early = user_data;
    early->events++;
}

static void
connect_in_callback(GObject *object, GAsyncResult *result, gpointer user_data)
{
    Early *early = user_data;
    early->client = qmp_client_connect_finish(result, NULL);
    g_signal_connect(early->client, "event", G_CALLBACK(count_events), early);
}

static void
test_early_event(void)
{
    int fds[2];
    Early early = {0};
    g_assert_no_errno(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    Fake fake = {.fd = fds[0], .in = g_string_new(NULL)};
    qmp_client_connect_fd_async(fds[1], 0, NULL, connect_in_callback, &early);
    fake_say(&fake, FAKE_GREETING);
    g_autofree char *id = fake_hear_command(&fake, "qmp_capabilities");
    g_autofree char *both =
        g_strdup_printf("{\"return\": {}, \"id\": \"%s\"}{\"event\": \"A\"}{\"event\": \"B\"}", id);
    fake_say(&fake, both);
    fake_wait(early.events == 2);
    g_assert_finalize_object(early.client);
    fake_hang_up(&fake);
    g_string_free(fake.in, TRUE);
}

static void
test_cancel(void)
{
    int fds[2];
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    for (int before = 0; before < 2; before++) {
        g_autoptr(GAsyncResult) result = NULL;
        g_autoptr(GError) error = NULL;
        g_assert_no_errno(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
        if (before)
            g_cancellable_cancel(cancellable);
        else
            g_cancellable_reset(cancellable);
        qmp_client_connect_fd_async(fds[1], 0, cancellable, fake_store, &result);
        fake_settle();
        g_cancellable_cancel(cancellable);
        fake_wait(result != NULL);
        g_assert_null(qmp_client_connect_finish(result, &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
        fake_settle();
        char byte;
        g_assert_cmpint(recv(fds[0], &byte, 1, MSG_DONTWAIT), ==, 0); /* closed at once */
        close(fds[0]);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_watchdog();
#define ADD_PLACE(name, func) g_test_add(name, Place, NULL, place_init, func, place_clear)
    ADD_PLACE("/connect/paths", test_paths);
    ADD_PLACE("/connect/stale", test_stale);
    ADD_PLACE("/connect/datagram", test_datagram);
    ADD_PLACE("/connect/permission", test_permission);
    ADD_PLACE("/connect/busy", test_busy);
    g_test_add_func("/connect/not-qmp", test_not_qmp);
    g_test_add_func("/connect/silence", test_silence);
    g_test_add_func("/connect/refused", test_refused);
    g_test_add_func("/connect/ready", test_ready);
    g_test_add_func("/connect/odd-version", test_odd_version);
    g_test_add_func("/connect/early-event", test_early_event);
    g_test_add_func("/connect/cancel", test_cancel);
    return g_test_run();
}
