/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/channel/codec.h"
#include "engine/channel/peer.h"

/*
 * One end's half of all channels of a job: opened together with the peer, digested, compared,
 * closed together. Control thread only.
 */
typedef struct _DrvChannelSet DrvChannelSet;

/* 'changed' is called when a channel has ended; then look at drv_channel_set_finished() and
 * _error(). */
typedef void (*DrvChannelSetChanged)(DrvChannelSet *set, gpointer data);

/* For at most 'expected' channels, which share what buffers there are. 'shaper' limits what this
 * end sends (may be NULL; a reference is taken). */
DrvChannelSet *drv_channel_set_new(DrvTransfer *transfer, guint expected, DrvCodec codec,
                                   DrvClass class, DrvShaper *shaper, DrvChannelSetChanged changed,
                                   gpointer data);
/* Closes what is open. */
void drv_channel_set_free(DrvChannelSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DrvChannelSet, drv_channel_set_free)

/* What the channels opened from now on do to their bytes: 'make' gives the codec of number 'index'.
 * Without, they are opaque. */
typedef DrvChannelCodec *(*DrvChannelSetCodec)(guint index, gpointer data);
void drv_channel_set_use_codec(DrvChannelSet *set, DrvChannelSetCodec make, gpointer data);

/* The NUMA node that the channels opened from now on are to be near to; -1: to none. */
void drv_channel_set_near(DrvChannelSet *set, gint node);

/* The opening end. Opens our half for the socket 'fd' (taken) and fills 'args' with what the peer
 * needs to open its own; the call itself is the caller's. Nothing is sent before
 * drv_channel_set_accepted(). */
gboolean drv_channel_set_offer(DrvChannelSet *set, DrvPeer *peer, int fd, JsonObject *args,
                               GError **error);
/* The peer has answered the latest offer with 'ok'. */
gboolean drv_channel_set_accepted(DrvChannelSet *set, JsonObject *ok, GError **error);

/* The other end: opens its half for 'fd' (taken) as 'args' say and makes the answer. */
JsonObject *drv_channel_set_accept(DrvChannelSet *set, DrvPeer *peer, int fd, JsonObject *args,
                                   GError **error);

guint drv_channel_set_count(DrvChannelSet *set);
/* Whether every channel has ended, both ways. */
gboolean drv_channel_set_finished(DrvChannelSet *set);
/* What ended one before its time, or NULL. Borrowed. */
const GError *drv_channel_set_error(DrvChannelSet *set);
/* Why a socket broke at either end, or NULL. That alone is no failure: a QEMU that has all it wants
 * may close with bytes unread. Borrowed. */
const GError *drv_channel_set_broken(DrvChannelSet *set);
void drv_channel_set_class(DrvChannelSet *set, DrvClass class);

/* What went in and out here, for the peer to compare. */
JsonArray *drv_channel_set_digests(DrvChannelSet *set);
/* Compares them with the peer's: what one end sent, the other must have received.
 * DRV_ERROR_MISMATCH says where not. */
gboolean drv_channel_set_compare(DrvChannelSet *set, JsonArray *theirs, GError **error);

typedef struct {
    guint64 raw;                    /* bytes from and to the local endpoints */
    gint64 sent_us;                 /* monotonic: when the last of them was sent; 0: none */
    guint64 delivered;              /* bytes sent that the peer's endpoints have taken */
    guint64 wire;                   /* bytes of frames, both directions, repetitions included */
    guint64 pages[DRV_CODEC_COUNT]; /* sent whole, by codec */
} DrvChannelTotals;

void drv_channel_set_totals(DrvChannelSet *set, DrvChannelTotals *totals);
