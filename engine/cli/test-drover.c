/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/api/fake-backend.h"
#include "common/json.h"

/* The drover program as its users run it: arguments in, exit status and words out. The daemon is
 * the real server with a fake behind it, in this process. $DROVER names the program. */

typedef struct {
    char *dir;
    char *path;
    FakeBackend *fake;
    DrvApiServer *server;
} Fixture;

static void
start_server(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    f->fake->server = f->server = drv_api_server_new(f->path, &fake_backend_ops, f->fake, &error);
    g_assert_no_error(error);
}

static void
stop_server(Fixture *f)
{
    g_clear_pointer(&f->server, drv_api_server_free);
    f->fake->server = NULL;
}

static void
set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("drover-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "api.sock", NULL);
    f->fake = fake_backend_new();
    start_server(f);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    stop_server(f);
    fake_backend_free(f->fake);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->path);
    g_free(f->dir);
}

/* A run of the program. */
typedef struct {
    GSubprocess *process;
    char *out, *err;
    gboolean done;
} Run;

static void
on_run_exit(GObject *source, GAsyncResult *result, gpointer data)
{
    Run *run = data;
    g_autoptr(GError) error = NULL;
    g_subprocess_communicate_utf8_finish(G_SUBPROCESS(source), result, &run->out, &run->err,
                                         &error);
    g_assert_no_error(error);
    run->done = TRUE;
}

static GSubprocessLauncher *
launcher_new(Fixture *f, GSubprocessFlags flags)
{
    GSubprocessLauncher *launcher = g_subprocess_launcher_new(flags);
    g_subprocess_launcher_set_cwd(launcher, f->dir);
    g_subprocess_launcher_setenv(launcher, "DROVER_API", f->path, TRUE);
    return launcher;
}

/* 'arguments' is a line of words. */
static GSubprocess *
spawn(GSubprocessLauncher *launcher, const char *program, const char *arguments)
{
    g_autofree char *line = g_strconcat(program, " ", arguments, NULL);
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    g_assert_true(g_shell_parse_argv(line, NULL, &argv, &error));
    GSubprocess *process =
        g_subprocess_launcher_spawnv(launcher, (const char *const *)argv, &error);
    g_assert_no_error(error);
    return process;
}

