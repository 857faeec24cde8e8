/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/api/server.h"

/* For tests: a daemon with no engine. Its jobs do what the test says. */
typedef struct {
    DrvApiServer *server; /* borrowed: is told of changes; may be NULL */
    GPtrArray *jobs;      /* of JsonObject, the oldest first */
    GError *refusal;      /* what the next call fails with; owned, or NULL */
    gboolean mute;        /* the next call breaks the contract: NULL and no error */

    JsonObject *spec; /* of the last migrate or tunnel; owned */
    guint started;    /* how many of those there were */
    guint cancels;
    guint shows;      /* how often one job was asked for */
    char *shown;      /* the last that was; owned */
    gboolean forgets; /* jobs that are cancelled are gone at once */
    char *run_on;     /* of the last resolve; owned */
    char *asked;      /* what, job and error of the last thing that was asked for; owned */
    gint64 asked_by;  /* its uid */
    const char *cancel_refusal; /* what a cancel is refused with, or NULL */
    const char *after_cancel;   /* the patch that a cancel has for the job, or NULL */
} FakeBackend;

extern const DrvApiBackend fake_backend_ops;

FakeBackend *fake_backend_new(void);
void fake_backend_free(FakeBackend *fake);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FakeBackend, fake_backend_free)

/* A job from the text of its object. */
void fake_backend_add(FakeBackend *fake, const char *json);

/* Replaces members of a job with those of 'json', and tells the server. */
void fake_backend_patch(FakeBackend *fake, const char *id, const char *json);

/* The next call that can fail does. */
void fake_backend_refuse(FakeBackend *fake, int code, const char *message);

/* Runs the main loop until the flag is set; aborts the test after half a minute. */
void fake_wait(const gboolean *flag);
/* The same for a counter that reaches 'n'. */
void fake_wait_count(const guint *counter, guint n);
/* The same until a job is asked for. (Somebody who watched one before may still count.) */
void fake_wait_shown(const FakeBackend *fake, const char *id);
