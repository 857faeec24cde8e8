/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/group.h"
#include "engine/copy/over.h"

#include <glib/gstdio.h>

/* Copies that are named together, with the journal and without any copying. */

typedef struct {
    DrvJob base;
    guint named, called_off, turns;
    gboolean kept;
} Copy;

typedef struct {
    char *dir;
    DrvJournal *journal;
    DrvCopyGroups *groups;
    Copy copies[3];
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("drover-group-XXXXXX", NULL);
    f->journal = drv_journal_open(f->dir, NULL);
    g_assert_nonnull(f->journal);
    f->groups = drv_copy_groups_new(f->journal);
    for (guint i = 0; i < G_N_ELEMENTS(f->copies); i++)
        f->copies[i].base.refs = 1;
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    drv_copy_groups_free(f->groups);
    drv_journal_close(f->journal);
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);
        g_remove(path);
    }
    g_rmdir(f->dir);
    g_free(f->dir);
}

static void
name(DrvJob *job)
{
    ((Copy *)job)->named++;
}

static void
call_off(DrvJob *job, gboolean keep)
{
    ((Copy *)job)->called_off++;
    ((Copy *)job)->kept = keep;
}

static void
turn(DrvJob *job)
{
    ((Copy *)job)->turns++;
}

static void
join(Fixture *f, guint i, const char *group, guint of)
{
    static const DrvCopyGroupOps ops = {name, call_off, turn};
    drv_copy_group_join(f->groups, &f->copies[i].base, group, of, &ops);
}

static void
held(Fixture *f, guint i, gboolean is)
{
    drv_copy_group_held(f->groups, &f->copies[i].base, is);
}

/* One that this daemon's predecessor had, moved as far as that. */
static void
add_past(Fixture *f, const char *id, const char *group, const DrvJobState *way)
{
    g_autofree char *spec = g_strdup_printf("{\"kind\":\"copy\",\"image\":\"/a\",\"to\":\"h:1\","
                                            "\"dest\":\"/b\",\"group\":\"%s\",\"of\":3}",
                                            group);
    g_autoptr(DrvJobRecord) rec = drv_job_record_new(id, DRV_ROLE_SOURCE, spec);
    g_assert_true(drv_journal_add(f->journal, rec, NULL));
    for (; *way != DRV_STATE_QUEUED; way++)
        g_assert_true(drv_journal_move(f->journal, rec, *way, NULL));
}

static const DrvJobState named_way[] = {DRV_STATE_PREPARING, DRV_STATE_COPYING,
                                        DRV_STATE_SWITCHOVER, DRV_STATE_QUEUED},
                         copying_way[] = {DRV_STATE_PREPARING, DRV_STATE_COPYING, DRV_STATE_QUEUED},
                         failed_way[] = {DRV_STATE_PREPARING, DRV_STATE_ROLLING_BACK,
                                         DRV_STATE_FAILED, DRV_STATE_QUEUED};

static void
assert_named(Fixture *f, guint a, guint b, guint c)
{
    g_assert_cmpuint(f->copies[0].named, ==, a);
    g_assert_cmpuint(f->copies[1].named, ==, b);
    g_assert_cmpuint(f->copies[2].named, ==, c);
}

static void
test_together(Fixture *f, gconstpointer data)
{
    join(f, 0, "g", 2);
    held(f, 0, TRUE); /* the other one is not there yet */
    join(f, 1, "g", 2);
    join(f, 2, "other", 2);
    held(f, 2, TRUE);
    assert_named(f, 0, 0, 0);
    held(f, 0, FALSE);
    held(f, 1, TRUE);
    assert_named(f, 0, 0, 0);
    held(f, 0, TRUE);
    assert_named(f, 1, 1, 0);
    /* The answer was lost with the session. */
    held(f, 1, FALSE);
    drv_copy_group_leave(f->groups, &f->copies[0].base);
    add_past(f, "a", "g", named_way);
    held(f, 1, TRUE);
    assert_named(f, 1, 2, 0);
}

static void
test_one_fails(Fixture *f, gconstpointer keep)
{
    join(f, 0, "g", 3);
    join(f, 1, "g", 3);
    join(f, 2, "other", 3);
    held(f, 1, TRUE);
    drv_copy_group_break(f->groups, &f->copies[0].base, keep != NULL);
    g_assert_cmpuint(f->copies[0].called_off, ==, 0);
    g_assert_cmpuint(f->copies[1].called_off, ==, 1);
    g_assert_cmpint(f->copies[1].kept, ==, keep != NULL);
    g_assert_cmpuint(f->copies[2].called_off, ==, 0);
    drv_copy_group_break(f->groups, &f->copies[1].base, TRUE); /* has left */
}

/* When it is too late for the others. */
static void
test_a_name_fails(Fixture *f, gconstpointer data)
{
    for (guint i = 0; i < 3; i++)
        join(f, i, "g", 3);
    for (guint i = 0; i < 3; i++)
        held(f, i, TRUE);
    assert_named(f, 1, 1, 1);
    held(f, 2, FALSE);
    drv_copy_group_break(f->groups, &f->copies[0].base, TRUE);
    g_assert_cmpuint(f->copies[1].called_off, ==, 0);
    g_assert_cmpuint(f->copies[2].called_off, ==, 1);
}

