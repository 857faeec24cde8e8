/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/json.h"

/* Longer than any line that is written: texts are cut, and there are few. */
#define LINE_MAX_BYTES 32768
#define TEXT_MAX_BYTES 512

#define TAIL ",\"digest\":\""
#define TAIL_LEN (strlen(TAIL) + DRV_AUDIT_DIGEST + strlen("\"}"))

struct _DrvAudit {
    char *path;
    char *last_path;
    int fd;
    DrvAuditEnd end;
    off_t
        torn_at;  /* what is behind this is no whole entry, and could not be cut off; -1: nothing */
    guint64 lost; /* entries that could not be written, and are not told of yet */
};

static void
end_init(DrvAuditEnd *end)
{
    end->entries = 0;
    memset(end->digest, '0', DRV_AUDIT_DIGEST);
    end->digest[DRV_AUDIT_DIGEST] = '\0';
}

static gboolean
is_end(const DrvAuditEnd *a, const DrvAuditEnd *b)
{
    return a->entries == b->entries && g_str_equal(a->digest, b->digest);
}

/* --- to verify --- */

G_GNUC_PRINTF(4, 5)
static gboolean
fail_line(const char *path, guint64 line, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE, "%s, line %" G_GUINT64_FORMAT ": %s", path, line,
                text);
    return FALSE;
}

/* 'line' has no newline; 'end' moves on to it. The number of an entry is that of its line. */
static gboolean
check_line(const char *path, const char *line, gsize len, DrvAuditEnd *end, GError **error)
{
    guint64 due = end->entries + 1;
    if (len < TAIL_LEN || memcmp(line + len - TAIL_LEN, TAIL, strlen(TAIL)) != 0 ||
        memcmp(line + len - 2, "\"}", 2) != 0)
        return fail_line(path, due, error, "this is no entry of an audit log, or not all of one");
    gsize body = len - TAIL_LEN;
    const char *digest = line + body + strlen(TAIL);
    g_autofree char *sum =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guint8 *)line, body);
    if (memcmp(sum, digest, DRV_AUDIT_DIGEST) != 0)
        return fail_line(path, due, error, "the entry was changed: its digest is another one's");
    g_autoptr(JsonObject) entry = drv_json_parse_object(line, len, NULL);
    gint64 n = drv_json_int(entry, "n", -1);
    if (entry == NULL || (guint64)n != due)
        return fail_line(path, due, error,
                         "entries were taken out or put in: entry %" G_GINT64_FORMAT
                         " is where %" G_GUINT64_FORMAT " should be",
                         n, due);
    if (!g_str_equal(drv_json_string(entry, "prev", ""), end->digest))
        return fail_line(path, due, error, "the entry does not follow from the one before it");
    end->entries = due;
    memcpy(end->digest, digest, DRV_AUDIT_DIGEST);
    return TRUE;
}

typedef struct {
    const DrvAuditEnd *last; /* as the file beside tells, or NULL */
    const char *noted;       /* or NULL */
    gboolean saw_last, saw_noted;
} Seen;

static gboolean
check_lines(FILE *file, const char *path, Seen *seen, DrvAuditEnd *end, GError **error)
{
    g_autofree char *line = g_malloc(LINE_MAX_BYTES);
    end_init(end);
    do {
        seen->saw_last |= seen->last != NULL && is_end(end, seen->last);
        seen->saw_noted |= seen->noted != NULL && g_ascii_strcasecmp(end->digest, seen->noted) == 0;
        if (fgets(line, LINE_MAX_BYTES, file) == NULL)
            break;
        gsize len = strlen(line);
        if (len == 0 || line[len - 1] != '\n')
            return fail_line(path, end->entries + 1, error,
                             "the line is cut short, or longer than any");
        line[len - 1] = '\0';
        if (!check_line(path, line, len - 1, end, error))
            return FALSE;
    } while (TRUE);
    if (!ferror(file))
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "cannot read \"%s\": %s", path, g_strerror(errno));
    return FALSE;
}

/* FALSE without an error where there is none. */
static gboolean
read_last(const char *path, DrvAuditEnd *last, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;
    if (!g_file_get_contents(path, &text, NULL, &why)) {
        if (!g_error_matches(why, G_FILE_ERROR, G_FILE_ERROR_NOENT))
            g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "%s", why->message);
        return FALSE;
    }
    if (sscanf(text, "%" G_GUINT64_FORMAT " %64[0-9a-f]\n", &last->entries, last->digest) == 2 &&
        strlen(last->digest) == DRV_AUDIT_DIGEST)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                "\"%s\" does not tell an entry's number and digest: it was changed", path);
    return FALSE;
}

