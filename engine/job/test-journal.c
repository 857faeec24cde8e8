/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/job/journal-sql.h"

typedef struct {
    char *root; /* removed at the end */
    char *dir;  /* the state directory in it, not there yet */
    char *db;   /* its journal.db */
} Fixture;

static void
setup(Fixture *f, gconstpointer unused)
{
    f->root = g_dir_make_tmp("drover-journal-XXXXXX", NULL);
    g_assert_nonnull(f->root);
    f->dir = g_build_filename(f->root, "state", NULL);
    f->db = g_build_filename(f->dir, "journal.db", NULL);
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
    remove_tree(f->root);
    g_free(f->root);
    g_free(f->dir);
    g_free(f->db);
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

static void
open_fails(const Fixture *f, const char *says)
{
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_journal_open(f->dir, &error));
    assert_says(error, DRV_ERROR_IO, says);
    if (strstr(error->message, f->dir) == NULL)
        g_error("the directory is not named: %s", error->message);
}

static DrvJobRecord *
add(DrvJournal *journal, const char *id, DrvJobRole role)
{
    g_autoptr(GError) error = NULL;
    DrvJobRecord *rec = drv_job_record_new(id, role, "{}");
    drv_journal_add(journal, rec, &error);
    g_assert_no_error(error);
    return rec;
}

static void
move(DrvJournal *journal, DrvJobRecord *rec, DrvJobState to)
{
    g_autoptr(GError) error = NULL;
    drv_journal_move(journal, rec, to, &error);
    g_assert_no_error(error);
    g_assert_cmpint(rec->state, ==, to);
}

static DrvJobRecord *
load(DrvJournal *journal, const char *id, DrvJobRole role)
{
    g_autoptr(GError) error = NULL;
    DrvJobRecord *rec = drv_journal_load(journal, id, role, &error);
    g_assert_no_error(error);
    return rec;
}

