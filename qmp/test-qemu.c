/* SPDX-License-Identifier: Apache-2.0 */

/* Against a real QEMU: $DRV_QEMU, or the qemu-system-x86_64 in the path. Without one all tests are
 * skipped, and say so. */
#include "qmp/test-fake.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_MS 30000 /* never waited for unless something is broken */

typedef struct {
    char *dir;
    char *path;
    GPid pid;
    QmpClient *client;
    GPtrArray *events; /* names */
    GError *closed;
} Qemu;

static char *
qemu_binary(void)
{
    const char *given = g_getenv("DRV_QEMU");
    return g_find_program_in_path(given != NULL ? given : "qemu-system-x86_64");
}

/* A test that crashes must not leave its QEMU behind. */
static void
die_with_parent(gpointer user_data)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void
on_event(QmpClient *client, const char *name, JsonObject *data, gint64 at, gpointer user_data)
{
    Qemu *qemu = user_data;
    g_assert_cmpint(at, >, G_GINT64_CONSTANT(1600000000000000));
    g_ptr_array_add(qemu->events, g_strdup(name));
}

static void
on_closed(QmpClient *client, const GError *error, gpointer user_data)
{
    Qemu *qemu = user_data;
    g_assert_null(qemu->closed);
    qemu->closed = g_error_copy(error);
}

static QmpClient *
try_connect(Qemu *qemu, guint timeout_ms, GError **error)
{
    g_autoptr(GAsyncResult) result = NULL;
    qmp_client_connect_async(qemu->path, timeout_ms, NULL, fake_store, &result);
    fake_wait(result != NULL);
    return qmp_client_connect_finish(result, error);
}

static void
connect_to(Qemu *qemu)
{
    g_autoptr(GError) error = NULL;
    gint64 deadline = g_get_monotonic_time() + PATIENCE_MS * 1000;
    do {
        g_clear_error(&error);
        qemu->client = try_connect(qemu, PATIENCE_MS, &error);
        if (qemu->client == NULL)
            g_usleep(5000); /* QEMU has not created its socket yet */
    } while (qemu->client == NULL && g_get_monotonic_time() < deadline);
    g_assert_no_error(error);
    g_signal_connect(qemu->client, "event", G_CALLBACK(on_event), qemu);
    g_signal_connect(qemu->client, "closed", G_CALLBACK(on_closed), qemu);
}

static void
qemu_start(Qemu *qemu, gconstpointer data)
{
    g_autofree char *binary = qemu_binary();
    g_autoptr(GError) error = NULL;
    if (binary == NULL)
        return;
    qemu->dir = g_dir_make_tmp("qmp-XXXXXX", NULL);
    qemu->path = g_build_filename(qemu->dir, "qmp", NULL);
    qemu->events = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *chardev =
        g_strdup_printf("socket,id=q,path=%s,server=on,wait=off", qemu->path);
    /* The test's data says how the monitor prints: compact, or over several lines. */
    g_autofree char *monitor = g_strdup_printf("chardev=q,mode=control,pretty=%s",
                                               data != NULL ? (const char *)data : "off");
    const char *argv[] = {binary, "-machine", "none",  "-nodefaults", "-display", "none",
                          "-S",   "-chardev", chardev, "-mon",        monitor,    NULL};
    g_spawn_async(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDERR_TO_DEV_NULL,
                  die_with_parent, NULL, &qemu->pid, &error);
    g_assert_no_error(error);
    connect_to(qemu);
}

static void
qemu_kill(Qemu *qemu)
{
    if (qemu->pid == 0)
        return;
    kill(qemu->pid, SIGKILL);
    waitpid(qemu->pid, NULL, 0);
    qemu->pid = 0;
}

static void
qemu_stop(Qemu *qemu, gconstpointer data)
{
    if (qemu->dir == NULL)
        return;
    if (qemu->client != NULL) {
        qmp_client_close(qemu->client);
        fake_wait(qemu->closed != NULL);
        g_signal_handlers_disconnect_by_data(qemu->client, qemu);
        g_assert_finalize_object(qemu->client);
    }
    qemu_kill(qemu);
    g_unlink(qemu->path);
    g_rmdir(qemu->dir);
    g_free(qemu->path);
    g_free(qemu->dir);
    g_clear_error(&qemu->closed);
    g_ptr_array_unref(qemu->events);
}

#define SKIP_WITHOUT(qemu)                                                                         \
    if ((qemu)->client == NULL) {                                                                  \
        g_test_skip("no QEMU: install qemu-system-x86 or set DRV_QEMU");                           \
        return;                                                                                    \
    }

static JsonNode *
run(Qemu *qemu, const char *command, JsonNode *arguments, GError **error)
{
    GAsyncResult *result = NULL;
    qmp_client_execute_async(qemu->client, command, arguments, PATIENCE_MS, NULL, fake_store,
                             &result);
    return fake_finish(qemu->client, &result, error);
}

