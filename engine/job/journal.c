/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/journal.h"

#include "common/error.h"
#include "engine/job/journal-file.h"
#include "engine/job/journal-sql.h"

#include <string.h>

struct _DrvJournal {
    DrvJournalFile file;
    sqlite3_stmt *stmts[SQL_LAST];
    gboolean broken; /* a commit ended nobody knows how */
    gboolean told;   /* of jobs that make no sense */
};

gboolean
drv_job_valid_id(const char *id)
{
    gsize len = strlen(id);
    for (gsize i = 0; i < len; i++)
        if (!g_ascii_isalnum(id[i]) && id[i] != '-')
            return FALSE;
    return len > 0 && len <= 32;
}

DrvJobRecord *
drv_job_record_new(const char *id, DrvJobRole role, const char *spec)
{
    DrvJobRecord *rec = g_new0(DrvJobRecord, 1);
    rec->id = g_strdup(id);
    rec->role = role;
    rec->state = DRV_STATE_QUEUED;
    rec->spec = g_strdup(spec);
    return rec;
}

void
drv_job_record_free(DrvJobRecord *rec)
{
    if (rec == NULL)
        return;
    g_free(rec->id);
    g_free(rec->spec);
    g_free(rec->vm);
    g_free(rec->peer);
    g_free(rec->detail);
    g_free(rec->error_class);
    g_free(rec->error_message);
    g_free(rec->result);
    g_free(rec);
}

DrvJournal *
drv_journal_open(const char *state_dir, GError **error)
{
    g_autoptr(DrvJournal) journal = g_new0(DrvJournal, 1);
    if (!drv_journal_file_open(&journal->file, state_dir, error))
        return NULL;
    for (guint i = 0; i < SQL_LAST; i++) {
        if (sqlite3_prepare_v3(journal->file.db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &journal->stmts[i], NULL) != SQLITE_OK) {
            drv_journal_file_fail(&journal->file, error);
            return NULL;
        }
    }
    return g_steal_pointer(&journal);
}

void
drv_journal_close(DrvJournal *journal)
{
    if (journal == NULL)
        return;
    for (guint i = 0; i < SQL_LAST; i++)
        sqlite3_finalize(journal->stmts[i]);
    drv_journal_file_close(&journal->file);
    g_free(journal);
}

static void
bind_text(sqlite3_stmt *stmt, int at, const char *text)
{
    /* The text outlives the step, and every step is followed by a reset: no copy is needed. A NULL
     * pointer binds NULL. */
    sqlite3_bind_text(stmt, at, text, -1, SQLITE_STATIC);
}

static void
bind_key(sqlite3_stmt *stmt, const char *id, DrvJobRole role)
{
    bind_text(stmt, 1, id);
    bind_text(stmt, 2, drv_role_name(role));
}

/* For ADD and UPDATE, which number their parameters alike. */
static void
bind_record(sqlite3_stmt *stmt, const DrvJobRecord *rec, DrvJobState state, gint64 now)
{
    bind_key(stmt, rec->id, rec->role);
    bind_text(stmt, 3, drv_state_name(state));
    bind_text(stmt, 7, rec->vm);
    sqlite3_bind_int64(stmt, 5, now);
    bind_text(stmt, 8, rec->peer);
    bind_text(stmt, 9, rec->detail);
    bind_text(stmt, 10, rec->error_class);
    bind_text(stmt, 11, rec->error_message);
    bind_text(stmt, 12, rec->result);
    sqlite3_bind_int(stmt, 13, !drv_state_is_final(state) || rec->abort_due);
}

/* Steps a statement that gives no rows, and resets it. An SQLite result code. */
static int
step(DrvJournal *journal, guint which)
{
    sqlite3_stmt *stmt = journal->stmts[which];
    sqlite3_step(stmt);
    return sqlite3_reset(stmt);
}

static gboolean
run(DrvJournal *journal, guint which, GError **error)
{
    return step(journal, which) == SQLITE_OK || drv_journal_file_fail(&journal->file, error);
}

