/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>
#include <sqlite3.h>

/* Where the journal lives, private to it: the state directory, its lock, the database file with its
 * schema, and the sentences that their failures become. */
typedef struct {
    char *dir;
    char *path; /* of journal.db */
    int lock_fd;
    sqlite3 *db;
} DrvJournalFile;

#define DRV_JOURNAL_SCHEMA 1

/* On failure nothing is left open. */
gboolean drv_journal_file_open(DrvJournalFile *file, const char *state_dir, GError **error);
void drv_journal_file_close(DrvJournalFile *file);

/* Makes a file that does nothing but hold room, unless it is there. That it cannot be had is no
 * error: the disk is full already, or cannot promise. */
void drv_journal_file_reserve(const DrvJournalFile *file);
/* Gives the room up for what must be written. FALSE when there was none. */
gboolean drv_journal_file_release(const DrvJournalFile *file);

/* Sets the error (DRV_ERROR_IO) for the database's last failure. Always returns FALSE. */
gboolean drv_journal_file_fail(const DrvJournalFile *file, GError **error);
