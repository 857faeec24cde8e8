/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/aborts.h"

#include <glib/gstdio.h>

/* What an abort comes to that nobody can take: without a network, as none is asked. */

typedef struct {
    char *dir;
    DrvJournal *journal;
    DrvPeers *peers;
    DrvAborts *aborts;
} Fixture;

static void
setup(Fixture *f, gconstpointer unused)
{
    f->dir = g_dir_make_tmp("drover-aborts-XXXXXX", NULL);
    f->journal = drv_journal_open(f->dir, NULL);
    g_assert_nonnull(f->journal);
    f->peers = drv_peers_new(1);
    f->aborts = drv_aborts_new(f->journal, f->peers);
}

static void
teardown(Fixture *f, gconstpointer unused)
{
    drv_aborts_free(f->aborts);
    drv_peers_free(f->peers);
    drv_journal_close(f->journal);
    GDir *dir = g_dir_open(f->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);
        g_remove(path);
    }
    g_dir_close(dir);
    g_rmdir(f->dir);
    g_free(f->dir);
}

static DrvJobRecord *
failed_job(Fixture *f)
{
    DrvJobRecord *rec = drv_job_record_new(
        "j", DRV_ROLE_SOURCE, "{\"qmp\":\"/q\",\"to\":\"192.0.2.1:7000\",\"dest_qmp\":\"/d\"}");
    rec->peer = g_strdup("b (192.0.2.1:7000)");
    rec->abort_due = TRUE;
    g_assert_true(drv_journal_add(f->journal, rec, NULL));
    g_assert_true(drv_journal_move(f->journal, rec, DRV_STATE_ROLLING_BACK, NULL));
    g_assert_true(drv_journal_move(f->journal, rec, DRV_STATE_FAILED, NULL));
    return rec;
}

static guint
due(Fixture *f)
{
    g_autoptr(GPtrArray) active = drv_journal_list(f->journal, 0, TRUE, NULL);
    return active->len;
}

/* The next daemon must find it. */
static void
test_kept(Fixture *f, gconstpointer unused)
{
    g_autoptr(DrvJobRecord) rec = failed_job(f);
    drv_aborts_add(f->aborts, rec);
    g_assert_cmpuint(due(f), ==, 1);
    drv_aborts_free(g_steal_pointer(&f->aborts));
    g_assert_cmpuint(due(f), ==, 1);
}

/* It ends, and says what a person can do. */
static void
test_given_up(Fixture *f, gconstpointer unused)
{
    g_autoptr(DrvJobRecord) rec = failed_job(f);
    rec->updated_us -= (DRV_ABORT_DAYS + 1) * G_TIME_SPAN_DAY;
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING,
                          "job j: b (192.0.2.1:7000) was not heard of for 7 days*"
                          "'drover resolve j --run-on source'*");
    drv_aborts_add(f->aborts, rec);
    g_test_assert_expected_messages();
    g_assert_cmpuint(due(f), ==, 0);
}

/* A journal that somebody has written to by hand. */
static void
test_unreadable(Fixture *f, gconstpointer unused)
{
    g_autoptr(DrvJobRecord) rec = failed_job(f);
    g_free(rec->spec);
    rec->spec = g_strdup("{}");
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "job j: who is to be told * is not known: *");
    drv_aborts_add(f->aborts, rec);
    g_test_assert_expected_messages();
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/aborts/kept", Fixture, NULL, setup, test_kept, teardown);
    g_test_add("/aborts/given-up", Fixture, NULL, setup, test_given_up, teardown);
    g_test_add("/aborts/unreadable", Fixture, NULL, setup, test_unreadable, teardown);
    return g_test_run();
}
