/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/steps.h"

struct _DrvTicket {
    DrvSteps *steps; /* embedded in the owner, which the ticket keeps */
    gpointer owner;
    guint generation;
    guint at;
};

void
drv_steps_drop(DrvSteps *steps)
{
    steps->generation++;
    steps->steps = NULL;
    if (steps->cancellable != NULL) {
        g_autoptr(GCancellable) cancellable = g_steal_pointer(&steps->cancellable);
        g_cancellable_cancel(cancellable);
    }
}

static void
run_step(DrvSteps *steps)
{
    const DrvStep *step = &steps->steps[steps->at];
    if (step->what != NULL) {
        step->run(steps->owner);
        return;
    }
    void (*done)(gpointer, GError *) = steps->done;
    drv_steps_drop(steps);
    done(steps->owner, NULL);
}

void
drv_steps_start(DrvSteps *steps, const DrvStep *sequence, gpointer owner,
                void (*done)(gpointer owner, GError *error))
{
    drv_steps_drop(steps);
    steps->steps = sequence;
    steps->owner = owner;
    steps->done = done;
    steps->at = 0;
    steps->cancellable = g_cancellable_new();
    run_step(steps);
}

gboolean
drv_steps_running(const DrvSteps *steps)
{
    return steps->steps != NULL;
}

void
drv_steps_next(DrvSteps *steps)
{
    g_return_if_fail(steps->steps != NULL);
    steps->at++;
    run_step(steps);
}

void
drv_steps_fail(DrvSteps *steps, GError *error)
{
    g_return_if_fail(steps->steps != NULL);
    g_prefix_error(&error, "%s: ", steps->steps[steps->at].what);
    void (*done)(gpointer, GError *) = steps->done;
    drv_steps_drop(steps);
    done(steps->owner, error);
}

void
drv_steps_over(DrvSteps *steps, GError *error)
{
    if (error != NULL)
        drv_steps_fail(steps, error);
    else
        drv_steps_next(steps);
}

DrvTicket *
drv_steps_ticket(DrvSteps *steps, gpointer (*ref)(gpointer))
{
    DrvTicket *ticket = g_new(DrvTicket, 1);
    *ticket = (DrvTicket){steps, ref(steps->owner), steps->generation, steps->at};
    return ticket;
}

gboolean
drv_ticket_redeem(DrvTicket *ticket, gpointer *owner)
{
    *owner = ticket->owner;
    gboolean good = ticket->steps->steps != NULL &&
                    ticket->steps->generation == ticket->generation &&
                    ticket->steps->at == ticket->at;
    g_free(ticket);
    return good;
}
