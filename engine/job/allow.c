/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/allow.h"

#include "common/error.h"

/* A peer whose certificate has no name is on no list. Host names do not depend on case. */
static gboolean
is_listed(char **names, const char *peer)
{
    if (names == NULL)
        return TRUE;
    for (guint i = 0; names[i] != NULL; i++) {
        if (g_ascii_strcasecmp(names[i], peer) == 0)
            return TRUE;
    }
    return FALSE;
}

static gboolean
goes_on(const char *op)
{
    return g_str_has_prefix(op, "job.") && !g_str_equal(op, "job.prepare");
}

/* The peer's user reads this, too, so it says whose configuration is meant. */
gboolean
drv_allow_call(const DrvConfig *config, const char *peer, const char *op, GError **error)
{
    if (goes_on(op) || is_listed(config->allow_from, peer))
        return TRUE;
    g_autofree char *shown = g_strescape(peer, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                "the destination host takes nothing from '%.80s': name it in 'allow=' under "
                "[incoming] in the destination's configuration",
                shown);
    return FALSE;
}

gboolean
drv_allow_to(const DrvConfig *config, const char *peer, GError **error)
{
    if (is_listed(config->allow_to, peer))
        return TRUE;
    g_autofree char *shown = g_strescape(peer, NULL);
    g_set_error(error, DRV_ERROR, DRV_ERROR_TLS,
                "this host sends nothing to '%.80s': name it in 'allow=' under [outgoing] in its "
                "configuration",
                shown);
    return FALSE;
}
