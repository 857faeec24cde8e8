/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/job/decide.h"

/*
 * The commit protocol as a model: one migration, all that can happen to it, one small step at a
 * time. A World is everything that matters at one moment; an Action takes it one step further,
 * where it can happen. What the ends decide comes from engine/job/decide.c and every move is held
 * against engine/job/state.c, the very code that droverd runs; the model adds what surrounds it:
 * what is in memory and what on the disk, messages under way, what the two QEMUs do.
 *
 * What may go wrong: a daemon crashes between any two steps, and comes back; a QEMU dies; the link
 * is cut; a session breaks, so that what was under way arrives or is lost, or arrives after a newer
 * session has brought something else; COMMIT is doubled by every reconnect; QEMU refuses 'cont', or
 * answers too late; a journal's disk is full. All of it any number of times.
 *
 * Within a session messages arrive once and in order: that is the channel's promise, tested at the
 * channel (engine/channel/test-resume.c).
 */

typedef enum { QEMU_RUNS, QEMU_COPIES, QEMU_STOPPED, QEMU_COMPLETED, QEMU_HALTED } SourceQemu;
typedef enum { QEMU_WAITS, QEMU_INCOMING, QEMU_LOADED, QEMU_RUNS_THERE } DestQemu;
#define QEMU_DEAD 7

/* What a session's end is: not there yet, there, gone for good. */
typedef enum { END_NONE, END_ALIVE, END_GONE } SessionEnd;
/* The session over which the destination was spoken to last. */
typedef enum { PEER_NONE, PEER_NEW, PEER_OLD } DestPeer;

/* To the destination; as bits (1 << CALL_X) the calls that are still to be answered. */
typedef enum {
    CALL_NONE,
    CALL_PREPARE,
    CALL_COMMIT,
    CALL_ASK,  /* abort: COMMIT was refused */
    CALL_BACK, /* abort: while rolling back */
    CALL_LATE, /* abort: one that could not be delivered then */
} Call;

/* To the source: a call and what became of it, as REPLY(call, state or REFUSED). */
#define REPLY(call, result) (guint8)((call) << 4 | (result))
#define REFUSED 15
#define TELL_LOADED 0xf0
#define TELL_FAILED 0xf1
#define TELL_NEWS 0xf2

#define QUEUE 3
#define NO_JOB DRV_STATE_LAST

/* Bytes only: worlds are compared and hashed as memory. */
typedef struct {
    /* A daemon is up, or all that is in its memory is zero. */
    guint8 s_up, s_state, s_completed, s_loaded, s_prepared, s_commit_due, s_calls, s_step, s_late;
    guint8 s_disk, s_disk_late, s_full; /* the journal, and whether it can be written */
    guint8 s_qemu;

    guint8 d_up, d_state, d_may, d_note, d_ran_before, d_step, d_peer, d_prepare, d_commit, d_abort;
    guint8 d_disk, d_disk_may, d_full;
    guint8 d_qemu, cont; /* 'cont' is on its way to QEMU */

    guint8 link, lost; /* lost: the ends have noticed that it is down, and not yet that it is up */
    guint8 stream;     /* the guest's memory can flow */
    guint8 near, far, out[QUEUE], in[QUEUE];
    guint8 old_far, old_out[QUEUE]; /* a session that the source has left */

    guint8 s_killed, d_killed; /* a QEMU was killed: the source's; the destination's, running */
    guint8 disobeyed; /* the destination's QEMU has refused 'cont', or kept silent about it */
    guint8 person;    /* somebody has said 'drover resolve' */
    guint8 faults;    /* that may still come */
} World;

typedef enum { FAIR, FAULT, PERSON } ActionKind; /* FAIR: it happens sooner or later */

/* Faults that the model can be told to make itself: it must find every one. */
typedef enum {
    MUTANT_NONE,
    MUTANT_COMMIT_BEFORE_JOURNAL,
    MUTANT_RESTART_TAKES_BACK,
    MUTANT_SILENCE_TAKES_BACK,
    MUTANT_REFUSAL_TAKES_BACK,
    MUTANT_LOADED_RUNS,
    MUTANT_CONT_BEFORE_JOURNAL,
    MUTANT_FAILED_OBEYS_COMMIT,
    MUTANT_ABORT_ENDS_WHAT_MAY_RUN,
    MUTANT_ABORT_BEFORE_UNDO,
    MUTANT_QUIT_ON_COMMIT,
    MUTANT_COMMIT_ONCE,
    MUTANT_ABORT_FORGOTTEN,
    MUTANT_NEWER_CALL_DROPPED,
    MUTANT_COMMITTED_RESTS,
    MUTANT_LAST
} Mutant;

/* Of one step: what the action needs beside the world, and what it finds wrong. */
typedef struct {
    Mutant mutant;
    const char *wrong; /* NULL: nothing */
} Step;

typedef struct {
    const char *name;
    ActionKind kind;
    /* FALSE: it cannot happen in this world, which may then be spoilt. */
    gboolean (*take)(World *w, Step *step);
} Action;

extern const Action source_actions[], dest_actions[], surroundings[]; /* each ends with a NULL */

void world_begin(World *w, guint faults);
/* What must never be; NULL: all is well. */
const char *world_wrong(const World *w);
/* Where everything has come right: the guest runs at one end (or was killed with its QEMU), and
 * both records say so. */
gboolean world_good(const World *w);
char *world_describe(const World *w);

gboolean world_runs_at_source(const World *w);
gboolean world_connected(const World *w);
gboolean world_full(const guint8 *queue);
void world_push(guint8 *queue, guint8 message);
guint8 world_pop(guint8 *queue);
/* A move as job.c makes it: 'anyway' with or without the disk. */
gboolean world_move(World *w, Step *step, DrvJobRole role, DrvJobState to, gboolean anyway);
/* The source's end of the session is gone: what it has sent may still arrive. */
void world_leave_session(World *w);
