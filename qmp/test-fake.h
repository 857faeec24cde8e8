/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/qmp.h"

/*
 * For the tests: the other end of a client's socket, scripted from the test's own thread. Waiting
 * means running the default GMainContext, so nothing here needs a thread or a sleep. A test that
 * waits for what never comes is ended by an alarm.
 */
#define FAKE_GREETING                                                                              \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 1, \"minor\": 2, \"major\": 7}, "              \
    "\"package\": \"fake\"}, \"capabilities\": [\"oob\"]}}\r\n"

typedef struct {
    int fd; /* the server's end */
    GString *in;
    QmpClient *client;    /* owned; NULL until connected */
    GAsyncResult *result; /* of connecting */
    GPtrArray *events;    /* of "NAME data" */
    GError *closed;       /* what "closed" said, copied */
    guint n_closed;
} Fake;

/* Ends the test program when it hangs. */
void fake_watchdog(void);

/* A socketpair with a client connecting on it, nothing said yet. */
Fake *fake_new(guint timeout_ms);
/* The same over a pair that is given, and taken over. */
Fake *fake_new_on(int server_fd, int client_fd, guint timeout_ms);
/* As fake_new(), with greeting and negotiation done and signals connected. */
Fake *fake_new_ready(void);
/* Does that for one that exists. */
void fake_make_ready(Fake *fake);
void fake_free(Fake *fake);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fake, fake_free)

void fake_say(Fake *fake, const char *text);
void fake_hang_up(Fake *fake);

/* The next line from the client; waits for it. g_free() it. */
char *fake_hear(Fake *fake);
/* The id of the next command, which must be 'command'. */
char *fake_hear_command(Fake *fake, const char *command);
/* Answers the command with this id. */
void fake_return(Fake *fake, const char *id, const char *value);

/* Waits for the result of connecting; the client, NULL with the error. */
QmpClient *fake_connect_finish(Fake *fake, GError **error);

/* Runs the context until 'condition' holds. */
#define fake_wait(condition)                                                                       \
    while (!(condition))                                                                           \
    g_main_context_iteration(NULL, TRUE)

/* Runs whatever is ready. */
void fake_settle(void);

/* A callback that stores the result in a GAsyncResult *; and waiting for one. */
void fake_store(GObject *object, GAsyncResult *result, gpointer user_data);
JsonNode *fake_finish(QmpClient *client, GAsyncResult **result, GError **error);
