/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/journal-file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/error.h"

/*
 * Settings, and why. WAL: a commit is one append and one fdatasync. synchronous=FULL: that sync
 * happens at every commit, not only at checkpoints. locking_mode=EXCLUSIVE: there is one user, and
 * without the shared-memory file there is no page of it that a full disk could refuse later, with
 * SIGBUS. quick_check at start: a damaged journal is found before a guest depends on it.
 */

/* Room for the last moves of a dozen jobs: each writes some pages of the log. */
#define RESERVE ((off_t)512 * 1024)

#define APPLICATION_ID 0x64727672 /* "drvr" */

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE jobs("
    " n INTEGER PRIMARY KEY AUTOINCREMENT," /* the order of adding, whatever the clock does */
    " id TEXT NOT NULL, role TEXT NOT NULL,"
    " state TEXT NOT NULL, active INTEGER NOT NULL,"
    " created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL,"
    " spec TEXT NOT NULL, vm TEXT, peer TEXT, detail TEXT,"
    " error_class TEXT, error_message TEXT, result TEXT,"
    " UNIQUE(id, role));"
    "CREATE INDEX jobs_active ON jobs(n) WHERE active;"
    "CREATE TABLE transitions("
    " job INTEGER NOT NULL, at_us INTEGER NOT NULL,"
    " from_state TEXT NOT NULL, to_state TEXT NOT NULL);"
    "CREATE INDEX transitions_job ON transitions(job);"
    "PRAGMA application_id=" G_STRINGIFY(APPLICATION_ID) ";"
                                                         "PRAGMA user_version=" G_STRINGIFY(
                                                             DRV_JOURNAL_SCHEMA) ";"
                                                                                 "COMMIT;";

#define ELSEWHERE "or name another with --state"

/* What is the matter and what to do, for the errors that people meet; NULL for the others. */
static const char *
advice(int code)
{
    switch (code) {
    case EACCES:
    case EPERM:
        return "this user may not write there; give it to the user that droverd runs "
               "as, " ELSEWHERE;
    case EROFS:
        return "its file system is mounted read-only; remount it, " ELSEWHERE;
    case ENOSPC:
    case EDQUOT:
        return "its disk or quota is full; free space and try again, " ELSEWHERE;
    case ENOTDIR:
    case EEXIST:
        return "it is not a directory; name another with --state";
    default:
        return NULL;
    }
}

static gboolean
fail_errno(const char *dir, int code, GError **error)
{
    const char *known = advice(code);
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "cannot use the state directory \"%s\": %s", dir,
                known != NULL ? known : g_strerror(code));
    return FALSE;
}

static gboolean
fail_damaged(const DrvJournalFile *file, const char *how, GError **error)
{
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                "the journal \"%s\" is damaged or not a journal (%s): see for yourself where each "
                "guest runs, then move the file away and start again",
                file->path, how);
    return FALSE;
}

gboolean
drv_journal_file_fail(const DrvJournalFile *file, GError **error)
{
    int code = sqlite3_errcode(file->db) & 0xff;
    int system_code = sqlite3_system_errno(file->db);
    switch (code) {
    case SQLITE_FULL:
        return fail_errno(file->dir, ENOSPC, error);
    case SQLITE_READONLY:
        return fail_errno(file->dir, EACCES, error);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return fail_damaged(file, sqlite3_errmsg(file->db), error);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the journal \"%s\" is open in another program: close it there and try again",
                    file->path);
        return FALSE;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        /* Whatever errno was at the end, which may be of something else: just a hint. */
        if (system_code == ENOSPC || system_code == EDQUOT)
            return fail_errno(file->dir, system_code, error);
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the disk failed under the journal \"%s\" (%s): look into the kernel's log",
                    file->path, sqlite3_errmsg(file->db));
        return FALSE;
    default:
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "the journal \"%s\" failed: %s", file->path,
                    sqlite3_errmsg(file->db));
        return FALSE;
    }
}

static gboolean
sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return FALSE;
    gboolean ok = fsync(fd) == 0;
    close(fd);
    return ok;
}

/* A directory made here must outlast a power cut as the journal in it does, so its parent is
 * synced; where the parent is not ours to open, the system has to be trusted with it. */
static gboolean
make_dir(const char *dir, GError **error)
{
    gboolean is_new = !g_file_test(dir, G_FILE_TEST_EXISTS);
    if (g_mkdir_with_parents(dir, 0700) != 0)
        return fail_errno(dir, errno, error);
    g_autofree char *parent = g_path_get_dirname(dir);
    if (is_new && !sync_dir(parent) && errno != EACCES)
        return fail_errno(dir, errno, error);
    return TRUE;
}

static gboolean
fail_locked(const DrvJournalFile *file, GError **error)
{
    char text[32] = "";
    ssize_t n = pread(file->lock_fd, text, sizeof text - 1, 0);
    guint64 pid = n > 0 ? g_ascii_strtoull(text, NULL, 10) : 0;
    g_autofree char *who =
        pid != 0 ? g_strdup_printf(" with process id %" G_GUINT64_FORMAT, pid) : g_strdup("");
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                "the state directory \"%s\" belongs to a running droverd%s: stop that one, or give "
                "this one a directory of its own with --state",
                file->dir, who);
    return FALSE;
}

