/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "qmp/limits.h"
#include "qmp/message.h"

/*
 * Private to libqmp: one connected socket on a GMainContext. Messages come out of it one by one,
 * texts go into a bounded queue. Nothing here ever blocks, and nothing here knows of commands.
 */
typedef struct _QmpWire QmpWire;

/* Both are called from the context only, never from within a function of this header. Both may call
 * anything here, qmp_wire_close() included. */
typedef struct {
    /* 'message' is the wire's; valid during the call. */
    void (*message)(gpointer owner, const QmpMessage *message);
    /* Nothing more will come: call qmp_wire_close(). 'error' is QMP_ERROR_CLOSED, _PROTOCOL or _IO
     * and the callee's to free; its message wants to be told of whom. */
    void (*down)(gpointer owner, GError *error);
} QmpWireOps;

/* Takes 'fd' over and makes it non-blocking. 'limits' and 'ops' are borrowed and must live on. */
QmpWire *qmp_wire_new(int fd, GMainContext *context, const QmpLimits *limits, const QmpWireOps *ops,
                      gpointer owner);

/* Closes the socket at once, calls nobody any more, and frees the wire. */
void qmp_wire_close(QmpWire *wire);

/*
 * Queues 'text' under 'tag' (unique). 'fd' (taken over, also on error; -1: none) travels with its
 * first byte. FALSE with QMP_ERROR_LIMIT when too much is queued, _ARGUMENT for an
 * fd on another than a unix socket.
 */
gboolean qmp_wire_send(QmpWire *wire, guint64 tag, const char *text, int fd, GError **error);

/* Takes 'tag' back, if not a byte of it has been sent. FALSE when it is too late. */
gboolean qmp_wire_unsend(QmpWire *wire, guint64 tag);

/* While paused no callback is called. */
void qmp_wire_set_paused(QmpWire *wire, gboolean paused);

/* Whether the peer ever said anything. */
gboolean qmp_wire_has_received(const QmpWire *wire);