static gboolean
check_end(const char *path, const Seen *seen, const DrvAuditEnd *end, GError **error)
{
    if (seen->last != NULL && !seen->saw_last)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "\"%s\" was cut or replaced: it has %" G_GUINT64_FORMAT " entries, and entry "
                    "%" G_GUINT64_FORMAT " as \"%s.last\" tells of it is not among them",
                    path, end->entries, seen->last->entries, path);
    else if (seen->noted != NULL && !seen->saw_noted)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "\"%s\" was cut or replaced: none of its %" G_GUINT64_FORMAT
                    " entries has the digest %.64s",
                    path, end->entries, seen->noted);
    else if (seen->last == NULL && seen->noted == NULL)
        g_set_error(error, DRV_ERROR, DRV_ERROR_STATE,
                    "there is no \"%s.last\", so whether the log was cut cannot be told: name a "
                    "digest that was noted earlier with --digest",
                    path);
    else
        return TRUE;
    return FALSE;
}

gboolean
drv_audit_verify(const char *path, const char *noted, DrvAuditEnd *end, GError **error)
{
    g_autofree char *last_path = g_strconcat(path, ".last", NULL);
    g_autoptr(GError) why = NULL;
    DrvAuditEnd last = {0};
    Seen seen = {.noted = noted};
    seen.last = read_last(last_path, &last, &why) ? &last : NULL;
    if (why != NULL) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "cannot read \"%s\": %s", path,
                    g_strerror(errno));
        return FALSE;
    }
    gboolean good =
        check_lines(file, path, &seen, end, error) && check_end(path, &seen, end, error);
    fclose(file);
    return good;
}

/* --- to write --- */

static gboolean
write_all(int fd, const char *text, gsize len)
{
    gsize done = 0;
    while (done < len) {
        ssize_t n = write(fd, text + done, len - done);
        if (n < 0 && errno != EINTR)
            return FALSE;
        done += n > 0 ? (gsize)n : 0;
    }
    return fdatasync(fd) == 0;
}

static char *
now(void)
{
    g_autoptr(GDateTime) when = g_date_time_new_now_utc();
    return g_date_time_format(when, "%Y-%m-%dT%H:%M:%SZ");
}

static void
copy_member(JsonObject *from, const char *name, JsonNode *node, gpointer to)
{
    if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING) {
        json_object_set_member(to, name, json_node_copy(node));
        return;
    }
    g_autofree char *cut = g_strndup(json_node_get_string(node), TEXT_MAX_BYTES);
    g_autofree char *valid = g_utf8_make_valid(cut, -1);
    json_object_set_string_member(to, name, valid);
}

/* With its newline; 'end' moves on to it. */
static char *
make_line(DrvAuditEnd *end, const char *event, JsonObject *what)
{
    g_autoptr(JsonObject) entry = json_object_new();
    g_autofree char *at = now();
    json_object_set_int_member(entry, "n", (gint64)++end->entries);
    json_object_set_string_member(entry, "at", at);
    json_object_set_string_member(entry, "event", event);
    json_object_foreach_member(what, copy_member, entry);
    json_object_set_string_member(entry, "prev", end->digest);
    g_autofree char *text = drv_json_text(entry);
    gsize body = strlen(text) - 1; /* without the brace */
    g_autofree char *digest =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guint8 *)text, body);
    g_strlcpy(end->digest, digest, sizeof end->digest);
    return g_strdup_printf("%.*s" TAIL "%s\"}\n", (int)body, text, digest);
}

/* Whole or not at all. FALSE with errno set. */
static gboolean
append(DrvAudit *audit, const char *line)
{
    if (audit->torn_at >= 0 && ftruncate(audit->fd, audit->torn_at) != 0)
        return FALSE;
    audit->torn_at = -1;
    off_t before = lseek(audit->fd, 0, SEEK_END);
    if (before < 0)
        return FALSE;
    if (write_all(audit->fd, line, strlen(line)))
        return TRUE;
    int err = errno;
    if (ftruncate(audit->fd, before) != 0) {
        audit->torn_at = before;
        g_warning("\"%s\" cannot be cut back to its last whole entry: %s", audit->path,
                  g_strerror(errno));
    }
    errno = err;
    return FALSE;
}