/* The lock goes with the process, however it ends; the file stays, which means nothing. */
static gboolean
take_lock(DrvJournalFile *file, GError **error)
{
    g_autofree char *path = g_build_filename(file->dir, "lock", NULL);
    file->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file->lock_fd < 0)
        return fail_errno(file->dir, errno, error);
    if (flock(file->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? fail_locked(file, error)
                                    : fail_errno(file->dir, errno, error);
    g_autofree char *pid = g_strdup_printf("%ld\n", (long)getpid());
    if (ftruncate(file->lock_fd, 0) != 0 ||
        pwrite(file->lock_fd, pid, strlen(pid), 0) != (ssize_t)strlen(pid))
        return fail_errno(file->dir, errno, error);
    return TRUE;
}

/* Made here and not by SQLite: for the mode, and for an errno that says what is wrong. */
static gboolean
touch_file(const DrvJournalFile *file, GError **error)
{
    int fd = open(file->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EISDIR)
        return fail_damaged(file, "it is a directory", error);
    if (fd < 0)
        return fail_errno(file->dir, errno, error);
    close(fd);
    return TRUE;
}

static gboolean
run(const DrvJournalFile *file, const char *sql, GError **error)
{
    return sqlite3_exec(file->db, sql, NULL, NULL, NULL) == SQLITE_OK ||
           drv_journal_file_fail(file, error);
}

/* The first column of the first row, as text; NULL (and the error) when there is none. */
static char *
ask(const DrvJournalFile *file, const char *sql, GError **error)
{
    char *answer = NULL;
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(file->db, sql, -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW)
        answer = g_strdup((const char *)sqlite3_column_text(stmt, 0));
    else
        drv_journal_file_fail(file, error);
    sqlite3_finalize(stmt);
    return answer;
}

/* Looks before it touches: a database of another program keeps all its bytes. */
static gboolean
identify(const DrvJournalFile *file, gboolean *is_new, GError **error)
{
    g_autofree char *tables = ask(file, "SELECT count(*) FROM sqlite_master", error);
    if (tables == NULL)
        return FALSE;
    g_autofree char *application = ask(file, "PRAGMA application_id", error);
    g_autofree char *version = application != NULL ? ask(file, "PRAGMA user_version", error) : NULL;
    if (version == NULL)
        return FALSE;
    *is_new = g_str_equal(tables, "0") && g_str_equal(application, "0");
    if (!*is_new && g_ascii_strtoll(application, NULL, 10) != APPLICATION_ID)
        return fail_damaged(file, "it is a database of another program", error);
    if (!*is_new && g_ascii_strtoll(version, NULL, 10) != DRV_JOURNAL_SCHEMA) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the journal \"%s\" was written by another version of drover (format %s, this "
                    "one knows %d): run that version, or name another directory with --state",
                    file->path, version, DRV_JOURNAL_SCHEMA);
        return FALSE;
    }
    return TRUE;
}

static gboolean
check_whole(const DrvJournalFile *file, GError **error)
{
    g_autofree char *verdict = ask(file, "PRAGMA quick_check(1)", error);
    if (verdict == NULL)
        return FALSE;
    return g_str_equal(verdict, "ok") || fail_damaged(file, verdict, error);
}

static gboolean
open_database(DrvJournalFile *file, GError **error)
{
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(file->path, &file->db, flags, NULL) != SQLITE_OK)
        return drv_journal_file_fail(file, error);
    gboolean is_new;
    if (!run(file, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL;", error) ||
        !identify(file, &is_new, error) || (!is_new && !check_whole(file, error)))
        return FALSE;
    g_autofree char *mode = ask(file, "PRAGMA journal_mode=WAL", error);
    if (mode == NULL)
        return FALSE;
    if (!g_str_equal(mode, "wal")) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the journal \"%s\" cannot have a write-ahead log on this file system: name "
                    "another directory with --state",
                    file->path);
        return FALSE;
    }
    return run(file, "PRAGMA journal_size_limit=4194304", error) &&
           (!is_new || run(file, schema, error));
}

static char *
reserve_path(const DrvJournalFile *file)
{
    return g_build_filename(file->dir, "reserve", NULL);
}

void
drv_journal_file_reserve(const DrvJournalFile *file)
{
    g_autofree char *path = reserve_path(file);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    if (posix_fallocate(fd, 0, RESERVE) != 0)
        unlink(path);
    close(fd);
}

gboolean
drv_journal_file_release(const DrvJournalFile *file)
{
    g_autofree char *path = reserve_path(file);
    return unlink(path) == 0;
}

gboolean
drv_journal_file_open(DrvJournalFile *file, const char *state_dir, GError **error)
{
    *file = (DrvJournalFile){.lock_fd = -1};
    file->dir = g_strdup(state_dir);
    file->path = g_build_filename(state_dir, "journal.db", NULL);
    if (make_dir(state_dir, error) && take_lock(file, error) && touch_file(file, error) &&
        open_database(file, error)) {
        drv_journal_file_reserve(file);
        return TRUE;
    }
    drv_journal_file_close(file);
    return FALSE;
}

void
drv_journal_file_close(DrvJournalFile *file)
{
    /* Every statement is finalized by now; a failing checkpoint loses nothing, the log stays. */
    sqlite3_close_v2(file->db);
    file->db = NULL;
    if (file->lock_fd >= 0)
        close(file->lock_fd);
    file->lock_fd = -1;
    g_clear_pointer(&file->dir, g_free);
    g_clear_pointer(&file->path, g_free);
}