static void
test_round_trip(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    GStatBuf st;
    g_assert_cmpint(g_stat(f->dir, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0700);
    g_assert_cmpint(g_stat(f->db, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);

    g_autoptr(DrvJobRecord) rec = drv_job_record_new("one", DRV_ROLE_DEST, "{\"a\":\"\xc3\xa9\"}");
    g_assert_true(drv_journal_add(journal, rec, &error));
    g_assert_cmpint(rec->created_us, >, 0);
    rec->vm = g_strdup("web1");
    rec->peer = g_strdup("host2:7001");
    move(journal, rec, DRV_STATE_PREPARING);
    rec->detail = g_strdup("{\"d\":'1'}");
    g_assert_true(drv_journal_save(journal, rec, &error));
    rec->error_class = g_strdup("qemu");
    rec->error_message = g_strdup("it's \"gone\"; DROP TABLE jobs");
    move(journal, rec, DRV_STATE_ROLLING_BACK);
    rec->result = g_strdup("{}");
    move(journal, rec, DRV_STATE_FAILED);

    g_clear_pointer(&journal, drv_journal_close);
    journal = open_ok(f);
    g_autoptr(DrvJobRecord) got = load(journal, "one", DRV_ROLE_DEST);
    g_assert_cmpstr(got->id, ==, "one");
    g_assert_cmpint(got->role, ==, DRV_ROLE_DEST);
    g_assert_cmpint(got->state, ==, DRV_STATE_FAILED);
    g_assert_cmpint(got->created_us, ==, rec->created_us);
    g_assert_cmpint(got->updated_us, ==, rec->updated_us);
    g_assert_cmpstr(got->spec, ==, rec->spec);
    g_assert_cmpstr(got->vm, ==, rec->vm);
    g_assert_cmpstr(got->peer, ==, rec->peer);
    g_assert_cmpstr(got->detail, ==, rec->detail);
    g_assert_cmpstr(got->error_class, ==, rec->error_class);
    g_assert_cmpstr(got->error_message, ==, rec->error_message);
    g_assert_cmpstr(got->result, ==, rec->result);

    g_autoptr(GArray) moves = drv_journal_transitions(journal, "one", DRV_ROLE_DEST, &error);
    static const DrvJobState path[] = {DRV_STATE_QUEUED, DRV_STATE_PREPARING,
                                       DRV_STATE_ROLLING_BACK, DRV_STATE_FAILED};
    g_assert_cmpuint(moves->len, ==, 3);
    for (guint i = 0; i < moves->len; i++) {
        DrvJobTransition t = g_array_index(moves, DrvJobTransition, i);
        g_assert_cmpint(t.from, ==, path[i]);
        g_assert_cmpint(t.to, ==, path[i + 1]);
        g_assert_cmpint(t.at_us, >=, rec->created_us);
        g_assert_cmpint(t.at_us, <=, rec->updated_us);
    }
}

/* One id in both roles: a daemon that migrates within its host holds both ends. */
static void
test_both_ends(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) source = add(journal, "j", DRV_ROLE_SOURCE);
    g_autoptr(DrvJobRecord) dest = add(journal, "j", DRV_ROLE_DEST);
    move(journal, source, DRV_STATE_PREPARING);
    g_autoptr(DrvJobRecord) got = load(journal, "j", DRV_ROLE_DEST);
    g_assert_cmpint(got->state, ==, DRV_STATE_QUEUED);

    g_autoptr(DrvJobRecord) twice = drv_job_record_new("j", DRV_ROLE_DEST, "{}");
    g_assert_false(drv_journal_add(journal, twice, &error));
    assert_says(error, DRV_ERROR_STATE, "the job j (dest) exists already");
    g_clear_error(&error);
    g_assert_null(drv_journal_load(journal, "k", DRV_ROLE_DEST, &error));
    assert_says(error, DRV_ERROR_NOT_FOUND, "there is no job k");
    g_clear_error(&error);
    g_autoptr(GArray) none = drv_journal_transitions(journal, "k", DRV_ROLE_DEST, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(none->len, ==, 0);
}

static void
test_illegal(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) rec = add(journal, "j", DRV_ROLE_SOURCE);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*refused to move from queued to committed");
    g_assert_false(drv_journal_move(journal, rec, DRV_STATE_COMMITTED, &error));
    g_test_assert_expected_messages();
    assert_says(error, DRV_ERROR_STATE, "is queued and cannot become committed");
    g_assert_cmpint(rec->state, ==, DRV_STATE_QUEUED);
    g_clear_error(&error);

    /* A record that somebody has changed behind the journal's back is not believed either. */
    move(journal, rec, DRV_STATE_PREPARING);
    rec->state = DRV_STATE_LOADED;
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*does not have it as loaded");
    g_assert_false(drv_journal_move(journal, rec, DRV_STATE_COMMITTED, &error));
    g_test_assert_expected_messages();
    assert_says(error, DRV_ERROR_STATE, "does not have the job j (source) as loaded");
    g_assert_cmpint(rec->state, ==, DRV_STATE_LOADED);
    g_clear_error(&error);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*does not have it as loaded");
    g_assert_false(drv_journal_save(journal, rec, &error));
    g_test_assert_expected_messages();
    assert_says(error, DRV_ERROR_STATE, "as loaded");

    /* Neither left a trace, nor an open transaction. */
    g_autoptr(DrvJobRecord) got = load(journal, "j", DRV_ROLE_SOURCE);
    g_assert_cmpint(got->state, ==, DRV_STATE_PREPARING);
    g_autoptr(GArray) moves = drv_journal_transitions(journal, "j", DRV_ROLE_SOURCE, NULL);
    g_assert_cmpuint(moves->len, ==, 1);
    move(journal, got, DRV_STATE_COPYING);
}

static void
test_directory_errors(Fixture *f, gconstpointer unused)
{
    g_assert_true(g_file_set_contents(f->dir, "", 0, NULL));
    open_fails(f, "it is not a directory");
    g_remove(f->dir);

    if (geteuid() != 0) {
        g_test_skip("needs root to become somebody else");
        return;
    }
    /* Once a directory that cannot be made, once one that is there and not ours. */
    for (int made = 0; made < 2; made++) {
        if (made)
            g_assert_cmpint(g_mkdir(f->dir, 0755), ==, 0);
        g_assert_cmpint(g_chmod(f->root, 0755), ==, 0);
        g_assert_cmpint(seteuid(65534), ==, 0);
        open_fails(f, "this user may not write there; give it to the user that droverd runs as");
        g_assert_cmpint(seteuid(0), ==, 0);
    }
}

static void
make_db(const Fixture *f, const char *sql)
{
    g_assert_cmpint(g_mkdir_with_parents(f->dir, 0700), ==, 0);
    sqlite3 *db;
    g_assert_cmpint(sqlite3_open(f->db, &db), ==, SQLITE_OK);
    g_assert_cmpint(sqlite3_exec(db, sql, NULL, NULL, NULL), ==, SQLITE_OK);
    sqlite3_close(db);
}

static void
test_not_a_journal(Fixture *f, gconstpointer unused)
{
    static const char garbage[] = "This is no database, but it is long enough to be looked at as "
                                  "one, and begins with the wrong bytes: all hundred of them, here";
    g_assert_cmpint(g_mkdir(f->dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(f->db, garbage, -1, NULL));
    open_fails(f, "is damaged or not a journal");
    g_autofree char *after = NULL;
    g_assert_true(g_file_get_contents(f->db, &after, NULL, NULL));
    g_assert_cmpstr(after, ==, garbage);
    g_remove(f->db);

    make_db(f, "CREATE TABLE other(x)");
    g_autofree char *before = NULL;
    gsize len, len_after;
    g_assert_true(g_file_get_contents(f->db, &before, &len, NULL));
    open_fails(f, "it is a database of another program");
    g_clear_pointer(&after, g_free);
    g_assert_true(g_file_get_contents(f->db, &after, &len_after, NULL));
    g_assert_cmpmem(before, len, after, len_after);
    g_remove(f->db);

    g_assert_cmpint(g_mkdir(f->db, 0700), ==, 0);
    open_fails(f, "it is a directory");
}

static void
test_newer_format(Fixture *f, gconstpointer unused)
{
    drv_journal_close(open_ok(f));
    make_db(f, "PRAGMA user_version=2");
    open_fails(f, "written by another version of drover (format 2, this one knows 1): run that");
    make_db(f, "PRAGMA user_version=1");
    drv_journal_close(open_ok(f));

    make_db(f, "INSERT INTO jobs(id, role, state, active, created_us, updated_us, spec)"
               " VALUES ('x', 'source', 'dancing', 1, 0, 0, '{}')");
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(GError) error = NULL;
    g_assert_null(drv_journal_load(journal, "x", DRV_ROLE_SOURCE, &error));
    assert_says(error, DRV_ERROR_IO, "\"dancing\", which this drover does not know");
}

/* A job whose columns were damaged is left out, and takes no other with it. */
static void
test_damaged_job(Fixture *f, gconstpointer unused)
{
    static const char *const damages[] = {
        "state='danc\xffing'",
        "role='x'",
        "id='../../x'",
        "id=''",
        "spec=x'ff'",
        "vm='w\xe9"
        "b'",
        "error_message=x'80'",
        "detail=x'7bfe7d'",
        "result=x'c3'",
    };
    for (guint i = 0; i < G_N_ELEMENTS(damages); i++) {
        DrvJournal *journal = open_ok(f);
        g_autofree char *other = g_strdup_printf("other-%u", i);
        g_autofree char *bad = g_strdup_printf("bad-%u", i);
        g_autofree char *sql = g_strdup_printf("UPDATE jobs SET %s WHERE id='%s'", damages[i], bad);
        drv_job_record_free(add(journal, bad, DRV_ROLE_SOURCE));
        drv_job_record_free(add(journal, other, DRV_ROLE_SOURCE));
        drv_journal_close(journal);
        make_db(f, sql);
        journal = open_ok(f);
        g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*the other jobs go on");
        for (guint twice = 0; twice < 2; twice++) {
            g_autoptr(GError) error = NULL;
            g_autoptr(GPtrArray) records = drv_journal_list(journal, 0, twice == 0, &error);
            g_assert_no_error(error);
            g_assert_cmpuint(records->len, ==, 1);
            g_assert_cmpstr(((DrvJobRecord *)records->pdata[0])->id, ==, other);
        }
        g_test_assert_expected_messages();
        drv_journal_close(journal);
        make_db(f, "DELETE FROM jobs");
    }
}

/* Each of them is named. */
static void
test_damaged_jobs(Fixture *f, gconstpointer unused)
{
    DrvJournal *journal = open_ok(f);
    g_autoptr(GError) error = NULL;
    drv_job_record_free(add(journal, "one", DRV_ROLE_SOURCE));
    drv_job_record_free(add(journal, "two", DRV_ROLE_SOURCE));
    drv_journal_close(journal);
    make_db(f, "UPDATE jobs SET state='dancing'");
    journal = open_ok(f);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "job \"two\" is left out: *\"dancing\"*");
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "job \"one\" is left out: *\"dancing\"*");
    g_autoptr(GPtrArray) records = drv_journal_list(journal, 0, TRUE, &error);
    g_test_assert_expected_messages();
    g_assert_no_error(error);
    g_assert_cmpuint(records->len, ==, 0);
    drv_journal_close(journal);
}