/* Takes 'what', and gives the line. FALSE with errno set. */
static gboolean
write_entry(DrvAudit *audit, const char *event, JsonObject *what, char **line)
{
    DrvAuditEnd end = audit->end;
    *line = make_line(&end, event, what);
    json_object_unref(what);
    if (!append(audit, *line))
        return FALSE;
    audit->end = end;
    return TRUE;
}

/* That something is missing is to be seen in the log as well as in the warnings. */
static void
tell_of_gap(DrvAudit *audit)
{
    g_autofree char *line = NULL;
    JsonObject *what = json_object_new();
    json_object_set_int_member(what, "lost", (gint64)audit->lost);
    if (write_entry(audit, "log-gap", what, &line))
        audit->lost = 0;
}

void
drv_audit_add(DrvAudit *audit, const char *event, JsonObject *what)
{
    g_autofree char *line = NULL;
    g_autoptr(GError) why = NULL;
    if (audit->lost > 0)
        tell_of_gap(audit);
    if (!write_entry(audit, event, what, &line)) {
        g_warning("the audit log \"%s\" cannot be written: %s: it lacks this entry: %s",
                  audit->path, g_strerror(errno), g_strchomp(line));
        audit->lost++;
        return;
    }
    g_autofree char *last =
        g_strdup_printf("%" G_GUINT64_FORMAT " %s\n", audit->end.entries, audit->end.digest);
    if (!g_file_set_contents_full(audit->last_path, last, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600,
                                  &why))
        g_warning("the audit log's end cannot be noted: %s", why->message);
}

/* --- life --- */

/* What was being written when the host died is no entry yet. */
static gboolean
cut_torn_line(DrvAudit *audit)
{
    off_t size = lseek(audit->fd, 0, SEEK_END), whole = size;
    char byte;
    while (whole > 0 && size - whole <= LINE_MAX_BYTES &&
           pread(audit->fd, &byte, 1, whole - 1) == 1 && byte != '\n')
        whole--;
    if (whole == size)
        return size >= 0;
    g_warning("the audit log \"%s\" ends in an entry that was not finished: it is cut off",
              audit->path);
    return ftruncate(audit->fd, whole) == 0;
}

static gboolean
open_file(DrvAudit *audit, GError **error)
{
    audit->fd = open(audit->path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (audit->fd >= 0)
        return TRUE;
    g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "the audit log \"%s\" cannot be opened: %s",
                audit->path, g_strerror(errno));
    return FALSE;
}

/* A log that nobody can rely on is kept, and not gone on with. */
static gboolean
begin_anew(DrvAudit *audit, const GError *damage, GError **error)
{
    g_autofree char *aside =
        g_strdup_printf("%s.damaged-%" G_GINT64_FORMAT, audit->path, g_get_real_time());
    g_warning("the audit log does not hold together, and is put aside as \"%s\": %s", aside,
              damage->message);
    close(audit->fd);
    if (g_rename(audit->path, aside) != 0) {
        audit->fd = -1;
        g_set_error(error, DRV_ERROR, DRV_ERROR_IO, "the audit log \"%s\" cannot be renamed: %s",
                    audit->path, g_strerror(errno));
        return FALSE;
    }
    if (!open_file(audit, error))
        return FALSE;
    JsonObject *what = json_object_new();
    json_object_set_string_member(what, "error", damage->message);
    json_object_set_string_member(what, "kept", aside);
    end_init(&audit->end);
    drv_audit_add(audit, "log-damaged", what);
    return TRUE;
}

DrvAudit *
drv_audit_open(const char *state_dir, GError **error)
{
    g_autoptr(DrvAudit) audit = g_new0(DrvAudit, 1);
    g_autoptr(GError) damage = NULL;
    audit->path = g_build_filename(state_dir, "audit.log", NULL);
    audit->last_path = g_strconcat(audit->path, ".last", NULL);
    audit->fd = -1;
    audit->torn_at = -1;
    if (!open_file(audit, error))
        return NULL;
    end_init(&audit->end);
    if (lseek(audit->fd, 0, SEEK_END) == 0 && !g_file_test(audit->last_path, G_FILE_TEST_EXISTS))
        return g_steal_pointer(&audit);
    cut_torn_line(audit);
    if (!drv_audit_verify(audit->path, NULL, &audit->end, &damage) &&
        !begin_anew(audit, damage, error))
        return NULL;
    return g_steal_pointer(&audit);
}

void
drv_audit_close(DrvAudit *audit)
{
    if (audit == NULL)
        return;
    if (audit->fd >= 0)
        close(audit->fd);
    g_free(audit->path);
    g_free(audit->last_path);
    g_free(audit);
}
