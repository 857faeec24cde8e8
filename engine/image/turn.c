/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/image/turn.h"

void
drv_turn_init(DrvTurn *turn)
{
    g_mutex_init(&turn->lock);
    g_cond_init(&turn->changed);
    turn->next = 0;
    turn->stopped = FALSE;
}

void
drv_turn_clear(DrvTurn *turn)
{
    g_mutex_clear(&turn->lock);
    g_cond_clear(&turn->changed);
}

gboolean
drv_turn_wait(DrvTurn *turn, guint64 number)
{
    g_mutex_lock(&turn->lock);
    while (turn->next != number && !turn->stopped)
        g_cond_wait(&turn->changed, &turn->lock);
    gboolean good = !turn->stopped;
    g_mutex_unlock(&turn->lock);
    return good;
}

void
drv_turn_pass(DrvTurn *turn)
{
    g_mutex_lock(&turn->lock);
    turn->next++;
    g_cond_broadcast(&turn->changed);
    g_mutex_unlock(&turn->lock);
}

void
drv_turn_stop(DrvTurn *turn)
{
    g_mutex_lock(&turn->lock);
    turn->stopped = TRUE;
    g_cond_broadcast(&turn->changed);
    g_mutex_unlock(&turn->lock);
}