/* Pages of a real journal overwritten: found at start, before a job depends on it. */
static void
test_damaged(Fixture *f, gconstpointer unused)
{
    DrvJournal *journal = open_ok(f);
    for (guint i = 0; i < 50; i++) {
        g_autofree char *id = g_strdup_printf("job-%u", i);
        g_autoptr(DrvJobRecord) rec = add(journal, id, DRV_ROLE_SOURCE);
        move(journal, rec, DRV_STATE_PREPARING);
    }
    drv_journal_close(journal);

    g_autofree char *bytes = NULL;
    gsize len;
    g_assert_true(g_file_get_contents(f->db, &bytes, &len, NULL));
    g_assert_cmpuint(len, >, 16384);
    memset(bytes + 4096, 0xa5, len - 4096);
    g_assert_true(g_file_set_contents(f->db, bytes, (gssize)len, NULL));
    open_fails(f, "is damaged or not a journal");

    g_assert_true(g_file_set_contents(f->db, bytes, 6000, NULL));
    open_fails(f, "is damaged or not a journal");
}

static void
test_one_daemon(Fixture *f, gconstpointer unused)
{
    DrvJournal *journal = open_ok(f);
    g_autofree char *says =
        g_strdup_printf("belongs to a running droverd with process id %ld: stop", (long)getpid());
    open_fails(f, says);
    drv_journal_close(journal);
    drv_journal_close(open_ok(f));

    /* A person who looks into the file with SQLite's shell. */
    sqlite3 *db;
    g_assert_cmpint(sqlite3_open(f->db, &db), ==, SQLITE_OK);
    g_assert_cmpint(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), ==, SQLITE_OK);
    open_fails(f, "is open in another program: close it there");
    sqlite3_close(db);
    drv_journal_close(open_ok(f));
}