static gboolean
begin(DrvJournal *journal, GError **error)
{
    if (journal->broken) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IN_DOUBT,
                    "the journal \"%s\" takes no more changes since its disk failed: see to the "
                    "disk, then restart droverd",
                    journal->file.path);
        return FALSE;
    }
    return run(journal, SQL_BEGIN, error);
}

/*
 * Ends the transaction. A full disk is found while the log is written, before the record that makes
 * the transaction count; any other failure of I/O may come after it, and may or may not have left
 * that record on the disk.
 */
static gboolean
finish(DrvJournal *journal, gboolean ok, GError **error)
{
    sqlite3 *db = journal->file.db;
    if (ok && step(journal, SQL_COMMIT) != SQLITE_OK) {
        journal->broken = (sqlite3_errcode(db) & 0xff) == SQLITE_IOERR;
        drv_journal_file_fail(&journal->file, error);
        if (journal->broken && error != NULL && *error != NULL) {
            (*error)->code = DRV_ERROR_IN_DOUBT;
            g_prefix_error(error, "it is not known whether the last change is on the disk: ");
        }
        ok = FALSE;
    }
    if (!sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return ok;
}

static gboolean
insert(DrvJournal *journal, const DrvJobRecord *rec, gint64 now, GError **error)
{
    sqlite3_stmt *stmt = journal->stmts[SQL_ADD];
    bind_record(stmt, rec, rec->state, now);
    sqlite3_bind_int64(stmt, 4, now);
    bind_text(stmt, 6, rec->spec);
    if (step(journal, SQL_ADD) == SQLITE_OK)
        return TRUE;
    if (sqlite3_extended_errcode(journal->file.db) != SQLITE_CONSTRAINT_UNIQUE)
        return drv_journal_file_fail(&journal->file, error);
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE, "the job %s (%s) exists already", rec->id,
                drv_role_name(rec->role));
    return FALSE;
}

gboolean
drv_journal_add(DrvJournal *journal, DrvJobRecord *rec, GError **error)
{
    g_return_val_if_fail(rec->state == DRV_STATE_QUEUED, FALSE);
    gint64 now = g_get_real_time();
    if (!begin(journal, error) || !finish(journal, insert(journal, rec, now, error), error))
        return FALSE;
    rec->created_us = rec->updated_us = now;
    drv_journal_file_reserve(&journal->file);
    return TRUE;
}

/* Writes the record with the state 'to', provided that the journal has it in rec->state. */
static gboolean
update(DrvJournal *journal, const DrvJobRecord *rec, DrvJobState to, gint64 now, GError **error)
{
    sqlite3_stmt *stmt = journal->stmts[SQL_UPDATE];
    bind_record(stmt, rec, to, now);
    bind_text(stmt, 14, drv_state_name(rec->state));
    if (!run(journal, SQL_UPDATE, error))
        return FALSE;
    if (sqlite3_changes(journal->file.db) == 1)
        return TRUE;
    g_warning("job %s (%s): the journal does not have it as %s", rec->id, drv_role_name(rec->role),
              drv_state_name(rec->state));
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "the journal does not have the job %s (%s) as %s", rec->id,
                drv_role_name(rec->role), drv_state_name(rec->state));
    return FALSE;
}

static gboolean
log_move(DrvJournal *journal, const DrvJobRecord *rec, DrvJobState to, gint64 now, GError **error)
{
    sqlite3_stmt *stmt = journal->stmts[SQL_LOG];
    bind_key(stmt, rec->id, rec->role);
    sqlite3_bind_int64(stmt, 3, now);
    bind_text(stmt, 4, drv_state_name(rec->state));
    bind_text(stmt, 5, drv_state_name(to));
    return run(journal, SQL_LOG, error);
}

