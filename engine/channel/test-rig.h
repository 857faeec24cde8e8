/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec.h"
#include "engine/transfer/test-pki.h"
#include "engine/transfer/transfer.h"

#include <glib.h>

/*
 * Two daemons' transfer cores in one process, a session between them on loopback, and what tests
 * need to drive channels over it. Everything runs on the test's thread and its default main
 * context; conditions are awaited, never slept for.
 */
typedef struct {
    DrvTransfer *transfer;
    DrvSession *session; /* referenced */
    guint connected;
    guint lost;
    GError *dead;
    GPtrArray *messages; /* of GBytes */
} RigEnd;

typedef struct {
    TestPki *pki;
    RigEnd a;          /* connects */
    RigEnd b;          /* listens */
    const char *pki_b; /* b's directory; borrowed */
    guint16 port;
    guint lanes;
    gboolean tight; /* pipes' sockets take next to nothing that is not read */
} Rig;

/* 'threads' data threads each, 'lanes' lanes; not connected yet. 'memory' of each pool, 0: default.
 */
void rig_init(Rig *rig, guint threads, guint lanes, gsize memory);
/* The same with what 'a' and 'b' say besides names and certificates; an end that is given a name
 * there calls itself that, and has a certificate without a name. */
void rig_init_with(Rig *rig, const DrvTransferConfig *a, const DrvTransferConfig *b, guint lanes);
/* Opens the session to 'port' (0: b's own) and waits until both ends have it. */
void rig_connect(Rig *rig, guint16 port);
void rig_connect_host(Rig *rig, const char *host, guint16 port);
/* Begins to open it, and does not wait. */
void rig_dial(Rig *rig, guint16 port);
/* Closes, frees, and checks that nothing is left behind in either pool. */
void rig_clear(Rig *rig);

/* Runs the main context until the condition holds; aborts after a minute. */
typedef gboolean (*RigCondition)(gpointer data);
void rig_wait(RigCondition condition, gpointer data);
void rig_wait_lanes(Rig *rig, guint lanes);

/* --- a channel with a socket at each end --- */

typedef struct {
    Rig *rig;
    DrvChannel *channel[2]; /* at a and b */
    int fd[2];              /* the tests' ends of the sockets */
    guint credit;           /* frames that b has promised room for */
    gboolean finished[2];
    GError *error[2];
} Pipe;

Pipe *rig_pipe(Rig *rig, DrvCodec codec);
/* The same with other codecs than the opaque one; takes them. */
Pipe *rig_pipe_coded(Rig *rig, DrvCodec codec, DrvChannelCodec *a, DrvChannelCodec *b);
/* The same with a's half opened before b has promised room. */
Pipe *rig_pipe_ungranted(Rig *rig);
/* Closes what the test has not. */
void rig_pipe_free(Pipe *pipe);
gboolean rig_pipe_finished(gpointer pipe);

/* --- data --- */

typedef enum { RIG_RANDOM, RIG_TEXT, RIG_ZERO } RigData;

/* A thread that writes 'len' bytes of a kind to 'fd' (then shuts it down), or reads to the end and
 * compares. rig_join() waits for it; it aborts the test when the bytes are others. */
GThread *rig_feed(int fd, RigData kind, guint64 seed, gsize len);
GThread *rig_expect(int fd, RigData kind, guint64 seed, gsize len);
/* Joins, running the main context meanwhile. */
void rig_join(GThread **threads, guint n);
