/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/explore.h"

/*
 * Explores every course that a migration can take with so many faults, and then lets the model
 * make a mistake of each kind, to see that it would have been found.
 *
 *   test-model                       two faults at any time: seconds
 *   DRV_MODEL_FAULTS=4 test-model    by hand: a few minutes, and some GiB of memory
 */

#define FAULTS 2
#define MOST_FOR_A_MUTANT 3
#define MOST_WORLDS 60000000

static const struct {
    Mutant mutant;
    const char *name;
} mutants[] = {
    {MUTANT_COMMIT_BEFORE_JOURNAL, "COMMIT is sent before the journal says COMMITTED"},
    {MUTANT_RESTART_TAKES_BACK, "a restarted source takes a committed guest back"},
    {MUTANT_SILENCE_TAKES_BACK, "a committed source takes the guest back when it hears nothing"},
    {MUTANT_REFUSAL_TAKES_BACK, "a refused COMMIT is taken for the destination's last word"},
    {MUTANT_LOADED_RUNS, "the destination runs the guest once it is loaded"},
    {MUTANT_CONT_BEFORE_JOURNAL, "'cont' is sent before the journal says COMMITTED"},
    {MUTANT_FAILED_OBEYS_COMMIT, "a destination that has failed says yes to COMMIT"},
    {MUTANT_ABORT_ENDS_WHAT_MAY_RUN, "an abort ends a QEMU that may have run the guest"},
    {MUTANT_ABORT_BEFORE_UNDO, "an abort is answered before the QEMU has ended"},
    {MUTANT_QUIT_ON_COMMIT, "the source's QEMU quits before RUNNING is confirmed"},
    {MUTANT_COMMIT_ONCE, "COMMIT is not repeated over another session"},
    {MUTANT_ABORT_FORGOTTEN, "an abort that cannot be delivered is forgotten"},
    {MUTANT_NEWER_CALL_DROPPED, "what an old session brings costs a newer call its answer"},
    {MUTANT_COMMITTED_RESTS, "an end that cannot write IN_DOUBT rests in COMMITTED"},
};

static void
test_nothing_is_lost(void)
{
    const char *given = g_getenv("DRV_MODEL_FAULTS");
    guint faults = given != NULL ? (guint)g_ascii_strtoull(given, NULL, 10) : FAULTS;
    Findings found;
    explore(MUTANT_NONE, faults, MOST_WORLDS, &found);
    g_test_message("%u faults: %u worlds, %u steps between them, the farthest %u steps away, %u "
                   "good ends; a person is needed in %u%s",
                   faults, found.worlds, found.steps, found.depth, found.good, found.by_person,
                   found.cut ? "; there are more" : "");
    if (found.wrong != NULL)
        g_error("%s:\n%s", found.wrong, found.way);
    g_assert_false(found.cut);
    g_assert_cmpuint(found.good, >, 0);
    /* With more faults an old session may have the last word, and a person must ask. */
    if (found.person_way != NULL && faults <= FAULTS)
        g_error("a person is needed though both QEMUs live and obey:\n%s", found.person_way);
    findings_clear(&found);
}

static void
test_mutant(gconstpointer data)
{
    guint index = GPOINTER_TO_UINT(data);
    Findings found = {0};
    guint faults = 0;
    for (; faults <= MOST_FOR_A_MUTANT && found.wrong == NULL && found.person_way == NULL; faults++)
        explore(mutants[index].mutant, faults, MOST_WORLDS, &found);
    if (found.wrong == NULL && found.person_way == NULL)
        g_error("not found: %s", mutants[index].name);
    g_test_message("%s: found with %u faults, %u worlds: %s", mutants[index].name, faults - 1,
                   found.worlds,
                   found.wrong != NULL ? found.wrong : "a person is needed where nobody should be");
    findings_clear(&found);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/model/nothing-is-lost", test_nothing_is_lost);
    g_assert_cmpuint(G_N_ELEMENTS(mutants), ==, MUTANT_LAST - 1);
    for (guint i = 0; i < G_N_ELEMENTS(mutants); i++) {
        g_autofree char *path = g_strdup_printf("/model/mistake-%u", i + 1);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_mutant);
    }
    return g_test_run();
}