static void
run_start(Run *run, Fixture *f, const char *arguments)
{
    g_autoptr(GSubprocessLauncher) launcher =
        launcher_new(f, G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    *run = (Run){.process = spawn(launcher, g_getenv("DROVER"), arguments)};
    g_subprocess_communicate_utf8_async(run->process, NULL, NULL, on_run_exit, run);
}

/* Waits for the end, and checks how it was. 'out' and 'err' are parts of what was said there; NULL
 * says that there was nothing. */
static void
run_end(Run *run, int status, const char *out, const char *err)
{
    fake_wait(&run->done);
    gboolean ok = g_subprocess_get_if_exited(run->process) &&
                  g_subprocess_get_exit_status(run->process) == status &&
                  (out != NULL ? strstr(run->out, out) != NULL : run->out[0] == '\0') &&
                  (err != NULL ? strstr(run->err, err) != NULL : run->err[0] == '\0');
    if (!ok)
        g_error("expected %d, \"%s\", \"%s\"\ngot wait status %d\nstdout: %s\nstderr: %s", status,
                out, err, g_subprocess_get_status(run->process), run->out, run->err);
    g_object_unref(run->process);
    g_free(run->out);
    g_free(run->err);
}

static void
check(Fixture *f, const char *arguments, int status, const char *out, const char *err)
{
    Run run;
    run_start(&run, f, arguments);
    run_end(&run, status, out, err);
}

#define MIGRATE "migrate --qmp a.qmp --to 10.0.0.2:7000 --dest-qmp /run/b.qmp "
#define REST "\"rounds\":2,\"verify\":{\"stream\":\"match\",\"memory\":\"off\"}}"
#define DONE_RESULT                                                                                \
    "{\"job\":\"new-1\",\"vm\":\"web1\",\"state\":\"completed\",\"error\":null,"                   \
    "\"mode\":\"relay\",\"total_ms\":2000,\"downtime_ms\":84.5," REST
#define DONE "{\"state\":\"done\",\"final\":true,\"result\":" DONE_RESULT "}"
#define FAILED                                                                                     \
    "{\"state\":\"failed\",\"final\":true,\"error\":{\"class\":\"qemu\",\"message\":\"no room\"}}"
#define CANCELLED "{\"state\":\"cancelled\",\"final\":true}"
#define IN_DOUBT                                                                                   \
    "{\"state\":\"in-doubt\",\"error\":{\"class\":\"in-doubt\",\"message\":\"no word\"}}"

/* Begins a migration, and goes on when the daemon has it. */
static void
migrate_start(Run *run, Fixture *f, const char *options)
{
    g_autofree char *line = g_strconcat(MIGRATE, options, NULL);
    f->fake->shows = 0;
    run_start(run, f, line);
    fake_wait_count(&f->fake->shows, 1);
}

static void
test_completed(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(&run, f, "--downtime 50");
    fake_backend_patch(f->fake, "new-1", "{\"state\":\"copying\",\"progress\":{\"percent\":5}}");
    fake_backend_patch(f->fake, "new-1", DONE);
    run_end(&run, 0,
            "web1 now runs at 10.0.0.2:7000: it moved in 2.0 s, and was down for 84 ms (50 ms were "
            "allowed: BROKEN)\n  2 rounds, mode relay, stream verified\n",
            "queued\ncopying  5.0%\ndone\n");
    g_autofree char *qmp = g_build_filename(f->dir, "a.qmp", NULL);
    g_assert_cmpstr(drv_json_string(f->fake->spec, "qmp", NULL), ==, qmp);
    g_assert_cmpuint(json_object_get_size(f->fake->spec), ==, 4);

    /* Who only watches knows no promise, unless the report has it. */
    check(f, "watch new-1", 0, "and was down for 84 ms\n", "done");
    fake_backend_patch(f->fake, "new-1",
                       "{\"result\":{\"total_ms\":2000,\"downtime_ms\":84,"
                       "\"downtime_limit_ms\":100}}");
    check(f, "watch new-1", 0, "(100 ms were allowed: kept)", "done");
}

static void
test_json(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(&run, f, "--json");
    fake_backend_patch(f->fake, "new-1", DONE);
    fake_wait(&run.done);
    g_assert_cmpstr(run.out, ==, DONE_RESULT "\n");
    run_end(&run, 0, "{", "done");
    check(f, "watch --json new-1", 0, DONE_RESULT "\n", "done");

    /* Without a report from the daemon there is still an object. */
    static const struct {
        const char *patch;
        int status;
        const char *json, *err;
    } cases[] = {
        {FAILED, 1, "\"vm\":\"web1\",\"state\":\"failed\",\"error\":\"no room\"}\n",
         "drover: no room (job "},
        {CANCELLED, 4, "\"state\":\"cancelled\",\"error\":null}\n", "was cancelled"},
        {IN_DOUBT, 3, "\"state\":\"in-doubt\",\"error\":\"no word\"}\n", "in doubt"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *id = g_strdup_printf("new-%u", i + 2);
        migrate_start(&run, f, "--json");
        fake_backend_patch(f->fake, id, cases[i].patch);
        run_end(&run, cases[i].status, cases[i].json, cases[i].err);
    }
}

static void
test_ends(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *patch;
        int status;
        const char *err;
    } cases[] = {
        {FAILED, 1, "drover: no room (job new-1 failed, web1 runs at the source)\n"},
        {CANCELLED, 4, "drover: job new-2 was cancelled, web1 runs at the source\n"},
        {IN_DOUBT, 3,
         "drover: job new-3 is in doubt: no word; find out where web1 runs, then say so with "
         "'drover resolve new-3 --run-on source|dest'\n"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        Run run;
        g_autofree char *id = g_strdup_printf("new-%u", i + 1);
        g_autofree char *watch = g_strconcat("watch ", id, NULL);
        migrate_start(&run, f, "");
        fake_backend_patch(f->fake, id, cases[i].patch);
        run_end(&run, cases[i].status, NULL, cases[i].err);
        check(f, watch, cases[i].status, NULL, cases[i].err);
    }
}

static void
test_usage(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *arguments, *err;
    } cases[] = {
        {"", "drover: no command was given: 'drover --help' lists them\n"},
        {"clone x", "drover: there is no command 'clone'"},
        {"evacuate", "drover: there is no command 'evacuate'"},
        {"--nope jobs", "drover: unknown option --nope (see 'drover --help')\n"},
        {"jobs --nope", "drover: unknown option --nope (see 'drover jobs --help')\n"},
        {"jobs x", "drover: too many arguments: it is 'drover jobs', with the options"},
        {"jobs --limit 0", "--limit is '0': it must be from 1 to 1000"},
        {"show", "drover: something is missing: it is 'drover show ID'"},
        {"show a b", "too many arguments"},
        {"show ''", "the job's id is empty"},
        {"resolve x", "--run-on is missing"},
        {"resolve x --run-on here", "--run-on is 'here': it must be one of source, dest"},
        {"migrate --to 10.0.0.2:7000", "--qmp is missing: it is needed"},
        {"migrate --qmp", "drover: missing argument for --qmp (see 'drover migrate --help')"},
        {MIGRATE "extra", "too many arguments"},
        {MIGRATE "--lanes 0", "drover: --lanes is '0': it must be from 1 to 16\n"},
        {MIGRATE "--lanes 17", "--lanes is '17': it must be from 1 to 16"},
        {MIGRATE "--lanes two", "--lanes is 'two': it must be"},
        {MIGRATE "--codec gzip", "--codec is 'gzip': it must be one of auto, none, lz4, zstd"},
        {MIGRATE "--mode fast", "it must be one of auto, relay, direct"},
        {MIGRATE "--multifd 256", "--multifd is '256': it must be from 0 to 255"},
        {MIGRATE "--bandwidth 1K", "--bandwidth is '1K': it must be from 65536 to"},
        {MIGRATE "--downtime 0", "--downtime is '0': it must be from 1 to 2000000"},
        {MIGRATE "--downtime 2001s", "--downtime is '2001s'"},
        {MIGRATE "--timeout -5", "--timeout is '-5': it must be from 1 to 2592000 seconds"},
        {MIGRATE "--verify all", "it must be one of stream, memory, none"},
        {MIGRATE "--disks copy", "it must be one of none, mirror"},
        {MIGRATE "--disks-chain cut", "it must be one of flatten, keep"},
        {MIGRATE "--drop-timeout 0", "--drop-timeout is '0'"},
        {MIGRATE "--reconnect 0", "--reconnect is '0': it must be from 1 to 86400"},
        {"migrate --qmp '' --to x --dest-qmp b", "--qmp is '': it must be text in UTF-8"},
        {"tunnel --listen a --to b", "--connect is missing"},
        {"watch", "no job is active"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        check(f, cases[i].arguments, 2, NULL, cases[i].err);
    g_assert_cmpuint(f->fake->started, ==, 0);

    fake_backend_refuse(f->fake, DRV_ERROR_USAGE, "\"to\" is \"x\": it must be an ADDR:PORT");
    check(f, MIGRATE, 2, NULL, "drover: \"to\" is \"x\": it must be an ADDR:PORT\n");
    fake_backend_refuse(f->fake, DRV_ERROR_STATE, "web1 is being migrated by job 7f already");
    check(f, MIGRATE, 1, NULL, "drover: web1 is being migrated by job 7f already\n");
}

static void
test_help(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *arguments, *out;
    } cases[] = {
        {"--version", "drover 0.1.0\n"},
        {"--help", "follow a job to its end"},
        {"migrate --help", "--drop-timeout"},
        {"tunnel --help", "--connect"},
        {"jobs --help", "drover jobs [OPTION"},
        {"show --help", "drover show [OPTION"},
        {"watch --help", "[ID]"},
        {"cancel --help", "drover cancel [OPTION"},
        {"resolve --help", "--run-on"},
        {"status --help", "drover status [OPTION"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        check(f, cases[i].arguments, 0, cases[i].out, NULL);
}

/* Every option that the help has is in the man page. */
static void
test_man(Fixture *f, gconstpointer data)
{
    static const char *const commands[] = {"",        "migrate", "predict", "jobs",   "show",
                                           "watch",   "cancel",  "resolve", "tunnel", "status",
                                           "convert", "copy",    "audit",   "disks",  "numa"};
    g_autofree char *man = NULL;
    guint options = 0;
    g_assert_true(g_file_get_contents(g_getenv("DROVER_MAN"), &man, NULL, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        Run run;
        g_autofree char *line = g_strconcat(commands[i], " --help", NULL);
        run_start(&run, f, line);
        fake_wait(&run.done);
        for (const char *at = run.out; (at = strstr(at, " --")) != NULL; at++) {
            gsize len = strspn(at + 1, "-abcdefghijklmnopqrstuvwxyz");
            g_autofree char *option = g_strndup(at + 1, len);
            if (strstr(man, option) == NULL)
                g_error("'%s' of 'drover %s' is not in the man page", option, commands[i]);
            options++;
        }
        run_end(&run, 0, "Help Options", NULL);
    }
    g_assert_cmpuint(options, >, 30);
}

static void
test_spec(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(
        &run, f,
        "--name db --lanes 4 --codec zstd --mode relay --multifd 2 --bandwidth 100M "
        "--downtime 2s --max-downtime 5s --converge give-up --timeout 10m --verify none "
        "--disks none --disks-chain keep --disks-overwrite --disks-delta --drop-timeout 90 "
        "--keep-source");
    fake_backend_patch(f->fake, "new-1", DONE);
    run_end(&run, 0, "kept", "done");
    g_autofree char *expected = g_strdup_printf(
        "{\"qmp\":\"%s/a.qmp\",\"to\":\"10.0.0.2:7000\",\"dest_qmp\":\"/run/b.qmp\","
        "\"name\":\"db\",\"lanes\":4,\"codec\":\"zstd\",\"mode\":\"relay\",\"multifd\":2,"
        "\"bandwidth\":104857600,\"downtime_ms\":2000,\"max_downtime_ms\":5000,"
        "\"converge\":\"give-up\",\"timeout_s\":600,\"verify\":\"none\","
        "\"disks\":\"none\",\"disks_chain\":\"keep\",\"drop_timeout_s\":90,\"keep_source\":true,"
        "\"disks_overwrite\":true,\"disks_delta\":true}",
        f->dir);
    g_autoptr(JsonNode) node = drv_json_take_object(json_object_ref(f->fake->spec));
    g_autofree char *spec = drv_json_to_text(node);
    g_assert_cmpstr(spec, ==, expected);
}

#define NOTED(sentence) "{\"state\":\"copying\",\"progress\":{\"note\":\"" sentence "\"}}"

/* What the daemon thinks is said when it is new, not whenever its figures change. */
static void
test_notes(Fixture *f, gconstpointer data)
{
    static const char *const notes[] = {NOTED("it is not expected to converge: 5 MiB/s"),
                                        NOTED("it is not expected to converge: 6"),
                                        NOTED("the guest is slowed down: 7"),
                                        "{\"state\":\"copying\",\"progress\":{\"note\":null}}",
                                        NOTED("the guest is slowed down: 8")};
    Run run;
    migrate_start(&run, f, "");
    for (guint i = 0; i < G_N_ELEMENTS(notes); i++) {
        guint before = f->fake->shows;
        fake_backend_patch(f->fake, "new-1", notes[i]);
        fake_wait_count(&f->fake->shows, before + 2);
    }
    fake_backend_patch(f->fake, "new-1", DONE);
    fake_wait(&run.done);
    g_auto(GStrv) lines = g_strsplit(run.err, "\n", -1);
    g_autoptr(GPtrArray) said = g_ptr_array_new();
    for (guint i = 0; lines[i] != NULL; i++)
        if (strchr(lines[i], ':') != NULL)
            g_ptr_array_add(said, lines[i]);
    g_assert_cmpuint(said->len, ==, 2);
    g_assert_cmpstr(said->pdata[0], ==, "it is not expected to converge: 5 MiB/s");
    g_assert_cmpstr(said->pdata[1], ==, "the guest is slowed down: 7");
    run_end(&run, 0, "now runs", "the guest is slowed down: 7\n");
}

static void
test_no_daemon(Fixture *f, gconstpointer data)
{
    static const char *const lines[] = {MIGRATE,
                                        "jobs",
                                        "show x",
                                        "watch",
                                        "cancel x",
                                        "status",
                                        "resolve x --run-on dest",
                                        "tunnel --listen a --to b --connect c"};
    stop_server(f);
    for (guint i = 0; i < G_N_ELEMENTS(lines); i++)
        check(f, lines[i], 2, NULL, "drover: droverd is not running here, or its API is elsewhere");
    g_assert_true(g_file_set_contents(f->path, "", 0, NULL));
    check(f, "jobs", 2, NULL, "drover: droverd is not running: nobody serves");
    g_unlink(f->path);
    start_server(f);

    /* --api goes before $DROVER_API, at either place. */
    check(f, "--api /nowhere/api.sock status", 2, NULL, "no socket /nowhere/api.sock");
    check(f, "status --api /nowhere/api.sock", 2, NULL, "no socket /nowhere/api.sock");
    check(f, "status", 0, "name             alpha\n", NULL);
    g_autofree char *path = g_strnfill(120, 'x');
    g_autofree char *line = g_strdup_printf("--api %s status", path);
    check(f, line, 2, NULL, "the API socket's path has 120 bytes");
}

static void
become_nobody(gpointer data)
{
    if (setgid(65534) != 0 || setuid(65534) != 0)
        _exit(99);
}

static void
test_not_permitted(Fixture *f, gconstpointer data)
{
    if (geteuid() != 0) {
        g_test_skip("needs root to become somebody else");
        return;
    }
    /* Where the program was built may be closed to others. */
    g_autofree char *text = NULL;
    gsize len;
    g_autofree char *copy = g_build_filename(f->dir, "drover", NULL);
    g_assert_true(g_file_get_contents(g_getenv("DROVER"), &text, &len, NULL));
    g_assert_true(
        g_file_set_contents_full(copy, text, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0755, NULL));
    g_assert_cmpint(chmod(f->dir, 0755), ==, 0);
    g_autoptr(GSubprocessLauncher) launcher =
        launcher_new(f, G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_subprocess_launcher_set_child_setup(launcher, become_nobody, NULL, NULL);
    Run run = {.process = spawn(launcher, copy, MIGRATE)};
    g_subprocess_communicate_utf8_async(run.process, NULL, NULL, on_run_exit, &run);
    run_end(&run, 2, NULL, "drover: not permitted to use the API socket ");
    g_assert_cmpuint(f->fake->started, ==, 0);
    g_unlink(copy);
}

/* The first interrupt cancels and waits for the end. */
static void
test_interrupt(Fixture *f, gconstpointer data)
{
    static const int signals[] = {SIGINT, SIGTERM};
    f->fake->after_cancel = "{\"state\":\"rolling-back\"}";
    for (guint i = 0; i < G_N_ELEMENTS(signals); i++) {
        Run run;
        g_autofree char *id = g_strdup_printf("new-%u", i + 1);
        migrate_start(&run, f, "");
        g_subprocess_send_signal(run.process, signals[i]);
        fake_wait_count(&f->fake->cancels, i + 1);
        fake_backend_patch(f->fake, id, CANCELLED);
        run_end(&run, 4, NULL, "cancelling; the VM stays at the source (interrupt again to leave");
    }
}

/* The second leaves, and the job goes on. */
static void
test_interrupt_twice(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(&run, f, "--json");
    g_subprocess_send_signal(run.process, SIGINT);
    fake_wait_count(&f->fake->cancels, 1);
    g_subprocess_send_signal(run.process, SIGINT);
    run_end(&run, 3, "\"job\":\"new-1\",\"vm\":\"web1\",\"state\":\"in-doubt\"",
            "drover: no longer watching job new-1, which droverd carries on: 'drover watch new-1' "
            "follows it, 'drover cancel new-1' ends it\n");
}

/* Too late to cancel: it says so, and goes on to the end. */
static void
test_interrupt_late(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(&run, f, "");
    f->fake->after_cancel = NULL;
    /* The watch asks for the job too: the refusal must meet the cancel. */
    fake_backend_patch(f->fake, "new-1", "{\"state\":\"committed\"}");
    f->fake->cancel_refusal = "the guest runs at the destination already";
    g_subprocess_send_signal(run.process, SIGINT);
    fake_wait_count(&f->fake->cancels, 1);
    f->fake->shows = 0;
    fake_wait_count(&f->fake->shows, 3);
    fake_backend_patch(f->fake, "new-1", DONE);
    run_end(&run, 0, "web1 now runs", "it cannot be cancelled: the guest runs at the destination");
}

/* Who only watches cancels nothing. */
static void
test_interrupt_watch(Fixture *f, gconstpointer data)
{
    Run run;
    fake_backend_add(f->fake, "{\"job\":\"j1\",\"state\":\"copying\",\"final\":false}");
    run_start(&run, f, "watch j1");
    fake_wait_count(&f->fake->shows, 3); /* the look-up, and two lines */
    g_subprocess_send_signal(run.process, SIGINT);
    run_end(&run, 3, NULL, "drover: no longer watching job j1");
    g_assert_cmpuint(f->fake->cancels, ==, 0);
}

static void
test_daemon_returns(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(&run, f, "");
    stop_server(f);
    f->fake->shows = 0;
    start_server(f);
    fake_wait_count(&f->fake->shows, 1);
    fake_backend_patch(f->fake, "new-1", DONE);
    fake_wait(&run.done);
    g_assert_nonnull(strstr(run.err, "its jobs go on, waiting 30 s for it\n"));
    run_end(&run, 0, "web1 now runs", "droverd is back\n");
}

static void
test_daemon_stays_away(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(&run, f, "--reconnect 1 --json");
    fake_backend_patch(f->fake, "new-1", "{\"state\":\"copying\"}");
    f->fake->shows = 0;
    fake_wait_count(&f->fake->shows, 2);
    stop_server(f);
    run_end(&run, 3, "\"state\":\"in-doubt\",\"error\":\"droverd at ",
            " went away while job new-1 was copying, and was not back within 1 s: start it again, "
            "and 'drover watch new-1' tells how the job ends\n");
}

static void
test_daemon_forgets(Fixture *f, gconstpointer data)
{
    Run run;
    migrate_start(&run, f, "");
    stop_server(f);
    g_ptr_array_set_size(f->fake->jobs, 0);
    start_server(f);
    run_end(&run, 3, NULL, "drover: droverd does not know job new-1 any more");
}

/* An interrupt while the daemon is away cancels when it is back. */
static void
test_interrupt_away(Fixture *f, gconstpointer data)
{
    Run run;
    f->fake->after_cancel = CANCELLED;
    migrate_start(&run, f, "");
    stop_server(f);
    g_subprocess_send_signal(run.process, SIGINT);
    start_server(f);
    run_end(&run, 4, NULL, "cancelling");
    g_assert_cmpuint(f->fake->cancels, >=, 1);
}

static void
test_jobs(Fixture *f, gconstpointer data)
{
    check(f, "jobs", 0, NULL, "no jobs\n");
    fake_backend_add(f->fake, "{\"job\":\"abc1\",\"vm\":\"web1\",\"kind\":\"migrate\","
                              "\"state\":\"done\",\"final\":true}");
    fake_backend_add(f->fake, "{\"job\":\"abd2\",\"vm\":\"web2\",\"kind\":\"migrate\","
                              "\"state\":\"copying\",\"final\":false}");
    fake_backend_add(f->fake, "{\"job\":\"xyz3\",\"vm\":\"web3\",\"kind\":\"migrate\","
                              "\"state\":\"failed\",\"final\":true}");
    check(f, "jobs", 0,
          "xyz3  migrate  web3  failed   -     -     -\n"
          "abd2  migrate  web2  copying  -     -     -\n",
          NULL);
    check(f, "jobs --json --limit 1", 0, "{\"jobs\":[{\"job\":\"xyz3\"", NULL);
    check(f, "show abc", 0, "vm               web1\n", NULL);
    check(f, "show --json x", 0, "{\"job\":\"xyz3\",", NULL);
    check(f, "show ab", 2, NULL,
          "'ab' is the beginning of several jobs' ids (abd2, abc1 ...): give more of it");
    check(f, "show q", 2, NULL, "there is no job 'q': 'drover jobs' lists them");
    check(f, "show ../status", 2, NULL, "there is no job '../status'");
    check(f, "status --json", 0, "{\"version\":\"0.1.0\",", NULL);

    check(f, "cancel abd", 0, "cancelling job abd2 ('drover watch abd2' waits for its end)\n",
          NULL);
    f->fake->cancel_refusal = "job abc1 has ended";
    check(f, "cancel abc1", 1, NULL, "drover: job abc1 has ended\n");
    check(f, "resolve abd2 --run-on dest", 0, "the VM shall run at the destination\n", NULL);
    g_assert_cmpstr(f->fake->run_on, ==, "dest");
    check(f, "resolve --run-on source abd2 --json", 0, "{\"job\":\"abd2\"", NULL);
    g_assert_cmpstr(f->fake->run_on, ==, "source");
    f->fake->cancel_refusal = NULL;
    f->fake->forgets = TRUE;
    check(f, "cancel abd", 0, "job abd2 is cancelled\n", NULL);
}

/* Without an id it is the newest that is active. */
static void
test_watch_newest(Fixture *f, gconstpointer data)
{
    Run run;
    fake_backend_add(f->fake, "{\"job\":\"j1\",\"state\":\"copying\",\"final\":false}");
    fake_backend_add(f->fake, "{\"job\":\"j2\",\"state\":\"copying\",\"final\":false}");
    fake_backend_add(f->fake, "{\"job\":\"j3\",\"state\":\"done\",\"final\":true}");
    run_start(&run, f, "watch");
    fake_wait_count(&f->fake->shows, 1);
    fake_backend_patch(f->fake, "j2", FAILED);
    run_end(&run, 1, NULL, "(job j2 failed");
}

#define PREDICT "predict --qmp a.qmp --to 10.0.0.2:7000 "

static void
test_predict(Fixture *f, gconstpointer data)
{
    Run run;
    run_start(&run, f, PREDICT "--downtime 1s");
    fake_wait_count(&f->fake->shows, 1);
    fake_backend_patch(f->fake, "new-1",
                       "{\"state\":\"done\",\"final\":true,\"result\":{\"why\":\"it will\"}}");
    run_end(&run, 0, "web1 to 10.0.0.2:7000: it will\n", "queued\ndone\n");
    g_assert_cmpfloat(drv_json_number(f->fake->spec, "downtime_ms", 0), ==, 1000);

    run_start(&run, f, PREDICT);
    fake_wait_shown(f->fake, "new-2");
    fake_backend_patch(f->fake, "new-2", FAILED);
    run_end(&run, 1, NULL, "drover: no room (nothing was predicted, and nothing was changed)\n");
}

static void
test_disks(Fixture *f, gconstpointer data)
{
    Run run;
    run_start(&run, f,
              "disks --qmp a.qmp --to b:1 --create --dest vda=/x --dest a=b=/y --chain keep");
    fake_wait_count(&f->fake->shows, 1);
    fake_backend_patch(f->fake, "new-1",
                       "{\"state\":\"failed\",\"final\":true,"
                       "\"error\":{\"message\":\"no room\"}}");
    run_end(&run, 1, NULL, "no room\n");
    g_autofree char *expected =
        g_strdup_printf("{\"qmp\":\"%s/a.qmp\",\"to\":\"b:1\",\"chain\":\"keep\","
                        "\"create\":true,\"dest\":{\"vda\":\"/x\",\"a=b\":\"/y\"}}",
                        f->dir);
    g_autofree char *spec = drv_json_text(f->fake->spec);
    g_assert_cmpstr(spec, ==, expected);
}

#define TUNNEL "tunnel --listen l.sock --to 10.0.0.2:7000 --connect /run/c.sock "

static void
test_tunnel(Fixture *f, gconstpointer data)
{
    Run run;
    run_start(&run, f, TUNNEL);
    fake_wait_count(&f->fake->shows, 1);
    fake_backend_patch(f->fake, "new-1", "{\"state\":\"running\"}");
    run_end(&run, 0, "leads to /run/c.sock at 10.0.0.2:7000 ('drover cancel new-1' ends it)\n",
            "queued\nrunning\n");
    g_autofree char *listen = g_build_filename(f->dir, "l.sock", NULL);
    g_assert_cmpstr(drv_json_string(f->fake->spec, "listen", NULL), ==, listen);
    g_assert_cmpuint(f->fake->cancels, ==, 0);

    run_start(&run, f, TUNNEL);
    fake_wait_shown(f->fake, "new-2");
    fake_backend_patch(f->fake, "new-2", FAILED);
    run_end(&run, 1, NULL, "drover: tunnel new-2 failed: no room\n");
}

static void
test_tunnel_foreground(Fixture *f, gconstpointer data)
{
    Run run;
    f->fake->after_cancel = CANCELLED;
    run_start(&run, f, TUNNEL "--foreground");
    fake_wait_count(&f->fake->shows, 1);
    fake_backend_patch(f->fake, "new-1", "{\"state\":\"running\"}");
    fake_wait_count(&f->fake->shows, 3);
    g_subprocess_send_signal(run.process, SIGINT);
    run_end(&run, 0, NULL, "tunnel new-1 was ended\n");
    g_assert_cmpuint(f->fake->cancels, ==, 1);
}

/* What a terminal of 40 columns gets. */
typedef struct {
    int master;
    GString *seen;
    const char *awaited;
    gboolean found;
} Terminal;

static gboolean
on_terminal(int fd, GIOCondition condition, gpointer data)
{
    Terminal *t = data;
    char buf[4096];
    gssize n = read(fd, buf, sizeof buf);
    if (n <= 0)
        return G_SOURCE_REMOVE; /* the program has closed its end */
    g_string_append_len(t->seen, buf, n);
    t->found = strstr(t->seen->str, t->awaited) != NULL;
    return G_SOURCE_CONTINUE;
}

static void
test_terminal(Fixture *f, gconstpointer data)
{
    struct winsize size = {.ws_col = 40, .ws_row = 10};
    Terminal t = {.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC),
                  .seen = g_string_new(NULL),
                  .awaited = "\rcopying  LINK DOWN, reconnecting  50.0%\033[K"};
    g_assert_true(t.master >= 0 && grantpt(t.master) == 0 && unlockpt(t.master) == 0);
    g_assert_cmpint(ioctl(t.master, TIOCSWINSZ, &size), ==, 0);
    int slave = open(ptsname(t.master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_autoptr(GSubprocessLauncher) launcher = launcher_new(f, G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    g_subprocess_launcher_setenv(launcher, "TERM", "xterm", TRUE);
    g_subprocess_launcher_take_stderr_fd(launcher, slave);
    Run run = {.process = spawn(launcher, g_getenv("DROVER"), MIGRATE)};
    g_subprocess_launcher_close(launcher);
    guint source = g_unix_fd_add(t.master, G_IO_IN | G_IO_HUP, on_terminal, &t);
    g_subprocess_communicate_utf8_async(run.process, NULL, NULL, on_run_exit, &run);
    fake_wait_count(&f->fake->started, 1);
    fake_backend_patch(f->fake, "new-1",
                       "{\"state\":\"copying\",\"progress\":{\"connected\":false,"
                       "\"percent\":50,\"raw_rate\":1e9,\"wire_rate\":1e9}}");
    fake_wait(&t.found);
    t.found = FALSE;
    t.awaited = "\r\033[Kcancelling; the VM stays"; /* a note takes the line's place */
    g_subprocess_send_signal(run.process, SIGINT);
    fake_wait(&t.found);
    fake_backend_patch(f->fake, "new-1", DONE);
    t.found = FALSE;
    t.awaited = "\rdone\033[K\r\033[K"; /* drawn, and cleared at the end */
    fake_wait(&t.found);
    fake_wait(&run.done);
    run.err = g_strdup("");
    run_end(&run, 0, "web1 now runs", NULL);
    if (g_main_context_find_source_by_id(NULL, source) != NULL)
        g_source_remove(source);
    g_string_free(t.seen, TRUE);
    close(t.master);
}

#define ADD(name, func) g_test_add("/drover/" name, Fixture, NULL, set_up, func, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_nonnull(g_getenv("DROVER"));
    ADD("completed", test_completed);
    ADD("json", test_json);
    ADD("ends", test_ends);
    ADD("usage", test_usage);
    ADD("help", test_help);
    ADD("man", test_man);
    ADD("spec", test_spec);
    ADD("notes", test_notes);
    ADD("no-daemon", test_no_daemon);
    ADD("not-permitted", test_not_permitted);
    ADD("interrupt", test_interrupt);
    ADD("interrupt-twice", test_interrupt_twice);
    ADD("interrupt-late", test_interrupt_late);
    ADD("interrupt-watch", test_interrupt_watch);
    ADD("interrupt-away", test_interrupt_away);
    ADD("daemon-returns", test_daemon_returns);
    ADD("daemon-stays-away", test_daemon_stays_away);
    ADD("daemon-forgets", test_daemon_forgets);
    ADD("jobs", test_jobs);
    ADD("watch-newest", test_watch_newest);
    ADD("predict", test_predict);
    ADD("disks", test_disks);
    ADD("tunnel", test_tunnel);
    ADD("tunnel-foreground", test_tunnel_foreground);
    ADD("terminal", test_terminal);
    return g_test_run();
}
