/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"

/*
 * What the journal promises when things break: the process is killed, the disk is full, the disk
 * fails. fsync and fdatasync are this program's own, so that it can count them and have them fail;
 * SQLite's library finds these first.
 */
static guint syncs;
static gboolean sync_fails;

int fsync(int fd);
int fdatasync(int fd);

static int
do_sync(long call, int fd)
{
    syncs++;
    if (sync_fails) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, fd);
}

int
fsync(int fd)
{
    return do_sync(SYS_fsync, fd);
}

int
fdatasync(int fd)
{
    return do_sync(SYS_fdatasync, fd);
}

typedef struct {
    char *root;
    char *dir;
    gboolean mounted;
} Fixture;

static void
setup(Fixture *f, gconstpointer unused)
{
    f->root = g_dir_make_tmp("drover-crash-XXXXXX", NULL);
    g_assert_nonnull(f->root);
    f->dir = g_build_filename(f->root, "state", NULL);
}

static void
remove_tree(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *child = g_build_filename(path, name, NULL);
        remove_tree(child);
    }
    g_clear_pointer(&dir, g_dir_close);
    g_assert_cmpint(g_remove(path), ==, 0);
}

static void
teardown(Fixture *f, gconstpointer unused)
{
    if (f->mounted)
        g_assert_cmpint(umount2(f->root, MNT_DETACH), ==, 0);
    remove_tree(f->root);
    g_free(f->root);
    g_free(f->dir);
}

static DrvJournal *
open_ok(const Fixture *f)
{
    g_autoptr(GError) error = NULL;
    DrvJournal *journal = drv_journal_open(f->dir, &error);
    g_assert_no_error(error);
    return journal;
}

static void
assert_says(const GError *error, DrvErrorCode code, const char *says)
{
    g_assert_error(error, DRV_ERROR, (int)code);
    if (strstr(error->message, says) == NULL)
        g_error("expected '%s' in: %s", says, error->message);
}

static DrvJobRecord *
start_job(DrvJournal *journal)
{
    g_autoptr(GError) error = NULL;
    DrvJobRecord *rec = drv_job_record_new("j", DRV_ROLE_SOURCE, "{}");
    drv_journal_add(journal, rec, &error);
    g_assert_no_error(error);
    drv_journal_move(journal, rec, DRV_STATE_PREPARING, &error);
    g_assert_no_error(error);
    return rec;
}

/* A move has reached the disk, and not just the kernel, when the call returns. */
static void
test_durable(Fixture *f, gconstpointer unused)
{
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) rec = start_job(journal);
    static const DrvJobState path[] = {DRV_STATE_COPYING, DRV_STATE_SWITCHOVER, DRV_STATE_LOADED,
                                       DRV_STATE_COMMITTED};
    for (guint i = 0; i < G_N_ELEMENTS(path); i++) {
        guint before = syncs;
        g_assert_true(drv_journal_move(journal, rec, path[i], NULL));
        g_assert_cmpuint(syncs, >, before);
        before = syncs;
        g_assert_true(drv_journal_save(journal, rec, NULL));
        g_assert_cmpuint(syncs, >, before);
    }
}

/* The disk fails in the very commit: nobody can say what is on it, so nothing more is written, and
 * the next start finds either the old state or the new one, with its row. */
static void
test_failing_sync(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) rec = start_job(journal);
    sync_fails = TRUE;
    g_assert_false(drv_journal_move(journal, rec, DRV_STATE_COPYING, &error));
    sync_fails = FALSE;
    assert_says(error, DRV_ERROR_IN_DOUBT, "not known whether the last change is on the disk");
    assert_says(error, DRV_ERROR_IN_DOUBT, "look into the kernel's log");
    g_assert_cmpint(rec->state, ==, DRV_STATE_PREPARING);
    g_clear_error(&error);
    g_assert_false(drv_journal_move(journal, rec, DRV_STATE_ROLLING_BACK, &error));
    assert_says(error, DRV_ERROR_IN_DOUBT, "takes no more changes since its disk failed");

    /* Reading still works, for who wants to show it. */
    g_autoptr(DrvJobRecord) shown = drv_journal_load(journal, "j", DRV_ROLE_SOURCE, NULL);
    g_assert_nonnull(shown);

    g_clear_pointer(&journal, drv_journal_close);
    journal = open_ok(f);
    g_autoptr(DrvJobRecord) got = drv_journal_load(journal, "j", DRV_ROLE_SOURCE, NULL);
    g_autoptr(GArray) moves = drv_journal_transitions(journal, "j", DRV_ROLE_SOURCE, NULL);
    g_assert_cmpint(got->state, ==, moves->len == 2 ? DRV_STATE_COPYING : DRV_STATE_PREPARING);
    g_assert_true(drv_journal_move(journal, got, DRV_STATE_ROLLING_BACK, NULL));
}

