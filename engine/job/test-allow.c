/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/allow.h"

#include "common/error.h"

#include <string.h>

static char alpha[] = "alpha", beta[] = "Beta.example.org";
static char *two[] = {alpha, beta, NULL};
static char *none[] = {NULL};

static void
test_incoming(void)
{
    static const struct {
        char **names;
        const char *peer, *op;
        gboolean may;
    } cases[] = {
        {NULL, "alpha", "job.prepare", TRUE},
        {NULL, "", "job.prepare", TRUE}, /* any certificate of the CA, as ever */
        {two, "alpha", "job.prepare", TRUE},
        {two, "ALPHA", "tunnel.open", TRUE},
        {two, "beta.example.org", "probe.open", TRUE},
        {two, "gamma", "job.prepare", FALSE},
        {two, "gamma", "tunnel.open", FALSE},
        {two, "gamma", "probe.open", FALSE},
        {two, "gamma", "anything.else", FALSE},
        {two, "gamma", "job.commit", TRUE}, /* of a job that was let in: see the header */
        {two, "gamma", "job.abort", TRUE},
        {two, "alph", "job.prepare", FALSE},
        {two, "alpha2", "job.prepare", FALSE},
        {two, "beta", "job.prepare", FALSE},
        {two, "", "job.prepare", FALSE},
        {none, "alpha", "job.prepare", FALSE},
        {none, "", "job.prepare", FALSE},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        DrvConfig config = {.allow_from = cases[i].names, .allow_to = none};
        g_autoptr(GError) error = NULL;
        gboolean may = drv_allow_call(&config, cases[i].peer, cases[i].op, &error);
        if (may != cases[i].may)
            g_error("%s from '%s' is decided wrongly", cases[i].op, cases[i].peer);
        g_assert_true(may == (error == NULL));
    }
}

static void
test_outgoing(void)
{
    DrvConfig config = {.allow_from = none, .allow_to = two};
    g_autoptr(GError) error = NULL;
    g_assert_true(drv_allow_to(&config, "alpha", &error));
    g_assert_no_error(error);
    g_assert_false(drv_allow_to(&config, "ga\nmma", &error));
    g_assert_error(error, DRV_ERROR, DRV_ERROR_TLS);
    g_assert_cmpstr(error->message, ==,
                    "this host sends nothing to 'ga\\nmma': name it in 'allow=' under [outgoing] "
                    "in its configuration");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/allow/incoming", test_incoming);
    g_test_add_func("/allow/outgoing", test_outgoing);
    return g_test_run();
}