static void
test_basics(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    g_autoptr(GError) error = NULL;
    const QmpVersion *version = qmp_client_get_version(qemu->client);
    g_assert_cmpint(version->major, >=, 7);
    g_test_message("QEMU %d.%d.%d %s", version->major, version->minor, version->micro,
                   version->package);
    g_assert_cmpint(qmp_client_get_peer_pid(qemu->client), ==, qemu->pid);

    g_autoptr(JsonNode) status = run(qemu, "query-status", NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(qmp_get_string(qmp_node_object(status), "status"), ==, "prelaunch");

    g_assert_null(run(qemu, "no-such-command", NULL, &error));
    g_assert_true(qmp_error_is_class(error, "CommandNotFound"));
    g_assert_nonnull(strstr(error->message, "no-such-command has not been found"));
    g_clear_error(&error);
    g_assert_null(run(qemu, "migrate", qmp_args("uri", "s", "nonsense:", NULL), &error));
    g_assert_true(qmp_error_is_class(error, "GenericError"));
    g_clear_error(&error);
    g_assert_null(run(qemu, "migrate", qmp_args("url", "s", "x", NULL), &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_COMMAND);
}

static void
test_events(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) cont = run(qemu, "cont", NULL, &error);
    g_assert_no_error(error);
    g_autoptr(JsonNode) stop = run(qemu, "stop", NULL, &error);
    g_assert_no_error(error);
    fake_wait(qemu->events->len >= 2);
    g_assert_cmpstr(qemu->events->pdata[0], ==, "RESUME");
    g_assert_cmpstr(qemu->events->pdata[1], ==, "STOP");
}

static void
test_human(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    g_autoptr(GAsyncResult) result = NULL;
    g_autoptr(GError) error = NULL;
    qmp_client_human_async(qemu->client, "info status", PATIENCE_MS, NULL, fake_store, &result);
    fake_wait(result != NULL);
    g_autofree char *text = qmp_client_human_finish(qemu->client, result, &error);
    g_assert_no_error(error);
    g_assert_true(g_str_has_prefix(text, "VM status: paused"));
}

static void
test_features(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    g_autoptr(GAsyncResult) result = NULL;
    g_autoptr(GError) error = NULL;
    qmp_features_probe_async(qemu->client, PATIENCE_MS, NULL, fake_store, &result);
    fake_wait(result != NULL);
    g_autoptr(QmpFeatures) f = qmp_features_probe_finish(qemu->client, result, &error);
    g_assert_no_error(error);
    g_assert_true(qmp_features_has_command(f, "migrate-incoming"));
    g_assert_false(qmp_features_has_command(f, "no-such-command"));
    g_assert_true(qmp_features_has_migration_capability(f, "multifd"));
    g_assert_false(qmp_features_has_migration_capability(f, "warp"));
    g_assert_true(qmp_features_has_event(f, "MIGRATION_PASS"));
    g_assert_true(qmp_features_command_accepts(f, "migrate-incoming", "uri"));
    g_assert_true(qmp_features_command_accepts(f, "blockdev-add", "file/filename"));
    g_assert_true(qmp_features_argument_allows(f, "calc-dirty-rate", "mode", "dirty-ring"));
    g_assert_false(qmp_features_argument_allows(f, "calc-dirty-rate", "mode", "guess"));
    g_assert_true(qmp_features_command_returns(f, "query-migrate", "ram/dirty-sync-count"));

    /* The tests may know versions: each of these appeared with one. */
    const QmpVersion *version = qmp_client_get_version(qemu->client);
    int number = version->major * 100 + version->minor;
    g_assert_cmpint(
        qmp_features_command_accepts(f, "migrate-set-parameters", "avail-switchover-bandwidth"), ==,
        number >= 802);
    g_assert_cmpint(qmp_features_command_accepts(f, "migrate-incoming", "exit-on-error"), ==,
                    number >= 901);
    g_assert_cmpint(qmp_features_command_accepts(f, "migrate", "channels/addr/transport"), ==,
                    number >= 802);
}

#define N_FDS 8

/* Many descriptors at once, behind a command that takes its time: each ends up under its name. */
static void
test_fd(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    static const char *const names[N_FDS] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    GAsyncResult *slow = NULL, *results[N_FDS] = {0};
    int ends[N_FDS];
    qmp_client_execute_async(qemu->client, "query-qmp-schema", NULL, PATIENCE_MS, NULL, fake_store,
                             &slow);
    for (int i = 0; i < N_FDS; i++) {
        int pipe_fds[2];
        g_assert_no_errno(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK));
        qmp_client_execute_with_fd_async(qemu->client, "getfd",
                                         qmp_args("fdname", "s", names[i], NULL), pipe_fds[1],
                                         PATIENCE_MS, NULL, fake_store, &results[i]);
        close(pipe_fds[1]);
        ends[i] = pipe_fds[0];
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) schema = fake_finish(qemu->client, &slow, &error);
    for (int i = 0; i < N_FDS; i++) {
        g_autoptr(JsonNode) node = fake_finish(qemu->client, &results[i], &error);
        g_assert_no_error(error);
    }
    /* Closing a name ends the pipe that was sent with it, and not before. */
    for (int i = 0; i < N_FDS; i++) {
        char byte;
        g_assert_cmpint(read(ends[i], &byte, 1), ==, -1);
        g_autoptr(JsonNode) node =
            run(qemu, "closefd", qmp_args("fdname", "s", names[i], NULL), &error);
        g_assert_no_error(error);
        g_assert_cmpint(read(ends[i], &byte, 1), ==, 0);
        close(ends[i]);
    }
}