/* A disk that is broken from the start. */
static void
test_failing_open(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    sync_fails = TRUE;
    g_assert_null(drv_journal_open(f->dir, &error));
    sync_fails = FALSE;
    assert_says(error, DRV_ERROR_IO, "cannot use the state directory");
    g_clear_error(&error);
    sync_fails = TRUE; /* the directory is there now, it is the database's turn */
    g_assert_null(drv_journal_open(f->dir, &error));
    sync_fails = FALSE;
    assert_says(error, DRV_ERROR_IO, "the disk failed under the journal");
    drv_journal_close(open_ok(f));
}

static void
test_file_size_limit(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) rec = start_job(journal);
    struct rlimit old, tight;
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    tight = old;
    tight.rlim_cur = 8192;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &tight), ==, 0);
    gboolean moved = drv_journal_move(journal, rec, DRV_STATE_COPYING, &error);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    g_assert_false(moved);
    assert_says(error, DRV_ERROR_IN_DOUBT, "the disk failed under the journal");
}

static gboolean
mount_tmpfs(Fixture *f, const char *options)
{
    f->mounted = mount("tmpfs", f->root, "tmpfs", 0, options) == 0;
    if (!f->mounted)
        g_test_skip("may not mount a file system here");
    return f->mounted;
}

static char *
fill_disk(const Fixture *f)
{
    char *path = g_build_filename(f->root, "filler", NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    static const char block[4096];
    while (write(fd, block, sizeof block) > 0)
        continue;
    g_assert_cmpint(errno, ==, ENOSPC);
    close(fd);
    return path;
}

static void
test_full_disk(Fixture *f, gconstpointer unused)
{
    if (!mount_tmpfs(f, "size=512k"))
        return;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) rec = start_job(journal);
    g_autofree char *filler = fill_disk(f);
    /* The last page of a file may still have room, for a move or two. */
    while (rec->state < DRV_STATE_COMMITTED &&
           drv_journal_move(journal, rec, rec->state + 1, &error))
        continue;
    assert_says(error, DRV_ERROR_IO, "is full; free space and try again");
    g_clear_error(&error);
    DrvJobState reached = rec->state;
    g_autoptr(DrvJobRecord) other = drv_job_record_new("k", DRV_ROLE_SOURCE, "{}");
    g_assert_false(drv_journal_add(journal, other, &error));
    assert_says(error, DRV_ERROR_IO, "is full");
    g_clear_error(&error);

    /* Nothing was half written, and with space again it goes on, without a restart or with one. */
    g_autoptr(DrvJobRecord) got = drv_journal_load(journal, "j", DRV_ROLE_SOURCE, NULL);
    g_assert_cmpint(got->state, ==, reached);
    g_assert_cmpint(g_remove(filler), ==, 0);
    drv_journal_move(journal, rec, DRV_STATE_ROLLING_BACK, &error);
    g_assert_no_error(error);
    g_clear_pointer(&journal, drv_journal_close);
    journal = open_ok(f);
    g_autoptr(DrvJobRecord) again = drv_journal_load(journal, "j", DRV_ROLE_SOURCE, NULL);
    g_assert_cmpint(again->state, ==, DRV_STATE_ROLLING_BACK);
}

/* A move that is made whether or not it can be recorded finds room that was held back for it. */
static void
test_reserve(Fixture *f, gconstpointer unused)
{
    if (!mount_tmpfs(f, "size=1m"))
        return;
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) rec = start_job(journal);
    g_autofree char *filler = fill_disk(f);
    while (rec->state < DRV_STATE_COMMITTED &&
           drv_journal_move(journal, rec, rec->state + 1, &error))
        continue;
    assert_says(error, DRV_ERROR_IO, "is full; free space and try again");
    g_clear_error(&error);
    g_assert_true(drv_journal_use_reserve(journal));
    drv_journal_move(journal, rec, DRV_STATE_ROLLING_BACK, &error);
    g_assert_no_error(error);
    drv_journal_move(journal, rec, DRV_STATE_FAILED, &error);
    g_assert_no_error(error);
    g_assert_false(drv_journal_use_reserve(journal)); /* once */

    /* With the next job, room is held back again. */
    g_assert_cmpint(g_remove(filler), ==, 0);
    g_autoptr(DrvJobRecord) next = drv_job_record_new("k", DRV_ROLE_SOURCE, "{}");
    g_assert_true(drv_journal_add(journal, next, &error));
    g_assert_true(drv_journal_use_reserve(journal));
}

static void
test_full_at_start(Fixture *f, gconstpointer unused)
{
    if (!mount_tmpfs(f, "size=64k"))
        return;
    g_autoptr(GError) error = NULL;
    g_autofree char *filler = fill_disk(f);
    g_assert_null(drv_journal_open(f->dir, &error));
    assert_says(error, DRV_ERROR_IO, "is full; free space and try again");
}

