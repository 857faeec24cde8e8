/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The journal's statements; here, so that the test can ask SQLite how it would run each of them. */
enum {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ADD,
    SQL_UPDATE,
    SQL_LOG,
    SQL_LOAD,
    SQL_LIST,
    SQL_LIST_ACTIVE,
    SQL_TRANSITIONS,
    SQL_PRUNE_LOG,
    SQL_PRUNE_JOBS,
    SQL_LAST
};

/* The order in which the records' fields are read and written. */
#define FIELDS                                                                                     \
    "id, role, state, created_us, updated_us, spec, vm, peer, detail, error_class, "               \
    "error_message, result, active"

#define OUTDATED                                                                                   \
    "SELECT n FROM jobs WHERE NOT active AND n <="                                                 \
    " (SELECT n FROM jobs WHERE NOT active ORDER BY n DESC LIMIT 1 OFFSET ?1)"

static const char *const statements[SQL_LAST] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ADD] = "INSERT INTO jobs (" FIELDS ")"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    /* ?14 is the state that the journal must have. */
    [SQL_UPDATE] = "UPDATE jobs SET state=?3, updated_us=?5, vm=?7, peer=?8, detail=?9,"
                   " error_class=?10, error_message=?11, result=?12, active=?13"
                   " WHERE id=?1 AND role=?2 AND state=?14",
    [SQL_LOG] = "INSERT INTO transitions (job, at_us, from_state, to_state)"
                " SELECT n, ?3, ?4, ?5 FROM jobs WHERE id=?1 AND role=?2",
    [SQL_LOAD] = "SELECT " FIELDS " FROM jobs WHERE id=?1 AND role=?2",
    [SQL_LIST] = "SELECT " FIELDS " FROM jobs ORDER BY n DESC LIMIT ?1",
    [SQL_LIST_ACTIVE] = "SELECT " FIELDS " FROM jobs WHERE active ORDER BY n DESC LIMIT ?1",
    [SQL_TRANSITIONS] = "SELECT at_us, from_state, to_state FROM transitions"
                        " WHERE job = (SELECT n FROM jobs WHERE id=?1 AND role=?2) ORDER BY rowid",
    [SQL_PRUNE_LOG] = "DELETE FROM transitions WHERE job IN (" OUTDATED ")",
    [SQL_PRUNE_JOBS] = "DELETE FROM jobs WHERE n IN (" OUTDATED ")",
};