gboolean
drv_journal_move(DrvJournal *journal, DrvJobRecord *rec, DrvJobState to, GError **error)
{
    if (!drv_state_may_move(rec->role, rec->state, to)) {
        g_warning("job %s (%s): refused to move from %s to %s", rec->id, drv_role_name(rec->role),
                  drv_state_name(rec->state), drv_state_name(to));
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "the job %s (%s) is %s and cannot become %s from there", rec->id,
                    drv_role_name(rec->role), drv_state_name(rec->state), drv_state_name(to));
        return FALSE;
    }
    gint64 now = g_get_real_time();
    if (!begin(journal, error))
        return FALSE;
    gboolean ok = update(journal, rec, to, now, error) && log_move(journal, rec, to, now, error);
    if (!finish(journal, ok, error))
        return FALSE;
    rec->state = to;
    rec->updated_us = now;
    return TRUE;
}

gboolean
drv_journal_use_reserve(DrvJournal *journal)
{
    return drv_journal_file_release(&journal->file);
}

gboolean
drv_journal_save(DrvJournal *journal, DrvJobRecord *rec, GError **error)
{
    gint64 now = g_get_real_time();
    if (!begin(journal, error) ||
        !finish(journal, update(journal, rec, rec->state, now, error), error))
        return FALSE;
    rec->updated_us = now;
    return TRUE;
}

static char *
column(sqlite3_stmt *stmt, int at)
{
    return g_strdup((const char *)sqlite3_column_text(stmt, at));
}

static gboolean
fail_unknown(DrvJournal *journal, const char *what, GError **error)
{
    g_autofree char *shown = g_strescape(what != NULL ? what : "", NULL);
    g_set_error(
        error, DRV_ERROR, DRV_ERROR_IO,
        "the journal \"%s\" has a job with the state or role \"%.40s\", which this drover does "
        "not know",
        journal->file.path, shown);
    return FALSE;
}

static gboolean
read_state(DrvJournal *journal, sqlite3_stmt *stmt, int at, DrvJobState *state, GError **error)
{
    const char *text = (const char *)sqlite3_column_text(stmt, at);
    return drv_state_parse(text, state) || fail_unknown(journal, text, error);
}

/* What a damaged disk has put there must not get into paths, and into the JSON of others. */
static gboolean
check_texts(DrvJournal *journal, const DrvJobRecord *rec, GError **error)
{
    const char *const texts[] = {rec->spec,   rec->vm,          rec->peer,
                                 rec->detail, rec->error_class, rec->error_message,
                                 rec->result};
    gboolean good = rec->id != NULL && drv_job_valid_id(rec->id) && rec->spec != NULL;
    for (guint i = 0; i < G_N_ELEMENTS(texts) && good; i++)
        good = texts[i] == NULL || g_utf8_validate(texts[i], -1, NULL);
    if (!good)
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO,
                    "the journal \"%s\" has a job with an id or a text that no drover has written: "
                    "it is damaged, so see for yourself where that guest runs",
                    journal->file.path);
    return good;
}

static DrvJobRecord *
read_record(DrvJournal *journal, sqlite3_stmt *stmt, GError **error)
{
    g_autoptr(DrvJobRecord) rec = g_new0(DrvJobRecord, 1);
    const char *role = (const char *)sqlite3_column_text(stmt, 1);
    if (!drv_role_parse(role, &rec->role)) {
        fail_unknown(journal, role, error);
        return NULL;
    }
    if (!read_state(journal, stmt, 2, &rec->state, error))
        return NULL;
    rec->id = column(stmt, 0);
    rec->created_us = sqlite3_column_int64(stmt, 3);
    rec->updated_us = sqlite3_column_int64(stmt, 4);
    rec->spec = column(stmt, 5);
    rec->vm = column(stmt, 6);
    rec->peer = column(stmt, 7);
    rec->detail = column(stmt, 8);
    rec->error_class = column(stmt, 9);
    rec->error_message = column(stmt, 10);
    rec->result = column(stmt, 11);
    rec->abort_due = drv_state_is_final(rec->state) && sqlite3_column_int(stmt, 12) != 0;
    return check_texts(journal, rec, error) ? g_steal_pointer(&rec) : NULL;
}

