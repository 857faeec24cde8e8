/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/state.h"

#include <string.h>

/*
 * The legal moves, written once more as a person reads them off design's picture: a row a state, in
 * the order of the columns, 'x' where the move is legal. One letter a column:
 * Queued Preparing Copying Switchover Loaded coMmitted Running Done rolling-Back Failed cAncelled
 * In-doubt.
 */
static const char *const expected[DRV_ROLE_LAST][DRV_STATE_LAST] = {
    [DRV_ROLE_SOURCE] = {
        /*            QPCSLMRDBFAI */
        /* queued  */ ".x......x...",
        /* prepar. */ "..x.....x...",
        /* copying */ "...x....x...",
        /* switch. */ "....x...x...",
        /* loaded  */ ".....x..x...",
        /* commit. */ "......x....x",
        /* running */ ".......x....",
        /* done    */ "............",
        /* rolling */ ".........xx.",
        /* failed  */ "............",
        /* cancel. */ "............",
        /* doubt   */ "......xxx...",
    },
    [DRV_ROLE_DEST] = {
        /*            QPCSLMRDBFAI */
        /* queued  */ ".x......x...",
        /* prepar. */ "..x.....x...",
        /* copying */ "....x...x...",
        /* switch. */ "............",
        /* loaded  */ ".....x..x..x",
        /* commit. */ "......x....x",
        /* running */ ".......x....",
        /* done    */ "............",
        /* rolling */ ".........xx.",
        /* failed  */ "............",
        /* cancel. */ "............",
        /* doubt   */ ".....x..x...",
    },
};

static void
test_every_pair(void)
{
    for (int role = 0; role < DRV_ROLE_LAST; role++) {
        for (int from = 0; from < DRV_STATE_LAST; from++) {
            g_assert_cmpuint(strlen(expected[role][from]), ==, DRV_STATE_LAST);
            for (int to = 0; to < DRV_STATE_LAST; to++) {
                gboolean legal = expected[role][from][to] == 'x';
                if (drv_state_may_move(role, from, to) != legal)
                    g_error("%s: %s to %s should be %s", drv_role_name(role), drv_state_name(from),
                            drv_state_name(to), legal ? "legal" : "refused");
            }
        }
    }
}

static void
test_out_of_range(void)
{
    g_assert_false(drv_state_may_move(DRV_ROLE_LAST, DRV_STATE_QUEUED, DRV_STATE_PREPARING));
    g_assert_false(drv_state_may_move(DRV_ROLE_SOURCE, DRV_STATE_LAST, DRV_STATE_PREPARING));
    g_assert_false(drv_state_may_move(DRV_ROLE_SOURCE, DRV_STATE_QUEUED, DRV_STATE_LAST));
    g_assert_false(drv_state_may_move(DRV_ROLE_SOURCE, DRV_STATE_QUEUED, (DrvJobState)-1));
    g_assert_false(drv_state_may_move(DRV_ROLE_SOURCE, DRV_STATE_QUEUED, (DrvJobState)40));
}

#define BIT(state) (1u << (state))

/* The states that can be reached from 'start' without passing through any of 'avoid'. */
static guint
reachable(DrvJobRole role, DrvJobState start, guint avoid)
{
    guint seen = BIT(start);
    for (guint before = 0; before != seen;) {
        before = seen;
        for (int from = 0; from < DRV_STATE_LAST; from++) {
            for (int to = 0; to < DRV_STATE_LAST; to++) {
                if ((seen & BIT(from)) != 0 && drv_state_may_move(role, from, to))
                    seen |= BIT(to) & ~avoid;
            }
        }
    }
    return seen;
}

static gboolean
is_entered(DrvJobRole role, DrvJobState state)
{
    return role == DRV_ROLE_SOURCE || state != DRV_STATE_SWITCHOVER;
}

static void
test_reachability(void)
{
    const guint finals = BIT(DRV_STATE_DONE) | BIT(DRV_STATE_FAILED) | BIT(DRV_STATE_CANCELLED);
    for (int role = 0; role < DRV_ROLE_LAST; role++) {
        guint all = reachable(role, DRV_STATE_QUEUED, 0);
        for (int s = 0; s < DRV_STATE_LAST; s++) {
            g_assert_cmpint((all & BIT(s)) != 0, ==, is_entered(role, s));
            if (!is_entered(role, s))
                continue;
            g_assert_cmpuint(reachable(role, s, 0) & finals, !=, 0);
            g_assert_cmpint(drv_state_is_final(s), ==, reachable(role, s, 0) == BIT(s));
        }
    }
}

/* Never two: no way to RUNNING or DONE but through COMMITTED, at either end, from any state before
 * it; and from COMMITTED the source finds back to the guest only through IN_DOUBT. */
static void
test_commit_is_the_gate(void)
{
    const guint there = BIT(DRV_STATE_RUNNING) | BIT(DRV_STATE_DONE);
    for (int role = 0; role < DRV_ROLE_LAST; role++) {
        guint without = reachable(role, DRV_STATE_QUEUED, BIT(DRV_STATE_COMMITTED));
        g_assert_cmpuint(without & there, ==, 0);
        guint onwards = reachable(role, DRV_STATE_COMMITTED, BIT(DRV_STATE_IN_DOUBT));
        g_assert_cmpuint(onwards & BIT(DRV_STATE_ROLLING_BACK), ==, 0);
        g_assert_cmpuint(onwards & there, ==, there);
    }
    guint doubting = reachable(DRV_ROLE_DEST, DRV_STATE_IN_DOUBT, BIT(DRV_STATE_COMMITTED));
    g_assert_cmpuint(doubting & there, ==, 0);
    /* Nor does any state on the way back lead forward again. */
    for (int role = 0; role < DRV_ROLE_LAST; role++)
        g_assert_cmpuint(reachable(role, DRV_STATE_ROLLING_BACK, 0), ==,
                         BIT(DRV_STATE_ROLLING_BACK) | BIT(DRV_STATE_FAILED) |
                             BIT(DRV_STATE_CANCELLED));
}

