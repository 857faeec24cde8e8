/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/micro/micro.h"

#include "engine/job/journal.h"

#include <glib/gstdio.h>

/* What a job pays for every state it moves to before it acts: a commit, synced to the disk that
 * holds TMPDIR. Between the guest's stop and its start at the other end there are a few of these.
 */
typedef struct {
    DrvJournal *journal;
    guint number;
    DrvJobRecord *rec;
} Jobs;

static void
must(gboolean done, const GError *error)
{
    if (!done)
        g_error("%s", error->message);
}

static void
add(gpointer data)
{
    Jobs *jobs = data;
    g_autoptr(GError) error = NULL;
    g_autofree char *id = g_strdup_printf("%08x", jobs->number++);
    g_autoptr(DrvJobRecord) rec = drv_job_record_new(id, DRV_ROLE_SOURCE, "{}");
    must(drv_journal_add(jobs->journal, rec, &error), error);
}

static void
save(gpointer data)
{
    Jobs *jobs = data;
    g_autoptr(GError) error = NULL;
    must(drv_journal_save(jobs->journal, jobs->rec, &error), error);
}

/* QUEUED to COPYING and a new job: two moves and what comes with them. */
static void
move(gpointer data)
{
    Jobs *jobs = data;
    g_autoptr(GError) error = NULL;
    g_autofree char *id = g_strdup_printf("%08x", jobs->number++);
    g_autoptr(DrvJobRecord) rec = drv_job_record_new(id, DRV_ROLE_SOURCE, "{}");
    must(drv_journal_add(jobs->journal, rec, &error), error);
    must(drv_journal_move(jobs->journal, rec, DRV_STATE_PREPARING, &error), error);
    must(drv_journal_move(jobs->journal, rec, DRV_STATE_COPYING, &error), error);
}

static void
remove_files(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_remove(file);
    }
    g_rmdir(path);
}

int
main(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("drover-micro-XXXXXX", &error);
    must(dir != NULL, error);
    Jobs jobs = {.journal = drv_journal_open(dir, &error)};
    must(jobs.journal != NULL, error);
    g_autoptr(DrvJobRecord) rec = drv_job_record_new("ffffffff", DRV_ROLE_SOURCE, "{}");
    must(drv_journal_add(jobs.journal, rec, &error), error);
    jobs.rec = rec;
    micro_run("journal, a job added", 0, add, &jobs);
    micro_run("journal, a record saved", 0, save, &jobs);
    micro_run("journal, a job added, moved twice", 0, move, &jobs);
    drv_journal_close(jobs.journal);
    remove_files(dir);
    return 0;
}