/* One guest must not be lost for what has become of another's job. */
static void
leave_out(sqlite3_stmt *stmt, const GError *why)
{
    const char *id = (const char *)sqlite3_column_text(stmt, 0);
    g_autofree char *shown = g_strescape(id != NULL ? id : "", NULL);
    g_warning("job \"%.40s\" is left out: %s; the other jobs go on", shown, why->message);
}

/* Reads the rows of a bound SELECT into a new array. A row that makes no sense fails with 'strict',
 * and is left out else; the first time that there are any this is said, and not each time that
 * somebody lists the jobs. */
static GPtrArray *
read_records(DrvJournal *journal, sqlite3_stmt *stmt, gboolean strict, GError **error)
{
    g_autoptr(GPtrArray) records =
        g_ptr_array_new_with_free_func((GDestroyNotify)drv_job_record_free);
    g_autoptr(GError) why = NULL;
    guint left_out = 0;
    while (why == NULL && sqlite3_step(stmt) == SQLITE_ROW) {
        DrvJobRecord *rec = read_record(journal, stmt, &why);
        if (rec != NULL) {
            g_ptr_array_add(records, rec);
        } else if (!strict) {
            if (!journal->told)
                leave_out(stmt, why);
            g_clear_error(&why);
            left_out++;
        }
    }
    journal->told |= left_out > 0;
    if (sqlite3_reset(stmt) != SQLITE_OK && why == NULL)
        drv_journal_file_fail(&journal->file, &why);
    if (why == NULL)
        return g_steal_pointer(&records);
    g_propagate_error(error, g_steal_pointer(&why));
    return NULL;
}

DrvJobRecord *
drv_journal_load(DrvJournal *journal, const char *id, DrvJobRole role, GError **error)
{
    sqlite3_stmt *stmt = journal->stmts[SQL_LOAD];
    bind_key(stmt, id, role);
    g_autoptr(GPtrArray) records = read_records(journal, stmt, TRUE, error);
    if (records == NULL)
        return NULL;
    if (records->len == 0) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_NOT_FOUND,
                    "there is no job %s with the role %s: 'drover jobs' lists them", id,
                    drv_role_name(role));
        return NULL;
    }
    return g_ptr_array_steal_index(records, 0);
}

GPtrArray *
drv_journal_list(DrvJournal *journal, guint limit, gboolean only_active, GError **error)
{
    sqlite3_stmt *stmt = journal->stmts[only_active ? SQL_LIST_ACTIVE : SQL_LIST];
    sqlite3_bind_int64(stmt, 1, limit == 0 ? -1 : (gint64)limit); /* negative: no limit */
    return read_records(journal, stmt, FALSE, error);
}

GArray *
drv_journal_transitions(DrvJournal *journal, const char *id, DrvJobRole role, GError **error)
{
    g_autoptr(GArray) moves = g_array_new(FALSE, FALSE, sizeof(DrvJobTransition));
    sqlite3_stmt *stmt = journal->stmts[SQL_TRANSITIONS];
    bind_key(stmt, id, role);
    gboolean ok = TRUE;
    while (ok && sqlite3_step(stmt) == SQLITE_ROW) {
        DrvJobTransition move = {.at_us = sqlite3_column_int64(stmt, 0)};
        ok = read_state(journal, stmt, 1, &move.from, error) &&
             read_state(journal, stmt, 2, &move.to, error);
        g_array_append_val(moves, move);
    }
    if (sqlite3_reset(stmt) != SQLITE_OK && ok)
        ok = drv_journal_file_fail(&journal->file, error);
    return ok ? g_steal_pointer(&moves) : NULL;
}

gboolean
drv_journal_prune(DrvJournal *journal, guint keep, GError **error)
{
    if (!begin(journal, error))
        return FALSE;
    sqlite3_bind_int64(journal->stmts[SQL_PRUNE_LOG], 1, keep);
    sqlite3_bind_int64(journal->stmts[SQL_PRUNE_JOBS], 1, keep);
    gboolean ok = run(journal, SQL_PRUNE_LOG, error) && run(journal, SQL_PRUNE_JOBS, error);
    return finish(journal, ok, error);
}
