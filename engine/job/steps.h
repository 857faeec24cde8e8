/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <gio/gio.h>

/*
 * A sequence of asynchronous steps, run one after the other: the control plane's replacement for
 * nested callbacks. Each step starts something and returns; its callback says how it went. A
 * sequence may be dropped at any time (the job is cancelled, say); callbacks that come later find
 * their ticket void.
 */
typedef struct {
    const char *what; /* "asking the source's QEMU": put before its error */
    void (*run)(gpointer owner);
} DrvStep;

typedef struct {
    const DrvStep *steps; /* ends with a step without a name */
    gpointer owner;
    void (*done)(gpointer owner, GError *error); /* takes the error; NULL when all went well */
    guint at;
    guint generation; /* of the sequence: what was started before is void */
    GCancellable *cancellable;
} DrvSteps;

/* Drops what is running and starts a new sequence. */
void drv_steps_start(DrvSteps *steps, const DrvStep *sequence, gpointer owner,
                     void (*done)(gpointer owner, GError *error));
/* Drops what is running; 'done' is not called. */
void drv_steps_drop(DrvSteps *steps);
gboolean drv_steps_running(const DrvSteps *steps);

/* The step at hand has succeeded, or failed (takes the error and names the step in it). */
void drv_steps_next(DrvSteps *steps);
void drv_steps_fail(DrvSteps *steps, GError *error);
/* The one or, with an error (taken), the other. */
void drv_steps_over(DrvSteps *steps, GError *error);

/* For a step's callback data: remembers which step of which sequence it belongs to. */
typedef struct _DrvTicket DrvTicket;
/* Takes a reference to the owner with 'ref'; it goes out with the ticket. */
DrvTicket *drv_steps_ticket(DrvSteps *steps, gpointer (*ref)(gpointer));
/* Uses up the ticket: FALSE when its step is no longer the one at hand. Either way 'owner'
 * receives the owner with its reference, to be given up with g_autoptr or its like by the caller.
 */
gboolean drv_ticket_redeem(DrvTicket *ticket, gpointer *owner);
