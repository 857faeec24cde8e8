/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A journal that was damaged: the first byte says whether bytes of the file are changed (a place
 * and a value, three bytes each), or the columns of one of its jobs (a line each, in the order of
 * 'columns'; an empty one stays as it is). It is refused as a whole, or what is read of it is text
 * and JSON as its users expect them; the other job is not lost for the damaged one.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sqlite3.h>
#include <unistd.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/job/journal.h"
#include "engine/job/record-json.h"
#include "engine/job/spec.h"
#include "tests/fuzz/entry.h"

static const char *const columns[] = {"id",     "role",        "state",         "spec",
                                      "vm",     "peer",        "detail",        "result",
                                      "active", "error_class", "error_message", "created_us"};

typedef struct {
    char *dir, *path;
    char *bytes; /* of a journal with two jobs */
    gsize len;
} Place;

static void
add(DrvJournal *journal, const char *id)
{
    g_autoptr(DrvJobRecord) rec = drv_job_record_new(
        id, DRV_ROLE_SOURCE, "{\"qmp\":\"/q\",\"to\":\"h:1\",\"dest_qmp\":\"/d\"}");
    rec->vm = g_strdup("web1");
    g_assert(drv_journal_add(journal, rec, NULL));
    g_assert(drv_journal_move(journal, rec, DRV_STATE_PREPARING, NULL));
}

static void
empty(const Place *place)
{
    g_autoptr(GDir) files = g_dir_open(place->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(files)) != NULL;) {
        g_autofree char *path = g_build_filename(place->dir, name, NULL);
        g_unlink(path);
    }
}

static void
hush(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
    g_assert(g_utf8_validate(message, -1, NULL));
}

static const Place *
place_get(void)
{
    static Place place;
    if (place.bytes == NULL) {
        place.dir = g_dir_make_tmp("drover-fuzz-XXXXXX", NULL);
        g_assert(place.dir != NULL);
        place.path = g_build_filename(place.dir, "journal.db", NULL);
        g_autoptr(DrvJournal) journal = drv_journal_open(place.dir, NULL);
        g_assert(journal != NULL);
        add(journal, "good");
        add(journal, "bad");
        drv_journal_close(g_steal_pointer(&journal));
        g_assert(g_file_get_contents(place.path, &place.bytes, &place.len, NULL));
        g_log_set_handler(NULL, G_LOG_LEVEL_WARNING, hush, NULL);
    }
    empty(&place);
    return &place;
}

static void
write_file(const Place *place, const char *bytes)
{
    int fd = open(place->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_assert(write(fd, bytes, place->len) == (gssize)place->len);
    close(fd);
}

static void
damage_file(const Place *place, const guint8 *data, gsize size)
{
    g_autofree char *bytes = g_memdup2(place->bytes, place->len);
    for (gsize at = 0; at + 3 <= size; at += 3)
        bytes[(data[at] << 8 | data[at + 1]) % place->len] = (char)data[at + 2];
    write_file(place, bytes);
}

static void
set_column(sqlite3 *db, const char *column, const guint8 *value, gsize len, gboolean blob)
{
    g_autofree char *sql = g_strdup_printf("UPDATE jobs SET %s=?1 WHERE n=2", column);
    sqlite3_stmt *stmt = NULL;
    g_assert(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK);
    if (blob)
        sqlite3_bind_blob(stmt, 1, value, (int)len, SQLITE_STATIC);
    else
        sqlite3_bind_text(stmt, 1, (const char *)value, (int)len, SQLITE_STATIC);
    sqlite3_step(stmt);
    sqlite3_finalize(stmt);
}

static void
damage_job(const Place *place, const guint8 *data, gsize size, gboolean blob)
{
    sqlite3 *db = NULL;
    write_file(place, place->bytes);
    g_assert(sqlite3_open_v2(place->path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK);
    sqlite3_exec(db, "PRAGMA synchronous=OFF; BEGIN", NULL, NULL, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(columns) && size > 0; i++) {
        const guint8 *end = memchr(data, '\n', size);
        gsize len = end != NULL ? (gsize)(end - data) : size;
        if (len > 0)
            set_column(db, columns[i], data, len, blob);
        gsize used = MIN(len + 1, size);
        data += used;
        size -= used;
    }
    sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    sqlite3_close(db);
}

/* What the daemon makes of a job that it finds. */
static void
see_record(const DrvJobRecord *rec)
{
    g_autoptr(JsonObject) object = drv_job_record_to_json(rec, "migrate");
    g_autofree char *text = drv_json_text(object);
    g_autoptr(GError) error = NULL;
    g_assert(drv_job_valid_id(rec->id) && rec->spec != NULL);
    g_assert(g_utf8_validate(text, -1, NULL));
    /* json-glib writes 5e+19.0 and inf. */
    if (strstr(text, "e+") == NULL && strstr(text, "inf") == NULL) {
        g_autoptr(JsonObject) same = drv_json_parse_object(text, strlen(text), NULL);
        g_assert(same != NULL);
    }
    g_autoptr(DrvJobSpec) spec = drv_job_spec_parse(rec->spec, &error);
    g_assert((spec == NULL) == (error != NULL));
    g_assert(error == NULL || g_utf8_validate(error->message, -1, NULL));
}

static void
see_journal(DrvJournal *journal, gboolean whole)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) all = drv_journal_list(journal, 0, FALSE, &error);
    g_autoptr(GPtrArray) active = drv_journal_list(journal, 0, TRUE, NULL);
    g_autoptr(DrvJobRecord) good = drv_journal_load(journal, "good", DRV_ROLE_SOURCE, NULL);
    g_assert((all == NULL) == (error != NULL));
    g_assert(!whole || (good != NULL && all != NULL && active != NULL && active->len >= 1));
    for (guint i = 0; all != NULL && i < all->len; i++) {
        const DrvJobRecord *rec = all->pdata[i];
        g_autoptr(GArray) moves = drv_journal_transitions(journal, rec->id, rec->role, NULL);
        see_record(rec);
    }
    drv_journal_prune(journal, 0, NULL);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    if (size == 0)
        return 0;
    const Place *place = place_get();
    gboolean file = (data[0] & 1) != 0;
    if (file)
        damage_file(place, data + 1, size - 1);
    else
        damage_job(place, data + 1, size - 1, (data[0] & 2) != 0);
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvJournal) journal = drv_journal_open(place->dir, &error);
    g_assert((journal == NULL) == (error != NULL));
    g_assert(error == NULL || g_error_matches(error, DRV_ERROR, DRV_ERROR_IO));
    g_assert(journal != NULL || file);
    if (journal != NULL)
        see_journal(journal, !file);
    return 0;
}