static void
test_who_may_run(void)
{
    const guint source = BIT(DRV_STATE_COMMITTED) | BIT(DRV_STATE_RUNNING) | BIT(DRV_STATE_DONE) |
                         BIT(DRV_STATE_IN_DOUBT);
    for (int s = 0; s < DRV_STATE_LAST; s++) {
        g_assert_cmpint(drv_state_guest_may_run_at_dest(DRV_ROLE_SOURCE, s), ==,
                        (source & BIT(s)) != 0);
        g_assert_cmpint(drv_state_guest_may_run_at_dest(DRV_ROLE_DEST, s), ==,
                        (source & BIT(s)) != 0 && s != DRV_STATE_IN_DOUBT);
    }
}

/* What a deadline or a restart does is itself a legal move, and no state that waits on somebody
 * else is without either a deadline or a person's way out. */
static void
test_deadlines_and_restarts(void)
{
    for (int role = 0; role < DRV_ROLE_LAST; role++) {
        for (int s = 0; s < DRV_STATE_LAST; s++) {
            const DrvStateRule *rule = drv_state_rule(role, s);
            g_assert_nonnull(rule->waits_for);
            g_assert_nonnull(rule->undo);
            if (rule->deadline == DRV_DEADLINE_NONE)
                g_assert_cmpint(rule->deadline_to, ==, s);
            else
                g_assert_true(drv_state_may_move(role, s, rule->deadline_to));
            if (rule->restart_to != (DrvJobState)s)
                g_assert_true(drv_state_may_move(role, s, rule->restart_to));
            /* Neither time nor a restart takes anybody over the gate, or back through it. */
            g_assert_cmpint(drv_state_guest_may_run_at_dest(role, rule->restart_to), ==,
                            drv_state_guest_may_run_at_dest(role, s));
            if (role == DRV_ROLE_SOURCE)
                g_assert_cmpint(drv_state_guest_may_run_at_dest(role, rule->deadline_to), ==,
                                drv_state_guest_may_run_at_dest(role, s));
            else if (!drv_state_guest_may_run_at_dest(role, s))
                g_assert_false(drv_state_guest_may_run_at_dest(role, rule->deadline_to));
            if (rule->deadline == DRV_DEADLINE_NONE && !drv_state_is_final(s) &&
                is_entered(role, s))
                g_assert_true(s == DRV_STATE_IN_DOUBT ||
                              (s == DRV_STATE_QUEUED && role == DRV_ROLE_SOURCE));
        }
    }
    /* Once loaded, the destination gives nothing up because of silence. */
    g_assert_cmpint(drv_state_rule(DRV_ROLE_DEST, DRV_STATE_LOADED)->deadline_to, ==,
                    DRV_STATE_IN_DOUBT);
    g_assert_cmpint(drv_state_rule(DRV_ROLE_DEST, DRV_STATE_LOADED)->restart_to, ==,
                    DRV_STATE_LOADED);
}

static void
test_names(void)
{
    static const char *const names[] = {"queued",       "preparing", "copying",   "switchover",
                                        "loaded",       "committed", "running",   "done",
                                        "rolling-back", "failed",    "cancelled", "in-doubt"};
    for (int s = 0; s < DRV_STATE_LAST; s++) {
        DrvJobState parsed = DRV_STATE_LAST;
        g_assert_cmpstr(drv_state_name(s), ==, names[s]);
        g_assert_true(drv_state_parse(names[s], &parsed));
        g_assert_cmpint(parsed, ==, s);
    }
    static const char *const wrong[] = {"", "Queued", "queue", "queuedx", "rolling_back", NULL};
    DrvJobState state = DRV_STATE_LOADED;
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++)
        g_assert_false(drv_state_parse(wrong[i], &state));
    g_assert_cmpint(state, ==, DRV_STATE_LOADED);

    DrvJobRole role = DRV_ROLE_LAST;
    g_assert_true(drv_role_parse("source", &role) && role == DRV_ROLE_SOURCE);
    g_assert_true(drv_role_parse("dest", &role) && role == DRV_ROLE_DEST);
    g_assert_false(drv_role_parse("destination", &role));
    g_assert_cmpstr(drv_role_name(DRV_ROLE_SOURCE), ==, "source");
    g_assert_cmpstr(drv_role_name(DRV_ROLE_DEST), ==, "dest");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state/every-pair", test_every_pair);
    g_test_add_func("/state/out-of-range", test_out_of_range);
    g_test_add_func("/state/reachability", test_reachability);
    g_test_add_func("/state/commit-is-the-gate", test_commit_is_the_gate);
    g_test_add_func("/state/who-may-run", test_who_may_run);
    g_test_add_func("/state/deadlines-and-restarts", test_deadlines_and_restarts);
    g_test_add_func("/state/names", test_names);
    return g_test_run();
}