static void
test_read_only(Fixture *f, gconstpointer unused)
{
    if (!mount_tmpfs(f, "size=512k"))
        return;
    drv_journal_close(open_ok(f));
    g_assert_cmpint(mount("none", f->root, "", MS_REMOUNT | MS_RDONLY, NULL), ==, 0);
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_journal_open(f->dir, &error));
    assert_says(error, DRV_ERROR_IO, "is mounted read-only; remount it");
    g_clear_error(&error);
    g_autofree char *missing = g_build_filename(f->root, "missing", NULL);
    g_assert_null(drv_journal_open(missing, &error));
    assert_says(error, DRV_ERROR_IO, "is mounted read-only; remount it");
}

/* What the child has told: a job, and the state that it was moved to. */
typedef struct {
    gint32 job;
    gint32 state;
} Report;

#define JOBS 8

/* Moves jobs about at random until it is killed, and tells each move only after it was made. */
static G_GNUC_NORETURN void
child_main(const Fixture *f, guint run, int out)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(run);
    DrvJournal *journal = drv_journal_open(f->dir, NULL);
    if (journal == NULL)
        _exit(1);
    DrvJobRecord *recs[JOBS];
    for (gint32 i = 0; i < JOBS; i++) {
        g_autofree char *id = g_strdup_printf("%u-%d", run, i);
        recs[i] = drv_job_record_new(id, i % 2 == 0 ? DRV_ROLE_SOURCE : DRV_ROLE_DEST, "{}");
        if (!drv_journal_add(journal, recs[i], NULL))
            _exit(2);
    }
    for (;;) {
        gint32 i = g_rand_int_range(random, 0, JOBS);
        gint32 to = g_rand_int_range(random, 0, DRV_STATE_LAST);
        if (!drv_state_may_move(recs[i]->role, recs[i]->state, to)) {
            /* Most of the time all are final after a while; then it just goes on writing. */
            if (!drv_journal_save(journal, recs[i], NULL))
                _exit(3);
            continue;
        }
        Report report = {i, to};
        if (!drv_journal_move(journal, recs[i], to, NULL) ||
            write(out, &report, sizeof report) != sizeof report)
            _exit(4);
    }
}

/* The job is where the child said last, or one legal move further: killed between the disk and the
 * word of it. Its moves join up. */
static void
check_job(DrvJournal *journal, guint run, gint32 i, DrvJobState told)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *id = g_strdup_printf("%u-%d", run, i);
    DrvJobRole role = i % 2 == 0 ? DRV_ROLE_SOURCE : DRV_ROLE_DEST;
    g_autoptr(DrvJobRecord) rec = drv_journal_load(journal, id, role, &error);
    g_assert_no_error(error);
    g_assert_true(rec->state == told || drv_state_may_move(role, told, rec->state));

    g_autoptr(GArray) moves = drv_journal_transitions(journal, id, role, &error);
    g_assert_no_error(error);
    DrvJobState at = DRV_STATE_QUEUED;
    for (guint m = 0; m < moves->len; m++) {
        DrvJobTransition t = g_array_index(moves, DrvJobTransition, m);
        g_assert_cmpint(t.from, ==, at);
        at = t.to;
    }
    g_assert_cmpint(at, ==, rec->state);
}

static void
kill_and_check(const Fixture *f, guint run, guint reports)
{
    int ends[2];
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        close(ends[0]);
        child_main(f, run, ends[1]);
    }
    close(ends[1]);
    DrvJobState told[JOBS] = {DRV_STATE_QUEUED};
    Report report;
    guint seen = 0;
    for (; read(ends[0], &report, sizeof report) == sizeof report; seen++) {
        told[report.job] = report.state;
        if (seen == reports)
            g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    }
    close(ends[0]);
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    g_assert_cmpuint(seen, >, reports);

    g_autoptr(DrvJournal) journal = open_ok(f);
    for (gint32 i = 0; i < JOBS; i++)
        check_job(journal, run, i, told[i]);
}

/* Every job makes at least two moves before it ends, so 2 * JOBS reports always come. */
static void
test_killed(Fixture *f, gconstpointer unused)
{
    for (guint run = 0; run < 20; run++)
        kill_and_check(f, run, (guint)g_test_rand_int_range(0, JOBS * 2));
}

#define ADD(name) g_test_add("/journal/" #name, Fixture, NULL, setup, test_##name, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGXFSZ, SIG_IGN);
    /* What is mounted here is seen here only, and goes with the process. */
    if (unshare(CLONE_NEWNS) == 0)
        mount("none", "/", "", MS_REC | MS_PRIVATE, NULL);
    ADD(durable);
    ADD(failing_sync);
    ADD(failing_open);
    ADD(file_size_limit);
    ADD(full_disk);
    ADD(reserve);
    ADD(full_at_start);
    ADD(read_only);
    ADD(killed);
    return g_test_run();
}
