/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An audit log that somebody has written into. The first byte says whether its lines are to be
 * given digests that fit them: without, hardly anything would get past the first. It is whole or
 * not, with a sentence; and a daemon that finds it goes on with one that is.
 */
#include <glib/gstdio.h>
#include <unistd.h>

#include "common/error.h"
#include "common/json.h"
#include "engine/host/audit.h"
#include "tests/fuzz/entry.h"

#define TAIL ",\"digest\":\""

/* Each line less its last brace, closed by its digest. PREV in it is the digest of the line before.
 */
static GString *
with_digests(const char *text, gsize len, char last[DRV_AUDIT_DIGEST + 1])
{
    GString *log = g_string_new(NULL);
    g_autofree char *copy = g_strndup(text, len); /* up to a NUL */
    g_auto(GStrv) lines = g_strsplit(copy, "\n", -1);
    memset(last, '0', DRV_AUDIT_DIGEST);
    last[DRV_AUDIT_DIGEST] = '\0';
    for (guint i = 0; lines[i] != NULL && lines[i][0] != '\0'; i++) {
        g_autoptr(GString) line = g_string_new(lines[i]);
        g_string_replace(line, "PREV", last, 0);
        if (line->str[line->len - 1] == '}')
            g_string_truncate(line, line->len - 1);
        g_autofree char *sum =
            g_compute_checksum_for_data(G_CHECKSUM_SHA256, (guint8 *)line->str, line->len);
        memcpy(last, sum, DRV_AUDIT_DIGEST);
        g_string_append_printf(log, "%s" TAIL "%s\"}\n", line->str, sum);
    }
    return log;
}

static void
see_verdict(const char *path, const char *noted)
{
    g_autoptr(GError) error = NULL;
    DrvAuditEnd end;
    gboolean whole = drv_audit_verify(path, noted, &end, &error);
    g_assert(whole == (error == NULL));
    g_assert(whole || error->domain == DRV_ERROR);
}

/* What a daemon makes of it when it starts. */
static void
go_on(const char *dir, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(DrvAudit) audit = drv_audit_open(dir, &error);
    g_assert_no_error(error);
    JsonObject *what = json_object_new();
    json_object_set_string_member(what, "vm", "web1");
    drv_audit_add(audit, "begun", what);
    DrvAuditEnd end;
    drv_audit_verify(path, NULL, &end, &error);
    g_assert_no_error(error);
}

static void
empty(const char *dir)
{
    g_autoptr(GDir) files = g_dir_open(dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(files)) != NULL;) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_unlink(path);
    }
}

static void
hush(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
    g_assert(g_utf8_validate(message, -1, NULL));
}

int
LLVMFuzzerTestOneInput(const guint8 *data, size_t size)
{
    static char *dir;
    if (size < 2)
        return 0;
    if (dir == NULL) {
        dir = g_dir_make_tmp("drover-fuzz-XXXXXX", NULL);
        g_assert(dir != NULL);
        g_log_set_handler(NULL, G_LOG_LEVEL_WARNING, hush, NULL);
    }
    g_autofree char *path = g_build_filename(dir, "audit.log", NULL);
    g_autofree char *last_path = g_strconcat(path, ".last", NULL);
    char last[DRV_AUDIT_DIGEST + 1] = "";
    g_autoptr(GString) log = data[0] & 1
                                 ? with_digests((const char *)data + 2, size - 2, last)
                                 : g_string_new_len((const char *)data + 2, (gssize)size - 2);
    g_autofree char *note = g_strdup_printf("%u %s\n", data[1], last);
    g_assert(g_file_set_contents_full(path, log->str, (gssize)log->len, G_FILE_SET_CONTENTS_NONE,
                                      0600, NULL));
    if (data[0] & 2)
        g_assert(
            g_file_set_contents_full(last_path, note, -1, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    see_verdict(path, data[0] & 4 ? last : NULL);
    go_on(dir, path);
    empty(dir);
    return 0;
}
