/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/state.h"

/*
 * The journal: what this daemon knows of its jobs, in journal.db (SQLite) in the state directory. A
 * call that changes something returns only after the disk has it.
 *
 * A journal has one user, the daemon that opened it, and is used from one thread. Errors are
 * DRV_ERROR_IO unless said otherwise, and mean that nothing was changed.
 *
 * The exception is DRV_ERROR_IN_DOUBT: the disk failed while a change was being made durable, so
 * nobody can tell whether a restart will find it. From then on the journal refuses every change
 * with that error. The caller acts neither on the old state nor on the new one; it ends the daemon,
 * and the next one goes by what is on the disk.
 */
typedef struct _DrvJournal DrvJournal;

/*
 * One end of one job. The id and the role together are its key: a daemon that moves a guest between
 * two QEMUs of its own host holds both ends. Texts are owned by the record; those that are allowed
 * to be NULL say so.
 */
typedef struct {
    char *id;
    DrvJobRole role;
    DrvJobState state; /* changed by drv_journal_move() alone */
    gint64 created_us; /* real time, microseconds since 1970; set by drv_journal_add() */
    gint64 updated_us; /* the same; set by every change */
    char *spec;        /* JSON: what was asked; fixed once added */

    char *vm;            /* may be NULL */
    char *peer;          /* may be NULL: the other daemon's ADDR:PORT or name */
    char *detail;        /* may be NULL. JSON: what the job needs to go on after a restart */
    char *error_class;   /* may be NULL: drv_error_name() of what ended the job */
    char *error_message; /* may be NULL */
    char *result;        /* may be NULL. JSON: the report of a job that has ended */
    /* The job has ended, but the other end was not told to drop its half: until it is saved without
     * this, it is listed among those that are active, and not forgotten. */
    gboolean abort_due;
} DrvJobRecord;

/* A QUEUED record that is in no journal yet. Owned by the caller. */
DrvJobRecord *drv_job_record_new(const char *id, DrvJobRole role, const char *spec);
void drv_job_record_free(DrvJobRecord *rec);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvJobRecord, drv_job_record_free)

/* Letters, digits and dashes, 1 to 32 of them. */
gboolean drv_job_valid_id(const char *id);

typedef struct {
    gint64 at_us; /* real time, microseconds since 1970 */
    DrvJobState from, to;
} DrvJobTransition;

/* Opens the journal, making the directory (0700) and the file where they are missing. Also fails
 * when another daemon has it open, when the file is not a journal, is damaged, or was written by a
 * newer drover. */
DrvJournal *drv_journal_open(const char *state_dir, GError **error);
void drv_journal_close(DrvJournal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvJournal, drv_journal_close)

/* Records a new job; it must be QUEUED. DRV_ERROR_STATE when the id is taken in that role. */
gboolean drv_journal_add(DrvJournal *journal, DrvJobRecord *rec, GError **error);

/*
 * The one function that moves a job's state. Call it before acting on the new state. The whole
 * record is written along with the move and with a row among its transitions; rec->state changes
 * only on success. An illegal move, or a record that is not in the state that the journal has, is
 * a bug of the caller: DRV_ERROR_STATE, and a warning in the log.
 *
 * Where even the move to ROLLING_BACK cannot be written (DRV_ERROR_IO: a full disk), the caller may
 * roll back all the same: until COMMITTED a restart does just that. It may never go on towards
 * COMMITTED without the journal.
 */
gboolean drv_journal_move(DrvJournal *journal, DrvJobRecord *rec, DrvJobState to, GError **error);

/*
 * Frees the room that is held back on the disk for moves that are made whether or not they can be
 * recorded; to be called when such a one has failed, before it is tried once more. FALSE when there
 * is none (left). It is held back again when the next job is added.
 */
gboolean drv_journal_use_reserve(DrvJournal *journal);

/* Writes the record in the state that it is in. DRV_ERROR_STATE as above. */
gboolean drv_journal_save(DrvJournal *journal, DrvJobRecord *rec, GError **error);

/* DRV_ERROR_NOT_FOUND when there is no such job; DRV_ERROR_IO also for one that makes no sense.
 * Owned by the caller. */
DrvJobRecord *drv_journal_load(DrvJournal *journal, const char *id, DrvJobRole role,
                               GError **error);

/* At most 'limit' records (0: all), the newest first; if asked, only those that are active: not
 * final, or with an abort that is due. One that makes no sense is left out, with a warning. The
 * array owns its DrvJobRecords. */
GPtrArray *drv_journal_list(DrvJournal *journal, guint limit, gboolean only_active, GError **error);

/* The moves of a job, oldest first: an array of DrvJobTransition, empty for an unknown job. */
GArray *drv_journal_transitions(DrvJournal *journal, const char *id, DrvJobRole role,
                                GError **error);

/* Forgets all jobs that are not active but the 'keep' newest. Meant for the daemon's start. */
gboolean drv_journal_prune(DrvJournal *journal, guint keep, GError **error);