static void
test_list(Fixture *f, gconstpointer unused)
{
    drv_journal_close(open_ok(f));
    make_db(f, "WITH RECURSIVE i(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM i WHERE v < 10000)"
               " INSERT INTO jobs(id, role, state, active, created_us, updated_us, spec)"
               " SELECT 'old-' || v, 'source', 'done', 0, 0, 0, '{}' FROM i");
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) a = add(journal, "a", DRV_ROLE_SOURCE);
    g_autoptr(DrvJobRecord) b = add(journal, "b", DRV_ROLE_SOURCE);
    g_autoptr(DrvJobRecord) c = add(journal, "c", DRV_ROLE_DEST);
    move(journal, b, DRV_STATE_ROLLING_BACK);
    move(journal, b, DRV_STATE_CANCELLED);

    static const struct {
        guint limit;
        gboolean active;
        guint len;
        const char *first, *second;
    } cases[] = {{3, FALSE, 3, "c", "b"},
                 {0, FALSE, 10003, "c", "b"},
                 {0, TRUE, 2, "c", "a"},
                 {1, TRUE, 1, "c", NULL}};
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GPtrArray) list =
            drv_journal_list(journal, cases[i].limit, cases[i].active, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(list->len, ==, cases[i].len);
        g_assert_cmpstr(((DrvJobRecord *)list->pdata[0])->id, ==, cases[i].first);
        if (cases[i].second != NULL)
            g_assert_cmpstr(((DrvJobRecord *)list->pdata[1])->id, ==, cases[i].second);
    }

    /* Active jobs are never forgotten, whatever their age; of the others the newest stay. */
    g_assert_true(drv_journal_prune(journal, 2, &error));
    g_autoptr(GPtrArray) left = drv_journal_list(journal, 0, FALSE, &error);
    static const char *const kept[] = {"c", "b", "a", "old-10000"};
    g_assert_cmpuint(left->len, ==, G_N_ELEMENTS(kept));
    for (guint i = 0; i < G_N_ELEMENTS(kept); i++)
        g_assert_cmpstr(((DrvJobRecord *)left->pdata[i])->id, ==, kept[i]);
    g_assert_true(drv_journal_prune(journal, 0, &error));
    g_autoptr(GArray) moves = drv_journal_transitions(journal, "b", DRV_ROLE_SOURCE, &error);
    g_assert_cmpuint(moves->len, ==, 0);
    g_assert_true(drv_journal_prune(journal, 1000, &error));
}

