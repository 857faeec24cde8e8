/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <glib.h>

/*
 * A bad network: a TCP relay on loopback, on a thread of its own, that can cut its connections, go
 * silent, or turn new ones away. A cut drops what was under way and resets both ends.
 */
typedef struct _TestRelay TestRelay;

TestRelay *test_relay_new(guint16 upstream);
void test_relay_free(TestRelay *relay);
guint16 test_relay_port(TestRelay *relay);
/* Where connections made from now on go. */
void test_relay_set_upstream(TestRelay *relay, guint16 upstream);

/* Connections made from now on are cut after a random number of bytes, often small enough to hit a
 * handshake, until 'cuts' were made in all. */
void test_relay_storm(TestRelay *relay, guint32 seed, guint cuts);
/* Cuts every connection there is; returns when they are closed. */
void test_relay_cut(TestRelay *relay);
/* While set, bytes are taken from nobody. */
void test_relay_stall(TestRelay *relay, gboolean stall);
/* While set, new connections are reset at once. */
void test_relay_refuse(TestRelay *relay, gboolean refuse);

guint test_relay_cuts(TestRelay *relay);
/* Connections that were made to it, those turned away included. */
guint test_relay_accepted(TestRelay *relay);
guint test_relay_refused(TestRelay *relay);
guint64 test_relay_bytes(TestRelay *relay);