static void
assert_turns(Fixture *f, guint a, guint b, guint c)
{
    g_assert_cmpuint(f->copies[0].turns, ==, a);
    g_assert_cmpuint(f->copies[1].turns, ==, b);
    g_assert_cmpuint(f->copies[2].turns, ==, c);
}

static void
wait_turn(Fixture *f, guint i)
{
    drv_copy_group_wait_turn(f->groups, &f->copies[i].base);
}

/* One at a time, and nobody a second one before all have had a first. */
static void
test_turns(Fixture *f, gconstpointer data)
{
    join(f, 0, "g", 2);
    join(f, 2, "other", 2);
    wait_turn(f, 0);
    wait_turn(f, 2);
    assert_turns(f, 1, 0, 1);
    wait_turn(f, 0);
    assert_turns(f, 1, 0, 1); /* the other one is not there yet */
    join(f, 1, "g", 2);
    wait_turn(f, 1);
    assert_turns(f, 1, 1, 1);
    wait_turn(f, 1);
    assert_turns(f, 2, 1, 1);
    drv_copy_group_end_turn(f->groups, &f->copies[0].base);
    assert_turns(f, 2, 2, 1);
    drv_copy_group_end_turn(f->groups, &f->copies[1].base);
    assert_turns(f, 2, 2, 1);
    /* Who has failed takes his turn along, and all who wait for it. */
    drv_copy_group_break(f->groups, &f->copies[2].base, TRUE);
    drv_copy_group_end_turn(f->groups, &f->copies[2].base);
    assert_turns(f, 2, 2, 1);
}

/* It comes when another one has failed already. */
static void
test_late_turn(Fixture *f, gconstpointer data)
{
    add_past(f, "a", "g", failed_way);
    join(f, 0, "g", 2);
    wait_turn(f, 0);
    assert_turns(f, 1, 0, 0);
    g_assert_cmpuint(f->copies[0].called_off, ==, 0);
    wait_turn(f, 0);
    assert_turns(f, 1, 0, 0);
    g_assert_cmpuint(f->copies[0].called_off, ==, 1);
}

/* After a restart: two were named, or one has failed, or one is to be begun yet. */
static void
test_past(Fixture *f, gconstpointer data)
{
    add_past(f, "a", "g", named_way);
    add_past(f, "b", "g", named_way);
    add_past(f, "c", "h", named_way);
    add_past(f, "d", "h", failed_way);
    add_past(f, "e", "i", named_way);
    add_past(f, "f", "i", copying_way);
    join(f, 0, "g", 3);
    join(f, 1, "h", 3);
    join(f, 2, "i", 3);
    for (guint i = 0; i < 3; i++)
        held(f, i, TRUE);
    assert_named(f, 1, 0, 0);
    g_assert_cmpuint(f->copies[1].called_off, ==, 1);
    g_assert_true(f->copies[1].kept);
    g_assert_cmpuint(f->copies[2].called_off, ==, 0);
}

/* Which copies to a path are over. */
static void
test_over(Fixture *f, gconstpointer data)
{
    add_past(f, "a", "g", failed_way);
    add_past(f, "b", "g", copying_way);
    add_past(f, "c", "g", named_way);
    g_autoptr(DrvJobRecord) other =
        drv_job_record_new("m", DRV_ROLE_SOURCE, "{\"qmp\":\"/q\",\"dest\":\"/b\"}");
    g_assert_true(drv_journal_add(f->journal, other, NULL));
    g_assert_true(drv_journal_move(f->journal, other, DRV_STATE_ROLLING_BACK, NULL));
    g_autoptr(JsonArray) over = drv_copies_over(f->journal, "/b");
    g_assert_cmpuint(json_array_get_length(over), ==, 1);
    g_assert_cmpstr(json_array_get_string_element(over, 0), ==, "a");
    g_autoptr(JsonArray) none = drv_copies_over(f->journal, "/c");
    g_assert_cmpuint(json_array_get_length(none), ==, 0);
    for (guint i = 0; i < 20; i++) {
        g_autofree char *id = g_strdup_printf("n%u", i);
        add_past(f, id, "g", failed_way);
    }
    g_autoptr(JsonArray) many = drv_copies_over(f->journal, "/b");
    g_assert_cmpuint(json_array_get_length(many), ==, 16);
    g_assert_cmpstr(json_array_get_string_element(many, 0), ==, "n19");
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *path;
        void (*func)(Fixture *f, gconstpointer data);
        gconstpointer data;
    } tests[] = {
        {"/engine/copy/group/together", test_together, NULL},
        {"/engine/copy/group/one-fails", test_one_fails, "keep"},
        {"/engine/copy/group/one-is-cancelled", test_one_fails, NULL},
        {"/engine/copy/group/a-name-fails", test_a_name_fails, NULL},
        {"/engine/copy/group/turns", test_turns, NULL},
        {"/engine/copy/group/late-turn", test_late_turn, NULL},
        {"/engine/copy/group/past", test_past, NULL},
        {"/engine/copy/over", test_over, NULL},
    };
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++)
        g_test_add(tests[i].path, Fixture, tests[i].data, set_up, tests[i].func, tear_down);
    return g_test_run();
}