/* A second client gets no greeting, until the first one has closed. */
static void
test_busy(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    g_autoptr(GError) error = NULL;
    g_assert_null(try_connect(qemu, 100, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_BUSY);
    g_clear_error(&error);

    qmp_client_close(qemu->client);
    g_autoptr(QmpClient) second = try_connect(qemu, PATIENCE_MS, &error);
    g_assert_no_error(error);
    qmp_client_close(second);
    fake_settle();
}

static void
test_killed(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    GAsyncResult *result = NULL;
    g_autoptr(GError) error = NULL;
    /* Stopped first, so that the command is certainly pending when it dies. */
    g_assert_no_errno(kill(qemu->pid, SIGSTOP));
    qmp_client_execute_async(qemu->client, "query-status", NULL, PATIENCE_MS, NULL, fake_store,
                             &result);
    fake_settle();
    qemu_kill(qemu);
    g_assert_null(fake_finish(qemu->client, &result, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_CLOSED);
    fake_wait(qemu->closed != NULL);
    g_assert_error(qemu->closed, QMP_ERROR, QMP_ERROR_CLOSED);

    g_clear_error(&error);
    g_assert_null(try_connect(qemu, PATIENCE_MS, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_REFUSED);
}

static void
test_stopped(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    GAsyncResult *result = NULL;
    g_autoptr(GError) error = NULL;
    g_assert_no_errno(kill(qemu->pid, SIGSTOP));
    qmp_client_execute_async(qemu->client, "query-status", NULL, 50, NULL, fake_store, &result);
    g_assert_null(fake_finish(qemu->client, &result, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_TIMEOUT);
    g_clear_error(&error);
    /* It comes back, and its late reply confuses nobody. */
    g_assert_no_errno(kill(qemu->pid, SIGCONT));
    g_autoptr(JsonNode) kvm = run(qemu, "query-kvm", NULL, &error);
    g_assert_no_error(error);
    g_assert_true(json_object_has_member(qmp_node_object(kvm), "enabled"));
}

static void
test_quit(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = run(qemu, "quit", NULL, &error);
    g_assert_no_error(error);
    fake_wait(qemu->closed != NULL);
    g_assert_error(qemu->closed, QMP_ERROR, QMP_ERROR_CLOSED);
    g_assert_cmpstr(qemu->events->pdata[qemu->events->len - 1], ==, "SHUTDOWN");
}

static void
test_sync(Qemu *qemu, gconstpointer data)
{
    SKIP_WITHOUT(qemu);
    g_autoptr(GError) error = NULL;
    qmp_client_close(qemu->client);
    g_autoptr(QmpSync) sync = qmp_sync_connect(qemu->path, PATIENCE_MS, &error);
    g_assert_no_error(error);
    g_autoptr(JsonNode) status = qmp_sync_execute(sync, "query-status", NULL, PATIENCE_MS, &error);
    g_assert_no_error(error);
    g_assert_nonnull(qmp_get_string(qmp_node_object(status), "status"));
    g_autofree char *text = qmp_sync_human(sync, "info version", PATIENCE_MS, &error);
    g_assert_nonnull(text);
    g_autoptr(QmpFeatures) features = qmp_sync_probe(sync, PATIENCE_MS, &error);
    g_assert_true(qmp_features_has_command(features, "quit"));
    g_assert_null(qmp_sync_execute(sync, "nonsense", NULL, PATIENCE_MS, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_COMMAND);
    g_clear_error(&error);

    /* One without a QEMU that answers. */
    g_assert_null(qmp_sync_connect(qemu->path, 50, &error));
    g_assert_error(error, QMP_ERROR, QMP_ERROR_BUSY);

    qemu_kill(qemu);
    while (qmp_sync_wait(sync))
        ;
    g_assert_true(qmp_client_is_closed(qmp_sync_get_client(sync)));
    fake_settle();
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_watchdog();
#define ADD(name, data, func) g_test_add(name, Qemu, data, qemu_start, func, qemu_stop)
    ADD("/qemu/basics", NULL, test_basics);
    ADD("/qemu/basics-pretty", "on", test_basics);
    ADD("/qemu/events", NULL, test_events);
    ADD("/qemu/human", NULL, test_human);
    ADD("/qemu/features", NULL, test_features);
    ADD("/qemu/features-pretty", "on", test_features);
    ADD("/qemu/fd", NULL, test_fd);
    ADD("/qemu/busy", NULL, test_busy);
    ADD("/qemu/killed", NULL, test_killed);
    ADD("/qemu/stopped", NULL, test_stopped);
    ADD("/qemu/quit", NULL, test_quit);
    ADD("/qemu/sync", NULL, test_sync);
    return g_test_run();
}
