/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/audit.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "common/error.h"
#include "common/json.h"

typedef struct {
    char *dir, *path, *last;
    char *text; /* the log of set_up() */
    gsize len;
    DrvAuditEnd end;
} Place;

static void
add(DrvAudit *audit, const char *event, const char *vm)
{
    JsonObject *what = json_object_new();
    json_object_set_string_member(what, "vm", vm);
    drv_audit_add(audit, event, what);
}

static void
set_up(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    place->dir = g_dir_make_tmp("drover-audit-XXXXXX", NULL);
    place->path = g_build_filename(place->dir, "audit.log", NULL);
    place->last = g_strconcat(place->path, ".last", NULL);
    for (guint i = 0; i < 3; i++) { /* by three daemons, one after the other */
        g_autoptr(DrvAudit) audit = drv_audit_open(place->dir, &error);
        g_assert_no_error(error);
        add(audit, "begun", "web1");
        add(audit, "ended", "a \"b\"\n");
    }
    g_assert_true(drv_audit_verify(place->path, NULL, &place->end, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(place->end.entries, ==, 6);
    g_assert_true(g_file_get_contents(place->path, &place->text, &place->len, NULL));
}

static void
tear_down(Place *place, gconstpointer data)
{
    g_autoptr(GDir) dir = g_dir_open(place->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(place->dir, name, NULL);
        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(place->dir), ==, 0);
    g_free(place->dir);
    g_free(place->path);
    g_free(place->last);
    g_free(place->text);
}

static void
put(const char *path, const char *text, gsize len)
{
    g_unlink(path); /* GLib cuts a file to size only where it syncs, which takes long */
    g_assert_true(
        g_file_set_contents_full(path, text, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
}

static void
expect(const Place *place, const char *noted, const char *says)
{
    g_autoptr(GError) error = NULL;
    DrvAuditEnd end;
    g_assert_false(drv_audit_verify(place->path, noted, &end, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_STATE);
    if (strstr(error->message, says) == NULL)
        g_error("'%s' does not say '%s'", error->message, says);
}

/* Where line 'n' (from 0) begins. */
static gsize
line_at(const Place *place, guint n)
{
    const char *at = place->text;
    for (guint i = 0; i < n; i++)
        at = strchr(at, '\n') + 1;
    return (gsize)(at - place->text);
}

static void
test_entry(Place *place, gconstpointer data)
{
    gsize from = line_at(place, 1), to = line_at(place, 2);
    g_autoptr(JsonObject) entry = drv_json_parse_object(place->text + from, to - from, NULL);
    GStatBuf st;
    g_assert_nonnull(entry);
    g_assert_cmpint(drv_json_int(entry, "n", 0), ==, 2);
    g_assert_cmpstr(drv_json_string(entry, "event", ""), ==, "ended");
    g_assert_cmpstr(drv_json_string(entry, "vm", ""), ==, "a \"b\"\n");
    g_assert_cmpint(g_stat(place->path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
}

/* Whichever byte is changed, it is seen. */
static void
test_changed(Place *place, gconstpointer data)
{
    static const guint8 flips[] = {0x01, 0x20, 0xff};
    for (gsize i = 0; i < place->len; i += 5) {
        g_autofree char *text = g_memdup2(place->text, place->len);
        text[i] = (char)(text[i] ^ flips[i % G_N_ELEMENTS(flips)]);
        put(place->path, text, place->len);
        expect(place, NULL, "audit.log");
    }
    g_autofree char *text = g_memdup2(place->text, place->len);
    memcpy(strstr(text, "web1"), "web2", 4);
    put(place->path, text, place->len);
    expect(place, NULL, ", line 1: the entry was changed");
}

static void
test_lines(Place *place, gconstpointer data)
{
    g_autoptr(GString) text = g_string_new(place->text);
    g_string_erase(text, (gssize)line_at(place, 2),
                   (gssize)(line_at(place, 3) - line_at(place, 2)));
    put(place->path, text->str, text->len);
    expect(place, NULL, ", line 3: entries were taken out or put in: entry 4 is where 3 should be");

    g_string_assign(text, place->text);
    g_string_insert_len(text, (gssize)line_at(place, 1), place->text, (gssize)line_at(place, 1));
    put(place->path, text->str, text->len);
    expect(place, NULL, ", line 2: entries were taken out or put in: entry 1 is where 2 should be");

    put(place->path, "words\n", 6);
    expect(place, NULL, ", line 1: this is no entry");
}

/* Cut anywhere, or gone. */
static void
test_cut(Place *place, gconstpointer data)
{
    for (guint n = 0; n < 6; n++) {
        put(place->path, place->text, line_at(place, n));
        expect(place, NULL, "was cut or replaced");
        expect(place, place->end.digest, "was cut or replaced");
    }
    put(place->path, place->text, place->len - 1);
    expect(place, NULL, ", line 6: the line is cut short");
    put(place->path, place->text, place->len);
    put(place->last, "6\n", 2);
    expect(place, NULL, "audit.log.last\" does not tell an entry's number");
    g_assert_cmpint(g_unlink(place->last), ==, 0);
    expect(place, NULL, "name a digest that was noted earlier");
    DrvAuditEnd end;
    g_assert_true(drv_audit_verify(place->path, place->end.digest, &end, NULL));

    put(place->path, place->text, line_at(place, 5));
    expect(place, place->end.digest, "none of its 5 entries has the digest");
}

/* All made anew by somebody who may write both files: only what was noted elsewhere tells. */
static void
test_replaced(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    DrvAuditEnd end;
    g_unlink(place->path);
    g_unlink(place->last);
    g_autoptr(DrvAudit) audit = drv_audit_open(place->dir, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 6; i++)
        add(audit, "begun", "another");
    g_assert_true(drv_audit_verify(place->path, NULL, &end, &error));
    expect(place, place->end.digest, "none of its 6 entries has the digest");
}

/* A daemon died while it wrote: what is there is gone on with. */
static void
test_torn(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *torn = g_strconcat(place->text, "{\"n\":7,\"at\":", NULL);
    DrvAuditEnd end;
    put(place->path, torn, strlen(torn));
    g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_WARNING, "*an entry that was not finished*");
    g_autoptr(DrvAudit) audit = drv_audit_open(place->dir, &error);
    g_test_assert_expected_messages();
    g_assert_no_error(error);
    add(audit, "begun", "web1");
    g_assert_true(drv_audit_verify(place->path, place->end.digest, &end, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(end.entries, ==, 7);
}

/* Not gone on with, not lost, and not a reason not to start. */
static void
test_damaged(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    DrvAuditEnd end;
    put(place->path, place->text, line_at(place, 3));
    g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_WARNING, "*is put aside as*was cut*");
    g_autoptr(DrvAudit) audit = drv_audit_open(place->dir, &error);
    g_test_assert_expected_messages();
    g_assert_no_error(error);
    g_assert_true(drv_audit_verify(place->path, NULL, &end, &error));
    g_assert_cmpuint(end.entries, ==, 1);
    g_assert_true(g_file_get_contents(place->path, &text, NULL, NULL));
    g_assert_nonnull(strstr(text, "\"event\":\"log-damaged\",\"error\":\""));
    g_autoptr(GDir) dir = g_dir_open(place->dir, 0, NULL);
    guint kept = 0;
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;)
        kept += g_str_has_prefix(name, "audit.log.damaged-");
    g_assert_cmpuint(kept, ==, 1);
}

/* Room for so many bytes a file; NULL: for all again. */
static void
limit_files(const rlim_t *bytes)
{
    struct rlimit limit;
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    limit.rlim_cur = bytes != NULL ? *bytes : limit.rlim_max;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
}

/* No entry is written by half, the next one says that some are missing, and what is there holds. */
static void
test_full(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    DrvAuditEnd end;
    signal(SIGXFSZ, SIG_IGN);
    g_autoptr(DrvAudit) audit = drv_audit_open(place->dir, &error);
    g_assert_no_error(error);
    const rlim_t some = strlen(place->text) + 100;
    for (guint i = 0; i < 3; i++) {
        g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_WARNING,
                              "*cannot be written: File too large: it lacks this entry: {*web2*}");
        limit_files(&some);
        add(audit, "begun", "web2");
        limit_files(NULL);
        g_test_assert_expected_messages();
        g_clear_pointer(&text, g_free);
        g_assert_true(g_file_get_contents(place->path, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, place->text);
    }
    add(audit, "begun", "web3");
    g_assert_true(drv_audit_verify(place->path, place->end.digest, &end, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(end.entries, ==, place->end.entries + 2);
    g_clear_pointer(&text, g_free);
    g_assert_true(g_file_get_contents(place->path, &text, NULL, NULL));
    g_assert_null(strstr(text, "web2"));
    g_assert_nonnull(strstr(text, "\"event\":\"log-gap\",\"lost\":3"));
    g_assert_nonnull(strstr(text, "web3"));
}

/* The entry is there, and only its being the last one is not noted: by the next it is. */
static void
test_end_not_noted(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *last = g_strconcat(place->path, ".last", NULL);
    DrvAuditEnd end;
    g_autoptr(DrvAudit) audit = drv_audit_open(place->dir, &error);
    g_assert_no_error(error);
    g_assert_cmpint(g_remove(last), ==, 0);
    g_assert_cmpint(g_mkdir(last, 0700), ==, 0);
    g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_WARNING,
                          "the audit log's end cannot be noted*");
    add(audit, "begun", "web2");
    g_test_assert_expected_messages();
    g_assert_cmpint(g_rmdir(last), ==, 0);
    add(audit, "begun", "web3");
    g_assert_true(drv_audit_verify(place->path, NULL, &end, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(end.entries, ==, place->end.entries + 2);
}

/* Errors name the file. */
static void
test_no_file(Place *place, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(g_remove(place->path), ==, 0);
    g_assert_cmpint(g_mkdir(place->path, 0700), ==, 0);
    g_assert_null(drv_audit_open(place->dir, &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_IO);
    g_assert_nonnull(strstr(error->message, "audit.log\" cannot be opened: Is a directory"));
    g_assert_cmpint(g_rmdir(place->path), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/audit/" name, Place, NULL, set_up, func, tear_down)
    ADD("entry", test_entry);
    ADD("changed", test_changed);
    ADD("lines", test_lines);
    ADD("cut", test_cut);
    ADD("replaced", test_replaced);
    ADD("torn", test_torn);
    ADD("damaged", test_damaged);
    ADD("full", test_full);
    ADD("end-not-noted", test_end_not_noted);
    ADD("no-file", test_no_file);
    return g_test_run();
}