/* A job that has ended and still owes the other end a word is neither overlooked nor forgotten. */
static void
test_abort_due(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = open_ok(f);
    g_autoptr(DrvJobRecord) a = add(journal, "a", DRV_ROLE_SOURCE);
    g_autoptr(DrvJobRecord) b = add(journal, "b", DRV_ROLE_SOURCE);
    a->abort_due = TRUE;
    for (guint i = 0; i < 2; i++) {
        DrvJobRecord *rec = i == 0 ? a : b;
        move(journal, rec, DRV_STATE_ROLLING_BACK);
        g_autoptr(DrvJobRecord) half = load(journal, rec->id, DRV_ROLE_SOURCE);
        g_assert_false(half->abort_due); /* the roll-back finds out by itself */
        move(journal, rec, DRV_STATE_FAILED);
    }
    g_assert_true(drv_journal_prune(journal, 0, &error));
    g_autoptr(GPtrArray) active = drv_journal_list(journal, 0, TRUE, &error);
    g_assert_cmpuint(active->len, ==, 1);
    DrvJobRecord *due = active->pdata[0];
    g_assert_cmpstr(due->id, ==, "a");
    g_assert_cmpint(due->state, ==, DRV_STATE_FAILED);
    g_assert_true(due->abort_due);

    due->abort_due = FALSE;
    g_assert_true(drv_journal_save(journal, due, &error));
    g_autoptr(GPtrArray) none = drv_journal_list(journal, 0, TRUE, &error);
    g_assert_cmpuint(none->len, ==, 0);
    g_autoptr(DrvJobRecord) told = load(journal, "a", DRV_ROLE_SOURCE);
    g_assert_false(told->abort_due);
}

/* Fast with many jobs, said without a clock: what runs for every move looks its rows up, and no
 * list is sorted after it was read. */
static void
test_query_plans(Fixture *f, gconstpointer unused)
{
    drv_journal_close(open_ok(f));
    sqlite3 *db;
    g_assert_cmpint(sqlite3_open(f->db, &db), ==, SQLITE_OK);
    for (guint i = SQL_ADD; i < SQL_LAST; i++) {
        g_autofree char *sql = g_strconcat("EXPLAIN QUERY PLAN ", statements[i], NULL);
        sqlite3_stmt *stmt;
        g_assert_cmpint(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), ==, SQLITE_OK);
        while (sqlite3_step(stmt) == SQLITE_ROW) {
            const char *plan = (const char *)sqlite3_column_text(stmt, 3);
            g_test_message("%u: %s", i, plan);
            g_assert_null(strstr(plan, "TEMP B-TREE"));
            if (i == SQL_LIST_ACTIVE)
                g_assert_nonnull(strstr(plan, "USING INDEX jobs_active"));
            else if (i != SQL_LIST && i < SQL_PRUNE_LOG)
                g_assert_null(strstr(plan, "SCAN "));
        }
        sqlite3_finalize(stmt);
    }
    sqlite3_close(db);
}

#define ADD(name) g_test_add("/journal/" #name, Fixture, NULL, setup, test_##name, teardown)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD(round_trip);
    ADD(both_ends);
    ADD(illegal);
    ADD(directory_errors);
    ADD(not_a_journal);
    ADD(newer_format);
    ADD(damaged_job);
    ADD(damaged_jobs);
    ADD(damaged);
    ADD(one_daemon);
    ADD(list);
    ADD(abort_due);
    ADD(query_plans);
    return g_test_run();
}
